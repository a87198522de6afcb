//! The bell: a session of its own that hears of other writers' commits. Nothing depends on it, since
//! the relay looks by itself as well; without it a change is only found a moment later.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgListener, PgPool, PgPoolOptions};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{ACQUIRE_TIMEOUT, Postgres, answers, explain};
use crate::store::Result;

/// Whoever reports a change notifies here, at the end of the transaction that holds it.
pub const CHANNEL: &str = "oddsd_outbox";
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LONGEST_RETRY: Duration = Duration::from_secs(10);
/// A session that has heard nothing for so long is asked whether it still hears: one that was cut off
/// on the way looks just the same.
const QUIET: Duration = Duration::from_secs(30);

impl Postgres {
    pub async fn listen(&self, bell: Arc<Notify>, stop: CancellationToken) {
        let mut retry = FIRST_RETRY;
        loop {
            let lost = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                lost = self.hear(&bell, &mut retry) => lost,
            };
            let Err(why) = lost;
            tracing::debug!(event = "store.listen_lost", error = %why, "other writers' commits are not heard of at once");
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(retry) => {}
            }
            retry = (retry * 2).min(LONGEST_RETRY);
        }
    }

    async fn hear(&self, bell: &Notify, retry: &mut Duration) -> Result<std::convert::Infallible> {
        // Not of the pool: those are for questions, and are closed and set back between them.
        let own: PgPool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .connect_lazy_with((*self.options).clone());
        let mut listener = PgListener::connect_with(&own).await.map_err(explain)?;
        listener.eager_reconnect(false);
        listener.listen(CHANNEL).await.map_err(explain)?;
        *retry = FIRST_RETRY;
        // What was committed before this is not told any more.
        bell.notify_one();
        loop {
            match tokio::time::timeout(QUIET, listener.try_recv()).await {
                Ok(Ok(Some(_))) => bell.notify_one(),
                Ok(Ok(None)) => return Err(explain(sqlx::Error::WorkerCrashed)),
                Ok(Err(why)) => return Err(explain(why)),
                Err(_) => {
                    let asked = sqlx::query("SELECT 1").execute(&mut listener);
                    answers(asked).await.map_err(explain)?;
                }
            }
        }
    }
}
