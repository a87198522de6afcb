//! Settings of the invalidation rules. They are flattened into the other settings; the daemon and the
//! commands open the rules from them.

use std::path::PathBuf;

use clap::Args;

use super::{InvalidSetting, Settings};
use crate::rules_file::{RulesHandle, RulesWatcher};

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Invalidation")]
pub struct RulesArgs {
    /// Rules file (TOML, or JSON with tasks): which changes remove which cached answers, in addition to
    /// the built-in rules. It is loaded again if it changes, or once it exists.
    #[arg(long, env = "RULES_FILE", default_value = "rules.toml")]
    pub rules_file: PathBuf,
    /// Removals a minute, of all daemons together, above which a warning is logged once.
    #[arg(long, env = "REMOVALS_PER_MINUTE_WARNING", default_value = "100")]
    pub removals_per_minute_warning: u64,
}

impl Settings {
    /// Opens the rules and the task that reloads them. An existing but invalid file is an error.
    pub fn rules(&self) -> Result<(RulesHandle, RulesWatcher), InvalidSetting> {
        RulesHandle::open(&self.rules.rules_file).map_err(|why| {
            let file = self.rules.rules_file.display();
            InvalidSetting(format!(
                "{why}\ncorrect the file (`oddsd rules check {file}` validates it), or set RULES_FILE"
            ))
        })
    }
}
