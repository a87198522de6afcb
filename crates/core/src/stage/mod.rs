//! What the read API computes from stored rows and a given `now`: stages of races, the answer that lists races by
//! stage, and price movers.

mod movers;
mod race_stage;
mod races_by_stage;

pub use movers::{Heading, Mover, Step, mover, movers_from};
pub use race_stage::{NextStage, Stage, payload_ttl};
pub use races_by_stage::{
    OddsRow, RaceRow, RacesByStage, RunnerRow, StageLists, StagedOdds, StagedRace, StagedRunner,
    payload,
};
