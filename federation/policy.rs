//! With which servers the operator lets us talk, in both directions.

use ruma::{OwnedServerName, ServerName};

/// A host's name, in which `*` stands for any characters and `?` for one. Ports and case don't matter, as in
/// `m.room.server_acl`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerPattern(String);

/// Not a pattern of server names.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no server name, with `*` and `?` for any characters; a port does not belong into it")]
pub struct PatternError(String);

impl ServerPattern {
    /// Reads `example.org`, `*.example.org`, `192.0.2.*` or `[2001:db8::1]`.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-.*?".contains(&byte);
        let bracketed = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let is_right = match bracketed {
            Some(address) => !address.is_empty() && address.bytes().all(|byte| plain(byte) || byte == b':'),
            None => !text.is_empty() && text.bytes().all(plain),
        };
        if is_right { Ok(Self(text.to_ascii_lowercase())) } else { Err(PatternError(text.to_owned())) }
    }

    fn matches(&self, server: &ServerName) -> bool {
        matches(self.0.as_bytes(), server.host().as_bytes())
    }
}

/// `*` is tried with as little as possible and extended on failure; only the last one needs that, so the work is bounded
/// by the product of both lengths.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut pattern_at) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while at < text.len() {
        match pattern.get(pattern_at) {
            Some(b'*') => {
                star = Some((pattern_at, at));
                pattern_at += 1;
            }
            Some(byte) if *byte == b'?' || *byte == text[at].to_ascii_lowercase() => {
                pattern_at += 1;
                at += 1;
            }
            Some(_) | None => {
                let Some((star_at, from)) = star else { return false };
                star = Some((star_at, from + 1));
                (pattern_at, at) = (star_at + 1, from + 1);
            }
        }
    }
    pattern[pattern_at..].iter().all(|byte| *byte == b'*')
}

/// The operator's lists.
#[derive(Clone, Debug)]
pub struct ServerPolicy {
    /// Our own name, which is no other server's.
    pub own: OwnedServerName,
    /// Only these; `None`: all.
    pub allowed: Option<Vec<ServerPattern>>,
    /// Not these, even if they are allowed.
    pub denied: Vec<ServerPattern>,
}

impl ServerPolicy {
    /// Everybody but ourselves.
    pub fn open(own: OwnedServerName) -> Self {
        Self { own, allowed: None, denied: Vec::new() }
    }

    /// May we talk with this server?
    pub fn allows(&self, server: &ServerName) -> bool {
        let is_in = |list: &[ServerPattern]| list.iter().any(|pattern| pattern.matches(server));
        server != self.own && self.allowed.as_deref().is_none_or(is_in) && !is_in(&self.denied)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(texts: &[&str]) -> Vec<ServerPattern> {
        texts.iter().map(|text| ServerPattern::parse(text).unwrap()).collect()
    }

    fn allows(policy: &ServerPolicy, name: &str) -> bool {
        policy.allows(<&ServerName>::try_from(name).unwrap())
    }

    #[test]
    fn patterns_match_hosts() {
        for (pattern, name, fits) in [
            ("example.org", "example.org", true),
            ("example.org", "EXAMPLE.org:8448", true),
            ("example.org", "a.example.org", false),
            ("example.org", "example.org.evil", false),
            ("*.example.org", "a.b.example.org", true),
            ("*.example.org", "example.org", false),
            ("*example.org", "evilexample.org", true),
            ("192.0.2.*", "192.0.2.77:1", true),
            ("[2001:db8::1]", "[2001:DB8::1]:1", true),
            ("a?c*e*", "abcdddexx", true),
            ("a?c*e*", "acdddexx", false),
            ("*", "[::1]", true),
            ("*a*a*a*a*a*a*a*b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", false),
        ] {
            let policy = ServerPolicy { denied: patterns(&[pattern]), ..ServerPolicy::open("own".try_into().unwrap()) };
            assert_eq!(allows(&policy, name), !fits, "{pattern} {name}");
        }
        for wrong in ["", "example.org:8448", "[]", "exa mple", "https://example.org", "::1"] {
            assert!(ServerPattern::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn denial_wins_and_we_are_nobody_else() {
        let own: OwnedServerName = "own.example".try_into().unwrap();
        let policy = ServerPolicy {
            allowed: Some(patterns(&["*.friends.example", "own.example"])),
            denied: patterns(&["bad.friends.example"]),
            ..ServerPolicy::open(own.clone())
        };
        assert!(allows(&policy, "good.friends.example"));
        assert!(!allows(&policy, "bad.friends.example"));
        assert!(!allows(&policy, "else.example"));
        assert!(!allows(&policy, "own.example"));
        assert!(allows(&ServerPolicy::open(own), "else.example"));
    }
}
