//! The words of every line that says what changed in the world. People grep for these: a change
//! here is a change of the program's interface, and the golden tests make it visible.

use rust_decimal::Decimal;
use tracing::{debug, error, info, warn};

use super::{Activity, Collapsed};
use crate::key::Key;
use crate::model::{Counts, plain_text};

/// Characters of an upstream's error text in one line.
const ERROR_CHARS: usize = 400;

/// One documented line: its event name, its fields in order (those with `?` may be absent), and
/// what it means.
pub struct Line {
    pub event: &'static str,
    pub fields: &'static [&'static str],
    pub means: &'static str,
}

macro_rules! documented {
    ($($event:literal [$($field:literal)*] $means:literal)*) => {
        &[$(Line { event: $event, fields: &[$($field),*], means: $means }),*]
    };
}

/// The whole list, held against the lines themselves by a test.
#[rustfmt::skip]
pub const LINES: &[Line] = documented! {
    "daemon.started" ["version" "feed" "store" "cache"]
        "The daemon is up: what it reads, where it writes, which cache it keeps right."
    "daemon.stopped" ["reason"]
        "Running work was finished and every door closed."
    "cycle.complete" ["cycle" "inserted" "updated" "withdrawn" "skipped" "rejected" "fetch_ms" "diff_ms" "write_ms" "next_s" "facts?"]
        "Once a cycle, also when nothing changed. updated = changed and reopened prices; skipped = unchanged, older than stored, or without a price; facts = rows of events and runners written."
    "cycle.fetch_failed" ["cycle" "feed" "failure" "attempt" "retry_ms" "error" "log_lines?"]
        "The feed gave no usable answer; nothing was changed. An error where credentials or settings must be looked at, otherwise a warning."
    "cycle.store_failed" ["cycle" "attempt" "retry_ms" "error" "log_lines?"]
        "The database did not confirm the commit; the next cycle starts from its rows again."
    "cycle.removals_refused" ["cycle" "removals" "open"]
        "The answer left out so many open prices that they are kept until a second answer agrees."
    "cache.invalidated" ["cycle?" "rule" "backend" "keys" "took_ms" "reason" "attempts?" "actor?"]
        "The cache confirmed the removal of this many keys, tags and patterns. attempts appears from the second on, actor where a person asked."
    "cache.invalidate_failed" ["cycle?" "attempt" "retry_ms" "error" "backend" "keys" "log_lines?"]
        "A removal was not confirmed; it is kept and tried again."
    "cache.read" ["key" "state" "took_ms" "cycle?"]
        "One read through the cache (debug)."
    "price.moved" ["cycle" "race" "runner" "bookmaker" "from" "to" "percent?" "significant"]
        "One price changed (debug); - stands for no price. significant: by more than a tenth, or to another state."
    "status.changed" ["cycle" "status" "by" "events"]
        "So many events came to this status: by the feed's word, by the clock, or by a person's correction."
    "lease.leading" ["holder" "fence"]
        "This daemon holds the lease and works."
    "lease.standby" ["holder"]
        "Another daemon holds the lease; this one waits for it to end."
    "log.collapsed" ["of" "log_lines" "error"]
        "Equal lines that were held back while a failure lasted, told at the next success or at the end."
};

/// `collapsed`: equal log lines held back since the last one like this.
pub(super) fn write(activity: &Activity, collapsed: u64) {
    let event = activity.name();
    let log_lines = (collapsed > 0).then_some(collapsed);
    match activity {
        Activity::Started {
            version,
            feed,
            store,
            cache,
        } => {
            info!(
                event,
                version, feed, store, cache, "oddsd {version} started: {feed} → {store} → {cache}"
            );
        }
        Activity::Stopped { reason } => info!(event, reason, "oddsd stopped: {reason}"),
        Activity::CycleComplete {
            cycle,
            counts,
            facts,
            races,
            horses,
            bookmakers,
            errors,
            fetch_ms,
            diff_ms,
            write_ms,
            next_s,
        } => {
            let (updated, skipped) = (updated(counts), skipped(counts));
            info!(
                event,
                cycle,
                inserted = counts.inserted,
                updated,
                withdrawn = counts.withdrawn,
                skipped,
                rejected = counts.rejected,
                fetch_ms,
                diff_ms,
                write_ms,
                next_s,
                facts = (*facts > 0).then_some(facts),
                "Cycle complete: {updated} updated | {skipped} skipped | {races} races | \
                 {horses} horses | {bookmakers} bookmakers | {errors} errors"
            );
        }
        Activity::FetchFailed {
            cycle,
            feed,
            failure,
            needs_person,
            attempt,
            retry_ms,
            error,
        } => {
            let error = plain(error);
            let more = more(collapsed);
            let retry = seconds(*retry_ms);
            // The level is part of a tracing call site, hence twice.
            if *needs_person {
                error!(
                    event,
                    cycle,
                    feed,
                    failure,
                    attempt,
                    retry_ms,
                    error,
                    log_lines,
                    "Fetch from {feed} refused; next try in {retry} s, but it needs a person{more}"
                );
            } else {
                warn!(
                    event,
                    cycle,
                    feed,
                    failure,
                    attempt,
                    retry_ms,
                    error,
                    log_lines,
                    "Fetch from {feed} failed; next try in {retry} s{more}"
                );
            }
        }
        Activity::StoreFailed {
            cycle,
            attempt,
            retry_ms,
            error,
        } => warn!(
            event,
            cycle,
            attempt,
            retry_ms,
            error = plain(error),
            log_lines,
            "The database did not confirm; next try in {} s, from the stored rows{}",
            seconds(*retry_ms),
            more(collapsed)
        ),
        Activity::RefusedRemovals {
            cycle,
            removals,
            open,
        } => warn!(
            event,
            cycle,
            removals,
            open,
            "Kept {removals} of {open} open prices that the answer left out, until a second \
             answer agrees"
        ),
        Activity::Invalidated {
            cycle,
            rule,
            backend,
            keys,
            tags,
            reason,
            attempts,
            took_ms,
            actor,
        } => info!(
            event,
            cycle,
            rule,
            backend,
            keys = keys.len() + tags.len(),
            took_ms,
            reason,
            attempts = (*attempts > 1).then_some(attempts),
            actor = actor.as_deref().map(plain),
            "{}",
            removed(keys, tags)
        ),
        Activity::InvalidateFailed {
            cycle,
            backend,
            keys,
            attempt,
            retry_ms,
            stale_s,
            error,
        } => warn!(
            event,
            cycle,
            attempt,
            retry_ms,
            error = plain(error),
            backend,
            keys,
            log_lines,
            "Invalidation failed, will retry; readers may see data up to {stale_s} s old{}",
            more(collapsed)
        ),
        Activity::Read {
            key,
            state,
            took_ms,
            cycle,
        } => {
            let (key, state) = (key.as_str(), state.as_str());
            debug!(event, key, state, took_ms, cycle, "Cache {state}: {key}");
        }
        Activity::PriceMoved {
            cycle,
            event: race,
            selection,
            bookmaker,
            from,
            to,
            percent,
            significant,
        } => {
            // Nothing here is worked out unless somebody reads debug lines.
            debug!(
                event,
                cycle,
                race = race.as_str(),
                runner = selection.as_str(),
                bookmaker = bookmaker.as_str(),
                from = price(from.as_ref()),
                to = price(to.as_ref()),
                percent = percent.map(|percent| percent.to_string()),
                significant,
                "{bookmaker}: {selection} {} → {}",
                price(from.as_ref()),
                price(to.as_ref())
            );
        }
        Activity::StatusChanged {
            cycle,
            status,
            by,
            events,
        } => {
            let (status, by) = (status.as_str(), by.as_str());
            let are = match events {
                1 => "event is",
                _ => "events are",
            };
            info!(
                event,
                cycle, status, by, events, "{events} {are} {status} now"
            );
        }
        Activity::Leading { holder, fence } => {
            info!(event, holder, fence, "Holding the lease as {holder}");
        }
        Activity::StandingBy { holder } => {
            info!(event, holder, "Standing by: {holder} holds the lease");
        }
    }
}

pub(super) fn write_collapsed(collapsed: &Collapsed) {
    let Collapsed {
        name,
        error,
        log_lines,
    } = collapsed;
    info!(
        event = "log.collapsed",
        of = name,
        log_lines,
        error = plain(error),
        "{log_lines} more log lines said the same"
    );
}

/// Prices that were already stored and are different now.
fn updated(counts: &Counts) -> u64 {
    counts.changed + counts.reopened
}

/// Whatever was seen and asked for no write, so that
/// seen = inserted + updated + skipped + rejected.
fn skipped(counts: &Counts) -> u64 {
    counts.unchanged + counts.stale + counts.no_price
}

fn removed(keys: &[Key], tags: &[String]) -> String {
    if keys.contains(&Key::races_by_stage()) {
        return "Invalidated races cache - next API request will fetch fresh data".into();
    }
    match (keys, tags) {
        ([], [pattern]) => return format!("Invalidated {}", plain(pattern)),
        ([], _) => return format!("Invalidated {} tags and patterns", tags.len()),
        _ => {}
    }
    match keys.len() {
        1 => "Invalidated 1 cached answer".into(),
        n => format!("Invalidated {n} cached answers"),
    }
}

fn more(collapsed: u64) -> String {
    match collapsed {
        0 => String::new(),
        n => format!(" ({n} more log lines said the same)"),
    }
}

fn plain(error: &str) -> String {
    plain_text(error, ERROR_CHARS)
}

fn seconds(ms: u64) -> Decimal {
    (Decimal::from(ms) / Decimal::ONE_THOUSAND)
        .round_dp(1)
        .normalize()
}

fn price(decimal: Option<&Decimal>) -> String {
    decimal.map_or_else(|| "-".into(), |d| d.normalize().to_string())
}
