//! A transaction: what goes to a server in one request, and what it says of it.
//! [Transactions](https://spec.matrix.org/v1.19/server-server-api/#transactions).

use std::collections::BTreeMap;

use bytes::Bytes;
use hearth_core::{JsonError, Limits, Numbers, RoomVersion, check_json, json::canonical};
use hearth_store::id16;
use ruma::ServerName;
use serde::Deserialize;

use super::portion::Size;
use crate::xmatrix::ITEM;

/// "At most 50 PDUs".
pub(super) const PDUS_MAX: usize = 50;

/// "And 100 EDUs".
pub(super) const EDUS_MAX: usize = 100;

/// How much of a server's words on an event goes into our log, in characters.
const ERROR_CHARS_MAX: usize = 200;

/// Ready to be sent, and sent again just so until it is answered.
#[derive(Debug)]
pub(super) struct Transaction {
    pub(super) id: String,
    pub(super) body: Bytes,
    /// Events and EDUs in it.
    pub(super) items: usize,
}

/// What a transaction is made of: each part is JSON.
#[derive(Debug)]
pub(super) struct Parts {
    pdus: Vec<Bytes>,
    edus: Vec<String>,
    /// Of all of them.
    bytes: usize,
    size: Size,
}

impl Parts {
    /// At most so much, but one item however large.
    pub(super) fn new(size: Size) -> Self {
        Self { pdus: Vec::new(), edus: Vec::new(), bytes: 0, size }
    }

    /// From now on it is at most so much.
    pub(super) fn resize(&mut self, size: Size) {
        self.size = size;
    }

    pub(super) fn items(&self) -> usize {
        self.pdus.len() + self.edus.len()
    }

    /// It can hold no further event.
    pub(super) fn is_full_of_pdus(&self) -> bool {
        self.pdus.len() >= PDUS_MAX || !self.has_place(0)
    }

    /// It can hold no further EDU.
    pub(super) fn is_full_of_edus(&self) -> bool {
        self.edus.len() >= EDUS_MAX || !self.has_place(0)
    }

    fn has_place(&self, bytes: usize) -> bool {
        let items = self.items();
        items == 0 || items < self.size.items_max && self.bytes + bytes <= self.size.bytes_max
    }

    /// Adds an event; `false`: it has no place.
    #[must_use]
    pub(super) fn push_pdu(&mut self, pdu: Bytes) -> bool {
        let has_place = self.pdus.len() < PDUS_MAX && self.has_place(pdu.len());
        if has_place {
            self.bytes += pdu.len();
            self.pdus.push(pdu);
        }
        has_place
    }

    /// Adds an EDU; it comes back if it has no place.
    pub(super) fn push_edu(&mut self, edu: String) -> Result<(), String> {
        if self.edus.len() >= EDUS_MAX || !self.has_place(edu.len()) {
            return Err(edu);
        }
        self.bytes += edu.len();
        self.edus.push(edu);
        Ok(())
    }

    /// How many events and EDUs it holds.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.pdus.len(), self.edus.len())
    }

    /// The transaction. Its id is a hash of its content, of which the time and `count`, which is never the same twice in
    /// a process, make sure that equal news at different times are different transactions.
    pub(super) fn into_transaction(self, origin: &ServerName, now_ms: u64, count: u64) -> Transaction {
        let items = self.items();
        let mut body = String::with_capacity(self.bytes + items + 100);
        body.push_str(&format!(r#"{{"origin":"{origin}","origin_server_ts":{now_ms},"pdus":["#));
        let pdus = self.pdus.iter().map(|pdu| std::str::from_utf8(pdu).expect("events are stored as text"));
        push_list(&mut body, pdus);
        body.push(']');
        if !self.edus.is_empty() {
            body.push_str(r#","edus":["#);
            push_list(&mut body, self.edus.iter().map(String::as_str));
            body.push(']');
        }
        body.push('}');
        let hash: String = id16(&body).iter().map(|byte| format!("{byte:02x}")).collect();
        Transaction { id: format!("{hash}-{count}"), body: body.into(), items }
    }
}

/// An EDU as it can be in a transaction: integers in an odd spelling are written anew. One number outside canonical JSON
/// would make the other server refuse all of it, as it spells such a number in its own way before it checks our signature.
pub(super) fn sendable_edu(json: String) -> Result<String, JsonError> {
    match check_json(json.as_bytes(), &ITEM) {
        Ok(()) => Ok(json),
        Err(JsonError::Number) => canonical(json.as_bytes(), &Limits { numbers: Numbers::Integers, ..ITEM }),
        Err(error @ (JsonError::Malformed(_) | JsonError::TooDeep)) => Err(error),
    }
}

/// Whether an event can be in a transaction just as it is: its id and signatures hold for no other spelling. From room
/// version 6 on there are no events with numbers outside canonical JSON.
pub(super) fn is_sendable_pdu(version: RoomVersion, json: &[u8]) -> bool {
    version.is_strict_json() || check_json(json, &ITEM).is_ok()
}

fn push_list<'a>(body: &mut String, items: impl Iterator<Item = &'a str>) {
    for (nth, item) in items.enumerate() {
        if nth > 0 {
            body.push(',');
        }
        body.push_str(item);
    }
}

/// The events that a server says it did not take, with its words. An answer that makes no sense refuses nothing: it came
/// with a 2xx, and asking again would not help.
pub(super) fn refused_events(answer: &[u8]) -> Vec<(String, String)> {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(default)]
        pdus: BTreeMap<String, Verdict>,
    }
    #[derive(Deserialize)]
    struct Verdict {
        error: Option<String>,
    }
    let Ok(Answer { pdus }) = serde_json::from_slice(answer) else { return Vec::new() };
    let refused = pdus.into_iter().filter_map(|(event_id, verdict)| Some((event_id, verdict.error?)));
    refused.take(PDUS_MAX).map(|(event_id, error)| (short(&event_id), short(&error))).collect()
}

/// The beginning of a stranger's text.
pub(super) fn short(text: &str) -> String {
    text.chars().take(ERROR_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use hearth_core::json::SIGNED_DEPTH_MAX;
    use ruma::server_name;
    use serde_json::{Value, json};

    use super::*;

    fn transaction(pdus: &[&'static str], edus: &[&str], count: u64) -> Transaction {
        let mut parts = Parts::new(Size { items_max: usize::MAX, bytes_max: usize::MAX });
        assert!(pdus.iter().all(|pdu| parts.push_pdu(Bytes::from_static(pdu.as_bytes()))));
        assert!(edus.iter().all(|edu| parts.push_edu((*edu).to_owned()).is_ok()));
        parts.into_transaction(server_name!("us.example"), 12, count)
    }

    #[test]
    fn the_body_is_what_the_specification_says() {
        let made = transaction(&[r#"{"a":1}"#, r#"{"b":2}"#], &[r#"{"c":3}"#], 1);
        let body: Value = serde_json::from_slice(&made.body).unwrap();
        let expected = json!({
            "origin": "us.example", "origin_server_ts": 12, "pdus": [{ "a": 1 }, { "b": 2 }], "edus": [{ "c": 3 }],
        });
        assert_eq!(body, expected);
        assert_eq!(transaction(&[], &[], 1).body, r#"{"origin":"us.example","origin_server_ts":12,"pdus":[]}"#);
    }

    #[test]
    fn it_holds_so_much_or_one_item_however_large() {
        let mut parts = Parts::new(Size { items_max: 3, bytes_max: 10 });
        assert!(parts.push_pdu(Bytes::from_static(b"012345678901234567890")));
        assert!(!parts.push_pdu(Bytes::from_static(b"{}")) && parts.push_edu("{}".to_owned()).is_err());
        assert!(parts.is_full_of_edus() && parts.is_full_of_pdus());
        let mut parts = Parts::new(Size { items_max: 3, bytes_max: 10 });
        assert!(parts.push_edu("01234".to_owned()).is_ok());
        assert_eq!(parts.push_edu("012345".to_owned()), Err("012345".to_owned()));
        assert!(parts.push_pdu(Bytes::from_static(b"01")) && parts.push_edu("01".to_owned()).is_ok());
        assert!(parts.is_full_of_edus() && !parts.push_pdu(Bytes::new()), "three");
        let mut parts = Parts::new(Size { items_max: usize::MAX, bytes_max: usize::MAX });
        assert!((0..PDUS_MAX).all(|_| parts.push_pdu(Bytes::new())) && !parts.push_pdu(Bytes::new()));
        assert!((0..EDUS_MAX).all(|_| parts.push_edu(String::new()).is_ok()) && parts.push_edu(String::new()).is_err());
    }

    #[test]
    fn ids_follow_content_and_count() {
        let id = |pdus: &[&'static str], count| transaction(pdus, &[], count).id;
        assert_eq!(id(&["{}"], 1), id(&["{}"], 1));
        assert_ne!(id(&["{}"], 1), id(&["{}"], 2));
        assert_ne!(id(&["{}"], 1).split('-').next(), id(&["{}", "{}"], 1).split('-').next());
    }

    #[test]
    fn integers_are_spelt_out_and_other_numbers_go_nowhere() {
        let edu = |x: &str| sendable_edu(format!(r#"{{"x":{x}, "a":1}}"#));
        assert_eq!(edu("5").unwrap(), r#"{"x":5, "a":1}"#, "nothing is touched without need");
        assert_eq!(edu("-0").unwrap(), r#"{"a":1,"x":0}"#);
        assert_eq!(edu("1E5").unwrap(), r#"{"a":1,"x":100000}"#);
        for number in ["1.10", "1e-7", "1e16", "9007199254740992"] {
            assert_eq!(edu(number), Err(JsonError::Number), "{number}");
        }
        let deep = format!("{}{}", "[".repeat(SIGNED_DEPTH_MAX), "]".repeat(SIGNED_DEPTH_MAX));
        assert_eq!(edu(&deep), Err(JsonError::TooDeep));
        assert!(matches!(edu("["), Err(JsonError::Malformed(_))));
        // An event counts as it is or not at all.
        assert!(!is_sendable_pdu(RoomVersion::V5, b"{\"x\":-0}") && is_sendable_pdu(RoomVersion::V5, b"{\"x\":7}"));
    }

    #[test]
    fn what_is_refused_is_read_from_any_answer() {
        let answer = json!({ "pdus": { "$a": {}, "$b": { "error": "no".repeat(500) } } }).to_string();
        let refused = refused_events(answer.as_bytes());
        assert_eq!(refused.len(), 1);
        assert_eq!((refused[0].0.as_str(), refused[0].1.len()), ("$b", ERROR_CHARS_MAX));
        for odd in ["", "[]", "{}", r#"{"pdus":[]}"#, r#"{"pdus":{"$a":{"error":3}}}"#] {
            assert!(refused_events(odd.as_bytes()).is_empty(), "{odd}");
        }
    }
}
