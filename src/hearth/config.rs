//! The configuration: one TOML file, environment variables over it, and sentences about what is wrong with them.

mod docs;
mod env;
mod schema;
#[cfg(test)]
mod tests;
pub(crate) mod types;
mod validate;

use std::{collections::BTreeMap, fmt, path::Path};

use serde::Deserialize as _;
use toml::{
    Table,
    de::{DeTable, DeValue},
};

use self::schema::{Kind, Schema};
pub(crate) use self::{
    docs::{example, markdown},
    types::{Api, Config, Http, Listener, LogFormat},
};

/// All that is wrong, one sentence each, with the line where it has one.
#[derive(Debug)]
pub(crate) struct ConfigError {
    source: String,
    problems: Vec<Problem>,
}

/// Something to change in the file or in a variable.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// A line of the file, from 1, or the name of a key or variable.
    place: String,
    message: String,
}

impl Problem {
    fn of(place: impl fmt::Display, message: impl Into<String>) -> Self {
        Self { place: place.to_string(), message: message.into() }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is not right:", self.source)?;
        for Problem { place, message } in &self.problems {
            let separator = if place.is_empty() { "" } else { ": " };
            write!(f, "\n  {place}{separator}{message}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// Reads the file, if there is one, and the process's environment.
pub(crate) fn load(file: Option<&Path>) -> Result<Config, ConfigError> {
    let variables =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let source = file.map_or_else(|| "the environment".to_owned(), |file| file.display().to_string());
    let text = match file.map(std::fs::read_to_string).transpose() {
        Ok(text) => text.unwrap_or_default(),
        Err(error) => {
            return Err(ConfigError { source, problems: vec![Problem::of("", format!("it cannot be read: {error}"))] });
        }
    };
    parse(&text, &variables.collect()).map_err(|problems| ConfigError { source, problems })
}

/// The configuration, or everything that is wrong with it.
fn parse(text: &str, variables: &BTreeMap<String, String>) -> Result<Config, Vec<Problem>> {
    let spanned = DeTable::parse(text).map_err(|error| vec![located(text, &error)])?;
    let schema = Config::schema();
    let mut problems = unknown_keys(text, spanned.get_ref(), &schema, "");
    if !problems.is_empty() {
        return Err(problems);
    }
    // Read once without the variables: a wrong type then has its line.
    toml::from_str::<Config>(text).map_err(|error| vec![located(text, &error)])?;
    let mut table: Table = toml::from_str(text).map_err(|error| vec![located(text, &error)])?;
    problems = env::overlay(&mut table, &schema, variables);
    if !problems.is_empty() {
        return Err(problems);
    }
    let config = Config::deserialize(table)
        .map_err(|error| vec![Problem::of("an environment variable", error.to_string().trim().to_owned())])?;
    let problems = validate::check(&config);
    if problems.is_empty() { Ok(config) } else { Err(problems) }
}

/// The parser's message at its line.
fn located(text: &str, error: &toml::de::Error) -> Problem {
    let place = error.span().map_or_else(|| "line 1".to_owned(), |span| line(text, span.start));
    Problem::of(place, error.message())
}

fn line(text: &str, offset: usize) -> String {
    let before = text.get(..offset).unwrap_or(text);
    format!("line {}", before.matches('\n').count() + 1)
}

/// Keys that are in the file and not in the schema.
fn unknown_keys(text: &str, table: &DeTable<'_>, schema: &Schema, path: &str) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (key, value) in table {
        let name = key.get_ref().as_ref();
        let full = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        let Some(field) = schema.fields.iter().find(|field| field.name == name) else {
            let known = suggest(name, schema.fields.iter().map(|field| field.name));
            let hint = known.map_or_else(String::new, |known| format!(", did you mean `{known}`?"));
            problems.push(Problem::of(line(text, key.span().start), format!("unknown key `{full}`{hint}")));
            continue;
        };
        match (field.kind, value.get_ref()) {
            (Kind::Section(schema), DeValue::Table(table)) => {
                problems.extend(unknown_keys(text, table, &schema(), &full));
            }
            (Kind::Sections(schema), DeValue::Array(tables)) => {
                let tables = tables.iter().filter_map(|table| table.get_ref().as_table());
                problems.extend(tables.flat_map(|table| unknown_keys(text, table, &schema(), &full)));
            }
            // A wrong type is found when the value is read.
            _ => {}
        }
    }
    problems
}

/// The most similar known name, if it is similar at all.
fn suggest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    /// Below this, of 1, two names have little in common.
    const SIMILAR: f64 = 0.75;
    let scored = known.map(|known| (strsim::jaro_winkler(name, known), known));
    let (score, known) = scored.max_by(|a, b| a.0.total_cmp(&b.0))?;
    (score >= SIMILAR).then_some(known)
}
