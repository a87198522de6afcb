//! `/metrics`: what is counted, in the text format of Prometheus (0.0.4).

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use tokio::sync::Mutex;

use super::Face;
use crate::audit::{Histogram, Totals};
use crate::cache::Reads;
use crate::live::Counters;

/// The database is asked no more often.
const KEPT: Duration = Duration::from_secs(1);
/// A database that takes longer has no answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// What waits in the outbox, as it was last asked for.
#[derive(Default)]
pub struct Waiting(Mutex<Option<Asked>>);

struct Asked {
    at: Instant,
    told: Option<Outbox>,
}

#[derive(Clone, Copy)]
struct Outbox {
    rows: i64,
    oldest_seconds: f64,
}

impl Waiting {
    /// `None`: the database did not answer.
    async fn now(&self, face: &Face) -> Option<Outbox> {
        // Whoever comes meanwhile waits for the same answer.
        let mut kept = self.0.lock().await;
        if let Some(asked) = &*kept
            && asked.at.elapsed() < KEPT
        {
            return asked.told;
        }
        let status = tokio::time::timeout(PATIENCE, face.store.status()).await;
        let status = status.ok().and_then(Result::ok);
        let told = status.map(|status| Outbox {
            rows: status.outbox_pending,
            oldest_seconds: status.outbox_oldest_seconds,
        });
        let at = Instant::now();
        *kept = Some(Asked { at, told });
        told
    }
}

pub async fn metrics(State(face): State<Arc<Face>>) -> Response {
    let waiting = face.waiting.now(&face).await;
    let mut page = Page::default();
    let (version, backend) = (env!("CARGO_PKG_VERSION"), face.reader.cache().backend());
    page.family("oddsd_build_info", "gauge", "What runs here.");
    page.sample(
        "oddsd_build_info",
        &[
            ("version", version),
            ("store", face.store.backend()),
            ("cache", backend),
        ],
        1.0,
    );
    if let Some(audited) = &face.audited {
        audit(&mut page, &audited.totals(Instant::now()));
    }
    if let Some(outbox) = waiting {
        let name = "oddsd_outbox_pending";
        page.family(name, "gauge", "Removals that wait in the outbox.");
        page.sample(name, &[], outbox.rows as f64);
        let name = "oddsd_outbox_oldest_seconds";
        page.family(name, "gauge", "For how long the oldest of them has waited.");
        page.sample(name, &[], outbox.oldest_seconds);
    }
    reads(&mut page, &face.reader.reads());
    counters(&mut page, &face.live.counters());
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
    (kind, page.0).into_response()
}

fn audit(page: &mut Page, totals: &Totals) {
    if let Some(freshness) = &totals.freshness {
        let help = "From what the feed said until every reader can know it.";
        page.histogram("oddsd_freshness_seconds", help, freshness);
    }
    let help =
        "From the commit until the cache had confirmed the removal; the canary's commits too.";
    page.histogram(
        "oddsd_commit_to_readable_seconds",
        help,
        &totals.commit_to_readable,
    );
    let name = "oddsd_changes_clean_ratio";
    let help = "Share of the changes looked at whose answers were all right within this time of the commit, and stayed so.";
    page.family(name, "gauge", help);
    for (within, share) in totals.shares.told() {
        if let Some(share) = share {
            page.sample(name, &[("within", within)], share);
        }
    }
    let help = "Changes that an answer outlived, by cause; a change can have several.";
    let offenders = totals.offenders.iter();
    let offenders = offenders.map(|(cause, count)| (cause.as_str(), *count));
    page.counters("oddsd_audit_offenders_total", help, "cause", offenders);
    if let Some(age) = totals.canary_age {
        let name = "oddsd_canary_age_seconds";
        page.family(name, "gauge", "Since the canary last reached a reader.");
        page.sample(name, &[], age.as_secs_f64());
    }
}

fn reads(page: &mut Page, reads: &Reads) {
    page.counters(
        "oddsd_cache_reads_total",
        "Reads through the cache, by how they were answered.",
        "result",
        [
            ("first_level_hit", reads.first_hits),
            ("second_level_hit", reads.second_hits),
            ("stale", reads.stale),
            ("miss", reads.misses),
            ("bypass", reads.bypasses),
        ],
    );
    page.counters(
        "oddsd_cache_fills_refused_total",
        "Answers that were served and not kept, by reason: loaded before a removal that they had not seen (late), overtaken by \
         a removal (lease), or loaded for a memory that is gone (floor).",
        "why",
        [
            ("late", reads.refused_late),
            ("lease", reads.refused_lease),
            ("floor", reads.refused_floor),
        ],
    );
    let help = "Times that a reader's answer was loaded from the database.";
    page.counter("oddsd_cache_loads_total", help, reads.loads);
}

fn counters(page: &mut Page, counters: &Counters) {
    let prices = &counters.prices;
    page.counter(
        "oddsd_cycles_total",
        "Looks at the feed that came to their end.",
        counters.cycles,
    );
    page.counters(
        "oddsd_cycle_failures_total",
        "Looks that failed, by where.",
        "at",
        [
            ("fetch", counters.fetch_failures),
            ("store", counters.store_failures),
        ],
    );
    page.counters(
        "oddsd_prices_total",
        "Prices that the feed named, by what became of them.",
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
    let help = "Removals that the cache confirmed.";
    page.counter("oddsd_removals_total", help, counters.removals);
    let help = "Attempts at a removal that it did not confirm.";
    page.counter(
        "oddsd_removal_failures_total",
        help,
        counters.removal_failures,
    );
}

#[derive(Default)]
struct Page(String);

impl Page {
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
        for (bound, count) in histogram.within() {
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
    fn labels_and_help_cannot_break_a_line() {
        let mut page = Page::default();
        page.family("a", "gauge", "one\ntwo \\ three");
        page.sample("a", &[("x", "\"\\\n"), ("y", "z")], 0.5);
        assert_eq!(
            page.0,
            "# HELP a one\\ntwo \\\\ three\n# TYPE a gauge\na{x=\"\\\"\\\\\\n\",y=\"z\"} 0.5\n"
        );
    }
}
