//! Canonical JSON: any bytes. What is accepted has one canonical form, which says the same; bounds hold.

#![no_main]

use hearth_core::{
    INTEGER_MAX, JsonError, Limits, Numbers, PublicKeys, check_json,
    json::{self, RECEIVED_DEPTH_MAX},
    keys,
};
use hearth_fuzz::sign::{KEY, keys_of};
use libfuzzer_sys::fuzz_target;
use ruma::{OwnedServerName, server_name};
use serde_json::Value;

/// As deep as serde_json follows.
const DEPTH_MAX: usize = RECEIVED_DEPTH_MAX;

fuzz_target!(|input: &[u8]| {
    let forms = [Numbers::Strict, Numbers::Integers, Numbers::Lenient].map(|numbers| form(input, DEPTH_MAX, numbers));
    let [strict, integers, lenient] = &forms;
    if let Ok(text) = strict {
        assert_eq!(integers.as_ref(), Ok(text), "what is strict is an integer too");
    }
    if integers.is_ok() {
        assert!(lenient.is_ok(), "integers are numbers");
    }
    held_against_serde(input, lenient);
    if let Ok(text) = strict {
        let value: Value = serde_json::from_str(text).expect("the form is JSON");
        assert_eq!(&value.to_string(), text, "serde_json writes integers and strings canonically, and sorts keys");
        sign(text);
    }
    if let (Ok(lenient), Ok(integers)) = (lenient, integers) {
        integers_are_exact(lenient, integers);
    }
    depth_is_bounded(input, lenient);
});

/// The canonical form under these limits, which checking alone must agree with; it is its own form.
fn form(input: &[u8], depth_max: usize, numbers: Numbers) -> Result<String, JsonError> {
    let limits = Limits { depth_max, numbers };
    let form = json::canonical(input, &limits);
    assert_eq!(form.as_ref().err(), check_json(input, &limits).as_ref().err(), "checking and building agree");
    if let Ok(text) = &form {
        assert_eq!(json::canonical(text.as_bytes(), &limits).as_ref(), Ok(text), "the form is its own form");
        let limits = if numbers == Numbers::Lenient { limits } else { Limits { numbers: Numbers::Strict, ..limits } };
        assert_eq!(check_json(text.as_bytes(), &limits), Ok(()), "the form is canonical");
        assert!(depth_of(text.as_bytes()) <= depth_max);
    }
    form
}

/// Another parser takes the same texts, and finds the same in the canonical form.
fn held_against_serde(input: &[u8], lenient: &Result<String, JsonError>) {
    match (serde_json::from_slice::<Value>(input), lenient) {
        (Ok(value), Ok(text)) => {
            assert_eq!(serde_json::from_str::<Value>(text).expect("the form is JSON"), value, "the form says the same");
        }
        // Canonical forms keep numbers that no double holds.
        (Err(error), Ok(_)) => assert!(error.to_string().starts_with("number out of range"), "{error}"),
        (Ok(_), Err(error)) => panic!("serde_json takes what is refused here: {error}"),
        (Err(_), Err(_)) => {}
    }
}

/// A fraction or an exponent that spells out an integer is that integer, not one nearby.
fn integers_are_exact(lenient: &str, integers: &str) {
    let (as_written, as_integers) = (numbers_of(lenient), numbers_of(integers));
    assert_eq!(as_written.len(), as_integers.len());
    for (written, integer) in as_written.iter().zip(as_integers) {
        assert_eq!(exact(written).map(|value| value.to_string()).as_deref(), Some(integer), "{written}");
    }
}

/// The numbers of a canonical text, as they stand.
fn numbers_of(text: &str) -> Vec<&str> {
    let (mut numbers, mut rest) = (Vec::new(), text);
    while let Some(from) = rest.find(|c: char| c == '"' || c == '-' || c.is_ascii_digit()) {
        let end = if rest.as_bytes()[from] == b'"' {
            let mut end = from + 1;
            while rest.as_bytes()[end] != b'"' {
                end += if rest.as_bytes()[end] == b'\\' { 2 } else { 1 };
            }
            end + 1
        } else {
            let length = rest[from..].find([',', ']', '}']).unwrap_or(rest.len() - from);
            numbers.push(&rest[from..from + length]);
            from + length
        };
        rest = &rest[end..];
    }
    numbers
}

/// The integer that a JSON number is, in decimal arithmetic.
fn exact(number: &str) -> Option<i64> {
    let (sign, number) = number.strip_prefix('-').map_or((1, number), |rest| (-1, rest));
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let significant = digits.trim_start_matches('0').trim_end_matches('0');
    if significant.is_empty() {
        return Some(0);
    }
    let trailing = digits.len() - digits.trim_end_matches('0').len();
    let exponent: i128 =
        exponent.parse().unwrap_or(if exponent.starts_with('-') { i128::MIN / 2 } else { i128::MAX / 2 });
    let zeros = exponent - fraction.len() as i128 + trailing as i128;
    let zeros = usize::try_from(zeros).ok().filter(|zeros| significant.len() + zeros <= 16)?;
    let value: i64 = format!("{significant}{}", "0".repeat(zeros)).parse().ok()?;
    (value.unsigned_abs() <= INTEGER_MAX).then_some(sign * value)
}

/// A bound that is one too small refuses; one that fits takes.
fn depth_is_bounded(input: &[u8], lenient: &Result<String, JsonError>) {
    if lenient.is_err() {
        return;
    }
    let depth = depth_of(input);
    assert!(form(input, depth, Numbers::Lenient).is_ok());
    if depth > 0 {
        assert_eq!(form(input, depth - 1, Numbers::Lenient), Err(JsonError::TooDeep));
    }
}

/// How deeply JSON nests.
fn depth_of(text: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0, 0, false, false);
    for byte in text {
        match (in_string, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => in_string = !in_string,
            (false, b'[' | b'{') => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            (false, b']' | b'}') => depth -= 1,
            _ => {}
        }
    }
    deepest
}

/// A signed object verifies, whatever else is in it, and not with something else in it.
fn sign(text: &str) {
    let server = server_name!("far.test");
    let Ok(signed) = KEY.sign_json(server, text.as_bytes()) else {
        assert!(!text.starts_with('{'), "every object can be signed");
        return;
    };
    let keys = keys_of([server.to_owned()]);
    assert_eq!(check(&keys, &signed), Ok(()));
    assert!(keys::is_signed_by(signed.as_bytes(), server.as_str(), KEY.id(), &KEY.public_key_base64()));
    assert_eq!(KEY.sign_json(server, signed.as_bytes()).as_ref(), Ok(&signed), "signing again changes nothing");
    let Ok(Value::Object(mut changed)) = serde_json::from_str(&signed) else { panic!("an object stays one") };
    changed.insert("unsigned".to_owned(), Value::Null);
    assert_eq!(check(&keys, &Value::Object(changed.clone()).to_string()), Ok(()), "`unsigned` is not signed");
    let before = changed.insert("content".to_owned(), Value::from("another"));
    if before != Some(Value::from("another")) {
        assert!(check(&keys, &Value::Object(changed).to_string()).is_err(), "all else is");
    }
}

fn check(keys: &PublicKeys, object: &str) -> Result<(), hearth_core::SignatureError> {
    let server: OwnedServerName = server_name!("far.test").to_owned();
    keys::verify_json(&server, keys, object.as_bytes(), 1)
}
