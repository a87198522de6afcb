//! The result of a run under faults as measures, ours against each of the other schemes. `faults::measure` builds it,
//! verifies it and returns its measures.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::ensure;

use super::SETTLE_TIME;
use super::commit_log::ReadTotals;
use super::injection::InjectedFaults;
use super::load::{DeliveryCounts, KEYS, READERS, WRITERS};
use super::scenario::FaultScenario;
use super::schemes::PROCESSES;
use crate::report::{Measure, Target};

/// Arrays are by scheme, in the order of `FaultRun::schemes`: ours, remove after commit, timestamps, leases.
pub struct FaultOutcome {
    pub scenario: FaultScenario,
    pub injected: InjectedFaults,
    /// How long the injected transaction was open.
    pub open_for: Duration,
    /// The longest time for which a task had to wait for a CPU.
    pub longest_stall: Duration,
    /// Keys that stayed wrong.
    pub stuck_keys: [u64; 4],
    pub totals: [ReadTotals; 4],
    pub refused_fills: [u64; 4],
    /// Removals that failed and were not repeated.
    pub failed_removals: [u64; 4],
    /// Of ours.
    pub failed_loads: u64,
}

/// Another scheme, and the names of the measures against it.
struct OtherScheme {
    description: &'static str,
    stale: &'static str,
    stuck: &'static str,
    reads: &'static str,
    hits: &'static str,
    refused: &'static str,
}

/// In the order of `FaultRun::schemes`, without ours.
const OTHERS: [OtherScheme; 3] = [
    OtherScheme {
        description: "remove after commit",
        stale: "stale_vs_remove_after_commit",
        stuck: "stuck_vs_remove_after_commit",
        reads: "reads_vs_remove_after_commit",
        hits: "hits_vs_remove_after_commit",
        refused: "refused_vs_remove_after_commit",
    },
    OtherScheme {
        description: "timestamp at write, clocks 0.2 s ahead and behind",
        stale: "stale_vs_timestamps",
        stuck: "stuck_vs_timestamps",
        reads: "reads_vs_timestamps",
        hits: "hits_vs_timestamps",
        refused: "refused_vs_timestamps",
    },
    OtherScheme {
        description: "lease without snapshot",
        stale: "stale_vs_leases",
        stuck: "stuck_vs_leases",
        reads: "reads_vs_leases",
        hits: "hits_vs_leases",
        refused: "refused_vs_leases",
    },
];

impl FaultOutcome {
    /// Fails unless every kind of fault happened, every scheme used its cache, and no load failed.
    pub fn verify(&self, sent: &DeliveryCounts) -> anyhow::Result<()> {
        for (event, count) in [
            ("removal was late", sent.late.load(Relaxed)),
            ("removal was delivered twice", sent.twice.load(Relaxed)),
            ("removal was out of order", sent.disordered.load(Relaxed)),
            ("cache was flushed", self.injected.flushes),
            ("cache restarted empty", self.injected.restarts_empty),
            (
                "cache restarted with an old copy",
                self.injected.restarts_from_copy,
            ),
            ("cache hung", self.injected.hangs),
        ] {
            ensure!(
                count > 0,
                "it never happened that a {event}: the run proves nothing"
            );
        }
        for (n, totals) in self.totals.iter().enumerate() {
            ensure!(
                totals.hits > 0 && totals.hits < totals.reads,
                "scheme {n} answered {} of {} reads from its cache: the run proves nothing",
                totals.hits,
                totals.reads
            );
            // The database had no fault, so the other schemes have no errors. Ours are a measure.
            ensure!(
                n == 0 || totals.errors == 0,
                "reads failed: {}",
                totals.examples.join("; ")
            );
        }
        ensure!(
            self.failed_loads == 0,
            "{} loads failed although the database had no fault",
            self.failed_loads
        );
        Ok(())
    }

    pub fn measures(&self, sent: &DeliveryCounts) -> Vec<Measure> {
        let ours = &self.totals[0];
        let mut measures = vec![
            Measure::new("stale_per_million", "stale", self.stale(0), Target::AtMost(0.0))
                .note(self.stale_note()),
            Measure::new(
                "stale_per_million_but_hangs",
                "stale",
                per_million(ours.stale_without_hangs, ours.reads),
                Target::AtMost(0.0),
            )
            .note(format!(
                "the same reads, less the time in which the cache accepted commands and answered none, so that no removal could \
                 reach it; the longest was {} ms late",
                ours.stalest_without_hangs.as_millis()
            )),
            Measure::new(
                "keys_stuck",
                "keys",
                self.stuck_keys[0] as f64,
                Target::AtMost(0.0),
            )
            .note(format!(
                "of {KEYS}, in any process, {} s after the last fault and the last removal; the outbox was empty",
                SETTLE_TIME.as_secs()
            )),
            Measure::new(
                "read_errors",
                "reads",
                ours.errors as f64,
                Target::AtMost(0.0),
            )
            .note(format!(
                "of {}, through every fault; the slowest answer took {} ms",
                ours.reads,
                ours.slowest.as_millis()
            )),
            Measure::new("faults", "faults", self.injected.count() as f64, Target::None).note(format!(
                "seed {}; {}; a transaction open for {:.1} s; {} commits by {WRITERS} writers; of their removals {} late, \
                 {} twice, {} out of order",
                self.scenario.seed,
                self.injected.describe(),
                self.open_for.as_secs_f64(),
                sent.commits.load(Relaxed),
                sent.late.load(Relaxed),
                sent.twice.load(Relaxed),
                sent.disordered.load(Relaxed),
            )),
        ];
        for (n, other) in (1..).zip(&OTHERS) {
            measures.extend(self.against(n, other));
        }
        measures
    }

    fn against(&self, n: usize, other: &OtherScheme) -> [Measure; 5] {
        let totals = &self.totals[n];
        let compared = |name, unit, ours: f64, theirs: f64, note: String| {
            Measure::new(name, unit, ours, Target::None)
                .against(theirs)
                .note(note)
        };
        [
            compared(
                other.stale,
                "stale",
                self.stale(0),
                self.stale(n),
                format!(
                    "per million reads, against {}: {} of {} reads; the longest was {} ms late",
                    other.description,
                    totals.stale,
                    totals.reads,
                    totals.stalest.as_millis()
                ),
            ),
            compared(
                other.stuck,
                "keys",
                self.stuck_keys[0] as f64,
                self.stuck_keys[n] as f64,
                format!(
                    "{} of its removals failed and were not repeated",
                    self.failed_removals[n]
                ),
            ),
            compared(
                other.reads,
                "reads",
                self.totals[0].reads as f64,
                totals.reads as f64,
                format!(
                    "by {READERS} readers of each scheme; of our {PROCESSES} processes one has an L1"
                ),
            ),
            compared(
                other.hits,
                "%",
                self.hit_share(0),
                self.hit_share(n),
                "of all reads were answered from a cache".into(),
            ),
            compared(
                other.refused,
                "fills",
                self.refused_fills[0] as f64,
                self.refused_fills[n] as f64,
                "fills that the cache refused; the answers were served".into(),
            ),
        ]
    }

    fn stale_note(&self) -> String {
        let ours = &self.totals[0];
        let mut note = format!(
            "{} of {} reads began more than {} ms after the commit of a change that they do not show, {} of them from \
             L1; the longest was {} ms late; no task waited longer than {} ms for a CPU",
            ours.stale,
            ours.reads,
            self.scenario.allowed.as_millis(),
            ours.stale_l1,
            ours.stalest.as_millis(),
            self.longest_stall.as_millis(),
        );
        if self.scenario.quick {
            note += "; a quick run allows more, because of other load on the machine";
        }
        if !ours.examples.is_empty() {
            note = format!("{note}; {}", ours.examples.join("; "));
        }
        note
    }

    fn stale(&self, n: usize) -> f64 {
        let totals = &self.totals[n];
        per_million(totals.stale, totals.reads)
    }

    fn hit_share(&self, n: usize) -> f64 {
        let totals = &self.totals[n];
        totals.hits as f64 * 100.0 / totals.reads.max(1) as f64
    }
}

fn per_million(stale: u64, reads: u64) -> f64 {
    stale as f64 * 1e6 / reads.max(1) as f64
}
