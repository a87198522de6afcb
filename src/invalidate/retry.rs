//! When a removal that was not confirmed is tried again.

use std::time::Duration;

pub(super) const FIRST_RETRY: Duration = Duration::from_millis(250);
/// Low enough that readers see fresh prices soon after the cache is back.
const LONGEST_RETRY: Duration = Duration::from_secs(2);
/// Nobody can heal a refusal (password, rights) within seconds.
const REFUSED_RETRY: Duration = Duration::from_secs(30);

pub(super) fn retry_after(attempt: i32, retryable: bool) -> Duration {
    if !retryable {
        return REFUSED_RETRY.mul_f64(0.75 + fastrand::f64() / 4.0);
    }
    let doublings = attempt.saturating_sub(1).clamp(0, 16) as u32;
    let wait = FIRST_RETRY * (1 << doublings);
    wait.min(LONGEST_RETRY)
        .mul_f64(0.75 + fastrand::f64() / 4.0)
}
