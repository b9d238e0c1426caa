//! The documentation and the commented example, made from the types.

use std::fmt::Write as _;

use toml::Value;

use super::{
    Config,
    schema::{Field, Kind, Schema},
};

/// The head of `docs/configuration.md`.
const PREFACE: &str = "\
# Configuration

*Made by `hearth generate-config --markdown` from the types in `src/hearth/config/types.rs`; a test keeps it current.*

hearth reads one TOML file: `hearth serve --config hearth.toml`. `hearth generate-config` prints one with every key and
its default, `hearth check-config --config hearth.toml` says whether a file is right. A key that hearth does not know is
refused, with its line and the most similar known key.

Each key can be set by an environment variable too, which wins over the file: `HEARTH_`, the section, two underscores,
the key, in capitals. `registration.open` is `HEARTH_REGISTRATION__OPEN`, `server_name` is `HEARTH_SERVER_NAME`.
Values are written as in TOML; text needs no quotes, and lists of texts may be separated by commas. Lists of tables are
one TOML value: `HEARTH_LISTENERS='[{ bind = \"0.0.0.0:8008\" }]'`. An unknown variable with two underscores behind
`HEARTH_` is refused; other variables that begin with `HEARTH_` and name no key are left alone.
";

/// `docs/configuration.md`.
pub(crate) fn markdown() -> String {
    let mut text = PREFACE.to_owned();
    text.push_str("\n## Top level\n");
    sections(&mut text, &Config::schema(), "");
    text
}

fn sections(text: &mut String, schema: &Schema, path: &str) {
    let (values, tables): (Vec<_>, Vec<_>) = schema.fields.iter().partition(|field| is_value(field));
    for field in values {
        key(text, field, schema.defaults.get(field.name), path);
    }
    for field in tables {
        let path = join(path, field.name);
        let (Kind::Section(schema) | Kind::Sections(schema)) = field.kind else { continue };
        let schema = schema();
        let brackets = if matches!(field.kind, Kind::Sections(_)) { ("[[", "]]") } else { ("[", "]") };
        let _ = write!(text, "\n## `{}{path}{}`\n\n{}\n", brackets.0, brackets.1, paragraph(schema.docs));
        sections(text, &schema, &path);
    }
}

fn key(text: &mut String, field: &Field, default: Option<&Value>, path: &str) {
    let words = match field.kind {
        Kind::Values(words) => format!("a list, each {words}"),
        Kind::Value(words) => words.to_owned(),
        Kind::Section(_) | Kind::Sections(_) => String::new(),
    };
    let default = match default {
        Some(default) if *default != Value::String(String::new()) => format!("default `{}`", inline(default)),
        Some(_) | None => field.example.map_or_else(String::new, |example| format!("example `{example}`")),
    };
    let path = join(path, field.name);
    let _ = write!(text, "\n### `{path}`\n\n{}\n\n*{words}; {default}*\n", paragraph(field.docs));
}

/// A configuration with every key, commented out with its default, except for the one that must be chosen.
pub(crate) fn example() -> String {
    let mut text =
        "# The configuration of hearth. Keys that are commented out show their default, or an example.\n".to_owned();
    example_section(&mut text, &Config::schema(), "", "");
    text
}

/// `comment` is `# ` inside of sections that are absent by default.
fn example_section(text: &mut String, schema: &Schema, path: &str, comment: &str) {
    let (values, tables): (Vec<_>, Vec<_>) = schema.fields.iter().partition(|field| is_value(field));
    for field in values {
        text.push('\n');
        docs(text, field.docs);
        let value = match (field.example, schema.defaults.get(field.name)) {
            (Some(example), _) => example.to_owned(),
            (None, default) => default.map_or_else(String::new, inline),
        };
        let comment = if field.name == "server_name" { "" } else { "# " };
        let _ = writeln!(text, "{comment}{} = {value}", field.name);
    }
    for field in tables {
        let path = join(path, field.name);
        let (Kind::Section(schema) | Kind::Sections(schema)) = field.kind else { continue };
        let schema = schema();
        let many = matches!(field.kind, Kind::Sections(_));
        let comment = if many || field.optional { "# " } else { comment };
        text.push_str("\n\n");
        docs(text, schema.docs);
        let _ = writeln!(text, "{comment}{}", if many { format!("[[{path}]]") } else { format!("[{path}]") });
        example_section(text, &schema, &path, comment);
    }
}

fn docs(text: &mut String, docs: &[&str]) {
    for line in docs {
        let _ = writeln!(text, "{}", format!("# {}", line.trim()).trim_end());
    }
}

fn paragraph(docs: &[&str]) -> String {
    docs.iter().map(|line| line.trim()).collect::<Vec<_>>().join("\n")
}

fn is_value(field: &Field) -> bool {
    matches!(field.kind, Kind::Value(_) | Kind::Values(_))
}

fn inline(value: &Value) -> String {
    value.to_string()
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}
