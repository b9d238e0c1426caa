//! The configuration's environment variables.

use std::collections::BTreeMap;

use toml::{Table, Value};

use super::{
    Problem,
    schema::{Kind, Schema},
    suggest,
};

const PREFIX: &str = "HEARTH_";

/// Variables that are read elsewhere and are no keys.
const OTHERS: [&str; 1] = ["HEARTH_CONFIG"];

/// Writes the variables' values over the file's. Says what is wrong with those that are meant for us.
pub(crate) fn overlay(table: &mut Table, schema: &Schema, variables: &BTreeMap<String, String>) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (name, text) in variables {
        let Some(key) = name.strip_prefix(PREFIX) else { continue };
        if OTHERS.contains(&name.as_str()) {
            continue;
        }
        let path: Vec<String> = key.to_ascii_lowercase().split("__").map(str::to_owned).collect();
        match find(schema, &path) {
            Ok(kind) => {
                if !set(table, &path, value(kind, text)) {
                    problems.push(Problem::of(name, "the file has something else in this section's place"));
                }
            }
            // Without two underscores it may be anybody's variable.
            Err(_) if path.len() == 1 => {}
            Err(hint) => problems.push(Problem::of(name, format!("no such key{hint}"))),
        }
    }
    problems
}

/// What the key at this path holds, or a suggestion.
fn find(schema: &Schema, path: &[String]) -> Result<Kind, String> {
    let (name, rest) = path.split_first().ok_or_else(String::new)?;
    let Some(field) = schema.fields.iter().find(|field| field.name == name) else {
        let known = suggest(name, schema.fields.iter().map(|field| field.name));
        return Err(known.map_or_else(String::new, |known| format!(", did you mean {}?", known.to_uppercase())));
    };
    match field.kind {
        kind if rest.is_empty() => Ok(kind),
        Kind::Section(schema) => find(&schema(), rest),
        Kind::Value(_) | Kind::Values(_) | Kind::Sections(_) => Err(String::new()),
    }
}

/// TOML where it is TOML; else the text itself, or its parts.
fn value(kind: Kind, text: &str) -> Value {
    let toml = || toml::from_str::<Table>(&format!("value = {text}")).ok().and_then(|mut table| table.remove("value"));
    match kind {
        Kind::Value(words) => match toml() {
            // A name or a password of digits is still text.
            Some(value) if value.is_str() || !words.starts_with("text") => value,
            _ => Value::String(text.to_owned()),
        },
        Kind::Values(_) => toml().filter(Value::is_array).unwrap_or_else(|| {
            let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
            Value::Array(parts.map(|part| Value::String(part.to_owned())).collect())
        }),
        Kind::Section(_) | Kind::Sections(_) => toml().unwrap_or_else(|| Value::String(text.to_owned())),
    }
}

/// `false` if the file has a value where the path needs a table.
fn set(table: &mut Table, path: &[String], value: Value) -> bool {
    match path {
        [] => false,
        [name] => {
            table.insert(name.clone(), value);
            true
        }
        [name, rest @ ..] => {
            let inner = table.entry(name.clone()).or_insert_with(|| Value::Table(Table::new()));
            inner.as_table_mut().is_some_and(|table| set(table, rest, value))
        }
    }
}
