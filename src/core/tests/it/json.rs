use hearth_core::{
    JsonError, Limits, Numbers, check_json,
    json::{DEPTH_MAX, canonical},
};
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop, prop_oneof, proptest};
use serde_json::Value;

const INTEGERS: Limits = Limits { depth_max: DEPTH_MAX, numbers: Numbers::Integers };

/// The examples of <https://spec.matrix.org/v1.19/appendices/#canonical-json>.
#[test]
fn canonical_json_is_as_the_specification_shows() {
    let examples = [
        ("{}", "{}"),
        (r#"{ "one": 1, "two": "Two" }"#, r#"{"one":1,"two":"Two"}"#),
        (r#"{"b":"2","a":"1"}"#, r#"{"a":"1","b":"2"}"#),
        (
            r#"{"auth": {"success": true, "mxid": "@john.doe:example.com", "profile": {"display_name": "John Doe",
                "three_pids": [{"medium": "email", "address": "john.doe@example.org"},
                {"medium": "msisdn", "address": "123456789"}]}}}"#,
            r#"{"auth":{"mxid":"@john.doe:example.com","profile":{"display_name":"John Doe","three_pids":[{"address":"john.doe@example.org","medium":"email"},{"address":"123456789","medium":"msisdn"}]},"success":true}}"#,
        ),
        (r#"{ "a": "日本語" }"#, r#"{"a":"日本語"}"#),
        (r#"{ "本": 2, "日": 1 }"#, r#"{"日":1,"本":2}"#),
        (r#"{ "a": "\u65E5" }"#, r#"{"a":"日"}"#),
        (r#"{ "a": null }"#, r#"{"a":null}"#),
        (r#"{ "a": -0, "b": 1e10 }"#, r#"{"a":0,"b":10000000000}"#),
    ];
    for (input, wanted) in examples {
        assert_eq!(canonical(input.as_bytes(), &INTEGERS).as_deref(), Ok(wanted), "{input}");
    }
}

#[test]
fn escapes_are_the_shortest() {
    let input = r#""\u0000\u0008\u0009\n\u000B\f\r\u001F\"\\\/\u007f\uD83D\uDE00""#;
    let wanted = "\"\\u0000\\b\\t\\n\\u000b\\f\\r\\u001f\\\"\\\\/\u{7f}😀\"";
    assert_eq!(canonical(input.as_bytes(), &Limits::EVENT).as_deref(), Ok(wanted));
}

#[test]
fn the_last_of_repeated_keys_counts() {
    let input = r#"{"b":1,"a":1,"b":2,"a":2,"\u0061":3}"#;
    assert_eq!(canonical(input.as_bytes(), &Limits::EVENT).as_deref(), Ok(r#"{"a":3,"b":2}"#));
}

#[test]
fn what_is_no_json_is_refused() {
    let inputs: &[&[u8]] = &[
        b"",
        b" ",
        b"{",
        b"{]",
        b"[1,]",
        b"[,1]",
        br#"{"a":1,}"#,
        br#"{"a" 1}"#,
        br#"{a:1}"#,
        b"{} {}",
        b"01",
        b"-",
        b"+1",
        b".5",
        b"1.",
        b"1e",
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b"nul",
        b"\"\n\"",
        br#""\x""#,
        br#""\u12""#,
        br#""\ud800""#,
        br#""\udc00""#,
        br#""\ud800\u0041""#,
        b"\"\xff\"",
        b"\"\xed\xa0\x80\"",
        b"\xef\xbb\xbf{}",
    ];
    for input in inputs {
        let result = check_json(input, &Limits::BODY);
        assert!(matches!(result, Err(JsonError::Malformed(_))), "{}: {result:?}", String::from_utf8_lossy(input));
        assert_eq!(canonical(input, &Limits::BODY).map(|_| ()), result);
    }
}

#[test]
fn numbers_outside_canonical_json_are_refused_where_events_are_made() {
    for number in ["1.0", "1e3", "-0", "9007199254740992", "-9007199254740992", "1e400", "99999999999999999999"] {
        assert_eq!(check_json(number.as_bytes(), &Limits::EVENT), Err(JsonError::Number), "{number}");
        assert_eq!(check_json(number.as_bytes(), &Limits::BODY), Ok(()), "{number}");
    }
    for number in ["0", "-1", "9007199254740991", "-9007199254740991"] {
        assert_eq!(check_json(number.as_bytes(), &Limits::EVENT), Ok(()), "{number}");
    }
}

#[test]
fn integers_are_counted_in_decimal() {
    for (spelt, integer) in [
        ("9007199254740990.0", "9007199254740990"),
        ("0.9007199254740991e+16", "9007199254740991"),
        ("-90071992547409910E-1", "-9007199254740991"),
        ("-0.000", "0"),
        ("0e99999999999999999999", "0"),
        ("120e-1", "12"),
        ("0.012e0003", "12"),
    ] {
        assert_eq!(canonical(spelt.as_bytes(), &INTEGERS).as_deref(), Ok(integer), "{spelt}");
    }
    // The nearest double of each is an integer in bounds.
    for other in ["9007199254740990.7", "9007199254740991.4", "1e-400", "1.00000000000000000001", "-1e-99999999999999"]
    {
        assert_eq!(canonical(other.as_bytes(), &INTEGERS), Err(JsonError::Number), "{other}");
    }
    for other in ["9007199254740993", "0.5", "1e16", "9007199254740992e0", "1e99999999999999"] {
        assert_eq!(canonical(other.as_bytes(), &INTEGERS), Err(JsonError::Number), "{other}");
    }
}

#[test]
fn depth_is_bounded_without_recursing_far() {
    let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    assert_eq!(check_json(nested(DEPTH_MAX).as_bytes(), &Limits::BODY), Ok(()));
    assert_eq!(check_json(nested(DEPTH_MAX + 1).as_bytes(), &Limits::BODY), Err(JsonError::TooDeep));
    assert_eq!(check_json("[".repeat(5_000_000).as_bytes(), &Limits::BODY), Err(JsonError::TooDeep));
    assert_eq!(check_json(r#"{"a":"#.repeat(1_000_000).as_bytes(), &Limits::BODY), Err(JsonError::TooDeep));
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-9_007_199_254_740_991_i64..=9_007_199_254_740_991).prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::hash_map(any::<String>(), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn canonical_form_means_the_same_and_is_stable(value in any_json()) {
        let pretty = serde_json::to_string_pretty(&value).unwrap();
        let once = canonical(pretty.as_bytes(), &Limits::EVENT).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&once).unwrap(), value);
        assert_eq!(canonical(once.as_bytes(), &Limits::EVENT).unwrap(), once);
        let rumas: ruma::CanonicalJsonValue = serde_json::from_str(&pretty).unwrap();
        assert_eq!(rumas.to_string(), once);
    }

    #[test]
    fn any_bytes_are_judged_as_serde_judges_them(bytes in prop::collection::vec(prop::sample::select(
        b"{}[]\",:\\u0123456789abcdef-+.eEtruefalsn \xc3\xa9\xff".to_vec()), 0..24))
    {
        let ours = check_json(&bytes, &Limits::BODY).is_ok();
        let theirs = serde_json::from_slice::<Value>(&bytes);
        // serde_json refuses numbers beyond doubles; JSON's grammar does not.
        let is_range = theirs.as_ref().is_err_and(|error| error.to_string().contains("out of range"));
        assert!(ours == theirs.is_ok() || is_range, "{:?}", String::from_utf8_lossy(&bytes));
    }
}
