//! A room's state cut into its events while it comes: nobody holds all of it.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use hearth_ports::{BoxFuture, HttpBody, HttpError, PeerError, StatePiece, StatePieces};

/// The longest event with what servers add to it, in bytes.
const EVENT_BYTES_MAX: usize = 256 << 10;

/// The longest name of a field that is looked at, in bytes.
const NAME_BYTES_MAX: usize = 32;

/// Events of one piece, in number and in bytes; the one that reaches it is still part of it.
const PIECE_EVENTS: usize = 500;
const PIECE_BYTES: usize = 1 << 20;

/// The answer of `/state`.
pub(super) struct Pieces {
    body: Box<dyn HttpBody>,
    splitter: Splitter,
    is_read: bool,
}

impl Pieces {
    pub(super) fn new(body: Box<dyn HttpBody>) -> Self {
        Self { body, splitter: Splitter::default(), is_read: false }
    }
}

impl StatePieces for Pieces {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<StatePiece>, PeerError>> {
        Box::pin(async move {
            loop {
                if self.is_read || self.splitter.is_full() {
                    return Ok(self.splitter.take());
                }
                match self.body.next().await {
                    Ok(Some(bytes)) => self.splitter.feed(&bytes)?,
                    Ok(None) if self.splitter.place == Place::End => self.is_read = true,
                    Ok(None) => return Err(malformed("it breaks off")),
                    Err(HttpError::TooLarge) => return Err(malformed("it is too large")),
                    Err(HttpError::Denied(_)) => return Err(PeerError::Denied),
                    Err(error) => return Err(PeerError::Unreachable(error.to_string())),
                }
            }
        })
    }
}

fn malformed(reason: &str) -> PeerError {
    PeerError::Malformed(reason.to_owned())
}

/// Where the next byte stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    /// Before the object.
    #[default]
    Start,
    /// Before the name of a field, or the end of the object.
    Name,
    /// In a name.
    InName,
    /// Behind a name.
    Colon,
    /// Before a value.
    Value,
    /// In a value that is passed over.
    Skipped,
    /// Before an event, or the end of the list.
    Event,
    /// In an event.
    InEvent,
    /// Behind the object.
    End,
}

/// Finds the events of `pdus` and `auth_chain` in a text that comes in parts. What they hold is not looked at: whoever
/// reads an event sees whether it is one.
#[derive(Debug, Default)]
struct Splitter {
    place: Place,
    /// How many brackets are open in the present value.
    depth: usize,
    in_string: bool,
    is_escaped: bool,
    /// The present name or event.
    text: BytesMut,
    in_state: bool,
    pieces: VecDeque<StatePiece>,
    /// Of the last piece.
    piece_bytes: usize,
}

impl Splitter {
    fn is_full(&self) -> bool {
        self.pieces.len() > 1
    }

    fn take(&mut self) -> Option<StatePiece> {
        self.pieces.pop_front()
    }

    fn feed(&mut self, bytes: &[u8]) -> Result<(), PeerError> {
        // Where what belongs to an event begins.
        let mut begin = 0;
        for (at, byte) in bytes.iter().copied().enumerate() {
            match self.place {
                Place::InEvent | Place::Skipped => {
                    let is_event = self.place == Place::InEvent;
                    if !self.ends_value(byte) {
                        continue;
                    }
                    if is_event {
                        self.extend(&bytes[begin..=at], EVENT_BYTES_MAX)?;
                        self.push();
                        self.place = Place::Event;
                    } else {
                        // The end of a number or the like is the end of what it stands in.
                        self.place = if byte == b'}' && self.depth == 0 { Place::End } else { Place::Name };
                        self.depth = 0;
                    }
                }
                _ => {
                    self.step(byte)?;
                    begin = at;
                }
            }
        }
        if self.place == Place::InEvent {
            self.extend(&bytes[begin..], EVENT_BYTES_MAX)?;
        }
        Ok(())
    }

    /// A byte outside of events and values that are passed over.
    fn step(&mut self, byte: u8) -> Result<(), PeerError> {
        if self.place != Place::InName && byte.is_ascii_whitespace() {
            return Ok(());
        }
        self.place = match (self.place, byte) {
            (Place::Start, b'{') | (Place::Name, b',') => Place::Name,
            (Place::Name, b'"') => {
                self.text.clear();
                Place::InName
            }
            (Place::Name, b'}') => Place::End,
            (Place::InName, b'"') => Place::Colon,
            (Place::InName, _) => {
                if self.text.len() < NAME_BYTES_MAX {
                    self.text.extend_from_slice(&[byte]);
                }
                Place::InName
            }
            (Place::Colon, b':') => Place::Value,
            (Place::Value, b'[') if matches!(&self.text[..], b"pdus" | b"auth_chain") => {
                self.in_state = &self.text[..] == b"pdus";
                Place::Event
            }
            (Place::Value, _) => {
                (self.depth, self.in_string, self.is_escaped) = (0, byte == b'"', false);
                self.depth = usize::from(matches!(byte, b'{' | b'['));
                Place::Skipped
            }
            (Place::Event, b',') => Place::Event,
            (Place::Event, b']') => Place::Name,
            (Place::Event, b'{') => {
                self.text.clear();
                (self.depth, self.in_string, self.is_escaped) = (1, false, false);
                Place::InEvent
            }
            _ => return Err(malformed("it is no state")),
        };
        Ok(())
    }

    /// Whether a value ends with this byte: the last bracket, the quote, or for a number what stands behind it.
    fn ends_value(&mut self, byte: u8) -> bool {
        if self.in_string {
            match byte {
                _ if self.is_escaped => self.is_escaped = false,
                b'\\' => self.is_escaped = true,
                b'"' => {
                    self.in_string = false;
                    return false;
                }
                _ => {}
            }
            return false;
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' if self.depth > 1 => self.depth -= 1,
            b'}' | b']' if self.depth == 1 => {
                self.depth = usize::MAX;
                return true;
            }
            b'}' | b',' if self.depth == 0 => return true,
            _ => {}
        }
        false
    }

    fn extend(&mut self, bytes: &[u8], bytes_max: usize) -> Result<(), PeerError> {
        if self.text.len() + bytes.len() > bytes_max {
            return Err(malformed("an event of it is too large"));
        }
        self.text.extend_from_slice(bytes);
        Ok(())
    }

    /// The present event is whole.
    fn push(&mut self) {
        let event: Bytes = self.text.split().freeze();
        let fits = self.pieces.back().is_some_and(|piece| {
            piece.in_state == self.in_state && piece.events.len() < PIECE_EVENTS && self.piece_bytes < PIECE_BYTES
        });
        if !fits {
            self.pieces.push_back(StatePiece { events: Vec::new(), in_state: self.in_state });
            self.piece_bytes = 0;
        }
        self.piece_bytes += event.len();
        self.pieces.back_mut().expect("one was put there").events.push(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The events of a text that comes in parts of this many bytes, `+` before those of the state.
    fn split(text: &str, bytes: usize) -> Result<Vec<String>, PeerError> {
        let mut splitter = Splitter::default();
        for part in text.as_bytes().chunks(bytes) {
            splitter.feed(part)?;
        }
        if splitter.place != Place::End {
            return Err(malformed("it breaks off"));
        }
        let mut found = Vec::new();
        while let Some(piece) = splitter.take() {
            let sign = if piece.in_state { "+" } else { "" };
            found.extend(piece.events.iter().map(|event| format!("{sign}{}", std::str::from_utf8(event).unwrap())));
        }
        Ok(found)
    }

    #[test]
    fn events_are_found_however_the_text_is_cut() {
        let text = r#" { "x" : [ {"pdus":[{"no":1}]} , "]}" ], "n":-1.5e3 , "auth_chain":[ {"a":"}\\\"{"} ,{"b":[{}, "]"]}],
            "s":"\"pdus\":[", "pdus" : [{"c":{}},{"d":"ü"}] , "t":true}"#;
        let wanted = [r#"{"a":"}\\\"{"}"#, r#"{"b":[{}, "]"]}"#, r#"+{"c":{}}"#, r#"+{"d":"ü"}"#];
        for bytes in 1..text.len() + 1 {
            assert_eq!(split(text, bytes).unwrap(), wanted, "{bytes}");
        }
        assert_eq!(split(r#"{"pdus":[],"auth_chain":[]}"#, 5).unwrap(), [""; 0]);
        assert_eq!(split("{}", 1).unwrap(), [""; 0]);
        assert_eq!(split(r#"{"n":1}"#, 1).unwrap(), [""; 0]);
    }

    #[test]
    fn what_is_no_state_is_refused() {
        let bad = [
            "",
            "[]",
            "{",
            r#"{"pdus":[1]}"#,
            r#"{"pdus":[{}"#,
            r#"{"pdus":[{}]}x"#,
            r#"{"pdus" []}"#,
            r#"{"pdus":["a"]}"#,
        ];
        for text in bad {
            assert!(split(text, 3).is_err(), "{text}");
        }
        let large = format!(r#"{{"pdus":[{{"a":"{}"}}]}}"#, "x".repeat(EVENT_BYTES_MAX));
        assert!(split(&large, 1_000).is_err());
        let deep = format!(r#"{{"x":{}{},"pdus":[{{}}]}}"#, "[".repeat(1_000_000), "]".repeat(1_000_000));
        assert_eq!(split(&deep, 10_000).unwrap(), ["+{}"]);
    }

    #[test]
    fn pieces_are_bounded() {
        let mut splitter = Splitter::default();
        splitter.feed(br#"{"pdus":["#).unwrap();
        for _ in 0..2 * PIECE_EVENTS {
            splitter.feed(b"{},").unwrap();
        }
        assert!(splitter.is_full());
        assert_eq!(splitter.take().unwrap().events.len(), PIECE_EVENTS);
    }
}
