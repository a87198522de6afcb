//! A row that the database refuses, although nothing we know speaks against it (a constraint that
//! somebody added, a number beyond a column): found by halving, so that it is set aside alone and
//! everything else is stored. Each try is a transaction that is rolled back.

use std::sync::Arc;

use super::{Result, StoreError};
use crate::diff::{Aside, Changes};

/// The name under which such rows are counted.
pub const REASON: &str = "refused_by_store";
/// Tries in one cycle; beyond, the trouble is not a row. Sixteen rows of a million take 320.
const MOST_TRIES: usize = 400;

/// Why a transaction did not go through.
#[derive(Debug)]
pub enum Refusal {
    /// The values themselves: without them it could work.
    Values(StoreError),
    Other(StoreError),
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::Other(error)
    }
}

impl Refusal {
    pub fn error(self) -> StoreError {
        match self {
            Self::Values(error) | Self::Other(error) => error,
        }
    }
}

pub type Tried = std::result::Result<(), Refusal>;

/// The smallest parts of these changes that are refused. `first` is how the whole was.
pub async fn culprits<F: Future<Output = Tried>>(
    changes: &Changes,
    first: StoreError,
    rehearse: impl Fn(Arc<Changes>) -> F,
) -> Result<Aside> {
    let mut search = Search {
        changes,
        rehearse,
        tries: 0,
        aside: Aside::default(),
    };
    // When even a cycle without rows is refused, no row is to blame.
    if search.refuses(|_| false, |_| false).await? {
        return Err(first);
    }
    let events = changes.events.iter().map(|change| change.row);
    let selections = changes.selections.iter().map(|change| change.event_row);
    let prices = changes.prices.iter().map(|change| change.event_row);
    let mut events: Vec<i64> = events.chain(selections).chain(prices).collect();
    events.sort_unstable();
    events.dedup();
    let mut open = vec![&events[..]];
    while let Some(some) = open.pop() {
        if some.is_empty() || !search.refuses(|row| within(some, row), |_| true).await? {
            continue;
        }
        match some {
            [event] => search.prices(*event).await?,
            _ => open.extend([&some[..some.len() / 2], &some[some.len() / 2..]]),
        }
    }
    if search.aside == Aside::default() {
        // Each part is taken, the whole is not: it was not about a row.
        return Err(first);
    }
    Ok(search.aside)
}

fn within(sorted: &[i64], row: i64) -> bool {
    sorted.binary_search(&row).is_ok()
}

struct Search<'a, R> {
    changes: &'a Changes,
    rehearse: R,
    tries: usize,
    aside: Aside,
}

impl<F: Future<Output = Tried>, R: Fn(Arc<Changes>) -> F> Search<'_, R> {
    /// Prices of one event; the event itself when it is refused without them.
    async fn prices(&mut self, event: i64) -> Result<()> {
        if self.refuses(|row| row == event, |_| false).await? {
            self.aside.events.insert(event);
            return Ok(());
        }
        let prices = self.changes.prices.iter();
        let prices = prices.filter(|change| change.event_row == event);
        let mut prices: Vec<i64> = prices.map(|change| change.row).collect();
        prices.sort_unstable();
        let mut open = vec![&prices[..]];
        while let Some(some) = open.pop() {
            let refused = self.refuses(|row| row == event, |price| within(some, price.row));
            if some.is_empty() || !refused.await? {
                continue;
            }
            match some {
                [price] => {
                    self.aside.prices.insert(*price);
                }
                _ => open.extend([&some[..some.len() / 2], &some[some.len() / 2..]]),
            }
        }
        Ok(())
    }

    async fn refuses(
        &mut self,
        event: impl Fn(i64) -> bool,
        price: impl Fn(&crate::diff::PriceChange) -> bool,
    ) -> Result<bool> {
        self.tries += 1;
        if self.tries > MOST_TRIES {
            return Err(StoreError::Failed(format!(
                "the rows of this cycle are refused, and {MOST_TRIES} tries did not find which; look at the \
                 constraints and triggers on the oddsd tables"
            )));
        }
        match (self.rehearse)(Arc::new(self.changes.part(event, price))).await {
            Ok(()) => Ok(false),
            Err(Refusal::Values(_)) => Ok(true),
            Err(Refusal::Other(error)) => Err(error),
        }
    }
}
