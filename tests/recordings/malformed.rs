//! Property tests: no malformed text panics a parser.

use std::io::Cursor;

use oddsd_feeds::betfair::MarketStream;
use oddsd_feeds::odds_api::{OddsFormat, parse_odds};
use oddsd_feeds::recording::Recording;
use oddsd_feeds::replay::Replay;
use oddsd_testkit::mutate::mutated_text;
use proptest::prelude::*;

use super::exchange::MCM;
use super::{game, t0};

proptest! {
    #[test]
    fn malformed_league_body_never_panics(body in mutated_text(game("-110"))) {
        for format in [OddsFormat::American, OddsFormat::Decimal] {
            if let Ok(parsed) = parse_odds(&body, t0(), "baseball_mlb", format) {
                let kept: usize = parsed.events.iter().map(|e| e.prices.len()).sum();
                prop_assert_eq!(kept as u64 + parsed.rejected.total(), parsed.prices_seen);
            }
        }
    }

    #[test]
    fn malformed_exchange_line_never_panics(line in mutated_text(MCM[0].into()), next in mutated_text(MCM[2].into())) {
        let mut stream = MarketStream::default();
        for line in [&line, MCM[0], &next, MCM[3], &line, &next] {
            let _ = stream.apply_line(line);
        }
    }

    #[test]
    fn malformed_recording_never_panics(text in mutated_text(MCM.join("\n") + "\n" + &game("150").replace('\n', " "))) {
        let recording = Recording::from_reader("malformed", Cursor::new(text));
        if let Ok(mut replay) = recording.and_then(Replay::new) {
            while let Ok(Some(_)) = replay.next() {}
        }
    }
}
