//! Fuzzes recordings: the input is a whole file in any format and compression, replayed to its end.

#![no_main]

use std::io::Cursor;

use libfuzzer_sys::fuzz_target;
use oddsd_feeds::recording::Recording;
use oddsd_feeds::replay::Replay;

fuzz_target!(|file: &[u8]| {
    let recording = Recording::from_reader("fuzz", Cursor::new(file.to_vec()));
    if let Ok(mut replay) = recording.and_then(Replay::new) {
        while let Ok(Some(_)) = replay.next() {
            let _ = replay.next_at();
        }
    }
});
