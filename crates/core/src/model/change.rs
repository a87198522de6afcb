//! Kinds of change, the counts of one polling cycle, and changes reported by other programs.
//! Written by `diff` and the change API; read by rules, stores, logs and metrics.

use serde::{Deserialize, Serialize};
use strum::{EnumString, IntoStaticStr, VariantArray};

use super::{EventId, text_forms};

/// Counts of one cycle, in prices. `seen` = inserted + reopened + changed + unchanged + stale
/// + no_price + rejected; `withdrawn` counts stored prices, whether absent or explicitly gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CycleCounts {
    /// Rows that the feed delivered.
    #[serde(rename = "prices_seen")]
    pub seen: u64,
    /// Prices stored for the first time.
    pub inserted: u64,
    /// Withdrawn prices that are offered again.
    pub reopened: u64,
    /// Prices whose offer or status changed.
    pub changed: u64,
    /// Stored prices that are not offered any more.
    pub withdrawn: u64,
    /// Prices equal to the stored ones.
    pub unchanged: u64,
    /// Observations older than the stored ones: they change nothing.
    pub stale: u64,
    /// Rows that could not be read or stored.
    pub rejected: u64,
    /// Rows that report "no price now" ("-", SP, a non-runner's odds).
    pub no_price: u64,
}

impl CycleCounts {
    /// Adds the counts of another cycle.
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

    /// Price rows that the cycle writes.
    pub fn written(&self) -> u64 {
        self.inserted + self.reopened + self.changed + self.withdrawn
    }
}

/// The kind of a change, by its name in the outbox, rules, logs and history.
#[derive(EnumString, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// A new event.
    EventAdded,
    /// Anything of an event but its status.
    EventChanged,
    /// The event left an answer whose scope covers it.
    EventRemoved,
    /// The event's status or in-play flag.
    StatusChanged,
    /// A runner, team or outcome of the event.
    SelectionChanged,
    /// A price of the event, new ones included.
    PriceChanged,
    /// A price of the event is not offered any more.
    PriceWithdrawn,
    /// A game at a bookmaker has ended.
    RoundEnded,
    /// A row of another program's table.
    RowChanged,
    /// A job of another system.
    TaskCompleted,
    /// An operator's request.
    Manual,
}

text_forms!(ChangeKind);

impl ChangeKind {
    /// Whether it is about single prices, not about the event as a whole.
    pub fn is_price_change(self) -> bool {
        matches!(self, Self::PriceChanged | Self::PriceWithdrawn)
    }
}

/// A change that another program reports.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ExternalChange {
    /// The reported kind.
    pub kind: ChangeKind,
    /// For kinds that are about an event.
    pub event: Option<EventId>,
    /// The other fields as one JSON object: `table`, `op` and `row` of a row; `task` of a task.
    pub detail: String,
}
