//! The domain model: events, selections, prices, snapshots of a feed, statuses and database snapshots.
//! Feeds produce these values, `diff` compares them, stores keep them; all crates use them.

mod attributes;
mod bookmaker;
mod change;
mod db_snapshot;
mod event;
mod ids;
mod price;
mod snapshot;
mod status;
mod text;
mod text_forms;

pub use attributes::Attributes;
pub use bookmaker::{BOOKMAKER_ALIASES, Bookmaker};
pub use change::{ChangeKind, CycleCounts, ExternalChange};
pub use db_snapshot::DbSnapshot;
pub use event::{Event, EventStatus, Selection, SelectionStatus};
pub use ids::{BookmakerId, EventId, MarketId, SelectionId};
pub use price::{DERIVED_SCALE, EachWay, Fraction, Offer, Price, PriceKey, PriceStatus};
pub use snapshot::{
    EventSnapshot, EventsInDoubt, FetchRequest, Fingerprint, RejectedGroup, RejectedRows,
    RowInDoubt, Scope, Snapshot, SnapshotMeta,
};
pub use status::{ResolvedStatus, StatusSource, compute_status};
pub use text::{
    ESCAPE_CREDENTIALS, find_misspelt, has_unescaped_credentials, sanitize_text,
    strip_byte_order_mark, suggest,
};
pub(crate) use text_forms::text_forms;
