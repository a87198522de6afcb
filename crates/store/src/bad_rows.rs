//! Finds by bisection the rows that only the database refuses (a constraint that an operator added, a number
//! beyond a column), so that all other rows are stored. `Store::commit` calls it; each try is rolled back.

use std::sync::Arc;

use super::{Committed, Result, StoreError};
use oddsd_core::diff::{Changes, ExcludedRows, PriceChange};

/// The name under which such rows are counted as rejected.
pub const REASON: &str = "refused_by_store";
/// Tries in one cycle. Sixteen bad rows of a million take 320; beyond that, no single row is the cause.
const MOST_TRIES: usize = 400;

/// Why a commit failed.
#[derive(Debug)]
pub enum CommitError {
    /// The database refused values: without those rows the commit could work.
    BadValues(StoreError),
    Other(StoreError),
}

impl From<StoreError> for CommitError {
    fn from(error: StoreError) -> Self {
        Self::Other(error)
    }
}

impl CommitError {
    pub fn new(bad_values: bool, error: StoreError) -> Self {
        match bad_values {
            true => Self::BadValues(error),
            false => Self::Other(error),
        }
    }

    pub fn into_inner(self) -> StoreError {
        match self {
            Self::BadValues(error) | Self::Other(error) => error,
        }
    }
}

pub type CommitResult<T = Committed> = std::result::Result<T, CommitError>;

/// Returns the smallest parts of these changes that are refused. `first` is the error of the whole commit.
/// `dry_run` commits a part and rolls it back.
pub async fn find_bad_rows<F: Future<Output = CommitResult<()>>>(
    changes: &Changes,
    first: StoreError,
    dry_run: impl Fn(Arc<Changes>) -> F,
) -> Result<ExcludedRows> {
    let mut search = Search {
        changes,
        dry_run,
        tries: 0,
        excluded: ExcludedRows::default(),
    };
    // When even a cycle without rows is refused, no row is the cause.
    if search.is_refused(|_| false, |_| false).await? {
        return Err(first);
    }
    let events = changes.events.iter().map(|change| change.row);
    let selections = changes.selections.iter().map(|change| change.event_row);
    let prices = changes.prices.iter().map(|change| change.event_row);
    let events = events.chain(selections).chain(prices).collect();
    for event in search.bisect(events, None).await? {
        search.search_event(event).await?;
    }
    if search.excluded == ExcludedRows::default() {
        // Each part is accepted and the whole is not: no single row is the cause.
        return Err(first);
    }
    Ok(search.excluded)
}

struct Search<'a, R> {
    changes: &'a Changes,
    dry_run: R,
    tries: usize,
    excluded: ExcludedRows,
}

impl<F: Future<Output = CommitResult<()>>, R: Fn(Arc<Changes>) -> F> Search<'_, R> {
    /// Searches the prices of one event; takes the event itself when it is refused without them.
    async fn search_event(&mut self, event: i64) -> Result<()> {
        if self.is_refused(|row| row == event, |_| false).await? {
            self.excluded.events.insert(event);
            return Ok(());
        }
        let prices = self.changes.prices.iter();
        let prices = prices.filter(|change| change.event_row == event);
        let prices = prices.map(|change| change.row).collect();
        let refused = self.bisect(prices, Some(event)).await?;
        self.excluded.prices.extend(refused);
        Ok(())
    }

    /// Returns those of the rows that are refused alone: events with their prices, or prices of `event`.
    async fn bisect(&mut self, mut rows: Vec<i64>, event: Option<i64>) -> Result<Vec<i64>> {
        rows.sort_unstable();
        rows.dedup();
        let (mut refused, mut unsearched) = (Vec::new(), vec![&rows[..]]);
        while let Some(part) = unsearched.pop() {
            let contains = |row: i64| part.binary_search(&row).is_ok();
            let is_refused = match event {
                _ if part.is_empty() => false,
                None => self.is_refused(contains, |_| true).await?,
                Some(event) => {
                    let is_part = |price: &PriceChange| contains(price.row);
                    self.is_refused(|row| row == event, is_part).await?
                }
            };
            match part {
                _ if !is_refused => {}
                [row] => refused.push(*row),
                _ => unsearched.extend([&part[..part.len() / 2], &part[part.len() / 2..]]),
            }
        }
        Ok(refused)
    }

    async fn is_refused(
        &mut self,
        event: impl Fn(i64) -> bool,
        price: impl Fn(&PriceChange) -> bool,
    ) -> Result<bool> {
        self.tries += 1;
        if self.tries > MOST_TRIES {
            return Err(StoreError::Failed(format!(
                "the rows of this cycle are refused, and {MOST_TRIES} tries did not find which; look at the \
                 constraints and triggers on the oddsd tables"
            )));
        }
        match (self.dry_run)(Arc::new(self.changes.subset(event, price))).await {
            Ok(()) => Ok(false),
            Err(CommitError::BadValues(_)) => Ok(true),
            Err(CommitError::Other(error)) => Err(error),
        }
    }
}
