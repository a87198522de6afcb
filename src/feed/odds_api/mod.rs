//! The Odds API (v4).

pub mod parse;
mod rows;
