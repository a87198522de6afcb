//! The elements of one list, cut out of a JSON document while it comes in: an answer of any size
//! then costs the memory of its largest element, and an element whose text has not changed need not
//! be read.
//!
//! What follows what is remembered from the answer before. Where the text that stood next last time
//! stands next again, its end is known from its length, and finding it costs only its fingerprint.
//!
//! Commas and brackets between the elements are checked here. Each element, and the document around
//! the list, is checked by whoever reads it.

mod around;
mod scan;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use self::around::Around;
use self::scan::{Scan, is_outside, is_space};
use crate::model::Slice;

/// The longest element.
pub const MAX_ELEMENT: usize = 16 * 1024 * 1024;
/// All of the document that is not in the list, where the list is what was asked for.
pub const MAX_REST: usize = 1024 * 1024;
/// Fingerprints kept of one answer; a longer list is searched for its elements' ends.
const MAX_REMEMBERED: usize = 100_000;

/// Which list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List {
    /// The document itself.
    Whole,
    /// The one under this name in the document, which is an object.
    Named(&'static str),
}

/// Why a document cannot be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uncut {
    Malformed { expected: &'static str, at: u64 },
    LongElement,
    LongRest { limit: usize },
}

impl fmt::Display for Uncut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed { expected, at } => write!(f, "expected {expected} at byte {at}"),
            Self::LongElement => write!(f, "more than {MAX_ELEMENT} bytes in one row of its list"),
            Self::LongRest { limit } => write!(f, "more than {limit} bytes around its list"),
        }
    }
}

/// What is left when all elements have been given away.
#[derive(Debug)]
pub struct Rest {
    /// The document, with the list empty.
    pub text: Vec<u8>,
    /// The elements, in order: what the next answer is expected to repeat.
    pub slices: Arc<[Slice]>,
    /// The document's length.
    pub bytes: u64,
}

/// Takes a document chunk by chunk and gives away the list's elements one by one.
pub struct Slicer {
    state: State,
    around: Around,
    /// The beginning of an element whose end has not come.
    pending: Vec<u8>,
    /// Bytes of the document before `pending`.
    passed: u64,
    before: Before,
    slices: Vec<Slice>,
}

enum State {
    Around,
    /// Before an element; the first may be missing.
    Before {
        first: bool,
    },
    /// In an element, which is what has not been taken yet.
    In {
        scan: Scan,
        /// What is expected to stand here, until it turns out not to.
        guess: Option<Slice>,
    },
    After,
}

impl Slicer {
    /// `before` are the slices of the last answer to the same question, `max_rest` the longest
    /// document without its list.
    pub fn new(list: List, max_rest: usize, before: Arc<[Slice]>) -> Self {
        Self {
            state: State::Around,
            around: Around::new(list, max_rest),
            pending: Vec::new(),
            passed: 0,
            slices: Vec::with_capacity(before.len()),
            before: Before::new(before),
        }
    }

    /// The next bytes of the document, cut anywhere.
    pub fn push<E: From<Uncut>>(
        &mut self,
        chunk: &[u8],
        each: &mut impl FnMut(&[u8], Slice) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.pending.is_empty() {
            let taken = self.cut(chunk, false, each)?;
            self.pending.extend_from_slice(&chunk[taken..]);
            return Ok(());
        }
        let mut text = std::mem::take(&mut self.pending);
        text.extend_from_slice(chunk);
        let taken = self.cut(&text, false, each)?;
        text.drain(..taken);
        self.pending = text;
        Ok(())
    }

    /// The end of the document.
    pub fn finish<E: From<Uncut>>(
        mut self,
        each: &mut impl FnMut(&[u8], Slice) -> Result<(), E>,
    ) -> Result<Rest, E> {
        let text = std::mem::take(&mut self.pending);
        let taken = self.cut(&text, true, each)?;
        let expected = match self.state {
            State::Around => {
                return Ok(Rest {
                    text: self.around.text,
                    slices: self.slices.into(),
                    bytes: self.passed,
                });
            }
            State::Before { .. } => "a row of a list",
            State::In { .. } => "the end of a row",
            State::After => "the end of a list",
        };
        let at = self.passed + (text.len() - taken) as u64;
        Err(Uncut::Malformed { expected, at }.into())
    }

    /// Bytes held.
    #[cfg(test)]
    fn held(&self) -> usize {
        self.pending.capacity() + self.around.text.capacity()
    }

    /// Gives away what is complete, and says how much of `text` has been taken.
    fn cut<E: From<Uncut>>(
        &mut self,
        text: &[u8],
        is_end: bool,
        each: &mut impl FnMut(&[u8], Slice) -> Result<(), E>,
    ) -> Result<usize, E> {
        let mut taken = 0;
        while let Some(&byte) = text.get(taken) {
            match &mut self.state {
                State::Around => {
                    let (length, in_list) = self.around.take(&text[taken..])?;
                    taken += length;
                    if in_list {
                        self.state = State::Before { first: true };
                    }
                }
                State::Before { .. } | State::After if is_space(byte) => taken += 1,
                State::Before { first: true } if byte == b']' => {
                    self.state = State::Around;
                }
                State::Before { .. } => {
                    let scan = Scan::new(byte).ok_or_else(|| {
                        let at = self.passed + taken as u64;
                        let expected = "a row of a list";
                        Uncut::Malformed { expected, at }
                    })?;
                    let guess = self.before.guess();
                    self.state = State::In { scan, guess };
                }
                State::In { scan, guess } => {
                    let rest = &text[taken..];
                    let met = match guess.map(|guess| stands_here(rest, guess)) {
                        Some(Guess::Holds(slice)) => Some(slice),
                        Some(Guess::TooEarly) if !is_end => break,
                        Some(_) | None => {
                            *guess = None;
                            scan.end(rest).map(|end| Slice::of(&rest[..end]))
                        }
                    };
                    let Some(slice) = met else {
                        if rest.len() > MAX_ELEMENT {
                            return Err(Uncut::LongElement.into());
                        }
                        break;
                    };
                    if slice.len > MAX_ELEMENT {
                        return Err(Uncut::LongElement.into());
                    }
                    self.before.met(&slice);
                    if self.slices.len() < MAX_REMEMBERED {
                        self.slices.push(slice);
                    }
                    self.state = State::After;
                    each(&rest[..slice.len], slice)?;
                    taken += slice.len;
                }
                State::After => {
                    self.state = match byte {
                        b',' => State::Before { first: false },
                        b']' => State::Around,
                        _ => {
                            let at = self.passed + taken as u64;
                            let expected = "`,` or `]`";
                            return Err(Uncut::Malformed { expected, at }.into());
                        }
                    };
                    taken += usize::from(byte == b',');
                }
            }
        }
        self.passed += taken as u64;
        Ok(taken)
    }
}

enum Guess {
    Holds(Slice),
    /// Not enough of the text has come to tell.
    TooEarly,
    Fails,
}

fn stands_here(text: &[u8], guess: Slice) -> Guess {
    match text.get(guess.len) {
        None => Guess::TooEarly,
        Some(next) if is_outside(*next) && Slice::of(&text[..guess.len]) == guess => {
            Guess::Holds(guess)
        }
        Some(_) => Guess::Fails,
    }
}

/// The answer before, and where in it we are.
struct Before {
    slices: Arc<[Slice]>,
    next: usize,
    /// Where each stood; made when the order turns out to be another.
    places: Option<HashMap<Slice, usize>>,
}

impl Before {
    fn new(slices: Arc<[Slice]>) -> Self {
        Self {
            slices,
            next: 0,
            places: None,
        }
    }

    fn guess(&self) -> Option<Slice> {
        self.slices.get(self.next).copied()
    }

    fn met(&mut self, slice: &Slice) {
        if self.slices.is_empty() {
            return;
        }
        if self.guess() != Some(*slice) {
            let places = self.places.get_or_insert_with(|| {
                let places = self.slices.iter().enumerate();
                places.map(|(place, slice)| (*slice, place)).collect()
            });
            // A text that is new here most likely took the place of the old one.
            self.next = places.get(slice).copied().unwrap_or(self.next);
        }
        self.next += 1;
    }
}
