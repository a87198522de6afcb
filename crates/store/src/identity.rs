//! Which database this is: a cache keeps it beside its epoch, so that the answers of two databases never mix. The epoch
//! monitor, `app` and the commands that remove answers hand it to the cache.

use tokio::sync::watch;

use super::dialect::args;
use super::{KeptSetting, Result, Store};

/// The database, by the number that no other one of this server ever has, and this start of the server. A copy of the
/// server's files shares all but the start. The system identifier would add nothing to that, and managed servers withdraw
/// the right to read it, so two roles would see two databases.
const SERVER: &str = "SELECT concat_ws(' ', d.oid, CAST(extract(epoch FROM pg_postmaster_start_time()) * 1000000 AS bigint)) AS server
    FROM pg_database d WHERE d.datname = current_database()";

impl Store {
    /// A text that is the same for all processes that use this database, and another one for every other database: also for
    /// a dump that was restored, for a copy, and for another start of the server, which may be a failover or a restore
    /// that has lost commits. To be compared only.
    pub async fn identity(&self) -> Result<String> {
        let id = self.kept_setting(KeptSetting::DatabaseId).await?;
        let place = match self {
            Self::Postgres(_) => self.read_one(SERVER, args![]).await?.get("server")?,
            Self::Sqlite(db) => db.file_identity(),
        };
        Ok(format!("{} {place}", id.unwrap_or_default()))
    }

    /// Counts the database sessions that were opened: each may lead to another server than the one before, so the
    /// identity has to be read again. Closed where there are none (SQLite).
    pub fn opened_sessions(&self) -> watch::Receiver<u64> {
        match self {
            Self::Postgres(db) => db.opened_sessions(),
            Self::Sqlite(_) => watch::Sender::new(0).subscribe(),
        }
    }
}
