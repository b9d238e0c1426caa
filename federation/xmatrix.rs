//! Signed requests. [Request authentication](https://spec.matrix.org/v1.19/server-server-api/#request-authentication).
//!
//! Pure: [`sign`] makes the `Authorization` header of a request, [`Claim`] reads it from one and checks it against keys
//! that somebody else has found.

use std::collections::BTreeMap;

use hearth_core::{
    JsonError, Limits, Numbers, PublicKeys, SignatureError, SigningKey,
    json::{self, SIGNED_DEPTH_MAX, write_string},
    keys,
};
use http::{HeaderMap, header::AUTHORIZATION};
use ruma::{OwnedServerName, ServerName};

/// The scheme of the header.
const SCHEME: &str = "X-Matrix";

/// The longest header that is read, in bytes: two server names of 261 bytes, a key id and a signature leave most of it
/// for parameters that we do not know.
const HEADER_BYTES_MAX: usize = 4_096;

/// Parameters of one header, known or not.
const PARAMETERS_MAX: usize = 16;

/// Headers of one request: a server in the middle of changing its key may sign with two.
const HEADERS_MAX: usize = 4;

/// The longest key id, in bytes. The specification has no bound; they are a few letters.
pub const KEY_ID_BYTES_MAX: usize = 128;

/// What is checked: bodies carry events of old rooms, in which numbers may be of any kind. What is signed is the object
/// that a body lies in.
const LIMITS: Limits = Limits { depth_max: SIGNED_DEPTH_MAX - 1, numbers: Numbers::Lenient };

/// What we sign: "float values are not permitted". A server that reads a body before it writes it anew to check the
/// signature spells other numbers in its own way, and would refuse ours.
const OURS: Limits = Limits { numbers: Numbers::Strict, ..LIMITS };

/// What of others may lie in a list in a body that we sign, or in an object of it. One item outside it would spoil the whole request.
pub(crate) const ITEM: Limits = Limits { depth_max: OURS.depth_max - 3, ..OURS };

/// What is signed of a request.
#[derive(Clone, Copy, Debug)]
pub struct Signed<'a> {
    /// As in `PUT`.
    pub method: &'a str,
    /// Path and query as they are on the wire.
    pub uri: &'a str,
    /// Whom it is for: the server's name, before any delegation.
    pub destination: &'a ServerName,
    /// The body, JSON; `None` for a request without one.
    pub content: Option<&'a [u8]>,
}

/// The value of the `Authorization` header with which `origin` sends a request. `content` must be JSON, with numbers of
/// canonical JSON only, so that the body counts as it is for whoever spells it otherwise.
pub fn sign(key: &SigningKey, origin: &ServerName, request: &Signed<'_>) -> Result<String, JsonError> {
    let content = request.content.map(|content| json::canonical(content, &OURS)).transpose()?;
    let signature = key.sign_bytes(object(request, origin, content.as_deref().unwrap_or_default(), None).as_bytes());
    let (key_id, destination) = (key.id(), request.destination);
    // "Only include one space after `X-Matrix`", "only use lower-case names", "avoid including whitespace".
    Ok(format!(r#"{SCHEME} origin="{origin}",destination="{destination}",key="{key_id}",sig="{signature}""#))
}

/// The object that is signed. Its keys are in canonical order if `signatures` is absent; `content` is JSON or empty.
fn object(request: &Signed<'_>, origin: &ServerName, content: &str, signatures: Option<&str>) -> String {
    let mut text = String::with_capacity(content.len() + request.uri.len() + 1_024);
    text.push('{');
    if !content.is_empty() {
        text.push_str("\"content\":");
        text.push_str(content);
        text.push(',');
    }
    let fields = [
        ("destination", request.destination.as_str()),
        ("method", request.method),
        ("origin", origin.as_str()),
        ("uri", request.uri),
    ];
    for (index, (name, value)) in fields.into_iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        write_string(&mut text, name);
        text.push(':');
        write_string(&mut text, value);
    }
    if let Some(signatures) = signatures {
        text.push_str(",\"signatures\":");
        text.push_str(signatures);
    }
    text.push('}');
    text
}

/// Why a request's headers make no claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// There is no `Authorization: X-Matrix …`.
    #[error("the request is not signed")]
    Missing,
    /// There is, but it does not read.
    #[error("the X-Matrix header is malformed: {0}")]
    Malformed(&'static str),
}

/// What a request says of itself: nothing of it is to be believed before [`Claim::verify`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The server that claims to have sent it.
    pub origin: OwnedServerName,
    /// Whom it is for; servers older than v1.3 of the specification do not say it.
    pub destination: Option<OwnedServerName>,
    /// Signatures by key id.
    signatures: BTreeMap<String, String>,
}

impl Claim {
    /// Reads the header, or the headers of a server that signs with several keys.
    pub fn read(headers: &HeaderMap) -> Result<Self, ClaimError> {
        let mut claim: Option<Self> = None;
        for value in headers.get_all(AUTHORIZATION) {
            let Some(parameters) = parameters_of(value.as_bytes()) else { continue };
            let read = Self::parse(parameters)?;
            let Some(claim) = &mut claim else {
                claim = Some(read);
                continue;
            };
            if claim.origin != read.origin || claim.destination != read.destination {
                return Err(ClaimError::Malformed("two headers contradict each other"));
            }
            claim.signatures.extend(read.signatures);
            if claim.signatures.len() > HEADERS_MAX {
                return Err(ClaimError::Malformed("too many headers"));
            }
        }
        claim.ok_or(ClaimError::Missing)
    }

    /// The parameters behind the scheme.
    fn parse(text: &[u8]) -> Result<Self, ClaimError> {
        let mut parameters = BTreeMap::new();
        let mut cursor = Cursor(text);
        while let Some((name, value)) = cursor.parameter()? {
            if parameters.insert(name, value).is_some() {
                return Err(ClaimError::Malformed("a parameter is repeated"));
            }
            if parameters.len() > PARAMETERS_MAX {
                return Err(ClaimError::Malformed("too many parameters"));
            }
        }
        let origin = parameters.remove("origin").ok_or(ClaimError::Malformed("origin is missing"))?;
        let key_id = parameters.remove("key").ok_or(ClaimError::Malformed("key is missing"))?;
        // The specification's list of parameters calls it `signature`, its examples and all servers `sig`.
        let signature = parameters.remove("sig").or_else(|| parameters.remove("signature"));
        let signature = signature.ok_or(ClaimError::Malformed("sig is missing"))?;
        if key_id.len() > KEY_ID_BYTES_MAX {
            return Err(ClaimError::Malformed("the key id is too long"));
        }
        Ok(Self {
            origin: server_name(&origin).ok_or(ClaimError::Malformed("origin is no server name"))?,
            destination: match parameters.remove("destination") {
                None => None,
                Some(name) => Some(server_name(&name).ok_or(ClaimError::Malformed("destination is no server name"))?),
            },
            signatures: BTreeMap::from([(key_id, signature)]),
        })
    }

    /// The ids of the keys that are needed to check it.
    pub fn key_ids(&self) -> impl Iterator<Item = &str> {
        self.signatures.keys().map(String::as_str)
    }

    /// The signatures in base64, as they were sent, by the ids of their keys.
    pub fn signatures(&self) -> impl Iterator<Item = (&str, &str)> {
        self.signatures.iter().map(|(key_id, signature)| (key_id.as_str(), signature.as_str()))
    }

    /// Checks every signature by a known key, of which there must be one. `request.destination` is our own name; keys
    /// must be valid at `now_ms`, in milliseconds since the Unix epoch.
    pub fn verify(&self, keys: &PublicKeys, request: &Signed<'_>, now_ms: u64) -> Result<(), SignatureError> {
        let content = request.content.unwrap_or_default();
        if request.content.is_some() {
            // By itself: it must not close the object that it is put into.
            json::check_json(content, &LIMITS).map_err(|_| SignatureError::Malformed("not JSON"))?;
        }
        let content = std::str::from_utf8(content).map_err(|_| SignatureError::Malformed("not UTF-8"))?;
        let mut signatures = String::from("{");
        write_string(&mut signatures, self.origin.as_str());
        signatures.push(':');
        for (index, (key_id, signature)) in self.signatures.iter().enumerate() {
            signatures.push(if index == 0 { '{' } else { ',' });
            write_string(&mut signatures, key_id);
            signatures.push(':');
            write_string(&mut signatures, signature);
        }
        signatures.push_str("}}");
        let object = object(request, &self.origin, content, Some(&signatures));
        keys::verify_json(&self.origin, keys, object.as_bytes(), now_ms)
    }
}

/// What follows the scheme, if it is ours. "The header begins with authorisation scheme `X-Matrix`, followed by one or
/// more spaces."
fn parameters_of(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked(SCHEME.len())?;
    let is_ours = scheme.eq_ignore_ascii_case(SCHEME.as_bytes()) && rest.first().is_none_or(|byte| *byte == b' ');
    is_ours.then_some(rest)
}

fn server_name(text: &str) -> Option<OwnedServerName> {
    ServerName::parse(text).ok()
}

/// Reads `name=value` pairs. [RFC 9110, section 11.4](https://www.rfc-editor.org/rfc/rfc9110#section-11.4).
struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    /// The next pair, its name in lower case; `None` at the end. Empty elements of the list are passed over.
    fn parameter(&mut self) -> Result<Option<(String, String)>, ClaimError> {
        if self.0.len() > HEADER_BYTES_MAX {
            return Err(ClaimError::Malformed("the header is too long"));
        }
        self.skip(b" \t,");
        if self.0.is_empty() {
            return Ok(None);
        }
        let name = self.take_while(is_token)?.to_ascii_lowercase();
        self.skip(b" \t");
        if !self.accept(b'=') {
            return Err(ClaimError::Malformed("a parameter has no value"));
        }
        self.skip(b" \t");
        // "The recipient should allow colons to be included in values without requiring the value to be enclosed in
        // quotes."
        let value = if self.accept(b'"') { self.quoted()? } else { self.take_while(|b| is_token(b) || b == b':')? };
        self.skip(b" \t");
        if !self.0.is_empty() && self.0[0] != b',' {
            return Err(ClaimError::Malformed("parameters are separated by commas"));
        }
        Ok(Some((name, value)))
    }

    /// Up to the closing quote; "a backslash-character pair is replaced by the character that follows the backslash".
    fn quoted(&mut self) -> Result<String, ClaimError> {
        let mut value = Vec::new();
        loop {
            let (byte, rest) = self.0.split_first().ok_or(ClaimError::Malformed("a quote is not closed"))?;
            self.0 = rest;
            match byte {
                b'"' => break,
                b'\\' => {
                    let (escaped, rest) = self.0.split_first().ok_or(ClaimError::Malformed("a quote is not closed"))?;
                    self.0 = rest;
                    value.push(*escaped);
                }
                byte => value.push(*byte),
            }
        }
        String::from_utf8(value).map_err(|_| ClaimError::Malformed("a value is not UTF-8"))
    }

    fn take_while(&mut self, belongs: impl Fn(u8) -> bool) -> Result<String, ClaimError> {
        let length = self.0.iter().position(|byte| !belongs(*byte)).unwrap_or(self.0.len());
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        match std::str::from_utf8(taken) {
            Ok(taken) if !taken.is_empty() => Ok(taken.to_owned()),
            _ => Err(ClaimError::Malformed("a name or value is empty or needs quotes")),
        }
    }

    fn accept(&mut self, wanted: u8) -> bool {
        match self.0.split_first() {
            Some((byte, rest)) if *byte == wanted => {
                self.0 = rest;
                true
            }
            _ => false,
        }
    }

    fn skip(&mut self, bytes: &[u8]) {
        let length = self.0.iter().position(|byte| !bytes.contains(byte)).unwrap_or(self.0.len());
        self.0 = &self.0[length..];
    }
}

/// [RFC 9110, section 5.6.2](https://www.rfc-editor.org/rfc/rfc9110#section-5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use hearth_core::PublicKey;
    use http::HeaderValue;
    use ruma::server_name;

    use super::*;

    fn read(values: &[&str]) -> Result<Claim, ClaimError> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        Claim::read(&headers)
    }

    fn claim(origin: &str, destination: Option<&str>, signatures: &[(&str, &str)]) -> Claim {
        Claim {
            origin: origin.try_into().unwrap(),
            destination: destination.map(|name| name.try_into().unwrap()),
            signatures: signatures.iter().map(|(key, sig)| ((*key).to_owned(), (*sig).to_owned())).collect(),
        }
    }

    #[test]
    fn the_header_of_the_specification_is_read() {
        let header = "X-Matrix origin=\"origin.hs.example.com\",destination=\"destination.hs.example.com\",\
                      key=\"ed25519:key1\",sig=\"ABCDEF...\"";
        let wanted =
            claim("origin.hs.example.com", Some("destination.hs.example.com"), &[("ed25519:key1", "ABCDEF...")]);
        assert_eq!(read(&[header]), Ok(wanted));
    }

    #[test]
    fn all_that_the_grammar_allows_is_read() {
        let wanted = claim("a.example:8448", None, &[("ed25519:1", "ab/+cd")]);
        for header in [
            "X-Matrix origin=a.example:8448,key=ed25519:1,sig=\"ab/+cd\"",
            "x-matrix   KEY=\"ed25519:1\" \t, \t Origin=\"a.example:8448\",Sig=\"ab/+cd\"",
            "X-MATRIX ,,sig = \"ab\\/+c\\d\",unknown=\"\\\",sig=\\\"\",origin=\"a.ex\\ample:8448\",key=\"ed25519:1\",",
            "X-Matrix origin=a.example:8448,key=ed25519:1,signature=\"ab/+cd\"",
        ] {
            assert_eq!(read(&[header]).as_ref(), Ok(&wanted), "{header}");
        }
        let ipv6 = read(&["X-Matrix origin=\"[::1]:80\",destination=b.example,key=ed25519:1,sig=x"]).unwrap();
        assert_eq!(ipv6, claim("[::1]:80", Some("b.example"), &[("ed25519:1", "x")]));
    }

    #[test]
    fn several_signatures_of_one_server_are_one_claim() {
        let one = "X-Matrix origin=a.example,destination=b.example,key=ed25519:1,sig=x";
        let two = "X-Matrix origin=a.example,destination=b.example,key=ed25519:2,sig=y";
        let read_both = read(&["Bearer token", one, two]).unwrap();
        assert_eq!(read_both, claim("a.example", Some("b.example"), &[("ed25519:1", "x"), ("ed25519:2", "y")]));
        for other in [two.replace("a.example", "c.example"), two.replace("b.example", "c.example")] {
            assert!(matches!(read(&[one, &other]), Err(ClaimError::Malformed(_))), "{other}");
        }
        let many: Vec<_> = (0..9).map(|n| two.replace(":2", &format!(":{n}"))).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        assert!(matches!(read(&many), Err(ClaimError::Malformed(_))));
    }

    #[test]
    fn what_makes_no_claim_is_told_from_what_is_broken() {
        for header in [&[][..], &["Bearer abc"], &["X-MatrixOrigin origin=a.example"], &["Basic X-Matrix"]] {
            assert_eq!(read(header), Err(ClaimError::Missing), "{header:?}");
        }
        let long = format!("X-Matrix a=\"{}\",origin=a.example,key=ed25519:1,sig=x", "x".repeat(HEADER_BYTES_MAX));
        let many = "X-Matrix origin=a.example,key=ed25519:1,sig=x".to_owned()
            + &(0..PARAMETERS_MAX).map(|n| format!(",p{n}=1")).collect::<String>();
        for header in [
            "X-Matrix",
            "X-Matrix ",
            "X-Matrix origin",
            "X-Matrix origin=",
            "X-Matrix origin=a.example,key=ed25519:1",
            "X-Matrix origin=a.example,sig=x",
            "X-Matrix key=ed25519:1,sig=x",
            "X-Matrix origin=a.example,key=ed25519:1,sig=x,origin=b.example",
            "X-Matrix origin=a.example,key=ed25519:1,sig=x,SIG=y",
            "X-Matrix origin=a.example key=ed25519:1 sig=x",
            "X-Matrix origin=a.example,key=ed25519:1,sig=\"x",
            "X-Matrix origin=a.example,key=ed25519:1,sig=\"x\\",
            "X-Matrix origin=a.example,key=ed25519:1,sig=a/b",
            "X-Matrix origin=localhost:http,key=ed25519:1,sig=x",
            "X-Matrix origin=\"a.example/evil\",key=ed25519:1,sig=x",
            "X-Matrix origin=a.example,destination=\"\",key=ed25519:1,sig=x",
            &long,
            &many,
        ] {
            assert!(matches!(read(&[header]), Err(ClaimError::Malformed(_))), "{header}");
        }
    }

    #[test]
    fn a_key_id_is_bounded() {
        let header = format!("X-Matrix origin=a.example,key={},sig=x", "k".repeat(KEY_ID_BYTES_MAX + 1));
        assert!(matches!(read(&[&header]), Err(ClaimError::Malformed(_))));
    }

    const NOW_MS: u64 = 1_700_000_000_000;

    fn key() -> SigningKey {
        SigningKey::from_seed(&[3; 32], "1")
    }

    fn keys_until(valid_until_ms: u64) -> PublicKeys {
        let mut keys = PublicKeys::default();
        let public = PublicKey { bytes: key().public_key(), valid_until_ms };
        keys.insert(server_name!("a.example").to_owned(), "ed25519:1".to_owned(), public);
        keys
    }

    fn request<'a>(content: Option<&'a [u8]>) -> Signed<'a> {
        Signed {
            method: "PUT",
            uri: "/_matrix/federation/v1/send/1?a=%20b",
            destination: server_name!("b.example"),
            content,
        }
    }

    #[test]
    fn what_is_signed_verifies_and_nothing_else_does() {
        let body: &[u8] = br#"{ "b": [1, -25], "a": "\u00e4\/" }"#;
        let header = sign(&key(), server_name!("a.example"), &request(Some(body))).unwrap();
        let claim = read(&[&header]).unwrap();
        assert_eq!(claim.key_ids().collect::<Vec<_>>(), ["ed25519:1"]);
        assert_eq!(claim.destination.as_deref(), Some(server_name!("b.example")));
        let keys = keys_until(NOW_MS);
        let verify = |request: &Signed<'_>| claim.verify(&keys, request, NOW_MS);

        assert_eq!(verify(&request(Some(body))), Ok(()));
        let spelt_otherwise: &[u8] = "{\"a\":\"ä/\",\"b\":[1,-25]}".as_bytes();
        assert_eq!(verify(&request(Some(spelt_otherwise))), Ok(()));

        let wrong = Err(SignatureError::Wrong(server_name!("a.example").to_owned()));
        assert_eq!(verify(&request(None)), wrong);
        assert_eq!(verify(&request(Some(b"{}"))), wrong);
        assert_eq!(verify(&Signed { method: "POST", ..request(Some(body)) }), wrong);
        assert_eq!(verify(&Signed { uri: "/_matrix/federation/v1/send/1?a= b", ..request(Some(body)) }), wrong);
        assert_eq!(verify(&Signed { destination: server_name!("c.example"), ..request(Some(body)) }), wrong);
        assert!(matches!(verify(&request(Some(b"{"))), Err(SignatureError::Malformed(_))));
        assert!(matches!(verify(&request(Some(b"\xff"))), Err(SignatureError::Malformed(_))));
        // Content that closes the object and goes on is no content.
        let hidden = [b"{},\"content\":", body].concat();
        assert!(matches!(verify(&request(Some(&hidden))), Err(SignatureError::Malformed(_))));
    }

    #[test]
    fn numbers_that_others_spell_otherwise_are_not_signed() {
        let huge = "9".repeat(5_000);
        for number in ["1.10", "1e-7", "-0", "1E5", "1e16", "1.0", "9007199254740992", &huge] {
            let body = format!(r#"{{"edus":[{{"content":{{"x":{number}}}}}]}}"#);
            let signed = sign(&key(), server_name!("a.example"), &request(Some(body.as_bytes())));
            assert_eq!(signed, Err(JsonError::Number), "{number}");
        }
        assert!(sign(&key(), server_name!("a.example"), &request(Some(b"[0,-1,9007199254740991]"))).is_ok());
    }

    /// On half of the stack that a thread of the runtime has.
    #[test]
    fn deep_nesting_is_followed_far_but_not_for_ever() {
        let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        let check = move || {
            let body = deep(SIGNED_DEPTH_MAX - 1);
            let header = sign(&key(), server_name!("a.example"), &request(Some(body.as_bytes()))).unwrap();
            let claim = read(&[&header]).unwrap();
            assert_eq!(claim.verify(&keys_until(NOW_MS), &request(Some(body.as_bytes())), NOW_MS), Ok(()));
            // What nobody would verify is not signed either.
            let body = deep(SIGNED_DEPTH_MAX);
            assert!(sign(&key(), server_name!("a.example"), &request(Some(body.as_bytes()))).is_err());
        };
        std::thread::Builder::new().stack_size(1 << 20).spawn(check).unwrap().join().unwrap();
    }

    #[test]
    fn a_key_counts_in_its_time_only() {
        let header = sign(&key(), server_name!("a.example"), &request(None)).unwrap();
        let claim = read(&[&header]).unwrap();
        assert_eq!(claim.verify(&keys_until(NOW_MS), &request(None), NOW_MS), Ok(()));
        assert!(claim.verify(&keys_until(NOW_MS - 1), &request(None), NOW_MS).is_err());
        assert!(claim.verify(&PublicKeys::default(), &request(None), NOW_MS).is_err());
    }

    #[test]
    fn another_server_cannot_speak_for_this_one() {
        let header = sign(&key(), server_name!("a.example"), &request(None)).unwrap();
        let claim = read(&[&header.replace("a.example", "c.example")]).unwrap();
        assert!(claim.verify(&keys_until(NOW_MS), &request(None), NOW_MS).is_err());
    }
}
