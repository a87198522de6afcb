//! The log line of each published event, written by the event bus. Operators grep for these texts, so
//! they are part of the program's interface, and golden tests in `tests/logs.rs` fix them.

use rust_decimal::Decimal;
use tracing::{debug, error, info, warn};

use super::dedup::HeldLines;
use super::{DaemonEvent, read_state_name};
use oddsd_core::key::Key;
use oddsd_core::model::sanitize_text;

/// Longest error text of an upstream in one line.
const ERROR_CHARS: usize = 400;

/// Writes the line of an event. `held` is the number of equal lines that were held back since the last.
pub(super) fn write(published: &DaemonEvent, held: u64) {
    let event = published.name();
    let log_lines = (held > 0).then_some(held);
    match published {
        DaemonEvent::Started {
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
        DaemonEvent::Stopped { reason } => info!(event, reason, "oddsd stopped: {reason}"),
        DaemonEvent::CycleComplete {
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
            let updated = counts.changed + counts.reopened;
            // Prices that needed no write, so that seen = inserted + updated + skipped + rejected.
            let skipped = counts.unchanged + counts.stale + counts.no_price;
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
        DaemonEvent::FetchFailed {
            cycle,
            feed,
            failure,
            needs_operator,
            attempt,
            retry_ms,
            error,
        } => {
            let (error, more, retry) = (plain(error), more(held), seconds(*retry_ms));
            // The level is part of a tracing call site, so there are two.
            macro_rules! log {
                ($level:ident, $text:literal) => {
                    $level!(
                        event, cycle, feed, failure, attempt, retry_ms, error, log_lines, $text
                    )
                };
            }
            match needs_operator {
                true => log!(
                    error,
                    "Fetch from {feed} refused; next try in {retry} s, but it needs a person{more}"
                ),
                false => log!(
                    warn,
                    "Fetch from {feed} failed; next try in {retry} s{more}"
                ),
            }
        }
        DaemonEvent::StoreFailed {
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
            more(held)
        ),
        DaemonEvent::RefusedRemovals {
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
        DaemonEvent::Invalidated {
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
        DaemonEvent::InvalidateFailed {
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
            more(held)
        ),
        DaemonEvent::Read {
            key,
            state,
            took_ms,
            cycle,
        } => {
            let (key, state) = (key.as_str(), read_state_name(*state));
            debug!(event, key, state, took_ms, cycle, "Cache {state}: {key}");
        }
        DaemonEvent::PriceMoved {
            cycle,
            event: race,
            selection,
            bookmaker,
            from,
            to,
            percent,
            significant,
        } => {
            // The arguments are only evaluated if debug lines are enabled.
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
        DaemonEvent::StatusChanged {
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
        DaemonEvent::Leading { holder, fence } => {
            info!(event, holder, fence, "Holding the lease as {holder}");
        }
        DaemonEvent::Standby { holder } => {
            info!(event, holder, "Standing by: {holder} holds the lease");
        }
    }
}

/// Writes how many equal lines were held back while a failure lasted.
pub(super) fn write_held(held: &HeldLines) {
    let HeldLines {
        name,
        error,
        log_lines,
    } = held;
    info!(
        event = "log.collapsed",
        of = name,
        log_lines,
        error = plain(error),
        "{log_lines} more log lines said the same"
    );
}

fn removed(keys: &[Key], tags: &[String]) -> String {
    if keys.contains(&Key::races_by_stage()) {
        return "Invalidated races cache - next API request will fetch fresh data".into();
    }
    match (keys, tags) {
        ([], [pattern]) => format!("Invalidated {}", plain(pattern)),
        ([], _) => format!("Invalidated {} tags and patterns", tags.len()),
        ([_], _) => "Invalidated 1 cached answer".into(),
        _ => format!("Invalidated {} cached answers", keys.len()),
    }
}

fn more(held: u64) -> String {
    match held {
        0 => String::new(),
        n => format!(" ({n} more log lines said the same)"),
    }
}

fn plain(error: &str) -> String {
    sanitize_text(error, ERROR_CHARS)
}

fn seconds(ms: u64) -> Decimal {
    (Decimal::from(ms) / Decimal::ONE_THOUSAND)
        .round_dp(1)
        .normalize()
}

fn price(decimal: Option<&Decimal>) -> String {
    decimal.map_or_else(|| "-".into(), |d| d.normalize().to_string())
}
