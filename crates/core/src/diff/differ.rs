//! The comparison of one snapshot with the stored state, event by event. Feeds deliver events to [`Differ`] through
//! the sink interface; the poller takes the resulting changes from [`Differ::finish`].

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;

use chrono::{DateTime, Utc};

use super::changes::{
    Changes, EventChange, EventFingerprint, MissingRows, PendingRemovals, PriceChange,
    PriceChangeKind, RefreshedPrices, SelectionChange, ShrinkGuard, StoredBookmaker, next_id,
};
use super::doubt::DoubtIndex;
use super::matching::{MatchBuffer, PriceMatch};
use super::sink::EventSink;
use super::stored_state::{MAX_MARKETS, StoredEvent, StoredPrice, StoredSelection, StoredState};
use super::validate;
use crate::model::{
    Bookmaker, BookmakerId, Event, EventId, EventSnapshot, Fingerprint, MarketId, Price,
    PriceStatus, ResolvedStatus, Scope, Selection, SelectionId, SelectionStatus, SnapshotMeta,
    StatusSource,
};

/// The comparison of one snapshot. It needs no clock and no I/O.
pub struct Differ<'a> {
    state: &'a StoredState,
    as_of: DateTime<Utc>,
    /// The cycle that requested the snapshot.
    cycle: i64,
    /// Whether `as_of` orders the snapshots, and not `cycle`.
    is_recorded: bool,
    /// Whether texts with a known fingerprint may be skipped.
    skips_known: bool,
    /// Whether events of other feeds leave the list, and whether those outside the scope do.
    unlists_foreign: bool,
    unlists_outside: bool,
    listed: HashSet<EventId>,
    missing: MissingInScope<'a>,
    /// For each stored bookmaker, whether it offers a price.
    offering: Vec<bool>,
    new_bookmakers: HashMap<BookmakerId, i64>,
    new_markets: HashSet<MarketId>,
    buffer: MatchBuffer,
    changes: Changes,
}

/// Stored rows inside the scope that the answer does not contain, and the size of the scope.
#[derive(Default)]
struct MissingInScope<'a> {
    events: Vec<&'a StoredEvent>,
    /// How many of the events lie outside the scope.
    outside: usize,
    selections: Vec<(&'a StoredEvent, &'a StoredSelection)>,
    prices: Vec<(&'a StoredEvent, &'a StoredPrice)>,
    open_prices: usize,
    listed_events: usize,
}

impl MissingInScope<'_> {
    fn rows(&self) -> MissingRows {
        MissingRows {
            events: self.events.iter().map(|stored| stored.row).collect(),
            selections: self.selections.iter().map(|(_, known)| known.row).collect(),
            prices: self.prices.iter().map(|(_, price)| price.row).collect(),
        }
    }
}

/// Rows of the observed selections. They are few, and prices refer to them in the same order.
struct SelectionRows<'o>(Vec<(&'o SelectionId, i64)>);

impl SelectionRows<'_> {
    /// `guess` is the index of the last hit.
    fn row(&self, id: &SelectionId, guess: &mut usize) -> Option<i64> {
        let at = match self.0.get(*guess) {
            Some((known, _)) if *known == id => *guess,
            _ => self.0.iter().position(|(known, _)| *known == id)?,
        };
        *guess = at;
        Some(self.0[at].1)
    }
}

impl<'a> Differ<'a> {
    /// Starts a comparison of the stored state with the snapshot that cycle number `cycle` requests.
    pub fn new(state: &'a StoredState, cycle: i64) -> Self {
        Self {
            state,
            as_of: DateTime::UNIX_EPOCH,
            cycle,
            is_recorded: false,
            skips_known: true,
            unlists_foreign: false,
            unlists_outside: false,
            listed: HashSet::new(),
            missing: MissingInScope::default(),
            offering: vec![false; state.bookmakers.len()],
            new_bookmakers: HashMap::new(),
            new_markets: HashSet::new(),
            buffer: MatchBuffer::default(),
            changes: Changes {
                next_ids: state.next,
                cycle,
                ..Changes::default()
            },
        }
    }

    /// The snapshot is a recorded one: one that was recorded before what is stored is older.
    pub fn of_a_recording(mut self) -> Self {
        self.is_recorded = true;
        self
    }

    /// Makes it a full comparison: every event is parsed, also those whose fingerprint is known.
    pub fn without_skipping(mut self) -> Self {
        self.skips_known = false;
        self
    }

    /// The database belongs to this feed: listed events of another one are missing, because no answer will ever cover
    /// them. If the answer is a `whole` one, its scope is all that the feed is ever asked for: then so are those outside
    /// of it that have yet to start. Call it after the events have been delivered.
    pub fn unlisting_outside(mut self, whole: bool) -> Self {
        self.unlists_foreign = true;
        self.unlists_outside = whole;
        self
    }

    /// Ends the comparison, once all events have been delivered: handles absence and sorts the changes.
    pub fn finish(mut self, meta: SnapshotMeta, guard: &ShrinkGuard) -> Changes {
        self.compare_bookmakers(&meta);
        self.find_missing_events(&meta);
        self.remove_missing(guard);
        self.changes.counts.rejected += meta.rejected.total();
        self.changes.counts.seen += meta.rejected.total();
        self.changes.rejected.merge(meta.rejected);
        // By row: the same input gives the same order, and concurrent writers lock rows in one order.
        self.changes.events.sort_by_key(|change| change.row);
        self.changes.confirmed.sort_by_key(|change| change.row);
        self.changes.selections.sort_by_key(|change| change.row);
        self.changes.prices.sort_by_key(|change| change.row);
        self.changes
    }

    /// Whether the stored event is of a later snapshot than this one.
    fn is_older_than(&self, stored: &StoredEvent) -> bool {
        match self.is_recorded {
            true => stored.checked_at > self.as_of,
            false => stored.checked_in > self.cycle,
        }
    }

    /// Compares one event with its stored rows.
    pub(super) fn compare(&mut self, observed: &EventSnapshot, fingerprint: Option<Fingerprint>) {
        let rows = observed.prices.len() as u64;
        let id = &observed.event.id;
        if self.listed.contains(id) {
            return self.reject("duplicate_event", rows, id);
        }
        let stored = self.state.events.get(id);
        // A stored event was valid.
        if stored.is_none_or(|stored| !stored.event.equals_except_status(&observed.event))
            && let Some(reason) = validate::event(&observed.event)
        {
            self.listed.insert(id.clone());
            return self.reject(reason, rows.max(1), id);
        }
        let observed = &*self.with_stored_lines(stored, observed);
        // All that refer to this event share one allocation of its id.
        let id = stored.map_or(id, |stored| &stored.event.id).clone();
        self.listed.insert(id.clone());
        self.changes.stats.events += 1;
        self.changes.stats.selections += observed.selections.len();
        if let Some(stored) = stored {
            if self.is_older_than(stored) {
                self.changes.counts.seen += rows;
                self.changes.counts.stale += rows;
                return;
            }
            self.missing.listed_events += usize::from(stored.event.listed);
        }
        self.changes.checked.push(id.clone());
        let before = self.changes.counts;
        let missing = (self.missing.selections.len(), self.missing.prices.len());
        let event_row = self.compare_event(stored, &observed.event);
        let in_doubt = (!observed.in_doubt.is_empty()).then(|| DoubtIndex::new(observed));
        let in_doubt = in_doubt.as_ref();
        let selection_rows = self.compare_selections(stored, event_row, &id, observed, in_doubt);
        self.compare_prices(stored, event_row, &id, &selection_rows, observed, in_doubt);

        // An equal text may be skipped the next time if comparing it could not change anything.
        let after = &self.changes.counts;
        let settled = (before.rejected, before.stale) == (after.rejected, after.stale)
            && missing == (self.missing.selections.len(), self.missing.prices.len());
        let settled = settled && observed.complete && in_doubt.is_none();
        if let (Some(fingerprint), true) = (fingerprint, settled) {
            let fingerprint = EventFingerprint {
                text: fingerprint,
                selections: observed.selections.len() as u32,
                no_price: (after.no_price - before.no_price) as u32,
            };
            self.changes.fingerprints.push((id, fingerprint));
        }
    }

    /// Keys the prices by line in each market of which lines are stored, whether or not this answer repeats an outcome.
    fn with_stored_lines<'o>(
        &self,
        stored: Option<&StoredEvent>,
        observed: &'o EventSnapshot,
    ) -> Cow<'o, EventSnapshot> {
        let mut markets: Vec<&MarketId> = Vec::new();
        for (stored, price) in stored
            .iter()
            .flat_map(|s| s.prices.iter().map(move |p| (s, p)))
        {
            let Some(point) = price.offer.point else {
                continue;
            };
            let market = &self.state.markets[usize::from(price.market)];
            let selection = &stored.selections[price.selection as usize].selection;
            // A feed keys the markets that offer lines by name itself.
            if selection.id.is_line(point) && !markets.contains(&market) && !market.offers_lines() {
                markets.push(market);
            }
        }
        match markets.is_empty() {
            true => Cow::Borrowed(observed),
            false => {
                let mut observed = observed.clone();
                observed.split_lines(|market| markets.contains(&market));
                Cow::Owned(observed)
            }
        }
    }

    /// Compares the event's own fields and resolves its status; returns its row.
    fn compare_event(&mut self, stored: Option<&StoredEvent>, observed: &Event) -> i64 {
        let before = stored.map(|stored| &stored.event);
        let known = stored.map(|stored| (&stored.event, stored.status_by));
        let ResolvedStatus {
            status,
            in_play,
            by: status_by,
            confirmed,
        } = Event::resolve_status(known, observed, self.as_of);
        if let Some(StoredEvent { row, event, .. }) = stored
            && (event.status, event.in_play) == (status, in_play)
            && event.equals_except_status(observed)
        {
            if confirmed {
                self.changes.confirmed.push(EventChange {
                    row: *row,
                    before: Some(event.clone()),
                    after: event.clone(),
                    status_by,
                    confirmed,
                });
            }
            return *row;
        }
        let row = stored.map(|stored| stored.row);
        let row = row.unwrap_or_else(|| next_id(&mut self.changes.next_ids.event));
        self.changes.events.push(EventChange {
            row,
            before: before.cloned(),
            after: Event {
                status,
                in_play,
                ..observed.clone()
            },
            status_by,
            confirmed,
        });
        row
    }

    fn compare_selections<'o>(
        &mut self,
        stored: Option<&'a StoredEvent>,
        event_row: i64,
        event: &EventId,
        observed: &'o EventSnapshot,
        in_doubt: Option<&DoubtIndex<'_>>,
    ) -> SelectionRows<'o> {
        let stored_selections = stored.map_or(&[][..], |stored| &stored.selections);
        let mut by_id: Option<HashMap<&str, usize>> = None;
        let mut next = 0;
        let mut rows = Vec::with_capacity(observed.selections.len());
        let mut seen = HashSet::with_capacity(observed.selections.len());
        let mut matched = vec![false; stored_selections.len()];
        for selection in &observed.selections {
            if !seen.insert(&selection.id) {
                self.reject("duplicate_selection", 1, &selection.id);
                continue;
            }
            let candidate = stored_selections.get(next).map(|known| &known.selection.id);
            let index = match candidate == Some(&selection.id) {
                true => Some(next),
                false => by_id
                    .get_or_insert_with(|| {
                        let ids = stored_selections.iter().map(|s| s.selection.id.as_str());
                        ids.zip(0..).collect()
                    })
                    .get(selection.id.as_str())
                    .copied(),
            };
            if let Some(index) = index {
                next = index + 1;
                matched[index] = true;
            }
            let known = index.map(|index| &stored_selections[index]);
            if let Some(row) = self.compare_selection(known, event_row, event, selection) {
                rows.push((&selection.id, row));
            }
        }
        if let (Some(stored), true) = (stored, observed.complete) {
            let unmatched = stored_selections.iter().zip(&matched);
            let missing = unmatched
                .filter(|(known, matched)| {
                    !**matched && known.selection.status != SelectionStatus::Removed
                })
                .map(|(known, _)| (stored, known));
            let missing = missing.filter(|(_, known)| {
                in_doubt.is_none_or(|index| !index.has_selection(&known.selection.id))
            });
            self.missing.selections.extend(missing);
        }
        SelectionRows(rows)
    }

    /// Returns the selection's row; `None` if it is new and cannot be stored.
    fn compare_selection(
        &mut self,
        known: Option<&StoredSelection>,
        event_row: i64,
        event: &EventId,
        observed: &Selection,
    ) -> Option<i64> {
        let row = known.map(|known| known.row);
        if known.is_some_and(|known| known.selection == *observed) {
            return row;
        }
        if let Some(reason) = validate::selection(observed) {
            self.reject(reason, 1, &observed.id);
            // A rejected row is not an absent one.
            return row;
        }
        let row = row.unwrap_or_else(|| next_id(&mut self.changes.next_ids.selection));
        self.changes.selections.push(SelectionChange {
            row,
            event_row,
            event: event.clone(),
            before: known.map(|known| known.selection.clone()),
            after: observed.clone(),
        });
        Some(row)
    }

    fn compare_prices(
        &mut self,
        stored: Option<&'a StoredEvent>,
        event_row: i64,
        event: &EventId,
        selection_rows: &SelectionRows<'_>,
        observed: &EventSnapshot,
        in_doubt: Option<&DoubtIndex<'_>>,
    ) {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.fill(self.state, stored, &observed.prices);
        for index in &buffer.repeated {
            let key = &observed.prices[*index].key;
            self.reject("duplicate_price", 1, &key.bookmaker);
        }
        let mut touched = Vec::new();
        let mut guess = 0;
        for (price, matched) in observed.prices.iter().zip(&buffer.matches) {
            match (*matched, stored) {
                (PriceMatch::Stored(index), Some(stored)) => {
                    let known = &stored.prices[index as usize];
                    if self.compare_price(stored, known, price)
                        && let Some(observed_at) = price.observed_at
                    {
                        touched.push((index, observed_at));
                    }
                }
                (PriceMatch::Duplicate, _) => {}
                (PriceMatch::New | PriceMatch::Stored(_), _) => {
                    let selection = &price.key.selection;
                    let row = selection_rows
                        .row(selection, &mut guess)
                        .or_else(|| Some(stored?.selection(selection)?.row));
                    self.add_price(event, event_row, row, price);
                }
            }
        }
        if !touched.is_empty() {
            self.changes.refreshed.push(RefreshedPrices {
                event: event.clone(),
                prices: touched,
            });
        }
        if let (Some(stored), true) = (stored, observed.complete) {
            let all = stored.prices.iter().zip(&buffer.observed);
            for (price, observed) in all.filter(|(price, _)| price.is_open()) {
                self.missing.open_prices += 1;
                let has_price =
                    |index: &DoubtIndex<'_>| index.has_price(&self.state.key(stored, price));
                if observed.is_none() && !in_doubt.is_some_and(has_price) {
                    self.missing.prices.push((stored, price));
                }
            }
        }
        self.buffer = buffer;
    }

    /// Returns whether nothing changed but the feed's time.
    fn compare_price(&mut self, stored: &StoredEvent, known: &StoredPrice, price: &Price) -> bool {
        self.offering[known.bookmaker as usize] |= price.offer.is_some();
        self.changes.counts.seen += 1;
        // Without a feed time the order of the snapshots decides.
        if price.observed_at.is_some() && price.observed_at < known.observed_at {
            self.changes.counts.stale += 1;
            return false;
        }
        let status = status(price);
        let (kind, offer, status) = match price.offer {
            None => {
                self.changes.counts.no_price += 1;
                if !known.is_open() {
                    return false;
                }
                (
                    PriceChangeKind::Withdrawn,
                    known.offer,
                    PriceStatus::Withdrawn,
                )
            }
            Some(offer) if !known.is_open() => (PriceChangeKind::Reopened, offer, status),
            Some(offer) if known.offer != offer || known.status != status => {
                (PriceChangeKind::Changed, offer, status)
            }
            Some(_) => {
                self.changes.counts.unchanged += 1;
                return price.observed_at > known.observed_at;
            }
        };
        self.changes.push_price(PriceChange {
            kind,
            offer,
            status,
            observed_at: price.observed_at,
            ..self.unchanged(stored, known)
        });
        false
    }

    fn add_price(
        &mut self,
        event: &EventId,
        event_row: i64,
        selection_row: Option<i64>,
        price: &Price,
    ) {
        if let Some(reason) = validate::price(price) {
            return self.reject(reason, 1, &price.key.bookmaker);
        }
        let Some(selection_row) = selection_row else {
            return self.reject("unknown_selection", 1, &price.key.selection);
        };
        let market = &price.key.market;
        let state = self.state;
        if state.market_index(market.as_str()).is_none() && !self.new_markets.contains(market) {
            if state.markets.len() + self.new_markets.len() >= MAX_MARKETS {
                return self.reject("too_many_markets", 1, market);
            }
            self.new_markets.insert(market.clone());
        }
        self.changes.counts.seen += 1;
        let Some(offer) = price.offer else {
            self.changes.counts.no_price += 1;
            return;
        };
        let bookmaker_row = match state.bookmaker_index(&price.key.bookmaker) {
            Some(index) => {
                self.offering[index] = true;
                state.bookmakers[index].row
            }
            None => self.new_bookmaker(&price.key.bookmaker),
        };
        let row = next_id(&mut self.changes.next_ids.price);
        self.changes.push_price(PriceChange {
            row,
            event_row,
            selection_row,
            bookmaker_row,
            event: event.clone(),
            market: market.clone(),
            kind: PriceChangeKind::Inserted,
            before: None,
            offer,
            status: status(price),
            observed_at: price.observed_at,
        });
    }

    /// A stored price as a change in which nothing differs yet.
    fn unchanged(&self, stored: &StoredEvent, known: &StoredPrice) -> PriceChange {
        PriceChange {
            row: known.row,
            event_row: stored.row,
            selection_row: stored.selections[known.selection as usize].row,
            bookmaker_row: self.state.bookmakers[known.bookmaker as usize].row,
            event: stored.event.id.clone(),
            market: self.state.markets[usize::from(known.market)].clone(),
            kind: PriceChangeKind::Changed,
            before: Some(known.offer.decimal),
            offer: known.offer,
            status: known.status,
            observed_at: known.observed_at,
        }
    }

    /// Adds new bookmakers under the names of the answer and lists all that offer a price.
    fn compare_bookmakers(&mut self, meta: &SnapshotMeta) {
        let mut offering: HashSet<BookmakerId> = HashSet::new();
        for bookmaker in &meta.bookmakers {
            if let Some(reason) = validate::bookmaker(bookmaker) {
                self.reject(reason, 1, &bookmaker.name);
                continue;
            }
            let first = offering.insert(bookmaker.id.clone());
            if !first || self.state.bookmaker_index(&bookmaker.id).is_some() {
                // A varying display name ("Spread Ex") is not worth a write: the first one stays.
                continue;
            }
            let row = self.new_bookmaker(&bookmaker.id);
            let mut new = self.changes.bookmakers.iter_mut();
            if let Some(change) = new.find(|change| change.row == row) {
                change.bookmaker.name = bookmaker.name.clone();
            }
        }
        let known = self.state.bookmakers.iter().zip(&self.offering);
        let known = known.filter(|(_, offers)| **offers);
        offering.extend(known.map(|(stored, _)| stored.bookmaker.id.clone()));
        offering.extend(self.new_bookmakers.keys().cloned());
        self.changes.stats.bookmakers = offering.into_iter().collect();
        self.changes.stats.bookmakers.sort();
    }

    /// The row of a bookmaker that is not stored yet; it is named by its id until a name is known.
    fn new_bookmaker(&mut self, id: &BookmakerId) -> i64 {
        if let Some(row) = self.new_bookmakers.get(id) {
            return *row;
        }
        let row = next_id(&mut self.changes.next_ids.bookmaker);
        self.new_bookmakers.insert(id.clone(), row);
        self.changes.bookmakers.push(StoredBookmaker {
            row,
            bookmaker: Bookmaker {
                id: id.clone(),
                name: id.to_string(),
            },
        });
        row
    }

    fn find_missing_events(&mut self, meta: &SnapshotMeta) {
        let says_nothing = meta.scope == Scope::Listed && !self.unlists_foreign;
        if says_nothing || meta.in_doubt.unidentified {
            return;
        }
        let whole = self.unlists_outside && meta.scope.is_a_whole_list();
        for (id, stored) in &self.state.events {
            let event = &stored.event;
            let absent = event.listed
                && !self.is_older_than(stored)
                && !self.listed.contains(id)
                && !meta.in_doubt.ids.contains(id);
            let in_scope = event.source == meta.source && meta.scope.covers(event);
            let is_ahead = event.starts_at.is_none_or(|start| start > meta.as_of);
            let is_foreign = self.unlists_foreign && event.source != meta.source;
            let outside =
                !in_scope && (is_foreign || (whole && is_ahead && !event.status.is_final()));
            if absent && (in_scope || outside) {
                self.missing.outside += usize::from(outside);
                self.missing.listed_events += 1;
                self.missing.events.push(stored);
                let open = stored.prices.iter().filter(|price| price.is_open());
                let before = self.missing.prices.len();
                let prices = open.map(|price| (stored, price));
                self.missing.prices.extend(prices);
                self.missing.open_prices += self.missing.prices.len() - before;
            }
        }
    }

    /// Turns absence into changes, unless so much is missing that the answer itself is doubtful.
    fn remove_missing(&mut self, guard: &ShrinkGuard) {
        let missing = std::mem::take(&mut self.missing);
        let doubtful = guard.is_exceeded(missing.prices.len(), missing.open_prices)
            || guard.is_exceeded(missing.events.len(), missing.listed_events);
        let previous = guard.previous_missing;
        // An absence is accepted at once, or if an earlier snapshot lacked the row too.
        let accepted = |rows: fn(&MissingRows) -> &BTreeSet<i64>, row: i64| {
            !doubtful || previous.is_some_and(|previous| rows(previous).contains(&row))
        };
        let (mut held_events, mut held_prices) = (0, 0);
        for stored in &missing.events {
            match accepted(|missing| &missing.events, stored.row) {
                true => self.remove_event(stored),
                false => held_events += 1,
            }
        }
        for (stored, known) in &missing.selections {
            if accepted(|missing| &missing.selections, known.row) {
                let mut after = known.selection.clone();
                after.status = SelectionStatus::Removed;
                self.changes.selections.push(SelectionChange {
                    row: known.row,
                    event_row: stored.row,
                    event: stored.event.id.clone(),
                    before: Some(known.selection.clone()),
                    after,
                });
            }
        }
        for (stored, price) in &missing.prices {
            match accepted(|missing| &missing.prices, price.row) {
                true => self.withdraw(stored, price),
                false => held_prices += 1,
            }
        }
        if held_events == 0 {
            self.changes.unlisted_outside = missing.outside;
        }
        if held_events + held_prices > 0 {
            self.changes.pending_removals = Some(PendingRemovals {
                prices: held_prices,
                open_prices: missing.open_prices,
                events: held_events,
                listed_events: missing.listed_events,
                missing: missing.rows(),
            });
        }
    }

    fn remove_event(&mut self, stored: &StoredEvent) {
        let mut after = stored.event.clone();
        after.listed = false;
        after.status = after
            .due_clock_transition(self.as_of)
            .unwrap_or(after.status);
        self.changes.checked.push(after.id.clone());
        self.changes.events.push(EventChange {
            row: stored.row,
            before: Some(stored.event.clone()),
            after,
            status_by: StatusSource::Clock,
            confirmed: false,
        });
    }

    fn withdraw(&mut self, stored: &StoredEvent, price: &StoredPrice) {
        self.changes.push_price(PriceChange {
            kind: PriceChangeKind::Withdrawn,
            status: PriceStatus::Withdrawn,
            // The feed time stays: a price that returns with the feed time it had is a change, and older snapshots
            // are excluded.
            ..self.unchanged(stored, price)
        });
    }

    fn reject(&mut self, reason: &'static str, rows: u64, sample: impl fmt::Display) {
        self.changes.counts.seen += rows;
        self.changes.counts.rejected += rows;
        self.changes.rejected.add_rows(reason, rows, sample);
    }
}

fn status(price: &Price) -> PriceStatus {
    match price.suspended {
        true => PriceStatus::Suspended,
        false => PriceStatus::Open,
    }
}

impl EventSink for Differ<'_> {
    fn start(&mut self, as_of: DateTime<Utc>) {
        let (skips_known, is_recorded) = (self.skips_known, self.is_recorded);
        *self = Self::new(self.state, self.cycle);
        (self.skips_known, self.is_recorded) = (skips_known, is_recorded);
        self.as_of = as_of;
        self.changes.as_of = as_of;
    }

    fn find_unchanged(&self, fingerprint: &Fingerprint) -> Option<EventId> {
        let skips = self.skips_known;
        let stored = self.state.by_hash(fingerprint.hash).filter(|_| skips)?;
        let known = stored.fingerprint?;
        // An event with a due transition by the clock is parsed, so that this snapshot commits the transition.
        let is_current = stored.event.due_clock_transition(self.as_of).is_none();
        (known.text == *fingerprint && is_current).then(|| stored.event.id.clone())
    }

    fn mark_unchanged(&mut self, fingerprint: &Fingerprint) {
        let Some(stored) = self.state.by_hash(fingerprint.hash) else {
            return;
        };
        let Some(fingerprint) = stored.fingerprint else {
            return;
        };
        let mut open = 0;
        for price in stored.prices.iter().filter(|price| price.is_open()) {
            self.offering[price.bookmaker as usize] = true;
            open += 1;
        }
        let rows = open as u64 + u64::from(fingerprint.no_price);
        if !self.listed.insert(stored.event.id.clone()) {
            return self.reject("duplicate_event", rows, &stored.event.id);
        }
        self.changes.stats.events += 1;
        self.changes.stats.selections += fingerprint.selections as usize;
        self.changes.counts.seen += rows;
        if self.is_older_than(stored) {
            self.changes.counts.stale += rows;
            return;
        }
        self.changes.checked.push(stored.event.id.clone());
        self.changes.counts.unchanged += open as u64;
        self.changes.counts.no_price += u64::from(fingerprint.no_price);
        self.missing.listed_events += usize::from(stored.event.listed);
        self.missing.open_prices += open;
    }

    fn push(&mut self, event: EventSnapshot, fingerprint: Option<Fingerprint>) {
        self.compare(&event, fingerprint);
    }
}
