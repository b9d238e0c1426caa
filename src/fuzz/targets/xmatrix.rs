//! The `Authorization` headers of another server's request: any lines. What is read prints and reads the same, within its
//! bounds; what we sign verifies, and nothing else does.

#![no_main]

use hearth_core::{Limits, Numbers, PublicKey, PublicKeys, SignatureError, SigningKey, check_json};
use hearth_federation::xmatrix::{Claim, ClaimError, KEY_ID_BYTES_MAX, Signed, sign};
use hearth_fuzz::sign::{KEY, keys_of};
use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use libfuzzer_sys::fuzz_target;
use ruma::{ServerName, server_name};

/// Headers of one request that the target makes of its input.
const HEADERS_MAX: usize = 8;

/// Signatures that a claim may have.
const SIGNATURES_MAX: usize = 4;

fuzz_target!(|input: &[u8]| {
    let lines: Vec<&[u8]> = input.splitn(HEADERS_MAX, |byte| *byte == b'\n').collect();
    let claim = Claim::read(&headers_of(&lines));
    if let Ok(claim) = &claim {
        hold_bounds(claim);
        let printed = print(claim);
        let printed: Vec<&[u8]> = printed.iter().map(String::as_bytes).collect();
        assert_eq!(Claim::read(&headers_of(&printed)).as_ref(), Ok(claim), "what is read prints and reads the same");
        believe_nothing(claim);
    }
    let is_ours = |line: &&[u8]| line.len() >= 8 && line[..8].eq_ignore_ascii_case(b"x-matrix");
    if claim == Err(ClaimError::Missing) {
        let ours = lines.iter().filter(|line| is_ours(line) && HeaderValue::from_bytes(line).is_ok());
        assert!(ours.into_iter().all(|line| line.get(8).is_some_and(|byte| *byte != b' ')), "a claim was overlooked");
    }
    let origin = claim.as_ref().map_or(server_name!("far.test"), |claim| &*claim.origin);
    if let [method, uri, content, ..] = &lines[..] {
        sign_and_verify(origin, method, uri, content);
    }
});

fn headers_of(lines: &[&[u8]]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for value in lines.iter().filter_map(|line| HeaderValue::from_bytes(line).ok()) {
        headers.append(AUTHORIZATION, value);
    }
    headers
}

fn hold_bounds(claim: &Claim) {
    let signatures: Vec<_> = claim.signatures().collect();
    assert!((1..=SIGNATURES_MAX).contains(&signatures.len()));
    assert!(signatures.iter().all(|(key_id, _)| key_id.len() <= KEY_ID_BYTES_MAX));
    for name in claim.destination.iter().chain([&claim.origin]) {
        assert!(ServerName::parse(name.as_str()).is_ok() && !name.as_str().contains(['"', '\\', ',', ' ', '/', '@']));
    }
}

/// The headers of the claim, each value quoted where it has to be.
fn print(claim: &Claim) -> Vec<String> {
    let header = |(key_id, signature): (&str, &str)| {
        let destination = claim.destination.iter().map(|name| format!(",destination={}", quoted(name.as_str())));
        let destination: String = destination.collect();
        let (origin, key_id) = (quoted(claim.origin.as_str()), quoted(key_id));
        format!("X-Matrix origin={origin}{destination},key={key_id},sig={}", quoted(signature))
    };
    claim.signatures().map(header).collect()
}

fn quoted(value: &str) -> String {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:".contains(&byte);
    if !value.is_empty() && value.bytes().all(is_token) {
        return value.to_owned();
    }
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Nobody can sign by a key that they do not have.
fn believe_nothing(claim: &Claim) {
    let request = Signed { method: "GET", uri: "/", destination: server_name!("hearth.test"), content: None };
    let missing = Err(SignatureError::Missing(claim.origin.clone()));
    assert_eq!(claim.verify(&PublicKeys::default(), &request, 0), missing);
    let (mut keys, theirs) = (PublicKeys::default(), SigningKey::from_seed(&[200; 32], "secret"));
    for key_id in claim.key_ids() {
        let key = PublicKey { bytes: theirs.public_key(), valid_until_ms: u64::MAX };
        keys.insert(claim.origin.clone(), key_id.to_owned(), key);
    }
    assert!(claim.verify(&keys, &request, 0).is_err());
}

fn sign_and_verify(origin: &ServerName, method: &[u8], uri: &[u8], content: &[u8]) {
    let (method, uri) = (String::from_utf8_lossy(method), String::from_utf8_lossy(uri));
    let destination = server_name!("hearth.test");
    let request = Signed { method: &method, uri: &uri, destination, content: (!content.is_empty()).then_some(content) };
    let Ok(header) = sign(&KEY, origin, &request) else { return };
    let claim = Claim::read(&headers_of(&[header.as_bytes()])).expect("what we sign is read");
    assert_eq!((&*claim.origin, claim.destination.as_deref()), (origin, Some(destination)));
    let keys = keys_of([origin.to_owned()]);
    assert_eq!(claim.verify(&keys, &request, 1), Ok(()), "what we sign verifies");

    let no_longer = format!("{method} ");
    let others = [
        Signed { method: &no_longer, ..request },
        Signed { uri: "", ..request },
        Signed { destination: server_name!("other.test"), ..request },
        Signed { content: request.content.map_or(Some(&b"{}"[..]), |_| None), ..request },
    ];
    for other in others.iter().filter(|other| !is_same(other, &request)) {
        assert!(claim.verify(&keys, other, 1).is_err(), "the signature is for another request: {other:?}");
    }
    // Content that closes the object that it is put into, and goes on, is no content.
    let closing = [content, b",\"x\":1"].concat();
    let limits = Limits { depth_max: 1_024, numbers: Numbers::Lenient };
    assert!(check_json(&closing, &limits).is_err());
    assert!(claim.verify(&keys, &Signed { content: Some(&closing), ..request }, 1).is_err());
}

fn is_same(one: &Signed<'_>, other: &Signed<'_>) -> bool {
    (one.method, one.uri, one.destination, one.content) == (other.method, other.uri, other.destination, other.content)
}
