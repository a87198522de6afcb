//! How long to wait after a failure. This is the only place that decides it: nobody sleeps twice.

use std::time::Duration;

const FIRST: Duration = Duration::from_secs(2);
const LONGEST: Duration = Duration::from_secs(60);

/// Wrong credentials heal only by a person; asking fast gets an account blocked.
const UNAUTHORIZED: Duration = Duration::from_secs(300);

/// A server may ask for more patience than [`LONGEST`], but not for a lost race day.
const RETRY_AFTER_LONGEST: Duration = Duration::from_secs(60 * 60);

/// Failures by how they are waited out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Unreachable, 5xx, an unreadable answer, a database that did not confirm.
    Temporary,
    /// 429, with the server's own wish where it gave one.
    RateLimited { retry_after: Option<Duration> },
    /// 401 or 403.
    Unauthorized,
}

/// The wait before try `attempt + 1`, after `attempt` failures in a row (1, 2, …). Doubles from
/// 2 s up to 60 s; never less than the server asked for. `jitter` in 0..1 spreads many daemons
/// over the upper half of the wait.
pub fn backoff(failure: Failure, attempt: u32, jitter: f64) -> Duration {
    let jitter = if jitter.is_finite() {
        jitter.clamp(0.0, 1.0)
    } else {
        0.0
    };
    let doublings = attempt.saturating_sub(1).min(16);
    let wait = (FIRST * (1 << doublings))
        .min(LONGEST)
        .mul_f64(0.5 + jitter / 2.0);
    match failure {
        Failure::Temporary => wait,
        // On top of the server's wish, so that all who were refused do not return at once.
        Failure::RateLimited { retry_after } => match retry_after {
            Some(asked) => asked.min(RETRY_AFTER_LONGEST) + FIRST.mul_f64(jitter),
            None => wait,
        },
        Failure::Unauthorized => UNAUTHORIZED.mul_f64(1.0 + jitter / 10.0),
    }
}
