//! Property tests: no malformed text panics a parser.

use std::io::Cursor;

use oddsd_feeds::betfair::MarketStream;
use oddsd_feeds::odds_api::{OddsFormat, parse_odds};
use oddsd_feeds::recording::Recording;
use oddsd_feeds::replay::Replay;
use proptest::prelude::*;

use super::exchange::MCM;
use super::{game, t0};

/// Cuts, overwrites and doubles bytes of a valid text.
fn mutated(good: String) -> impl Strategy<Value = String> {
    let edits = prop::collection::vec((any::<prop::sample::Index>(), 0u8..4, any::<u8>()), 1..8);
    edits.prop_map(move |edits| {
        let mut bytes = good.clone().into_bytes();
        for (at, how, byte) in edits {
            if bytes.is_empty() {
                break;
            }
            let at = at.index(bytes.len());
            match how {
                0 => bytes[at] = byte,
                1 => bytes[at] = b"0123456789-.eE\"[]{},:"[usize::from(byte) % 21],
                2 => drop(bytes.drain(at..(at + usize::from(byte)).min(bytes.len()))),
                _ => bytes.extend_from_within(at..),
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

proptest! {
    #[test]
    fn malformed_league_body_never_panics(body in mutated(game("-110"))) {
        for format in [OddsFormat::American, OddsFormat::Decimal] {
            if let Ok(parsed) = parse_odds(&body, t0(), "baseball_mlb", format) {
                let kept: usize = parsed.events.iter().map(|e| e.prices.len()).sum();
                prop_assert_eq!(kept as u64 + parsed.rejected.total(), parsed.prices_seen);
            }
        }
    }

    #[test]
    fn malformed_exchange_line_never_panics(line in mutated(MCM[0].into()), next in mutated(MCM[2].into())) {
        let mut stream = MarketStream::default();
        for line in [&line, MCM[0], &next, MCM[3], &line, &next] {
            let _ = stream.apply_line(line);
        }
    }

    #[test]
    fn malformed_recording_never_panics(text in mutated(MCM.join("\n") + "\n" + &game("150").replace('\n', " "))) {
        let recording = Recording::from_reader("malformed", Cursor::new(text));
        if let Ok(mut replay) = recording.and_then(Replay::new) {
            while let Ok(Some(_)) = replay.next() {}
        }
    }
}
