//! The document around the list, followed closely enough to find the list in it. Everything but
//! the list's elements is kept, for a parser to check and read.

use super::scan::is_space;
use super::{List, Uncut};

pub(super) struct Around {
    pub(super) text: Vec<u8>,
    list: List,
    max: usize,
    begun: bool,
    depth: usize,
    in_string: bool,
    escaped: bool,
    /// Where the name that is being read begins.
    name: Option<usize>,
    /// A name comes next, if anything.
    name_next: bool,
    found: Found,
}

/// How much of `"name":` was read last.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Found {
    #[default]
    Nothing,
    Name,
    Colon,
}

impl Around {
    pub(super) fn new(list: List, max: usize) -> Self {
        Self {
            text: Vec::new(),
            list,
            max,
            begun: false,
            depth: 0,
            in_string: false,
            escaped: false,
            name: None,
            name_next: false,
            found: Found::Nothing,
        }
    }

    /// Takes bytes up to the list's opening bracket: how many, and whether it was reached.
    pub(super) fn take(&mut self, text: &[u8]) -> Result<(usize, bool), Uncut> {
        for (at, byte) in text.iter().enumerate() {
            if self.text.len() == self.max {
                return Err(Uncut::LongRest { limit: self.max });
            }
            self.text.push(*byte);
            if self.opens_list(*byte) {
                return Ok((at + 1, true));
            }
        }
        Ok((text.len(), false))
    }

    fn opens_list(&mut self, byte: u8) -> bool {
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.end_string(),
                _ => {}
            }
            return false;
        }
        if is_space(byte) {
            return false;
        }
        let found = std::mem::take(&mut self.found);
        let is_first = !std::mem::replace(&mut self.begun, true);
        let mut opens_list = false;
        match byte {
            b'"' => {
                self.in_string = true;
                let is_name = std::mem::take(&mut self.name_next) && self.depth == 1;
                self.name = is_name.then_some(self.text.len());
            }
            b'{' | b'[' => {
                opens_list = byte == b'['
                    && match self.list {
                        List::Whole => is_first,
                        List::Named(_) => found == Found::Colon,
                    };
                self.depth += 1;
                self.name_next = byte == b'{';
            }
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            b',' => self.name_next = true,
            b':' if found == Found::Name => self.found = Found::Colon,
            _ => {}
        }
        opens_list
    }

    fn end_string(&mut self) {
        self.in_string = false;
        if let (Some(from), List::Named(name)) = (self.name.take(), self.list)
            && self.text[from..self.text.len() - 1] == *name.as_bytes()
        {
            self.found = Found::Name;
        }
    }
}
