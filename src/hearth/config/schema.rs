//! Settings that know their own documentation: one macro makes the type, its defaults and its description.

use std::{net::SocketAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

/// What a key holds.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    /// A value, described in words.
    Value(&'static str),
    /// Values of the same sort, described in words.
    Values(&'static str),
    /// A table.
    Section(fn() -> Schema),
    /// Any number of tables.
    Sections(fn() -> Schema),
}

/// A table's description.
pub(crate) struct Schema {
    /// The paragraph under its heading, line by line.
    pub(crate) docs: &'static [&'static str],
    /// Its keys, in the order of the source.
    pub(crate) fields: Vec<Field>,
    /// Its keys' values where nothing is configured; what is absent then is absent here.
    pub(crate) defaults: toml::Table,
}

/// A key's description.
pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) docs: &'static [&'static str],
    pub(crate) kind: Kind,
    /// The key, or its table, may be absent, and absent is the default.
    pub(crate) optional: bool,
    /// A value to show where there is no default, as TOML.
    pub(crate) example: Option<&'static str>,
}

/// A type that can stand in the configuration.
pub(crate) trait Setting {
    /// What it is.
    const KIND: Kind;
    /// Is it an `Option`?
    const OPTIONAL: bool = false;
}

macro_rules! values {
    ($($type:ty: $words:literal),* $(,)?) => {
        $(impl Setting for $type { const KIND: Kind = Kind::Value($words); })*
    };
}
pub(crate) use values;

values! {
    bool: "`true` or `false`",
    u32: "a number",
    u64: "a number",
    usize: "a number",
    String: "text",
    PathBuf: "a path",
    SocketAddr: "an address with port",
    Secret: "text, secret",
}

impl<T: Setting> Setting for Option<T> {
    const KIND: Kind = T::KIND;
    const OPTIONAL: bool = true;
}

impl<T: Setting> Setting for Vec<T> {
    const KIND: Kind = match T::KIND {
        Kind::Value(words) | Kind::Values(words) => Kind::Values(words),
        Kind::Section(schema) | Kind::Sections(schema) => Kind::Sections(schema),
    };
}

/// Makes settings: a struct whose keys have documentation, a default, and an example where the default is "absent".
macro_rules! settings {
    ($(
        $(#[doc = $docs:literal])*
        struct $name:ident {
            $( $(#[doc = $field_docs:literal])* $field:ident: $type:ty = $default:expr $(, example $example:literal)?; )*
        }
    )*) => { $(
        $(#[doc = $docs])*
        #[derive(Clone, Debug, serde::Deserialize, serde::Serialize)]
        #[serde(deny_unknown_fields, default)]
        pub(crate) struct $name {
            $( $(#[doc = $field_docs])* pub(crate) $field: $type, )*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $( $field: $default, )* }
            }
        }

        impl $name {
            /// What the keys are.
            pub(crate) fn schema() -> $crate::config::schema::Schema {
                use $crate::config::schema::{Field, Schema, Setting};
                Schema {
                    docs: &[$($docs),*],
                    fields: vec![ $( Field {
                        name: stringify!($field),
                        docs: &[$($field_docs),*],
                        kind: <$type as Setting>::KIND,
                        optional: <$type as Setting>::OPTIONAL,
                        example: None $( .or(Some($example)) )?,
                    }, )* ],
                    defaults: toml::Table::try_from(Self::default()).expect("settings are TOML"),
                }
            }
        }

        impl $crate::config::schema::Setting for $name {
            const KIND: $crate::config::schema::Kind = $crate::config::schema::Kind::Section($name::schema);
        }
    )* };
}
pub(crate) use settings;

/// Text that does not show in logs.
#[derive(Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(transparent)]
pub(crate) struct Secret(pub(crate) String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(secret)")
    }
}
