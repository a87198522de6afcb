//! What systemd is told: ready, alive, stopping.

use std::sync::atomic::{AtomicI64, Ordering};

use chrono::Utc;
use tokio_util::sync::CancellationToken;

use crate::live::{Activity, Heard, Live};

/// systemd's readiness and watchdog: fed while cycles go on, starved when the loop hangs. A cycle
/// says when the next one is due; the watchdog allows for that and a little more.
pub async fn watchdog(live: Live, stop: CancellationToken) {
    const SLACK: i64 = 120;
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let Some(every) = sd_notify::watchdog_enabled() else {
        return;
    };
    let due = AtomicI64::new(Utc::now().timestamp() + SLACK);
    let mut watcher = live.watch();
    let mut beat = tokio::time::interval(every / 3);
    loop {
        tokio::select! {
            heard = watcher.next() => {
                let now = Utc::now().timestamp();
                match heard {
                    Some(Heard::Said(said)) => match &said.activity {
                        Activity::CycleComplete { next_s, .. } => due.store(now + *next_s as i64 + SLACK, Ordering::Relaxed),
                        Activity::FetchFailed { retry_ms, .. } | Activity::StoreFailed { retry_ms, .. } => {
                            due.store(now + (*retry_ms / 1000) as i64 + SLACK, Ordering::Relaxed);
                        }
                        Activity::StandingBy { .. } => due.store(i64::MAX, Ordering::Relaxed),
                        _ => {}
                    },
                    Some(Heard::Missed(_)) => due.store(now + SLACK, Ordering::Relaxed),
                    None => return,
                }
            }
            _ = beat.tick() => {
                if Utc::now().timestamp() < due.load(Ordering::Relaxed) {
                    let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
                }
            }
            () = stop.cancelled() => {
                let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
                return;
            }
        }
    }
}
