//! The nouns of the trade. Feeds produce them, `diff` compares them, stores keep them.
//!
//! Everything here is a value: no clock, no I/O, and no vendor's spelling.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use chrono::{DateTime, NaiveDate, Utc};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

/// Makes a cheap-to-clone text identifier that cannot be swapped for another kind of text.
macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub struct $name(pub Arc<str>);

        impl $name {
            pub fn new(text: impl AsRef<str>) -> Self {
                Self(Arc::from(text.as_ref()))
            }
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self::new(text)
            }
        }
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

text_id!(
    /// A race or game, as its provider names it: `rac_11743160`, `1.241629436`, a 32-digit hash.
    EventId
);
text_id!(
    /// A runner, team or outcome inside one event.
    SelectionId
);
text_id!(
    /// What is being bet on: `win`, `place`, `h2h`, `spreads`, `totals`. A lay side is `win_lay`.
    MarketId
);
text_id!(
    /// A bookmaker's name in lower case without spaces, after aliases (see [`BookmakerId::from_name`]).
    BookmakerId
);

/// Spellings of one bookmaker that drift between answers: `(as spelt, as stored)`.
pub const BOOKMAKER_ALIASES: &[(&str, &str)] = &[
    ("betfairexchange", "betfair"),
    ("willhill", "williamhill"),
    ("boyle", "boylesports"),
    ("888", "888sport"),
    ("ladbroke", "ladbrokes"),
    ("betvictorsports", "betvictor"),
];

const EXCHANGES: &[&str] = &["betfair", "smarkets", "matchbook", "betdaq"];

impl BookmakerId {
    /// Lower case, no white space, through the alias table. Empty names give `None`.
    pub fn from_name(name: &str) -> Option<Self> {
        let plain: String = name
            .chars()
            .filter(|c| !c.is_whitespace() && !c.is_control())
            .flat_map(char::to_lowercase)
            .collect();
        if plain.is_empty() {
            return None;
        }
        let id = BOOKMAKER_ALIASES
            .iter()
            .find(|(spelt, _)| *spelt == plain)
            .map_or(plain.as_str(), |(_, stored)| stored);
        Some(Self::new(id))
    }

    pub fn is_exchange(&self) -> bool {
        EXCHANGES.contains(&self.as_str()) || self.0.starts_with("betfair_ex_")
    }
}

/// A bookmaker as people read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bookmaker {
    pub id: BookmakerId,
    pub name: String,
}

impl Bookmaker {
    /// `exchange` or `fixed`.
    pub fn kind(&self) -> &'static str {
        if self.id.is_exchange() {
            "exchange"
        } else {
            "fixed"
        }
    }
}

/// Where an event stands. `Scheduled` until something says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventStatus {
    Scheduled,
    Live,
    Suspended,
    Postponed,
    Completed,
    Cancelled,
    Abandoned,
}

impl EventStatus {
    pub const ALL: [Self; 7] = [
        Self::Scheduled,
        Self::Live,
        Self::Suspended,
        Self::Postponed,
        Self::Completed,
        Self::Cancelled,
        Self::Abandoned,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Live => "live",
            Self::Suspended => "suspended",
            Self::Postponed => "postponed",
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
            Self::Abandoned => "abandoned",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == text)
    }

    /// Over, one way or another: nothing more is offered on it.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Cancelled | Self::Abandoned)
    }
}

/// Further facts of an event or selection, by our own names (`going`, `jockey`, …), sorted.
pub type Facts = BTreeMap<String, String>;

/// A race or a game.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub id: EventId,
    /// Which feed speaks for it: `racing_api`, `odds_api`, `betfair`.
    pub source: Arc<str>,
    /// `horse_racing`, `greyhounds`, or the provider's sport.
    pub sport: String,
    /// League, region or competition: `GB`, `baseball_mlb`.
    pub league: String,
    pub venue: String,
    pub name: String,
    pub starts_at: Option<DateTime<Utc>>,
    /// The card's own (local) date, where the feed is asked by date.
    pub day: Option<NaiveDate>,
    pub status: EventStatus,
    pub in_play: bool,
    /// False once the event has left an answer whose scope covers it.
    pub listed: bool,
    pub facts: Facts,
}

impl Event {
    /// Status rank: an observation with a lower rank than what is stored is an old answer,
    /// not news (minutes go backwards, "finished" turns "running").
    pub fn rank(&self) -> u8 {
        match (self.status, self.in_play) {
            (status, _) if status.is_final() => 3,
            (EventStatus::Live, _) | (_, true) => 2,
            (EventStatus::Postponed, _) => 1,
            _ => 0,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SelectionStatus {
    Active,
    /// Declared, then taken out of the race.
    NonRunner,
    /// Runs only if another is withdrawn.
    Reserve,
    /// Removed from the market by the exchange, or gone from the card.
    Removed,
    Winner,
    Placed,
    Loser,
}

impl SelectionStatus {
    pub const ALL: [Self; 7] = [
        Self::Active,
        Self::NonRunner,
        Self::Reserve,
        Self::Removed,
        Self::Winner,
        Self::Placed,
        Self::Loser,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::NonRunner => "non_runner",
            Self::Reserve => "reserve",
            Self::Removed => "removed",
            Self::Winner => "winner",
            Self::Placed => "placed",
            Self::Loser => "loser",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == text)
    }

    pub fn is_out(self) -> bool {
        matches!(self, Self::NonRunner | Self::Removed)
    }
}

/// A runner, team or outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    pub id: SelectionId,
    pub name: String,
    pub status: SelectionStatus,
    pub facts: Facts,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EachWay {
    pub places: u16,
    /// A place pays 1/`denom` of the win odds.
    pub denom: u16,
}

/// What is offered: the compared value of a price. Decimals are exact and compare by value,
/// so 2.5 equals 2.50.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    pub decimal: Decimal,
    /// `22/1`. Where the decimal cannot be finite (American −105), this is the exact value.
    pub fractional: Option<Box<str>>,
    /// Handicap or total line: a value of the price, not part of its key.
    pub point: Option<Decimal>,
    pub each_way: Option<EachWay>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PriceStatus {
    Open,
    Suspended,
    Withdrawn,
}

impl PriceStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Suspended => "suspended",
            Self::Withdrawn => "withdrawn",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::Open, Self::Suspended, Self::Withdrawn]
            .into_iter()
            .find(|s| s.as_str() == text)
    }
}

/// Key of a price inside its event.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PriceKey {
    pub market: MarketId,
    pub selection: SelectionId,
    pub bookmaker: BookmakerId,
}

/// One bookmaker's word on one selection, as a feed reported it.
#[derive(Clone, Debug, PartialEq)]
pub struct Price {
    pub key: PriceKey,
    /// `None`: the feed says explicitly that there is no price now ("-", SP, non-runner).
    pub offer: Option<Offer>,
    pub suspended: bool,
    /// Feed time of this price; the fetch time where the feed gives none.
    pub observed_at: DateTime<Utc>,
}

/// Everything a feed said about one event.
#[derive(Clone, Debug, PartialEq)]
pub struct EventSnapshot {
    pub event: Event,
    pub selections: Vec<Selection>,
    pub prices: Vec<Price>,
    /// True: a stored selection or price missing here is gone. False: this is a delta, and
    /// only what it names has changed.
    pub complete: bool,
}

/// What an answer speaks for. A stored event missing inside the scope has been removed;
/// outside it, absence means nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// All events of these card dates, in these regions (none named: in all of them).
    Days {
        days: Vec<NaiveDate>,
        regions: Vec<String>,
    },
    /// All open events of one league.
    League(String),
    /// Exactly these events, asked for by name.
    Events(Vec<EventId>),
    /// Only what is listed.
    Listed,
}

impl Scope {
    pub fn covers(&self, event: &Event) -> bool {
        match self {
            Self::Days { days, regions } => {
                event.day.is_some_and(|day| days.contains(&day))
                    && (regions.is_empty()
                        || regions
                            .iter()
                            .any(|r| r.eq_ignore_ascii_case(&event.league)))
            }
            Self::League(league) => *league == event.league,
            Self::Events(ids) => ids.contains(&event.id),
            Self::Listed => false,
        }
    }
}

/// What a feed said at one moment, and the scope it speaks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    pub source: Arc<str>,
    /// When we asked. Orders snapshots: one asked earlier never overrides one asked later.
    pub as_of: DateTime<Utc>,
    pub scope: Scope,
    pub events: Vec<EventSnapshot>,
    /// Names of the bookmakers that occur, as the feed spells them.
    pub bookmakers: Vec<Bookmaker>,
    pub rejects: Rejects,
}

/// Rows that were set aside: how many for each reason, and a sample to look at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Rejects {
    pub by_reason: BTreeMap<&'static str, Reject>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Reject {
    pub rows: u64,
    pub sample: String,
}

/// Samples go to logs: keep them short.
const SAMPLE_CHARS: usize = 120;

impl Rejects {
    pub fn add(&mut self, reason: &'static str, sample: impl fmt::Display) {
        self.add_rows(reason, 1, sample);
    }

    pub fn add_rows(&mut self, reason: &'static str, rows: u64, sample: impl fmt::Display) {
        let entry = self.by_reason.entry(reason).or_default();
        if entry.rows == 0 {
            entry.sample = plain_text(&sample.to_string(), SAMPLE_CHARS);
        }
        entry.rows += rows;
    }

    pub fn merge(&mut self, other: Self) {
        for (reason, reject) in other.by_reason {
            self.add_rows(reason, reject.rows, reject.sample);
        }
    }

    pub fn total(&self) -> u64 {
        self.by_reason.values().map(|r| r.rows).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.by_reason.is_empty()
    }
}

impl fmt::Display for Rejects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (reason, reject)) in self.by_reason.iter().enumerate() {
            let comma = if n == 0 { "" } else { ", " };
            write!(
                f,
                "{comma}{}× {reason} (e.g. {})",
                reject.rows, reject.sample
            )?;
        }
        Ok(())
    }
}

/// Foreign text made safe for a log or page: control characters out (they can move a terminal's
/// cursor or fake a log line), bidirectional overrides out, at most `max` characters.
pub fn plain_text(text: &str, max: usize) -> String {
    let mut plain: String = text
        .chars()
        .filter(|c| {
            !c.is_control() && !matches!(*c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        })
        .take(max + 1)
        .collect();
    if plain.chars().count() > max {
        plain = plain.chars().take(max - 1).collect();
        plain.push('…');
    }
    plain
}

/// Decimal places kept where a conversion has no finite decimal. Prices that differ in a
/// provider's own notation also differ here: it separates American odds up to ±30,000.
pub const DERIVED_SCALE: u32 = 9;

impl Offer {
    pub fn decimal(decimal: Decimal) -> Self {
        Self {
            decimal: decimal.normalize(),
            fractional: None,
            point: None,
            each_way: None,
        }
    }

    /// American odds, exactly: +150 is 3/2, −105 is 20/21. `None` inside (−100, 100).
    pub fn american(odds: i64) -> Option<Self> {
        if odds.unsigned_abs() < 100 || odds.unsigned_abs() > 10_000_000 {
            return None;
        }
        let (profit, stake) = if odds > 0 { (odds, 100) } else { (100, -odds) };
        let common = gcd(profit, stake);
        let (profit, stake) = (profit / common, stake / common);
        Some(Self {
            fractional: Some(format!("{profit}/{stake}").into()),
            ..Self::decimal(from_fraction(profit, stake)?)
        })
    }

    /// `22/1` as decimal odds: 23. `None` for anything else.
    pub fn fraction(text: &str) -> Option<Decimal> {
        let (profit, stake) = text.trim().split_once('/')?;
        let (profit, stake) = (profit.trim().parse().ok()?, stake.trim().parse().ok()?);
        (profit > 0 && stake > 0).then(|| from_fraction(profit, stake))?
    }
}

fn from_fraction(profit: i64, stake: i64) -> Option<Decimal> {
    let odds = Decimal::ONE + Decimal::from(profit).checked_div(Decimal::from(stake))?;
    Some(odds.round_dp(DERIVED_SCALE).normalize())
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// What one cycle found, in prices. `seen` = inserted + reopened + changed + unchanged + stale
/// + no_price + rejected; `withdrawn` counts stored prices, whether absent or explicitly gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    #[serde(rename = "prices_seen")]
    pub seen: u64,
    pub inserted: u64,
    pub reopened: u64,
    pub changed: u64,
    pub withdrawn: u64,
    pub unchanged: u64,
    /// Observations older than what is stored: they change nothing.
    pub stale: u64,
    pub rejected: u64,
    /// Rows that say "no price now" ("-", SP, a non-runner's odds).
    pub no_price: u64,
}

impl Counts {
    pub fn add(&mut self, other: &Self) {
        self.seen += other.seen;
        self.inserted += other.inserted;
        self.reopened += other.reopened;
        self.changed += other.changed;
        self.withdrawn += other.withdrawn;
        self.unchanged += other.unchanged;
        self.stale += other.stale;
        self.rejected += other.rejected;
        self.no_price += other.no_price;
    }

    pub fn written(&self) -> u64 {
        self.inserted + self.reopened + self.changed + self.withdrawn
    }
}

/// What a change is called in outbox, rules, logs and history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    EventAdded,
    EventChanged,
    EventRemoved,
    StatusChanged,
    SelectionChanged,
    PriceChanged,
    PriceWithdrawn,
    Manual,
}

impl ChangeKind {
    pub const ALL: [Self; 8] = [
        Self::EventAdded,
        Self::EventChanged,
        Self::EventRemoved,
        Self::StatusChanged,
        Self::SelectionChanged,
        Self::PriceChanged,
        Self::PriceWithdrawn,
        Self::Manual,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::EventAdded => "event_added",
            Self::EventChanged => "event_changed",
            Self::EventRemoved => "event_removed",
            Self::StatusChanged => "status_changed",
            Self::SelectionChanged => "selection_changed",
            Self::PriceChanged => "price_changed",
            Self::PriceWithdrawn => "price_withdrawn",
            Self::Manual => "manual",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|k| k.as_str() == text)
    }

    /// The reason that an invalidation records.
    pub fn reason(self) -> &'static str {
        match self {
            Self::StatusChanged => "STATUS_CHANGE",
            Self::EventAdded | Self::EventChanged | Self::EventRemoved | Self::SelectionChanged => {
                "EVENT_CHANGE"
            }
            Self::PriceChanged | Self::PriceWithdrawn => "PRICE_CHANGE",
            Self::Manual => "MANUAL",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn american_and_fractional_odds_convert_exactly() {
        let cases = [
            (150, "2.5", "3/2"),
            (-200, "1.5", "1/2"),
            (-105, "1.952380952", "20/21"),
        ];
        for (american, decimal, fractional) in cases {
            let offer = Offer::american(american).expect("valid");
            assert_eq!(offer.decimal.to_string(), decimal);
            assert_eq!(offer.fractional.as_deref(), Some(fractional));
        }
        assert_eq!(Offer::american(99), None);
        assert_eq!(Offer::american(0), None);
        assert_eq!(Offer::american(i64::MIN), None);
        assert_eq!(Offer::fraction("22/1"), Some(Decimal::from(23)));
        assert_eq!(Offer::fraction("4"), None);
        assert_eq!(Offer::fraction("1/0"), None);
    }

    #[test]
    fn bookmakers_that_drift_are_one() {
        let id = |name| BookmakerId::from_name(name).map(|id| id.to_string());
        assert_eq!(id("Betfair Exchange").as_deref(), Some("betfair"));
        assert_eq!(id("Spread Ex"), id("Spreadex"));
        assert_eq!(id("William Hill"), id("WillHill"));
        assert_eq!(id(" \t"), None);
    }

    #[test]
    fn foreign_text_cannot_move_the_cursor() {
        assert_eq!(plain_text("Red\u{1b}[2J Rum\n", 80), "Red[2J Rum");
        assert_eq!(plain_text("abcdef", 4), "abc…");
    }
}
