//! A JSON tree that borrows its text and writes itself canonically.

use std::borrow::Cow;

/// Any JSON value. Numbers are their text.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value<'a> {
    Null,
    Bool(bool),
    Number(Cow<'a, str>),
    /// Borrowed text holds nothing that needs an escape: it lay between two quotes without a backslash.
    String(Cow<'a, str>),
    Array(Vec<Value<'a>>),
    Object(Object<'a>),
}

/// An object's entries, sorted by key (bytes of UTF-8, which is code point order), each key once.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Object<'a>(Vec<(Cow<'a, str>, Value<'a>)>);

impl<'a> Value<'a> {
    pub(crate) fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn as_array(&self) -> Option<&[Value<'a>]> {
        match self {
            Self::Array(items) => Some(items),
            _ => None,
        }
    }

    pub(crate) fn as_object(&self) -> Option<&Object<'a>> {
        match self {
            Self::Object(object) => Some(object),
            _ => None,
        }
    }

    /// Appends the canonical form.
    pub(crate) fn write(&self, out: &mut String) {
        match self {
            Self::Null => out.push_str("null"),
            Self::Bool(true) => out.push_str("true"),
            Self::Bool(false) => out.push_str("false"),
            Self::Number(text) => out.push_str(text),
            Self::String(text) => write_str(out, text),
            Self::Array(items) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    item.write(out);
                }
                out.push(']');
            }
            Self::Object(object) => object.write(out),
        }
    }
}

impl<'a> Object<'a> {
    /// Sorts; of entries with one key the last stays.
    pub(crate) fn from_entries(mut entries: Vec<(Cow<'a, str>, Value<'a>)>) -> Self {
        if !entries.is_sorted_by(|one, next| one.0 < next.0) {
            // Stable, then reversed: `dedup_by` keeps the first of a run, which must be the last written.
            entries.reverse();
            entries.sort_by(|one, other| one.0.cmp(&other.0));
            entries.dedup_by(|later, earlier| later.0 == earlier.0);
        }
        Self(entries)
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Value<'a>> {
        let index = self.0.binary_search_by(|(name, _)| name.as_ref().cmp(key)).ok()?;
        self.0.get(index).map(|(_, value)| value)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Cow<'a, str>, &Value<'a>)> {
        self.0.iter().map(|(key, value)| (key, value))
    }

    pub(crate) fn insert(&mut self, key: Cow<'a, str>, value: Value<'a>) {
        match self.0.binary_search_by(|(name, _)| name.cmp(&key)) {
            Ok(index) => self.0[index].1 = value,
            Err(index) => self.0.insert(index, (key, value)),
        }
    }

    pub(crate) fn remove(&mut self, key: &str) -> Option<Value<'a>> {
        let index = self.0.binary_search_by(|(name, _)| name.as_ref().cmp(key)).ok()?;
        Some(self.0.remove(index).1)
    }

    /// Appends the canonical form.
    pub(crate) fn write(&self, out: &mut String) {
        self.write_where(out, |_| true);
    }

    /// Appends the canonical form of the entries whose key passes.
    pub(crate) fn write_where(&self, out: &mut String, keep: impl Fn(&str) -> bool) {
        self.write_with(out, |key, value, out| {
            let kept = keep(key);
            if kept {
                value.write(out);
            }
            kept
        });
    }

    /// Appends an object of the entries for which `write_value` appends something and says so.
    pub(crate) fn write_with(&self, out: &mut String, write_value: impl Fn(&str, &Value<'a>, &mut String) -> bool) {
        out.push('{');
        let mut first = true;
        for (key, value) in &self.0 {
            let before = out.len();
            if !first {
                out.push(',');
            }
            write_str(out, key);
            out.push(':');
            if write_value(key, value, out) {
                first = false;
            } else {
                out.truncate(before);
            }
        }
        out.push('}');
    }
}

/// Appends a string in quotes. Borrowed text needs no escape, see [`Value::String`].
#[expect(clippy::ptr_arg, reason = "whether it is borrowed is what decides")]
pub(crate) fn write_str(out: &mut String, text: &Cow<'_, str>) {
    match text {
        Cow::Borrowed(text) => {
            out.push('"');
            out.push_str(text);
            out.push('"');
        }
        Cow::Owned(text) => write_string(out, text),
    }
}

/// Appends any text as a JSON string, quotes included, with the shortest escapes: the two-letter ones, else `\u00xx`
/// in lower case. This is the canonical form.
pub fn write_string(out: &mut String, text: &str) {
    out.push('"');
    let mut plain_from = 0;
    for (index, byte) in text.bytes().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.push_str(&text[plain_from..index]);
        plain_from = index + 1;
        write_escape(out, byte);
    }
    out.push_str(&text[plain_from..]);
    out.push('"');
}

fn write_escape(out: &mut String, byte: u8) {
    match byte {
        b'"' => out.push_str("\\\""),
        b'\\' => out.push_str("\\\\"),
        0x08 => out.push_str("\\b"),
        b'\t' => out.push_str("\\t"),
        b'\n' => out.push_str("\\n"),
        0x0c => out.push_str("\\f"),
        b'\r' => out.push_str("\\r"),
        _ => {
            const HEX: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
            out.push_str("\\u00");
            out.push(HEX[usize::from(byte >> 4)]);
            out.push(HEX[usize::from(byte & 15)]);
        }
    }
}
