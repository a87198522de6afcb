//! The measured values of one run. The sections of `write` collect them in turns, so that other load of the machine
//! affects all variants alike; the turns before `end_warmup` do not count.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::report::median;

/// Values by variant and by percent changed.
#[derive(Default)]
pub struct Samples {
    values: BTreeMap<(&'static str, u32), Vec<f64>>,
    end_warmup: bool,
}

impl Samples {
    /// From now on values count.
    pub fn end_warmup(&mut self) {
        self.end_warmup = true;
    }

    /// In milliseconds.
    pub fn time(&mut self, variant: &'static str, percent: u32, took: Duration) {
        self.value(variant, percent, took.as_secs_f64() * 1000.0);
    }

    pub fn value(&mut self, variant: &'static str, percent: u32, value: f64) {
        if self.end_warmup {
            self.values
                .entry((variant, percent))
                .or_default()
                .push(value);
        }
    }

    pub fn median(&self, variant: &'static str, percent: u32) -> f64 {
        let values = self.values.get(&(variant, percent));
        values.map_or(f64::NAN, |values| median(values))
    }

    pub fn all_values(&self, variant: &'static str) -> Vec<f64> {
        let of = self.values.iter().filter(|((name, _), _)| *name == variant);
        of.flat_map(|(_, values)| values.iter().copied()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warm_up_does_not_count() {
        let mut samples = Samples::default();
        samples.value("a", 10, 500.0);
        samples.end_warmup();
        for ms in [3, 1, 2] {
            samples.time("a", 10, Duration::from_millis(ms));
        }
        assert_eq!(samples.median("a", 10), 2.0);
        assert_eq!(samples.all_values("a").len(), 3);
        assert!(samples.median("a", 90).is_nan());
    }
}
