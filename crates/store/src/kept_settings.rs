//! What a start has to know of the ones before it: the feed that fills the database, the last valid text of the rules
//! file, and the database's id. `app`, `check`, `replay`, the rules watcher and `identity` call it.

use super::dialect::args;
use super::{Result, Store};

/// A setting that the database keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeptSetting {
    /// The name of the live feed.
    Feed,
    /// The last valid text of the rules file.
    Rules,
    /// The id that the database got with its tables. Never changed.
    DatabaseId,
}

impl KeptSetting {
    fn name(self) -> &'static str {
        match self {
            Self::Feed => "feed",
            Self::Rules => "rules",
            Self::DatabaseId => "database_id",
        }
    }
}

impl Store {
    pub async fn kept_setting(&self, setting: KeptSetting) -> Result<Option<String>> {
        let sql = "SELECT value FROM oddsd.kept_settings WHERE name = $1";
        let found = self.read(sql, args![setting.name()]).await?;
        found.first().map(|row| row.get("value")).transpose()
    }

    pub async fn keep_setting(&self, setting: KeptSetting, value: &str) -> Result<()> {
        let sql = "INSERT INTO oddsd.kept_settings AS k (name, value, at) VALUES ($1, $2, now())
             ON CONFLICT (name) DO UPDATE SET value = excluded.value, at = excluded.at WHERE k.value <> excluded.value";
        self.write(sql, args![setting.name(), value])
            .await
            .map(drop)
    }

    /// The live feed that fills this database; `None` if none has yet. A database of an earlier version keeps no
    /// setting: there the last cycle tells.
    pub async fn live_feed(&self) -> Result<Option<String>> {
        if let Some(feed) = self.kept_setting(KeptSetting::Feed).await? {
            return Ok(Some(feed));
        }
        let sql = "SELECT feed FROM oddsd.cycles WHERE feed NOT IN ('clock', 'replay') ORDER BY id DESC LIMIT 1";
        let found = self.read(sql, args![]).await?;
        found.first().map(|row| row.get("feed")).transpose()
    }
}
