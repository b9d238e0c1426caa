//! Names of accounts: what may stand before the colon.

use ruma::{OwnedUserId, ServerName, UserId};

/// The localpart of a user id of this server: lower-case letters, digits and `._=-/+`.
/// (Appendices, "User Identifiers".)
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Localpart(String);

/// A name that no account can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// A character that the grammar does not have, or no character at all.
    #[error("user names consist of a-z, 0-9 and ._=-/+")]
    Character,
    /// The user id would be longer than 255 bytes.
    #[error("the user name is too long")]
    TooLong,
    /// Only digits: these names are for guests.
    #[error("user names of digits only are for guests")]
    Numeric,
}

/// The longest user id, in bytes.
const USER_ID_BYTES_MAX: usize = 255;

impl Localpart {
    /// Reads a wished name. Capitals become small letters, everything else outside the grammar is refused: nothing else is
    /// turned into something that its owner did not write.
    pub fn parse(name: &str, server: &ServerName) -> Result<Self, BadName> {
        let localpart = Self::parse_any(name, server)?;
        if localpart.is_numeric() {
            return Err(BadName::Numeric);
        }
        Ok(localpart)
    }

    /// The same, names of guests included.
    pub fn parse_any(name: &str, server: &ServerName) -> Result<Self, BadName> {
        let name = name.to_ascii_lowercase();
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._=-/+".contains(c);
        if name.is_empty() || !name.chars().all(allowed) {
            return Err(BadName::Character);
        }
        if name.len() + server.as_str().len() + 2 > USER_ID_BYTES_MAX {
            return Err(BadName::TooLong);
        }
        Ok(Self(name))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A guest's name.
    pub fn is_numeric(&self) -> bool {
        self.0.bytes().all(|byte| byte.is_ascii_digit())
    }

    /// The user id on this server.
    pub fn user_id(&self, server: &ServerName) -> OwnedUserId {
        UserId::parse(format!("@{}:{server}", self.0)).expect("a localpart makes a user id")
    }

    /// The user id that a login names: a whole one of this server in any spelling of its case, or just its localpart.
    /// `None`: it can't be one of ours.
    pub fn of_login(name: &str, server: &ServerName) -> Option<OwnedUserId> {
        let localpart = match name.strip_prefix('@') {
            Some(rest) => rest.split_once(':').filter(|(_, of)| *of == server.as_str())?.0,
            None => name,
        };
        Some(Self::parse_any(localpart, server).ok()?.user_id(server))
    }
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::*;

    #[test]
    fn only_the_grammar_passes() {
        let server = server_name!("hearth.test:8448");
        let parse = |name: &str| Localpart::parse(name, server).map(|localpart| localpart.0);
        assert_eq!(parse("user-UPPER"), Ok("user-upper".to_owned()));
        for character in "q3._=-/+".chars() {
            assert!(parse(&format!("u{character}")).is_ok(), "{character}");
        }
        for character in "!\":?\\@[]{|}£é\n', É".chars() {
            assert_eq!(parse(&format!("u{character}")), Err(BadName::Character), "{character}");
        }
        assert_eq!(parse(""), Err(BadName::Character));
        assert_eq!(parse("12345"), Err(BadName::Numeric));
        assert!(parse(&"a".repeat(255 - 2 - 16)).is_ok());
        assert_eq!(parse(&"a".repeat(255 - 2 - 15)), Err(BadName::TooLong));
    }

    #[test]
    fn a_login_names_only_users_of_this_server() {
        let server = server_name!("hearth.test");
        let of = |name: &str| Localpart::of_login(name, server).map(|user| user.to_string());
        assert_eq!(of("alice"), Some("@alice:hearth.test".to_owned()));
        assert_eq!(of("@Alice:hearth.test"), Some("@alice:hearth.test".to_owned()));
        assert_eq!(of("@alice:elsewhere.test"), None);
        assert_eq!(of("@alice"), None);
    }
}
