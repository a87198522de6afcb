//! Notifies systemd: ready, alive, stopping. The services run it as a task; without systemd it only waits.

use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;

use crate::poller::LivenessProbe;

/// A cycle that takes longer hangs: every request, page and statement in it has a deadline of its own. A wait (for the
/// off, the lease or a cron line) is not part of a cycle and may take any time.
const STUCK: Duration = Duration::from_secs(5 * 60);

/// Sends systemd's watchdog signal until `stop`, except while the poller hangs.
pub async fn watchdog(poller: Arc<LivenessProbe>, stop: CancellationToken) {
    notify(NotifyState::Ready);
    if let Some(limit) = sd_notify::watchdog_enabled() {
        let mut ticks = tokio::time::interval(limit / 3);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.cancelled() => break,
            }
            if poller.busy_for().is_none_or(|busy| busy < STUCK) {
                notify(NotifyState::Watchdog);
            }
        }
    }
    stop.cancelled().await;
    notify(NotifyState::Stopping);
}

fn notify(state: NotifyState) {
    if let Err(why) = sd_notify::notify(&[state]) {
        tracing::debug!(event = "systemd.notify_failed", error = %why, "systemd was not notified");
    }
}
