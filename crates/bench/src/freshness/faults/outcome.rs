//! What a run under faults came to, as measures: ours against each of the others.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::ensure;

use super::breaking::Happened;
use super::course::Course;
use super::ledger::Told;
use super::load::{KEYS, READERS, Sent, WRITERS};
use crate::report::{Bar, Measure};

pub struct Outcome {
    pub course: Course,
    pub happened: Happened,
    pub open_for: Duration,
    /// For how long a task of ours had to wait for the processor.
    pub longest_stall: Duration,
    pub stuck: [u64; 4],
    pub told: [Told; 4],
    pub refused: [u64; 4],
    pub forgotten: [u64; 4],
    pub failed_loads: u64,
}

/// Of the others: what they are called, and the names of ours against them.
struct Other {
    what: &'static str,
    stale: &'static str,
    stuck: &'static str,
    reads: &'static str,
    hits: &'static str,
    refused: &'static str,
}

const OTHERS: [Other; 3] = [
    Other {
        what: "remove after commit",
        stale: "stale_vs_remove_after_commit",
        stuck: "stuck_vs_remove_after_commit",
        reads: "reads_vs_remove_after_commit",
        hits: "hits_vs_remove_after_commit",
        refused: "refused_vs_remove_after_commit",
    },
    Other {
        what: "timestamp at write, clocks 0.2 s ahead and behind",
        stale: "stale_vs_timestamps",
        stuck: "stuck_vs_timestamps",
        reads: "reads_vs_timestamps",
        hits: "hits_vs_timestamps",
        refused: "refused_vs_timestamps",
    },
    Other {
        what: "lease without snapshot",
        stale: "stale_vs_leases",
        stuck: "stuck_vs_leases",
        reads: "reads_vs_leases",
        hits: "hits_vs_leases",
        refused: "refused_vs_leases",
    },
];

impl Outcome {
    /// Everything that was to go wrong did, and nothing else.
    pub fn checked(&self, sent: &Sent) -> anyhow::Result<()> {
        for (what, happened) in [
            ("removal was late", sent.late.load(Relaxed)),
            ("removal came twice", sent.twice.load(Relaxed)),
            ("removal came out of order", sent.disordered.load(Relaxed)),
            ("cache was flushed", self.happened.flushes),
            ("cache came back empty", self.happened.emptied),
            ("cache came back old", self.happened.brought_back),
            ("cache hung", self.happened.hangs),
        ] {
            ensure!(happened > 0, "no {what}: that proves nothing");
        }
        for (n, told) in self.told.iter().enumerate() {
            ensure!(
                told.hits > 0 && told.hits < told.reads,
                "scheme {n} never used its cache, or nothing else: that proves nothing"
            );
            // The database was well all the time. Errors of ours are told as a measure.
            ensure!(
                n == 0 || told.errors == 0,
                "reads failed: {}",
                told.offenders.join("; ")
            );
        }
        ensure!(
            self.failed_loads == 0,
            "{} loads failed while the database was well",
            self.failed_loads
        );
        Ok(())
    }

    pub fn measures(&self, sent: &Sent) -> Vec<Measure> {
        let ours = &self.told[0];
        let mut measures = vec![
            Measure::new("stale_per_million", "stale", self.stale(0), Bar::AtMost(0.0))
                .note(self.stale_note()),
            Measure::new(
                "stale_per_million_but_hangs",
                "stale",
                per_million(ours.stale_reachable, ours.reads),
                Bar::AtMost(0.0),
            )
            .note(format!(
                "the same without the time in which the cache took commands and answered none, so that nobody could be \
                 told; the longest was {} ms late",
                ours.oldest_reachable.as_millis()
            )),
            Measure::new(
                "keys_stuck",
                "keys",
                self.stuck[0] as f64,
                Bar::AtMost(0.0),
            )
            .note(format!(
                "of {KEYS}, in any process, 1 s after the last fault and the last removal; the outbox was empty"
            )),
            Measure::new(
                "read_errors",
                "reads",
                ours.errors as f64,
                Bar::AtMost(0.0),
            )
            .note(format!(
                "of {}, through every fault; the slowest answer took {} ms",
                ours.reads,
                ours.slowest.as_millis()
            )),
            Measure::new("faults", "faults", self.happened.count() as f64, Bar::None).note(format!(
                "seed {}; {}; a transaction open for {:.1} s; {} commits by {WRITERS} writers; of their removals {} late, \
                 {} twice, {} out of order",
                self.course.seed,
                self.happened.told(),
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

    fn against(&self, n: usize, other: &Other) -> [Measure; 5] {
        let told = &self.told[n];
        let compared = |name, unit, ours: f64, theirs: f64, note: String| {
            Measure::new(name, unit, ours, Bar::None)
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
                    other.what,
                    told.stale,
                    told.reads,
                    told.oldest.as_millis()
                ),
            ),
            compared(
                other.stuck,
                "keys",
                self.stuck[0] as f64,
                self.stuck[n] as f64,
                format!("{} removals failed and were forgotten", self.forgotten[n]),
            ),
            compared(
                other.reads,
                "reads",
                self.told[0].reads as f64,
                told.reads as f64,
                format!(
                    "by {READERS} readers each; ours have a first level in one process of three"
                ),
            ),
            compared(
                other.hits,
                "%",
                self.hit_share(0),
                self.hit_share(n),
                "of the reads that a cache answered".into(),
            ),
            compared(
                other.refused,
                "fills",
                self.refused[0] as f64,
                self.refused[n] as f64,
                "answers that were served and not kept".into(),
            ),
        ]
    }

    fn stale_note(&self) -> String {
        let ours = &self.told[0];
        let mut note = format!(
            "{} of {} reads began over {} ms after the commit of a change that they do not show, {} of them from the \
             first level; the longest was {} ms late; no task here waited longer than {} ms for the processor",
            ours.stale,
            ours.reads,
            self.course.allowed.as_millis(),
            ours.stale_first_level,
            ours.oldest.as_millis(),
            self.longest_stall.as_millis(),
        );
        if self.course.quick {
            note += "; a quick run allows more, since the machine may be busy with other things";
        }
        if !ours.offenders.is_empty() {
            note = format!("{note}; {}", ours.offenders.join("; "));
        }
        note
    }

    fn stale(&self, n: usize) -> f64 {
        let told = &self.told[n];
        per_million(told.stale, told.reads)
    }

    fn hit_share(&self, n: usize) -> f64 {
        let told = &self.told[n];
        told.hits as f64 * 100.0 / told.reads.max(1) as f64
    }
}

fn per_million(stale: u64, reads: u64) -> f64 {
    stale as f64 * 1e6 / reads.max(1) as f64
}
