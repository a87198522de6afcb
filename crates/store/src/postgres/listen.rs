//! A session that listens for other writers' commits, for the relay. The relay polls as well, so without it a
//! change is only found later.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgListener, PgPool, PgPoolOptions};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{ACQUIRE_TIMEOUT, Postgres, READ_ONLY, answers, map_error};
use crate::{Result, StoreError};

/// A transaction that adds outbox rows notifies here at its commit.
pub const CHANNEL: &str = "oddsd_outbox";
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LONGEST_RETRY: Duration = Duration::from_secs(10);
/// A session without a notification for so long is pinged: a lost connection looks the same.
const PING_AFTER: Duration = Duration::from_secs(30);
const RETIRED: &str = "the server hung, ended its sessions or became read-only";

impl Postgres {
    pub async fn listen(&self, wakeup: Arc<Notify>, stop: CancellationToken) {
        let mut retry = FIRST_RETRY;
        loop {
            let lost = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                lost = self.wait_for_notifications(&wakeup, &mut retry) => lost,
            };
            let Err(why) = lost;
            tracing::debug!(event = "store.listen_lost", error = %why, "other writers' commits are found by polling only");
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(retry) => {}
            }
            retry = (retry * 2).min(LONGEST_RETRY);
        }
    }

    async fn wait_for_notifications(
        &self,
        wakeup: &Notify,
        retry: &mut Duration,
    ) -> Result<std::convert::Infallible> {
        // A pool of its own: sessions of the shared one are reset between statements.
        let own: PgPool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .connect_lazy_with((*self.options).clone());
        let mut listener = PgListener::connect_with(&own).await.map_err(map_error)?;
        listener.eager_reconnect(false);
        listener.listen(CHANNEL).await.map_err(map_error)?;
        *retry = FIRST_RETRY;
        let mut retired = self.retired.opened_until.subscribe();
        // Earlier commits send no notification any more.
        wakeup.notify_one();
        loop {
            let received = tokio::select! {
                received = tokio::time::timeout(PING_AFTER, listener.try_recv()) => received,
                // It may listen to a server that nobody writes to any more.
                Ok(()) = retired.changed() => return Err(StoreError::Down(RETIRED.into())),
            };
            match received {
                Ok(Ok(Some(_))) => wakeup.notify_one(),
                Ok(Ok(None)) => return Err(map_error(sqlx::Error::WorkerCrashed)),
                Ok(Err(why)) => return Err(map_error(why)),
                Err(_) => {
                    let asked = sqlx::query_scalar::<_, String>(READ_ONLY).fetch_one(&mut listener);
                    if answers(asked).await.map_err(map_error)? == "on" {
                        return Err(StoreError::Down(RETIRED.into()));
                    }
                }
            }
        }
    }
}
