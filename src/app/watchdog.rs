//! What systemd is told: ready, alive, stopping.

use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;

use crate::ingest::Pulse;

/// No cycle takes longer that is still alive: every request, page and statement in it has a
/// deadline of its own. Waiting (for the off, for the lease, for a cron line) is no work and may
/// take as long as it likes.
const STUCK: Duration = Duration::from_secs(5 * 60);

/// Feeds systemd's watchdog while the cycle loop gets on; a loop that hangs starves it.
pub async fn watchdog(pulse: Arc<Pulse>, stop: CancellationToken) {
    tell(NotifyState::Ready);
    if let Some(every) = sd_notify::watchdog_enabled() {
        let mut beat = tokio::time::interval(every / 3);
        loop {
            tokio::select! {
                _ = beat.tick() => {}
                () = stop.cancelled() => break,
            }
            if pulse.busy_for().is_none_or(|busy| busy < STUCK) {
                tell(NotifyState::Watchdog);
            }
        }
    }
    stop.cancelled().await;
    tell(NotifyState::Stopping);
}

/// Without systemd there is nobody to tell.
fn tell(state: NotifyState) {
    if let Err(why) = sd_notify::notify(&[state]) {
        tracing::debug!(event = "systemd.notify_failed", error = %why, "systemd was not told");
    }
}
