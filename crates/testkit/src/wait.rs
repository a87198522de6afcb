//! The only two ways to wait in a test: for a future, or for a condition that is polled with a pause.
//! The tests, the harness and the servers of this crate call them; both panic at the caller's line.

use std::fmt::Debug;
use std::panic::Location;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

/// The longest wait of a test. Only a broken test reaches it.
pub const WAIT_LIMIT: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(4);

/// Polls `probe` with a short pause until it returns `Ok`. Panics with the last `Err` at the limit.
#[track_caller]
pub fn eventually<T, S: Debug, P: AsyncFnMut() -> Result<T, S>>(
    what: &str,
    mut probe: P,
) -> impl Future<Output = T> + use<T, S, P> {
    let (what, caller) = (what.to_owned(), Location::caller());
    async move {
        let limit = Instant::now() + WAIT_LIMIT;
        let mut last = None;
        loop {
            match tokio::time::timeout_at(limit, probe()).await {
                Ok(Ok(value)) => return value,
                Ok(Err(state)) if Instant::now() < limit => last = Some(state),
                Ok(Err(state)) => panic!("{caller}: waited for {what}; last state: {state:?}"),
                Err(_) => panic!("{caller}: waited for {what}; last state: {last:?}"),
            }
            sleep(PAUSE).await;
        }
    }
}

/// Awaits `future`, and panics when it takes longer than the limit.
#[track_caller]
pub fn within<T, F: Future<Output = T>>(
    what: &str,
    future: F,
) -> impl Future<Output = T> + use<T, F> {
    let (what, caller) = (what.to_owned(), Location::caller());
    async move {
        let waited = timeout(WAIT_LIMIT, future).await;
        waited.unwrap_or_else(|_| panic!("{caller}: waited {WAIT_LIMIT:?} for {what}"))
    }
}
