//! `/metrics` in the text format of Prometheus (0.0.4). A Prometheus server scrapes it.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use tokio::sync::Mutex;

use super::{AppState, PROBE_TIMEOUT};
use crate::audit::{AuditTotals, Histogram};
use crate::live::Counters;
use crate::log::dropped_lines;
use oddsd_cache::Reads;
use oddsd_store::Store;

/// Time for which the outbox's size is reused, so that scrapers cannot load the database.
const GAUGE_TTL: Duration = Duration::from_secs(1);

/// The size of the outbox, read from the database at most once a second.
#[derive(Default)]
pub struct OutboxGauge(Mutex<Option<(Instant, Option<OutboxSize>)>>);

#[derive(Clone, Copy)]
struct OutboxSize {
    rows: i64,
    oldest_seconds: f64,
}

impl OutboxGauge {
    /// Returns the size, or `None` if the database did not answer. Concurrent callers share one query.
    async fn read(&self, store: &Store) -> Option<OutboxSize> {
        let mut last = self.0.lock().await;
        if let Some((at, size)) = *last
            && at.elapsed() < GAUGE_TTL
        {
            return size;
        }
        let status = tokio::time::timeout(PROBE_TIMEOUT, store.status()).await;
        let size = status.ok().and_then(Result::ok).map(|status| OutboxSize {
            rows: status.outbox_pending,
            oldest_seconds: status.outbox_oldest_seconds,
        });
        *last = Some((Instant::now(), size));
        size
    }
}

pub async fn metrics(State(state): State<Arc<AppState>>) -> Response {
    let mut text = MetricsText::default();
    let labels = [
        ("version", env!("CARGO_PKG_VERSION")),
        ("store", state.store.backend()),
        ("cache", state.reader.cache().backend()),
    ];
    let help = "The version and backends of this process.";
    text.gauge("oddsd_build_info", help, &labels, 1.0);
    if let Some(audited) = &state.audit {
        audit(&mut text, &audited.totals(Instant::now()));
    }
    if let Some(outbox) = state.outbox_gauge.read(&state.store).await {
        let help = "Removals that wait in the outbox.";
        text.gauge("oddsd_outbox_pending", help, &[], outbox.rows as f64);
        let help = "Age of the oldest removal in the outbox.";
        let age = outbox.oldest_seconds;
        text.gauge("oddsd_outbox_oldest_seconds", help, &[], age);
    }
    reads(&mut text, &state.reader.stats());
    if let Some(commands) = state.reader.cache().commands() {
        let help = "Commands that the cache server answered. Upstash bills each.";
        text.counter("oddsd_cache_commands_total", help, commands);
    }
    counters(&mut text, &state.events.counters());
    let help =
        "Lines of the log that were dropped, because it was not read or could not be written.";
    text.counter("oddsd_log_lines_dropped_total", help, dropped_lines());
    let content_type = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
    (content_type, text.0).into_response()
}

fn audit(text: &mut MetricsText, totals: &AuditTotals) {
    if let Some(freshness) = &totals.freshness {
        let help = "Time from the feed's timestamp until every reader gets the change.";
        text.histogram("oddsd_freshness_seconds", help, freshness);
    }
    let help = "Time from the commit until the cache confirmed the removal, including the canary's commits.";
    let commit = &totals.commit_to_readable;
    text.histogram("oddsd_commit_to_readable_seconds", help, commit);
    let name = "oddsd_changes_clean_ratio";
    let help = "Share of the audited changes after which no reader got an old answer once this time since the commit had passed.";
    text.family(name, "gauge", help);
    for (within, share) in totals.ratios.clean_ratios() {
        if let Some(share) = share {
            text.sample(name, &[("within", within)], share);
        }
    }
    let help = "Changes after which an old answer was served, by cause; a change can have several.";
    let offenders = totals.offenders.iter();
    let offenders = offenders.map(|(cause, count)| (cause.as_str(), *count));
    text.counters("oddsd_audit_offenders_total", help, "cause", offenders);
    if let Some(age) = totals.canary_age {
        let help = "Time since the canary's change last reached a reader.";
        text.gauge("oddsd_canary_age_seconds", help, &[], age.as_secs_f64());
    }
}

fn reads(text: &mut MetricsText, reads: &Reads) {
    text.counters(
        "oddsd_cache_reads_total",
        "Reads through the cache, by result.",
        "result",
        [
            ("first_level_hit", reads.first_hits),
            ("second_level_hit", reads.second_hits),
            ("stale", reads.stale),
            ("miss", reads.misses),
            ("bypass", reads.bypasses),
        ],
    );
    text.counters(
        "oddsd_cache_fills_refused_total",
        "Answers that were served but not stored, by reason: loaded before a removal that they do not include (late), their fill \
         lease was ended by a removal or expired (lease), or loaded in an earlier cache epoch (epoch).",
        "why",
        [
            ("late", reads.refused_late),
            ("lease", reads.refused_lease),
            ("epoch", reads.refused_floor),
        ],
    );
    let help = "Answers that were loaded from the database for a reader.";
    text.counter("oddsd_cache_loads_total", help, reads.loads);
}

fn counters(text: &mut MetricsText, counters: &Counters) {
    let prices = &counters.prices;
    let help = "Polling cycles that completed.";
    text.counter("oddsd_cycles_total", help, counters.cycles);
    text.counters(
        "oddsd_cycle_failures_total",
        "Polling cycles that failed, by step.",
        "at",
        [
            ("fetch", counters.fetch_failures),
            ("store", counters.store_failures),
        ],
    );
    text.counters(
        "oddsd_prices_total",
        "Prices in the feed's answers, by outcome.",
        "outcome",
        [
            ("inserted", prices.inserted),
            ("changed", prices.changed),
            ("reopened", prices.reopened),
            ("withdrawn", prices.withdrawn),
            ("unchanged", prices.unchanged),
            ("stale", prices.stale),
            ("no_price", prices.no_price),
            ("rejected", prices.rejected),
        ],
    );
    let help = "Removals that the cache confirmed, one for each change and reason.";
    text.counter("oddsd_removals_total", help, counters.removals);
    let help = "Attempts at a removal that the cache did not confirm.";
    let failures = counters.removal_failures;
    text.counter("oddsd_removal_failures_total", help, failures);
}

#[derive(Default)]
struct MetricsText(String);

impl MetricsText {
    /// Announces a family; its samples must follow.
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.0.push_str(name);
        for (n, (label, text)) in labels.iter().enumerate() {
            let text = text.replace('\\', "\\\\").replace('"', "\\\"");
            let text = text.replace('\n', "\\n");
            let open = if n == 0 { '{' } else { ',' };
            let _ = write!(self.0, "{open}{label}=\"{text}\"");
        }
        let close = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{close} {value}");
    }

    fn gauge(&mut self, name: &str, help: &str, labels: &[(&str, &str)], value: f64) {
        self.family(name, "gauge", help);
        self.sample(name, labels, value);
    }

    fn counter(&mut self, name: &str, help: &str, count: u64) {
        self.family(name, "counter", help);
        self.sample(name, &[], count as f64);
    }

    fn counters<'a>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        counts: impl IntoIterator<Item = (&'a str, u64)>,
    ) {
        self.family(name, "counter", help);
        for (text, count) in counts {
            self.sample(name, &[(label, text)], count as f64);
        }
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.family(name, "histogram", help);
        let bucket = format!("{name}_bucket");
        for (bound, count) in histogram.cumulative_counts() {
            self.sample(&bucket, &[("le", &bound.to_string())], count as f64);
        }
        let count = histogram.count() as f64;
        self.sample(&bucket, &[("le", "+Inf")], count);
        self.sample(&format!("{name}_sum"), &[], histogram.sum());
        self.sample(&format!("{name}_count"), &[], count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_characters_in_labels_and_help_are_escaped() {
        let mut text = MetricsText::default();
        text.family("a", "gauge", "one\ntwo \\ three");
        text.sample("a", &[("x", "\"\\\n"), ("y", "z")], 0.5);
        assert_eq!(
            text.0,
            "# HELP a one\\ntwo \\\\ three\n# TYPE a gauge\na{x=\"\\\"\\\\\\n\",y=\"z\"} 0.5\n"
        );
    }
}
