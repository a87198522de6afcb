//! Interns the bookmakers of an answer: thousands of rows share a few dozen names, and each runner lists them
//! in nearly the order of the runner before. `RaceParser` calls it for every row.

use std::collections::HashMap;

use super::fields::MAX_NAME_CHARS;
use oddsd_core::model::{Bookmaker, BookmakerId, sanitize_text};

#[derive(Default)]
pub(super) struct BookmakerInterner {
    /// Each bookmaker once, with the first spelling of its name.
    pub(super) listed: Vec<Bookmaker>,
    indexes: HashMap<BookmakerId, usize>,
    spellings: Vec<(Box<str>, usize)>,
    by_spelling: HashMap<Box<str>, usize>,
    /// The spelling at each position of the last runner's list.
    order: Vec<usize>,
    /// The number of the last list that names each bookmaker, and the index of its price.
    last_listed: Vec<(u64, usize)>,
    list: u64,
}

impl BookmakerInterner {
    /// Returns the index in `listed` of the bookmaker that row `at` of a list names; `None` if the name is empty.
    pub(super) fn intern(&mut self, at: usize, name: &str) -> Option<usize> {
        let expected = self.order.get(at).map(|known| &self.spellings[*known]);
        if let Some((known, index)) = expected
            && **known == *name
        {
            return Some(*index);
        }
        let spelling = match self.by_spelling.get(name) {
            Some(spelling) => *spelling,
            None => self.add_spelling(name)?,
        };
        if at == self.order.len() {
            self.order.push(spelling);
        } else if let Some(expected) = self.order.get_mut(at) {
            *expected = spelling;
        }
        Some(self.spellings[spelling].1)
    }

    fn add_spelling(&mut self, text: &str) -> Option<usize> {
        let name = sanitize_text(text, MAX_NAME_CHARS);
        let id = BookmakerId::from_name(&name)?;
        let index = *self.indexes.entry(id.clone()).or_insert_with(|| {
            self.listed.push(Bookmaker { id, name });
            self.last_listed.push((0, 0));
            self.listed.len() - 1
        });
        let spelling = self.spellings.len();
        self.spellings.push((text.into(), index));
        self.by_spelling.insert(text.into(), spelling);
        Some(spelling)
    }

    pub(super) fn id(&self, index: usize) -> &BookmakerId {
        &self.listed[index].id
    }

    /// Starts the list of another runner.
    pub(super) fn begin_list(&mut self) {
        self.list += 1;
    }

    /// Records that the current list names this bookmaker at `price`. Returns the index of its price if the list
    /// named it before.
    pub(super) fn listed_before(&mut self, index: usize, price: usize) -> Option<usize> {
        match self.last_listed[index] {
            (list, first) if list == self.list => Some(first),
            _ => {
                self.last_listed[index] = (self.list, price);
                None
            }
        }
    }
}
