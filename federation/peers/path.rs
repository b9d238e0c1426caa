//! Paths of requests, percent-encoded part by part.

use std::fmt::Write as _;

/// A path with its query.
#[derive(Clone, Debug)]
pub(super) struct Path {
    text: String,
    has_query: bool,
}

impl Path {
    /// `/_matrix/federation/{version}/{endpoint}`; the endpoint is taken as it is.
    pub(super) fn federation(version: &str, endpoint: &str) -> Self {
        Self { text: format!("/_matrix/federation/{version}/{endpoint}"), has_query: false }
    }

    /// `/_matrix/policy/v1/{endpoint}`
    pub(super) fn policy(endpoint: &str) -> Self {
        Self { text: format!("/_matrix/policy/v1/{endpoint}"), has_query: false }
    }

    /// Another segment. None may follow a query.
    #[must_use]
    pub(super) fn segment(mut self, segment: impl AsRef<str>) -> Self {
        debug_assert!(!self.has_query, "segments come first");
        self.text.push('/');
        self.encode(segment.as_ref());
        self
    }

    /// Another parameter.
    #[must_use]
    pub(super) fn query(mut self, name: &str, value: impl AsRef<str>) -> Self {
        self.text.push(if self.has_query { '&' } else { '?' });
        self.has_query = true;
        self.encode(name);
        self.text.push('=');
        self.encode(value.as_ref());
        self
    }

    /// All but the unreserved characters, so that nothing on the way finds anything to normalise: what arrives must be what
    /// was signed.
    fn encode(&mut self, text: &str) {
        for byte in text.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                self.text.push(char::from(byte));
            } else {
                // Writing to a string cannot fail.
                let _ = write!(self.text, "%{byte:02X}");
            }
        }
    }
}

impl From<Path> for String {
    fn from(path: Path) -> Self {
        path.text
    }
}
