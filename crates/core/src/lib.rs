//! The pure core of oddsd: model, cache keys, diff, rules, stages and schedule decisions, without a clock, without I/O and
//! without `await`. Every other crate of the workspace uses it.

#![warn(missing_docs)]

pub mod diff;
pub mod key;
pub mod model;
pub mod rules;
pub mod schedule;
pub mod stage;
