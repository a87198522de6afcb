//! Where one JSON value ends. Strings and nesting are followed, nothing else is looked at: whether
//! the value is well-formed is for whoever reads it.
//!
//! Objects and lists are searched 64 bytes at a time, with one bit for each byte: the method of
//! Langdale and Lemire, "Parsing Gigabytes of JSON per Second" (2019), without their escapes. Blocks
//! that hold a backslash or may hold the end are walked byte by byte.

const BLOCK: usize = 64;

/// A search that goes on when more of the text has come.
pub(super) struct Scan {
    kind: Kind,
    /// How far it has come, from the value's first byte.
    at: usize,
    depth: usize,
    in_string: bool,
    escaped: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// An object or a list.
    Nested,
    String,
    /// A number or a word: ends where something else begins.
    Bare,
}

impl Scan {
    /// By the value's first byte; `None` for a byte with which no value begins.
    pub(super) fn new(first: u8) -> Option<Self> {
        let kind = match first {
            b'{' | b'[' => Kind::Nested,
            b'"' => Kind::String,
            b',' | b']' | b'}' | b':' => return None,
            _ => Kind::Bare,
        };
        Some(Self {
            kind,
            at: 0,
            depth: 0,
            in_string: false,
            escaped: false,
        })
    }

    /// The value's length, once its end is in `text`, which begins with the value.
    pub(super) fn end(&mut self, text: &[u8]) -> Option<usize> {
        if self.kind == Kind::Bare {
            let end = text[self.at..].iter().position(|byte| is_outside(*byte));
            let end = end.map(|end| self.at + end);
            self.at = text.len();
            return end;
        }
        while let Some(block) = text[self.at..].first_chunk::<BLOCK>() {
            if self.passes(block) {
                self.at += BLOCK;
            } else if let Some(end) = self.walk(block) {
                return Some(end);
            }
        }
        self.walk(&text[self.at..])
    }

    /// Takes a whole block, unless it has to be walked.
    fn passes(&mut self, block: &[u8; BLOCK]) -> bool {
        let found = Found::in_block(block);
        if self.kind != Kind::Nested || self.escaped || found.backslash {
            return false;
        }
        let before = if self.in_string { u64::MAX } else { 0 };
        let inside = parity(found.quotes) ^ before;
        let closes = (found.closes & !inside).count_ones() as usize;
        if closes >= self.depth {
            return false;
        }
        self.depth += (found.opens & !inside).count_ones() as usize;
        self.depth -= closes;
        self.in_string = inside >> (BLOCK - 1) != 0;
        true
    }

    fn walk(&mut self, text: &[u8]) -> Option<usize> {
        for byte in text {
            self.at += 1;
            if self.in_string {
                match byte {
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => self.in_string = false,
                    _ => continue,
                }
            } else {
                match byte {
                    b'"' => self.in_string = true,
                    b'{' | b'[' => self.depth += 1,
                    b'}' | b']' => self.depth = self.depth.saturating_sub(1),
                    _ => continue,
                }
            }
            if self.depth == 0 && !self.in_string {
                return Some(self.at);
            }
        }
        None
    }
}

/// Ends a number or a word.
pub(super) fn is_outside(byte: u8) -> bool {
    is_space(byte) || matches!(byte, b',' | b']' | b'}' | b':' | b'"' | b'{' | b'[')
}

pub(super) fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\n' | b'\r' | b'\t')
}

/// One bit for each byte of a block, the first byte lowest.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    quotes: u64,
    opens: u64,
    closes: u64,
    backslash: bool,
}

/// `[` and `{` differ in this bit alone, and so do `]` and `}`.
const BRACE: u8 = 0x20;
const HIGH: u8 = 0x80;

impl Found {
    fn in_block(block: &[u8; BLOCK]) -> Self {
        let (words, _) = block.as_chunks::<8>();
        let words: [u64; 8] = std::array::from_fn(|n| u64::from_le_bytes(words[n]));
        let high = words.iter().fold(0, |all, word| all | word) & each(HIGH);
        match high {
            0 => Self::in_words(&words, equal_in_ascii),
            _ => Self::in_words(&words, equal),
        }
    }

    #[inline(always)]
    fn in_words(words: &[u64; 8], equal: impl Fn(u64, u8) -> u64) -> Self {
        let mut found = Self::default();
        for (n, word) in words.iter().enumerate() {
            let braces = word | each(BRACE);
            found.quotes |= pack(equal(*word, b'"')) << (8 * n);
            found.opens |= pack(equal(braces, b'{')) << (8 * n);
            found.closes |= pack(equal(braces, b'}')) << (8 * n);
            found.backslash |= equal(*word, b'\\') != 0;
        }
        found
    }

    #[cfg(test)]
    fn byte_by_byte(block: &[u8; BLOCK]) -> Self {
        let mut found = Self::default();
        for (n, byte) in block.iter().enumerate() {
            found.quotes |= u64::from(*byte == b'"') << n;
            found.backslash |= *byte == b'\\';
            found.opens |= u64::from(byte | BRACE == b'{') << n;
            found.closes |= u64::from(byte | BRACE == b'}') << n;
        }
        found
    }
}

fn each(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}

/// The high bit of each byte that is this one.
fn equal(word: u64, byte: u8) -> u64 {
    let differing = word ^ each(byte);
    // The high bit of each byte that differs in any bit; no carry leaves its byte.
    let differing = ((differing & each(!HIGH)) + each(!HIGH)) | differing;
    !differing & each(HIGH)
}

/// The same where no byte has its high bit set: 128 less nothing alone keeps that bit.
fn equal_in_ascii(word: u64, byte: u8) -> u64 {
    (each(HIGH) - (word ^ each(byte))) & each(HIGH)
}

/// Moves the eight high bits into one byte, the first byte's lowest.
fn pack(high: u64) -> u64 {
    (high >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56
}

/// For each bit, whether it and those below it are odd in number: set from each opening quote up
/// to its closing one.
fn parity(mut bits: u64) -> u64 {
    for shift in [1, 2, 4, 8, 16, 32] {
        bits ^= bits << shift;
    }
    bits
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_block_at_once_is_its_bytes_one_by_one(
            text in prop::collection::vec(prop_oneof![Just(b'"'), Just(b'\\'), Just(b'{'), Just(b']'), any::<u8>()], BLOCK),
        ) {
            let block = text.first_chunk().expect("a block");
            prop_assert_eq!(Found::in_block(block), Found::byte_by_byte(block));
        }

        #[test]
        fn the_end_is_found_whatever_comes_in_pieces(
            text in r#"[\{\[]([ab\{\}\[\]"\\,]|"[^"\\]{0,90}"){0,60}"#,
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let text = text.as_bytes();
            let mut slow = Scan::new(text[0]).expect("an object or a list");
            let expected = slow.walk(text);
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(text.len()).max(1)).collect();
            cuts.push(text.len());
            cuts.sort_unstable();
            let mut scan = Scan::new(text[0]).expect("an object or a list");
            let found = cuts.iter().find_map(|cut| scan.end(&text[..*cut]));
            prop_assert_eq!(found, expected);
        }
    }
}
