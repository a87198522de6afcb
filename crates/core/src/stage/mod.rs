//! The answers that the read API computes from stored rows and a given `now`: races by stage, and price movers.

mod movers;
mod race_stage;
mod races_by_stage;

pub use movers::{MoveDirection, Mover, OddsStep, detect_mover, mover_window_start};
pub use race_stage::{Stage, races_by_stage_ttl};
pub use races_by_stage::{
    RacesByStage, StagedRace, StagedRunner, StoredOdds, StoredRace, StoredRunner,
    build_races_by_stage,
};
