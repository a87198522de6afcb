//! oddsd keeps an odds database, and every cache in front of it, as fresh as the feed.

pub mod cache;
pub mod diff;
pub mod feed;
pub mod key;
pub mod model;
pub mod store;
