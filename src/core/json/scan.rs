//! One recursive-descent scanner, of bounded depth, for both checking and building.

use std::borrow::Cow;

use super::{JsonError, Limits, Numbers, Object, Value};

/// Decimal digits of the largest integer of canonical JSON, 2^53 − 1.
const INTEGER_DIGITS_MAX: usize = 16;

/// What comes of a value: a tree, or nothing when only checking.
trait Build<'a> {
    type Out;
    fn null() -> Self::Out;
    fn bool(value: bool) -> Self::Out;
    fn number(text: Cow<'a, str>) -> Self::Out;
    fn string(raw: Raw<'a>) -> Self::Out;
    type Array: Default;
    fn push(array: &mut Self::Array, item: Self::Out);
    fn array(array: Self::Array) -> Self::Out;
    type Object: Default;
    fn entry(object: &mut Self::Object, key: Raw<'a>, value: Self::Out);
    fn object(object: Self::Object) -> Self::Out;
}

/// A string's checked text between its quotes.
struct Raw<'a> {
    text: &'a str,
    has_escapes: bool,
}

struct Check;
struct Tree;

pub(super) fn check(bytes: &[u8], limits: &Limits) -> Result<(), JsonError> {
    whole::<Check>(bytes, limits)
}

pub(super) fn tree<'a>(bytes: &'a [u8], limits: &Limits) -> Result<Value<'a>, JsonError> {
    whole::<Tree>(bytes, limits)
}

fn whole<'a, B: Build<'a>>(bytes: &'a [u8], limits: &Limits) -> Result<B::Out, JsonError> {
    let text = std::str::from_utf8(bytes).map_err(|error| JsonError::Malformed(error.valid_up_to()))?;
    let mut scanner = Scanner { text, bytes, at: 0, numbers: limits.numbers };
    scanner.space();
    let out = scanner.value::<B>(limits.depth_max)?;
    scanner.space();
    if scanner.at == bytes.len() { Ok(out) } else { Err(scanner.malformed()) }
}

struct Scanner<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    numbers: Numbers,
}

impl<'a> Scanner<'a> {
    fn malformed(&self) -> JsonError {
        JsonError::Malformed(self.at)
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn expect(&mut self, wanted: u8) -> Result<(), JsonError> {
        if self.peek() != Some(wanted) {
            return Err(self.malformed());
        }
        self.at += 1;
        Ok(())
    }

    fn word(&mut self, word: &str) -> Result<(), JsonError> {
        if !self.bytes[self.at..].starts_with(word.as_bytes()) {
            return Err(self.malformed());
        }
        self.at += word.len();
        Ok(())
    }

    /// `depth`: how many more levels may open.
    fn value<B: Build<'a>>(&mut self, depth: usize) -> Result<B::Out, JsonError> {
        match self.peek() {
            Some(b'{') => self.object::<B>(depth.checked_sub(1).ok_or(JsonError::TooDeep)?),
            Some(b'[') => self.array::<B>(depth.checked_sub(1).ok_or(JsonError::TooDeep)?),
            Some(b'"') => Ok(B::string(self.string()?)),
            Some(b't') => self.word("true").map(|()| B::bool(true)),
            Some(b'f') => self.word("false").map(|()| B::bool(false)),
            Some(b'n') => self.word("null").map(|()| B::null()),
            _ => Ok(B::number(self.number()?)),
        }
    }

    fn object<B: Build<'a>>(&mut self, depth: usize) -> Result<B::Out, JsonError> {
        self.expect(b'{')?;
        let mut object = B::Object::default();
        self.space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(B::object(object));
        }
        loop {
            self.space();
            let key = self.string()?;
            self.space();
            self.expect(b':')?;
            self.space();
            let value = self.value::<B>(depth)?;
            B::entry(&mut object, key, value);
            self.space();
            if self.peek() == Some(b'}') {
                self.at += 1;
                return Ok(B::object(object));
            }
            self.expect(b',')?;
        }
    }

    fn array<B: Build<'a>>(&mut self, depth: usize) -> Result<B::Out, JsonError> {
        self.expect(b'[')?;
        let mut array = B::Array::default();
        self.space();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(B::array(array));
        }
        loop {
            self.space();
            let item = self.value::<B>(depth)?;
            B::push(&mut array, item);
            self.space();
            if self.peek() == Some(b']') {
                self.at += 1;
                return Ok(B::array(array));
            }
            self.expect(b',')?;
        }
    }

    fn string(&mut self) -> Result<Raw<'a>, JsonError> {
        self.expect(b'"')?;
        let from = self.at;
        let mut has_escapes = false;
        loop {
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => {
                    has_escapes = true;
                    self.escape()?;
                }
                Some(0..0x20) | None => return Err(self.malformed()),
                Some(_) => self.at += 1,
            }
        }
        let text = &self.text[from..self.at];
        self.at += 1;
        Ok(Raw { text, has_escapes })
    }

    fn escape(&mut self) -> Result<(), JsonError> {
        match self.bytes.get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 2;
                Ok(())
            }
            Some(b'u') => match hex4(self.bytes, self.at + 2) {
                // A pair of surrogates is one character; half a pair is none.
                Some(0xd800..0xdc00) => {
                    let has_second = self.bytes.get(self.at + 6..self.at + 8) == Some(b"\\u")
                        && matches!(hex4(self.bytes, self.at + 8), Some(0xdc00..0xe000));
                    if !has_second {
                        return Err(self.malformed());
                    }
                    self.at += 12;
                    Ok(())
                }
                Some(0xdc00..0xe000) | None => Err(self.malformed()),
                Some(_) => {
                    self.at += 6;
                    Ok(())
                }
            },
            _ => Err(self.malformed()),
        }
    }

    fn number(&mut self) -> Result<Cow<'a, str>, JsonError> {
        let from = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits()?,
            _ => return Err(self.malformed()),
        }
        let integer_to = self.at;
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        let text = &self.text[from..self.at];
        if self.numbers == Numbers::Lenient || (integer_to == self.at && is_canonical_integer(text)) {
            return Ok(Cow::Borrowed(text));
        }
        let integer = if self.numbers == Numbers::Integers { integer_of(text) } else { None };
        integer.map(|integer| Cow::Owned(integer.to_string())).ok_or(JsonError::Number)
    }

    /// One or more.
    fn digits(&mut self) -> Result<(), JsonError> {
        let from = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == from { Err(self.malformed()) } else { Ok(()) }
    }
}

fn is_canonical_integer(text: &str) -> bool {
    text != "-0" && text.parse::<i64>().is_ok_and(|value| value.unsigned_abs() <= crate::INTEGER_MAX)
}

/// The integer that a fraction or exponent spells out, if it is one of canonical JSON's. Counted in decimal digits: a
/// double takes `9007199254740990.7` for an integer, and `1e-400` for zero.
fn integer_of(text: &str) -> Option<i64> {
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{}{fraction}", whole.trim_start_matches('-'));
    let digits = digits.trim_start_matches('0');
    let significant = digits.trim_end_matches('0');
    if significant.is_empty() {
        return Some(0);
    }
    let exponent: i32 = exponent.parse().ok()?;
    let trailing = (digits.len() - significant.len()) as i128;
    let zeros = usize::try_from(i128::from(exponent) - fraction.len() as i128 + trailing).ok()?;
    if significant.len() + zeros > INTEGER_DIGITS_MAX {
        return None;
    }
    let value: i64 = format!("{significant}{}", "0".repeat(zeros)).parse().ok()?;
    let value = if text.starts_with('-') { -value } else { value };
    (value.unsigned_abs() <= crate::INTEGER_MAX).then_some(value)
}

fn hex4(bytes: &[u8], at: usize) -> Option<u32> {
    let digits = bytes.get(at..at.checked_add(4)?)?;
    digits.iter().try_fold(0, |sum, digit| Some(sum * 16 + char::from(*digit).to_digit(16)?))
}

impl<'a> Raw<'a> {
    /// The string it stands for. Escapes were checked by the scanner.
    fn unescape(self) -> Cow<'a, str> {
        if !self.has_escapes {
            return Cow::Borrowed(self.text);
        }
        let mut out = String::with_capacity(self.text.len());
        let mut rest = self.text;
        while let Some(index) = rest.find('\\') {
            out.push_str(&rest[..index]);
            let (character, length) = unescape_one(&rest[index..]);
            out.push(character);
            rest = &rest[index + length..];
        }
        out.push_str(rest);
        Cow::Owned(out)
    }
}

/// The character at the start, and how many bytes its escape takes.
fn unescape_one(escape: &str) -> (char, usize) {
    let bytes = escape.as_bytes();
    match bytes.get(1) {
        Some(b'b') => ('\u{8}', 2),
        Some(b'f') => ('\u{c}', 2),
        Some(b'n') => ('\n', 2),
        Some(b'r') => ('\r', 2),
        Some(b't') => ('\t', 2),
        Some(b'u') => {
            let unit = hex4(bytes, 2).unwrap_or_default();
            if !(0xd800..0xdc00).contains(&unit) {
                return (char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER), 6);
            }
            let second = hex4(bytes, 8).unwrap_or(0xdc00);
            let code = 0x10000 + ((unit - 0xd800) << 10) + (second & 0x3ff);
            (char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER), 12)
        }
        Some(other) => (char::from(*other), 2),
        None => (char::REPLACEMENT_CHARACTER, 1),
    }
}

impl<'a> Build<'a> for Check {
    type Out = ();
    fn null() {}
    fn bool(_: bool) {}
    fn number(_: Cow<'a, str>) {}
    fn string(_: Raw<'a>) {}
    type Array = ();
    fn push((): &mut (), (): ()) {}
    fn array((): ()) {}
    type Object = ();
    fn entry((): &mut (), _: Raw<'a>, (): ()) {}
    fn object((): ()) {}
}

impl<'a> Build<'a> for Tree {
    type Out = Value<'a>;
    fn null() -> Value<'a> {
        Value::Null
    }
    fn bool(value: bool) -> Value<'a> {
        Value::Bool(value)
    }
    fn number(text: Cow<'a, str>) -> Value<'a> {
        Value::Number(text)
    }
    fn string(raw: Raw<'a>) -> Value<'a> {
        Value::String(raw.unescape())
    }
    type Array = Vec<Value<'a>>;
    fn push(array: &mut Vec<Value<'a>>, item: Value<'a>) {
        array.push(item);
    }
    fn array(array: Vec<Value<'a>>) -> Value<'a> {
        Value::Array(array)
    }
    type Object = Vec<(Cow<'a, str>, Value<'a>)>;
    fn entry(object: &mut Self::Object, key: Raw<'a>, value: Value<'a>) {
        object.push((key.unescape(), value));
    }
    fn object(object: Self::Object) -> Value<'a> {
        Value::Object(Object::from_entries(object))
    }
}
