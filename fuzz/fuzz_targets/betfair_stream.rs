//! Fuzzes the exchange's stream: the input is a sequence of `mcm` lines, applied to one state.

#![no_main]

use libfuzzer_sys::fuzz_target;
use oddsd_feeds::betfair::MarketStream;

fuzz_target!(|text: &str| {
    let mut stream = MarketStream::default();
    for line in text.lines() {
        let _ = stream.apply_line(line);
    }
});
