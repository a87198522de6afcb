//! Settings of the invalidation engine.

use std::path::PathBuf;

use clap::Args;

use super::{BadSetting, Settings};
use crate::rules_file::{Rulebook, RulesKeeper};

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Invalidation")]
pub struct RulesArgs {
    /// File of rules (TOML, or JSON as job systems have it): which changes remove which cached answers,
    /// beside the built-in ones. Read again when it changes; one that is not there is waited for.
    #[arg(
        long,
        env = "RULES_FILE",
        default_value = "rules.toml",
        global = true,
        hide_short_help = true
    )]
    pub rules_file: PathBuf,
    /// Removals a minute, of all daemons together, above which one warning is logged.
    #[arg(
        long,
        env = "REMOVALS_PER_MINUTE_WARNING",
        default_value = "100",
        global = true,
        hide_short_help = true
    )]
    pub removals_per_minute_warning: u64,
}

impl Settings {
    /// The rules in force, and who keeps them up to date. A file that is there and wrong is an error.
    pub fn rules(&self) -> Result<(Rulebook, RulesKeeper), BadSetting> {
        Rulebook::open(&self.rules.rules_file).map_err(|why| {
            let file = self.rules.rules_file.display();
            BadSetting(format!("{why}\nmend it (`oddsd rules check {file}` says when it is right), or set RULES_FILE"))
        })
    }
}
