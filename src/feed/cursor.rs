//! JSON in one pass, for the shape that a provider documents. A cursor goes from value to value and
//! borrows their text; nothing is kept in between. It knows only what answers are made of, and gives
//! up (`None`) on whatever else it meets: what it takes is JSON, but not all JSON is taken. Whoever
//! is left with nothing reads the text with serde_json, which is slower and misses nothing.

use std::borrow::Cow;

/// Deeper values are left to serde_json.
const MAX_DEPTH: usize = 16;
const WORD: usize = 8;

pub(super) struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// That there is nothing more.
    pub(super) fn end(mut self) -> Option<()> {
        self.next();
        (self.at == self.text.len()).then_some(())
    }

    /// An object: `field` takes the value of each name. Names with escapes are not taken.
    #[inline(always)]
    pub(super) fn object(
        &mut self,
        mut field: impl FnMut(&mut Self, &'a str) -> Option<()>,
    ) -> Option<()> {
        self.eat(b'{')?;
        if self.next()? == b'}' {
            return self.eat(b'}');
        }
        loop {
            let Cow::Borrowed(name) = self.string()? else {
                return None;
            };
            self.eat(b':')?;
            field(self, name)?;
            if self.ends(b'}')? {
                return Some(());
            }
        }
    }

    /// A list: `row` takes each element. Null is an empty list.
    #[inline(always)]
    pub(super) fn list(&mut self, mut row: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        if self.next()? == b'n' {
            return self.word("null");
        }
        self.eat(b'[')?;
        if self.next()? == b']' {
            return self.eat(b']');
        }
        loop {
            row(self)?;
            if self.ends(b']')? {
                return Some(());
            }
        }
    }

    pub(super) fn string(&mut self) -> Option<Cow<'a, str>> {
        self.eat(b'"')?;
        let from = self.at;
        let bytes = self.text.as_bytes();
        self.at += plain_length(&bytes[from..]);
        match bytes.get(self.at)? {
            b'"' => {
                self.at += 1;
                Some(Cow::Borrowed(&self.text[from..self.at - 1]))
            }
            b'\\' => self.escaped(from - 1),
            _ => None,
        }
    }

    /// The text of a string, number or word; null is `None` inside.
    pub(super) fn scalar(&mut self) -> Option<Option<Cow<'a, str>>> {
        Some(match self.next()? {
            b'"' => Some(self.string()?),
            b'n' => {
                self.word("null")?;
                None
            }
            b't' => {
                self.word("true")?;
                Some(Cow::Borrowed("true"))
            }
            b'f' => {
                self.word("false")?;
                Some(Cow::Borrowed("false"))
            }
            _ => Some(Cow::Borrowed(self.number()?)),
        })
    }

    /// A number, as it is written.
    pub(super) fn number(&mut self) -> Option<&'a str> {
        self.next()?;
        let bytes = self.text.as_bytes();
        let from = self.at;
        let digits = |at: usize| {
            let rest = bytes[at..].iter();
            rest.take_while(|byte| byte.is_ascii_digit()).count()
        };
        let mut at = from + usize::from(bytes[from] == b'-');
        let whole = digits(at);
        if whole == 0 || (whole > 1 && bytes[at] == b'0') {
            return None;
        }
        at += whole;
        if bytes.get(at) == Some(&b'.') {
            let part = digits(at + 1);
            if part == 0 {
                return None;
            }
            at += 1 + part;
        }
        if let Some(b'e' | b'E') = bytes.get(at) {
            let sign = matches!(bytes.get(at + 1), Some(b'+' | b'-'));
            let exponent_at = at + 1 + usize::from(sign);
            let exponent = digits(exponent_at.min(bytes.len()));
            if exponent == 0 {
                return None;
            }
            at = exponent_at + exponent;
        }
        self.at = at;
        Some(&self.text[from..at])
    }

    /// Takes a null, if there is one.
    pub(super) fn is_null(&mut self) -> Option<bool> {
        let is_null = self.next()? == b'n';
        if is_null {
            self.word("null")?;
        }
        Some(is_null)
    }

    /// A value that nobody asked for.
    pub(super) fn skip(&mut self) -> Option<()> {
        self.skip_within(MAX_DEPTH)
    }

    fn skip_within(&mut self, depth: usize) -> Option<()> {
        match self.next()? {
            b'{' => {
                let depth = depth.checked_sub(1)?;
                self.object(|cursor, _| cursor.skip_within(depth))
            }
            b'[' => {
                let depth = depth.checked_sub(1)?;
                self.list(|cursor| cursor.skip_within(depth))
            }
            _ => self.scalar().map(drop),
        }
    }

    /// The next byte that is no white space, not taken.
    #[inline(always)]
    fn next(&mut self) -> Option<u8> {
        loop {
            let byte = *self.text.as_bytes().get(self.at)?;
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Some(byte);
            }
            self.at += 1;
        }
    }

    #[inline(always)]
    fn eat(&mut self, byte: u8) -> Option<()> {
        let is_it = self.next()? == byte;
        self.at += usize::from(is_it);
        is_it.then_some(())
    }

    /// After an element: whether the list or object ends here, or goes on behind a comma.
    #[inline(always)]
    fn ends(&mut self, closing: u8) -> Option<bool> {
        let byte = self.next()?;
        self.at += 1;
        match byte {
            b',' => Some(false),
            _ => (byte == closing).then_some(true),
        }
    }

    fn word(&mut self, word: &str) -> Option<()> {
        let is_it = self.text.as_bytes()[self.at..].starts_with(word.as_bytes());
        self.at += word.len();
        is_it.then_some(())
    }

    /// A string with escapes in it, whose quote stands at `from`.
    #[cold]
    fn escaped(&mut self, from: usize) -> Option<Cow<'a, str>> {
        let bytes = self.text.as_bytes();
        loop {
            self.at += plain_length(&bytes[self.at..]);
            match bytes.get(self.at)? {
                b'"' => break,
                b'\\' => self.at += 2,
                _ => return None,
            }
            if self.at > bytes.len() {
                return None;
            }
        }
        self.at += 1;
        let text = self.text.get(from..self.at)?;
        Some(Cow::Owned(serde_json::from_str(text).ok()?))
    }
}

/// Bytes before the first quote, backslash or control character. Eight at a time: a byte that is
/// looked for leaves its high bit in the word, and what a borrow adds stands only above such a one.
#[inline(always)]
fn plain_length(bytes: &[u8]) -> usize {
    let each = |byte: u8| u64::from_ne_bytes([byte; WORD]);
    let (words, rest) = bytes.as_chunks::<WORD>();
    for (n, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let zero = |word: u64| word.wrapping_sub(each(1)) & !word;
        let found = zero(word ^ each(b'"'))
            | zero(word ^ each(b'\\'))
            | (word.wrapping_sub(each(b' ')) & !word);
        let found = found & each(0x80);
        if found != 0 {
            return n * WORD + found.trailing_zeros() as usize / 8;
        }
    }
    let plain = |byte: &&u8| !matches!(byte, b'"' | b'\\' | 0..b' ');
    words.len() * WORD + rest.iter().take_while(plain).count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    /// Reads anything, as serde_json would.
    fn value(cursor: &mut Cursor<'_>) -> Option<Value> {
        Some(match cursor.next()? {
            b'{' => {
                let mut fields = serde_json::Map::new();
                cursor.object(|cursor, name| {
                    fields.insert(name.to_owned(), value(cursor)?);
                    Some(())
                })?;
                Value::Object(fields)
            }
            b'[' => {
                let mut rows = Vec::new();
                cursor.list(|cursor| {
                    rows.push(value(cursor)?);
                    Some(())
                })?;
                Value::Array(rows)
            }
            b'"' => Value::String(cursor.string()?.into_owned()),
            b'-' | b'0'..=b'9' => serde_json::from_str(cursor.number()?).ok()?,
            _ => match cursor.scalar()?.as_deref() {
                None => Value::Null,
                Some(word) => Value::Bool(word == "true"),
            },
        })
    }

    fn read(text: &str) -> Option<Value> {
        let mut cursor = Cursor::new(text);
        let value = value(&mut cursor)?;
        cursor.end().map(|()| value)
    }

    fn skips(text: &str) -> bool {
        let mut cursor = Cursor::new(text);
        cursor.skip().is_some() && cursor.end().is_some()
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "[a-zé€ ]{0,20}".prop_map(Value::from),
            ".{0,20}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 30, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::hash_map("[a-zé]{0,12}", inner, 0..6).prop_map(Value::from_iter),
            ]
        })
    }

    proptest! {
        #[test]
        fn json_is_read_as_it_is(json in json(), pretty: bool) {
            let text = match pretty {
                true => serde_json::to_string_pretty(&json).expect("JSON"),
                false => json.to_string(),
            };
            prop_assert!(skips(&text), "{}", text);
            prop_assert_eq!(read(&text), serde_json::from_str(&text).ok(), "{}", text);
        }

        #[test]
        fn what_is_no_json_is_not_taken_for_it(
            json in json(),
            flips in prop::collection::vec((any::<prop::sample::Index>(), prop_oneof![
                Just(b'"'), Just(b'\\'), Just(b','), Just(b'0'), Just(b'}'), Just(b'e'), any::<u8>(),
            ]), 1..4),
            end in prop::option::of(any::<prop::sample::Index>()),
        ) {
            let mut bytes = json.to_string().into_bytes();
            for (at, byte) in flips {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if let Some(end) = end {
                bytes.truncate(end.index(bytes.len()));
            }
            let text = String::from_utf8_lossy(&bytes);
            let expected = serde_json::from_str::<&serde_json::value::RawValue>(&text);
            prop_assert!(!skips(&text) || expected.is_ok(), "{}", text);
            if let Some(read) = read(&text) {
                prop_assert_eq!(serde_json::from_str::<Value>(&text).ok(), Some(read), "{}", text);
            }
        }

        #[test]
        fn numbers_are_those_of_json(text in "-?[0-9]{0,3}(\\.[0-9]{0,2})?([eE][+-]?[0-9]{0,3})?[ x]?") {
            let is_number = serde_json::from_str::<&serde_json::value::RawValue>(&text).is_ok();
            prop_assert_eq!(skips(&text), is_number, "{}", text);
        }
    }
}
