//! Who is named in an answer. A dozen thousand rows share a few dozen names, and each runner lists
//! them in nearly the order of the one before.

use std::collections::HashMap;

use super::row::MAX_NAME_CHARS;
use crate::model::{Bookmaker, BookmakerId, plain_text};

#[derive(Default)]
pub(super) struct Bookmakers {
    /// Each once, as first spelt.
    pub(super) listed: Vec<Bookmaker>,
    places: HashMap<BookmakerId, usize>,
    spellings: Vec<(Box<str>, usize)>,
    by_spelling: HashMap<Box<str>, usize>,
    /// The spelling that stood at each place of a runner's list last time.
    order: Vec<usize>,
    /// The list in which each bookmaker was met last.
    met: Vec<u64>,
    list: u64,
}

impl Bookmakers {
    /// The place in `listed` of who is `spelt` so, in a list's row `at`; `None` for no name.
    pub(super) fn place(&mut self, at: usize, spelt: &str) -> Option<usize> {
        let usual = self.order.get(at).map(|usual| &self.spellings[*usual]);
        if let Some((known, place)) = usual
            && **known == *spelt
        {
            return Some(*place);
        }
        let spelling = match self.by_spelling.get(spelt) {
            Some(spelling) => *spelling,
            None => self.learn(spelt)?,
        };
        if at == self.order.len() {
            self.order.push(spelling);
        } else if let Some(usual) = self.order.get_mut(at) {
            *usual = spelling;
        }
        Some(self.spellings[spelling].1)
    }

    fn learn(&mut self, spelt: &str) -> Option<usize> {
        let name = plain_text(spelt, MAX_NAME_CHARS);
        let id = BookmakerId::from_name(&name)?;
        let place = *self.places.entry(id.clone()).or_insert_with(|| {
            self.listed.push(Bookmaker { id, name });
            self.met.push(0);
            self.listed.len() - 1
        });
        let spelling = self.spellings.len();
        self.spellings.push((spelt.into(), place));
        self.by_spelling.insert(spelt.into(), spelling);
        Some(spelling)
    }

    pub(super) fn id(&self, place: usize) -> &BookmakerId {
        &self.listed[place].id
    }

    /// Another runner's list begins.
    pub(super) fn begin_list(&mut self) {
        self.list += 1;
    }

    /// Whether this list has named them before; from now on it has.
    pub(super) fn is_again(&mut self, place: usize) -> bool {
        std::mem::replace(&mut self.met[place], self.list) == self.list
    }
}
