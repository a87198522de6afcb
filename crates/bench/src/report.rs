//! Measures with their baselines and targets, and the report of a run. Every benchmark command returns its measures
//! this way.

use std::fmt::Write;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

/// The threshold that a measure has to meet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    /// Ours takes at most so many times as long as the baseline, which is the least possible.
    AtMostTimes(f64),
    /// The baseline takes at least so many times as long as ours.
    TimesFaster(f64),
    /// Ours is at most this, in the measure's unit.
    AtMost(f64),
    /// Ours is at least this, in the measure's unit.
    AtLeast(f64),
    /// Ours is at most this, or at most so many times the baseline.
    AtMostOr { at_most: f64, times: f64 },
    /// Ours is at most this, and at most so many times the baseline.
    AtMostAnd { at_most: f64, times: f64 },
    /// Reported for comparison.
    None,
}

/// One line of the result. Times are medians.
#[derive(Clone, Debug, Serialize)]
pub struct Measure {
    pub name: &'static str,
    pub unit: &'static str,
    pub ours: f64,
    /// The figure of the other design or of the limit, in the same unit.
    pub baseline: Option<f64>,
    /// Ours ÷ baseline; for `Target::TimesFaster` baseline ÷ ours.
    pub ratio: Option<f64>,
    /// The target as text. The name is part of the JSON format.
    pub bar: Option<String>,
    pub met: Option<bool>,
    pub note: String,
    #[serde(skip)]
    target: Target,
}

impl Measure {
    pub fn new(name: &'static str, unit: &'static str, ours: f64, target: Target) -> Self {
        Self {
            name,
            unit,
            ours: round(ours),
            baseline: None,
            ratio: None,
            bar: None,
            met: None,
            note: String::new(),
            target,
        }
        .compare()
    }

    pub fn against(mut self, baseline: f64) -> Self {
        self.baseline = Some(round(baseline));
        self.compare()
    }

    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }

    fn compare(mut self) -> Self {
        let unit = self.unit;
        let times = self.baseline.map(|baseline| self.ours / baseline);
        self.ratio = match self.target {
            Target::TimesFaster(_) => times.map(f64::recip),
            _ => times,
        }
        // A ratio to zero is not a number.
        .filter(|ratio| ratio.is_finite())
        .map(round);
        (self.bar, self.met) = match self.target {
            Target::AtMostTimes(most) => (Some(format!("≤ {most}×")), times.map(|t| t <= most)),
            Target::TimesFaster(least) => (
                Some(format!("≥ {least}× faster")),
                times.map(|t| t.recip() >= least),
            ),
            Target::AtMost(most) => (Some(format!("≤ {most} {unit}")), Some(self.ours <= most)),
            Target::AtLeast(least) => (Some(format!("≥ {least} {unit}")), Some(self.ours >= least)),
            Target::AtMostOr { at_most, times: t } => (
                Some(format!("≤ {at_most} {unit} or ≤ {t}×")),
                Some(self.ours <= at_most || times.is_some_and(|times| times <= t)),
            ),
            Target::AtMostAnd { at_most, times: t } => (
                Some(format!("≤ {at_most} {unit} and ≤ {t}×")),
                times.map(|times| self.ours <= at_most && times <= t),
            ),
            Target::None => (None, None),
        };
        self
    }
}

/// Four significant digits.
fn round(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let scale = 10f64.powi(3 - value.abs().log10().floor() as i32);
    (value * scale).round() / scale
}

#[derive(Debug, Serialize)]
pub struct Report {
    pub machine: Value,
    pub runs: usize,
    pub measures: Vec<Measure>,
    /// Names of the measures that miss their target.
    pub missed: Vec<&'static str>,
}

impl Report {
    pub fn new(machine: Value, runs: usize, measures: Vec<Measure>) -> Self {
        let missed = measures.iter().filter(|m| m.met == Some(false));
        Self {
            missed: missed.map(|m| m.name).collect(),
            machine,
            runs,
            measures,
        }
    }

    /// The measures as a text table.
    pub fn table(&self) -> String {
        let mut rows =
            vec![["measure", "ours", "against", "ratio", "target", "", ""].map(String::from)];
        for measure in &self.measures {
            let value = |value: f64| format!("{} {}", format_short(value), measure.unit);
            let ratio = measure.ratio.map(|ratio| match measure.target {
                Target::TimesFaster(_) => format!("{}× faster", format_short(ratio)),
                _ => format!("{}×", format_short(ratio)),
            });
            rows.push([
                measure.name.into(),
                value(measure.ours),
                measure.baseline.map(value).unwrap_or_default(),
                ratio.unwrap_or_default(),
                measure.bar.clone().unwrap_or_default(),
                match measure.met {
                    Some(true) => "ok".into(),
                    Some(false) => "MISSED".into(),
                    None => String::new(),
                },
                measure.note.clone(),
            ]);
        }
        let width = |column: usize| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            cells.max().unwrap_or_default()
        };
        let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
        let mut text = String::new();
        for row in &rows {
            let mut line = String::new();
            for (n, (cell, width)) in row.iter().zip(&widths).enumerate() {
                // Numbers are aligned to the right.
                let _ = match n {
                    1..=3 => write!(line, "{cell:>width$}  "),
                    _ => write!(line, "{cell:<width$}  "),
                };
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        let targets = self.measures.iter().filter(|m| m.met.is_some()).count();
        let _ = match self.missed.as_slice() {
            [] => write!(text, "all {targets} targets met"),
            missed => write!(
                text,
                "{} of {targets} targets missed: {}",
                missed.len(),
                missed.join(", ")
            ),
        };
        text
    }
}

/// Three digits, for the table.
fn format_short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        v if v < 1.0 => format!("{value:.3}"),
        v if v < 10.0 => format!("{value:.2}"),
        v if v < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// The middle value; of an even number of values the lower of the two middle ones, so that it was measured.
pub fn median(values: &[f64]) -> f64 {
    at_rank(values, 0.5)
}

pub fn p99(values: &[f64]) -> f64 {
    at_rank(values, 0.99)
}

pub fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn at_rank(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted
        .get(rank.saturating_sub(1))
        .copied()
        .unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn target_is_met_or_missed_in_its_direction() {
        let met = |target, ours: f64, baseline: f64| {
            let measure = Measure::new("m", "ms", ours, target).against(baseline);
            (measure.ratio, measure.met)
        };
        assert_eq!(
            met(Target::AtMostTimes(5.0), 40.0, 10.0),
            (Some(4.0), Some(true))
        );
        assert_eq!(
            met(Target::AtMostTimes(5.0), 60.0, 10.0),
            (Some(6.0), Some(false))
        );
        assert_eq!(
            met(Target::TimesFaster(20.0), 5.0, 110.0),
            (Some(22.0), Some(true))
        );
        assert_eq!(
            met(Target::TimesFaster(20.0), 5.0, 90.0),
            (Some(18.0), Some(false))
        );
        let either = Target::AtMostOr {
            at_most: 8.0,
            times: 0.6,
        };
        assert_eq!(met(either, 7.0, 7.0).1, Some(true));
        assert_eq!(met(either, 9.0, 20.0).1, Some(true));
        assert_eq!(met(either, 9.0, 10.0).1, Some(false));
        let both = Target::AtMostAnd {
            at_most: 8.0,
            times: 0.6,
        };
        assert_eq!(met(both, 7.0, 20.0).1, Some(true));
        assert_eq!(met(both, 7.0, 7.0).1, Some(false));
        assert_eq!(met(both, 9.0, 20.0).1, Some(false));
        assert_eq!(met(Target::None, 9.0, 10.0).1, None);
        assert_eq!(
            Measure::new("m", "MB", 41.0, Target::AtMost(40.0)).met,
            Some(false)
        );
        assert_eq!(
            Measure::new("m", "M/s", 41.0, Target::AtLeast(40.0)).met,
            Some(true)
        );
    }

    #[test]
    fn medians_and_percentiles_are_measured_values() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.0);
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(p99(&hundred), 99.0);
        assert_eq!(p99(&[7.0]), 7.0);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn missed_targets_are_named() {
        let measures = vec![
            Measure::new("good", "ms", 1.0, Target::AtMost(2.0)),
            Measure::new("bad", "ms", 3.0, Target::AtMost(2.0)).note("why"),
            Measure::new("reported", "ms", 3.0, Target::None),
        ];
        let report = Report::new(Value::Null, 3, measures);
        assert_eq!(report.missed, ["bad"]);
        assert!(report.table().contains("1 of 2 targets missed: bad"));
        let json = serde_json::to_value(&report).expect("JSON");
        assert_eq!(json["measures"][1]["met"], false);
        assert_eq!(json["measures"][2]["bar"], Value::Null);
    }

    #[test]
    fn four_significant_digits_are_kept() {
        assert_eq!(round(1234.56), 1235.0);
        assert_eq!(round(0.012_345_6), 0.01235);
        assert_eq!(round(0.0), 0.0);
    }
}
