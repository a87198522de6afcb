//! What became of the prices of one cycle, and what a change is called.

use serde::{Deserialize, Serialize};

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
    /// A game at a bookmaker has ended.
    RoundEnded,
    /// A row of somebody else's table.
    RowChanged,
    /// A job of somebody else's system.
    TaskCompleted,
    Manual,
}

impl ChangeKind {
    pub const ALL: [Self; 11] = [
        Self::EventAdded,
        Self::EventChanged,
        Self::EventRemoved,
        Self::StatusChanged,
        Self::SelectionChanged,
        Self::PriceChanged,
        Self::PriceWithdrawn,
        Self::RoundEnded,
        Self::RowChanged,
        Self::TaskCompleted,
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
            Self::RoundEnded => "round_ended",
            Self::RowChanged => "row_changed",
            Self::TaskCompleted => "task_completed",
            Self::Manual => "manual",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|k| k.as_str() == text)
    }

    /// About single prices, not the event as a whole.
    pub fn is_of_price(self) -> bool {
        matches!(self, Self::PriceChanged | Self::PriceWithdrawn)
    }

    /// The reason that an invalidation records.
    pub fn reason(self) -> &'static str {
        match self {
            Self::StatusChanged => "STATUS_CHANGE",
            Self::EventAdded
            | Self::EventChanged
            | Self::EventRemoved
            | Self::SelectionChanged
            | Self::RoundEnded => "EVENT_CHANGE",
            Self::PriceChanged | Self::PriceWithdrawn => "PRICE_CHANGE",
            Self::RowChanged => "ROW_CHANGE",
            Self::TaskCompleted => "TASK_COMPLETED",
            Self::Manual => "MANUAL",
        }
    }
}
