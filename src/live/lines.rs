//! The log line of each published event, written by the event bus. Operators grep for these texts, so
//! they are part of the program's interface, and golden tests in `tests/logs.rs` fix them. A local variable that
//! a tracing macro takes by its name is a field of the line: renaming it renames the field.

use rust_decimal::Decimal;
use tracing::{debug, error, info, warn};

use super::dedup::HeldLines;
use super::{DaemonEvent, read_state_name};
use oddsd_core::key::Key;
use oddsd_core::model::sanitize_text;

/// Longest text from outside in one line: an error, a pattern.
const MAX_TEXT_CHARS: usize = 400;

/// Writes the line of an event. `held` is the number of equal lines that were not written since the
/// last one; 0 for events that are no failures.
pub(super) fn write(published: &DaemonEvent, held: u64) {
    let event = published.name();
    let log_lines = held_lines(held);
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
        DaemonEvent::CycleComplete { .. } => write_cycle_complete(published),
        DaemonEvent::FetchFailed { .. } => write_fetch_failed(published, held),
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
            error = printable(error),
            log_lines,
            "The database did not confirm; next try in {} s, from the stored rows{}",
            seconds(*retry_ms),
            held_suffix(held)
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
        DaemonEvent::Invalidated { .. } => write_invalidated(published),
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
            error = printable(error),
            backend,
            keys,
            log_lines,
            "Invalidation failed, will retry; readers may see data up to {stale_s} s old{}",
            held_suffix(held)
        ),
        DaemonEvent::Read {
            key,
            state,
            took_ms,
        } => {
            let (key, state) = (key.as_str(), read_state_name(*state));
            debug!(event, key, state, took_ms, "Cache {state}: {key}");
        }
        DaemonEvent::PriceMoved { .. } => write_price_moved(published),
        DaemonEvent::StatusChanged {
            cycle,
            status,
            by,
            events,
        } => {
            let (status, by) = (status.as_str(), by.as_str());
            let subject = match events {
                1 => "event is",
                _ => "events are",
            };
            info!(
                event,
                cycle, status, by, events, "{events} {subject} {status} now"
            );
        }
        DaemonEvent::RequestFailed { error } => warn!(
            event,
            error = printable(error),
            log_lines,
            "A request could not be answered from the database{}",
            held_suffix(held)
        ),
        DaemonEvent::AcceptFailed { error } => warn!(
            event,
            error = printable(error),
            log_lines,
            "A connection could not be accepted{}",
            held_suffix(held)
        ),
        DaemonEvent::TargetFailed { version, error } => warn!(
            event,
            version,
            error = printable(error),
            log_lines,
            "A target could not be rendered; the others were removed{}",
            held_suffix(held)
        ),
        DaemonEvent::Leading { holder, fence } => {
            info!(event, holder, fence, "Holding the lease as {holder}");
        }
        DaemonEvent::Standby { holder } => {
            info!(event, holder, "Standing by: {holder} holds the lease");
        }
    }
}

fn write_cycle_complete(published: &DaemonEvent) {
    let DaemonEvent::CycleComplete {
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
    } = published
    else {
        return;
    };
    let event = published.name();
    let updated = counts.changed + counts.reopened;
    // Prices that needed no write, so that seen = inserted + updated + skipped + rejected.
    let skipped = counts.unchanged + counts.stale + counts.no_price;
    // The words count new prices as updated: "0 updated" would read as if a first cycle had stored nothing.
    let stored = counts.inserted + updated;
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
        "Cycle complete: {stored} updated | {skipped} skipped | {races} races | \
         {horses} horses | {bookmakers} bookmakers | {errors} errors"
    );
}

fn write_fetch_failed(published: &DaemonEvent, held: u64) {
    let DaemonEvent::FetchFailed {
        cycle,
        feed,
        failure,
        needs_operator,
        attempt,
        retry_ms,
        error,
    } = published
    else {
        return;
    };
    let event = published.name();
    let log_lines = held_lines(held);
    let error = printable(error);
    let suffix = held_suffix(held);
    let retry = seconds(*retry_ms);
    // The level must be constant at a call site, so each level needs a call of its own.
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
            "Fetch from {feed} refused; next try in {retry} s, but it needs a person{suffix}"
        ),
        false => log!(
            warn,
            "Fetch from {feed} failed; next try in {retry} s{suffix}"
        ),
    }
}

fn write_invalidated(published: &DaemonEvent) {
    let DaemonEvent::Invalidated {
        cycle,
        rule,
        backend,
        keys,
        tags,
        reason,
        attempts,
        took_ms,
        removals: _,
        deleted,
    } = published
    else {
        return;
    };
    let event = published.name();
    info!(
        event,
        cycle,
        rule,
        backend,
        keys = keys.len() + tags.len(),
        took_ms,
        reason,
        attempts = (*attempts > 1).then_some(attempts),
        deleted,
        "{}",
        invalidated_text(keys, tags)
    );
}

fn write_price_moved(published: &DaemonEvent) {
    let DaemonEvent::PriceMoved {
        cycle,
        event: race,
        selection,
        bookmaker,
        from,
        to,
        percent,
        significant,
    } = published
    else {
        return;
    };
    let event = published.name();
    // The macro evaluates its arguments only if debug lines are enabled.
    debug!(
        event,
        cycle,
        race = race.as_str(),
        runner = selection.as_str(),
        bookmaker = bookmaker.as_str(),
        from = price_text(from.as_ref()),
        to = price_text(to.as_ref()),
        percent = percent.map(|percent| percent.to_string()),
        significant,
        "{bookmaker}: {selection} {} → {}",
        price_text(from.as_ref()),
        price_text(to.as_ref())
    );
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
        error = printable(error),
        "{log_lines} more log lines said the same"
    );
}

fn invalidated_text(keys: &[Key], tags: &[String]) -> String {
    if keys.contains(&Key::races_by_stage()) {
        return "Invalidated races cache - next API request will fetch fresh data".into();
    }
    match (keys, tags) {
        ([], [tag_or_pattern]) => format!("Invalidated {}", printable(tag_or_pattern)),
        ([], _) => format!("Invalidated {} tags and patterns", tags.len()),
        ([_], _) => "Invalidated 1 cached answer".into(),
        _ => format!("Invalidated {} cached answers", keys.len()),
    }
}

fn held_lines(held: u64) -> Option<u64> {
    (held > 0).then_some(held)
}

fn held_suffix(held: u64) -> String {
    match held {
        0 => String::new(),
        n => format!(" ({n} more log lines said the same)"),
    }
}

fn printable(text: &str) -> String {
    sanitize_text(text, MAX_TEXT_CHARS)
}

fn seconds(ms: u64) -> Decimal {
    (Decimal::from(ms) / Decimal::ONE_THOUSAND)
        .round_dp(1)
        .normalize()
}

fn price_text(decimal: Option<&Decimal>) -> String {
    decimal.map_or_else(|| "-".into(), |d| d.normalize().to_string())
}
