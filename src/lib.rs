//! oddsd keeps an odds database, and every cache in front of it, as fresh as the feed.

pub mod cache;
pub mod diff;
pub mod feed;
pub mod key;
pub mod live;
pub mod log;
pub mod model;
pub mod schedule;
pub mod stage;
pub mod store;
