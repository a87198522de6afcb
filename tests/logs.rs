//! The lines that people grep, word for word, and the laws that keep every line one line.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use chrono::DateTime;
use oddsd::key::Key;
use oddsd::live::{Activity, LINES, Live, ReadState};
use oddsd::log::{Lines, LogFormat, Record, Value, line};
use oddsd::model::{Counts, EventStatus, StatusSource};
use proptest::prelude::*;
use rust_decimal::Decimal;
use tracing_subscriber::layer::SubscriberExt;

use oddsd_testkit::log::hear_all;

/// What `tell` writes, each line without its time.
fn written(format: LogFormat, tell: impl FnOnce()) -> Vec<String> {
    let written = Arc::new(Mutex::new(String::new()));
    let sink = Arc::clone(&written);
    let lines = Lines::new(format, false, move |text: &str| {
        sink.lock().expect("no panic while writing").push_str(text);
    });
    hear_all();
    let subscriber = tracing_subscriber::registry().with(lines);
    tracing::subscriber::with_default(subscriber, tell);
    let text = written.lock().expect("no panic while writing").clone();
    text.lines().map(without_time).collect()
}

fn without_time(line: &str) -> String {
    match line.split_once(' ') {
        Some((ts, rest)) if ts.starts_with("ts=") => rest.to_owned(),
        _ => line.to_owned(),
    }
}

fn complete(counts: Counts, facts: u64) -> Activity {
    Activity::CycleComplete {
        cycle: 1042,
        counts,
        facts,
        races: 3,
        horses: 33,
        bookmakers: 26,
        errors: 0,
        fetch_ms: 412,
        diff_ms: 3,
        write_ms: 38,
        next_s: 10,
    }
}

fn fetch_failed(needs_person: bool) -> Activity {
    Activity::FetchFailed {
        cycle: 1043,
        feed: "racing_api".into(),
        failure: if needs_person {
            "unauthorized"
        } else {
            "server_error"
        },
        needs_person,
        attempt: 2,
        retry_ms: 3500,
        error: "HTTP 503 from the feed".into(),
    }
}

fn invalidated(keys: Vec<Key>, attempts: u32, actor: Option<&str>) -> Activity {
    Activity::Invalidated {
        cycle: actor.is_none().then_some(1042),
        rule: "live-odds".into(),
        backend: "upstash",
        keys,
        tags: Vec::new(),
        reason: "PRICE_CHANGE",
        attempts,
        took_ms: 9,
        actor: actor.map(Into::into),
    }
}

fn invalidate_failed() -> Activity {
    Activity::InvalidateFailed {
        cycle: Some(1044),
        backend: "upstash",
        keys: 4,
        attempt: 1,
        retry_ms: 400,
        stale_s: 60,
        error: "timeout".into(),
    }
}

/// Every activity beside the line it becomes.
fn golden() -> Vec<(Activity, &'static str)> {
    let counts = Counts {
        changed: 120,
        reopened: 7,
        unchanged: 2450,
        stale: 3,
        no_price: 4,
        ..Counts::default()
    };
    let event_key = || Key::event_prices(&"rac_1".into());
    vec![
        (
            Activity::Started {
                version: "0.1.0",
                feed: "racing_api".into(),
                store: "postgres".into(),
                cache: "upstash".into(),
            },
            r#"level=info event=daemon.started msg="oddsd 0.1.0 started: racing_api → postgres → upstash" version=0.1.0 feed=racing_api store=postgres cache=upstash"#,
        ),
        (
            complete(counts, 0),
            r#"level=info event=cycle.complete msg="Cycle complete: 127 updated | 2457 skipped | 3 races | 33 horses | 26 bookmakers | 0 errors" cycle=1042 inserted=0 updated=127 withdrawn=0 skipped=2457 rejected=0 fetch_ms=412 diff_ms=3 write_ms=38 next_s=10"#,
        ),
        (
            complete(Counts::default(), 2),
            r#"level=info event=cycle.complete msg="Cycle complete: 0 updated | 0 skipped | 3 races | 33 horses | 26 bookmakers | 0 errors" cycle=1042 inserted=0 updated=0 withdrawn=0 skipped=0 rejected=0 fetch_ms=412 diff_ms=3 write_ms=38 next_s=10 facts=2"#,
        ),
        (
            invalidated(
                vec![Key::races_by_stage(), event_key(), event_key(), event_key()],
                1,
                None,
            ),
            r#"level=info event=cache.invalidated msg="Invalidated races cache - next API request will fetch fresh data" cycle=1042 rule=live-odds backend=upstash keys=4 took_ms=9 reason=PRICE_CHANGE"#,
        ),
        (
            invalidated(vec![event_key(), event_key()], 3, None),
            r#"level=info event=cache.invalidated msg="Invalidated 2 cached answers" cycle=1042 rule=live-odds backend=upstash keys=2 took_ms=9 reason=PRICE_CHANGE attempts=3"#,
        ),
        (
            invalidated(vec![event_key()], 1, Some("ann")),
            r#"level=info event=cache.invalidated msg="Invalidated 1 cached answer" rule=live-odds backend=upstash keys=1 took_ms=9 reason=PRICE_CHANGE actor=ann"#,
        ),
        (
            invalidate_failed(),
            r#"level=warn event=cache.invalidate_failed msg="Invalidation failed, will retry; readers may see data up to 60 s old" cycle=1044 attempt=1 retry_ms=400 error="timeout" backend=upstash keys=4"#,
        ),
        (
            fetch_failed(false),
            r#"level=warn event=cycle.fetch_failed msg="Fetch from racing_api failed; next try in 3.5 s" cycle=1043 feed=racing_api failure=server_error attempt=2 retry_ms=3500 error="HTTP 503 from the feed""#,
        ),
        (
            fetch_failed(true),
            r#"level=error event=cycle.fetch_failed msg="Fetch from racing_api refused; next try in 3.5 s, but it needs a person" cycle=1043 feed=racing_api failure=unauthorized attempt=2 retry_ms=3500 error="HTTP 503 from the feed""#,
        ),
        (
            Activity::StoreFailed {
                cycle: 1043,
                attempt: 1,
                retry_ms: 2000,
                error: "connection reset".into(),
            },
            r#"level=warn event=cycle.store_failed msg="The database did not confirm; next try in 2 s, from the stored rows" cycle=1043 attempt=1 retry_ms=2000 error="connection reset""#,
        ),
        (
            Activity::RefusedRemovals {
                cycle: 9,
                removals: 700,
                open: 900,
            },
            r#"level=warn event=cycle.removals_refused msg="Kept 700 of 900 open prices that the answer left out, until a second answer agrees" cycle=9 removals=700 open=900"#,
        ),
        (
            Activity::Read {
                key: Key::races_by_stage(),
                state: ReadState::Miss,
                took_ms: 3,
                cycle: Some(5),
            },
            r#"level=debug event=cache.read msg="Cache miss: races:by-stage:v1" key=races:by-stage:v1 state=miss took_ms=3 cycle=5"#,
        ),
        (
            Activity::PriceMoved {
                cycle: 5,
                event: "rac_1".into(),
                selection: "hrs_2".into(),
                bookmaker: "bet365".into(),
                from: None,
                to: Some(Decimal::new(450, 2)),
                percent: None,
                significant: true,
            },
            r#"level=debug event=price.moved msg="bet365: hrs_2 - → 4.5" cycle=5 race=rac_1 runner=hrs_2 bookmaker=bet365 from=- to=4.5 significant=true"#,
        ),
        (
            Activity::Leading {
                holder: "a1b2".into(),
                fence: 4,
            },
            r#"level=info event=lease.leading msg="Holding the lease as a1b2" holder=a1b2 fence=4"#,
        ),
        (
            Activity::StandingBy {
                holder: "a1b2".into(),
            },
            r#"level=info event=lease.standby msg="Standing by: a1b2 holds the lease" holder=a1b2"#,
        ),
        (
            Activity::StatusChanged {
                cycle: 8,
                status: EventStatus::Live,
                by: StatusSource::Clock,
                events: 3,
            },
            r#"level=info event=status.changed msg="3 events are live now" cycle=8 status=live by=clock events=3"#,
        ),
        (
            Activity::Stopped {
                reason: "SIGTERM".into(),
            },
            r#"level=info event=daemon.stopped msg="oddsd stopped: SIGTERM" reason=SIGTERM"#,
        ),
    ]
}

#[test]
fn every_activity_has_exactly_its_line() {
    for (activity, expected) in golden() {
        let lines = written(LogFormat::Logfmt, || Live::new().say(activity));
        assert_eq!(lines, [expected]);
    }
}

#[test]
fn a_failure_that_repeats_is_one_line_and_its_end_tells_the_count() {
    let live = Live::new();
    let lines = written(LogFormat::Logfmt, || {
        for _ in 0..28 {
            live.say(fetch_failed(false));
        }
        live.say(complete(Counts::default(), 0));
    });
    assert_eq!(lines.len(), 3, "{lines:#?}");
    assert_eq!(
        lines[1],
        r#"level=info event=log.collapsed msg="27 more log lines said the same" of=cycle.fetch_failed log_lines=27 error="HTTP 503 from the feed""#
    );
    assert_eq!(
        live.counters().fetch_failures,
        28,
        "all are counted, one is written"
    );
    assert_eq!(live.counters().quiet_cycles, 1);
}

/// The documented list and the lines are the same thing.
#[test]
fn the_documented_fields_are_the_fields_of_the_lines() {
    let live = Live::new();
    let lines = written(LogFormat::Json, || {
        golden().into_iter().for_each(|(a, _)| live.say(a));
        live.say(invalidate_failed());
        live.say(invalidated(vec![Key::races_by_stage()], 1, None));
    });
    let mut seen = BTreeSet::new();
    for text in &lines {
        let object: serde_json::Value = serde_json::from_str(text).expect("a line is JSON");
        let event = object["event"].as_str().expect("a line has an event");
        let documented = LINES
            .iter()
            .find(|l| l.event == event)
            .unwrap_or_else(|| panic!("{event} is not in the documented list"));
        for field in documented.fields {
            let (name, optional) = field
                .strip_suffix('?')
                .map_or((*field, false), |n| (n, true));
            assert!(optional || object.get(name).is_some(), "{event}: no {name}");
        }
        for name in object.as_object().expect("a line is an object").keys() {
            let known = ["ts", "level", "event", "msg"].contains(&name.as_str())
                || documented
                    .fields
                    .iter()
                    .any(|f| f.trim_end_matches('?') == name);
            assert!(known, "{event}: {name} is not documented");
        }
        seen.insert(event.to_owned());
    }
    let all: BTreeSet<_> = LINES.iter().map(|l| l.event.to_owned()).collect();
    assert_eq!(seen, all, "documented lines without a golden example");
}

#[test]
fn foreign_text_cannot_forge_a_line() {
    let forged = Activity::StoreFailed {
        cycle: 1,
        attempt: 1,
        retry_ms: 1000,
        error: "x\" cycle=9\nts=now event=cycle.complete \u{1b}[2J".into(),
    };
    for format in LogFormat::ALL {
        let lines = written(format, || Live::new().say(forged.clone()));
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(!lines[0].contains('\u{1b}'), "{lines:?}");
    }
}

#[test]
fn a_librarys_line_says_whose_it_is() {
    let lines = written(
        LogFormat::Logfmt,
        || tracing::warn!(target: "sqlx", level = 3, "slow statement"),
    );
    assert_eq!(
        lines,
        [r#"level=warn msg="slow statement" level_=3 target=sqlx"#]
    );
}

#[test]
fn pretty_is_time_level_message_fields_and_color_is_extra() {
    let record = Record {
        at: DateTime::from_timestamp(1_800_000_000, 0).expect("valid"),
        level: tracing::Level::WARN,
        event: Some("cycle.fetch_failed".into()),
        message: r#"the feed said "no""#.into(),
        fields: vec![("cycle".into(), Value::Whole(7))],
    };
    let plain = line(&record, LogFormat::Pretty, false);
    assert_eq!(plain, r#"08:00:00 WARN  the feed said "no"  cycle=7"#);
    let colored = line(&record, LogFormat::Pretty, true);
    assert!(colored.contains("\u{1b}[33mWARN"), "{colored:?}");
    assert!(colored.ends_with("\u{1b}[0m"), "{colored:?}");
}

fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<String>().prop_map(Value::Text),
        any::<i64>().prop_map(|n| Value::Whole(n.into())),
        any::<f64>().prop_map(Value::Real),
        any::<bool>().prop_map(Value::Flag),
    ]
}

fn any_record() -> impl Strategy<Value = Record> {
    let fields = prop::collection::vec(("[a-z]{1,3}|ts|msg|.{0,6}", any_value()), 0..6);
    (any::<Option<String>>(), any::<String>(), fields).prop_map(|(event, message, fields)| Record {
        at: DateTime::UNIX_EPOCH,
        level: tracing::Level::INFO,
        event,
        message,
        fields,
    })
}

/// Reads a logfmt line back: names with their unquoted values.
fn parse(line: &str) -> Vec<(String, String)> {
    let (mut pairs, mut rest) = (Vec::new(), line);
    while let Some((name, tail)) = rest.split_once('=') {
        let value: String;
        if tail.starts_with('"') {
            let mut strings = serde_json::Deserializer::from_str(tail).into_iter::<String>();
            value = strings.next().expect("a value").expect("a quoted value");
            rest = &tail[strings.byte_offset()..];
        } else {
            let end = tail.find(' ').unwrap_or(tail.len());
            value = tail[..end].to_owned();
            rest = &tail[end..];
        }
        pairs.push((name.to_owned(), value));
        rest = rest.strip_prefix(' ').unwrap_or(rest);
    }
    assert!(rest.is_empty(), "left over: {rest:?}");
    pairs
}

proptest! {
    #[test]
    fn every_line_is_one_line_without_hidden_characters(record in any_record()) {
        for format in LogFormat::ALL {
            let text = line(&record, format, false);
            let hidden = text.chars().any(|c| c.is_control() || ('\u{2028}'..='\u{202e}').contains(&c));
            prop_assert!(!hidden, "{:?}", text);
        }
    }

    #[test]
    fn json_is_valid_for_any_input_and_says_the_same(record in any_record()) {
        let text = line(&record, LogFormat::Json, false);
        let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text)
            .map_err(|e| TestCaseError::fail(format!("{e}: {text}")))?;
        prop_assert_eq!(object["msg"].as_str(), Some(record.message.as_str()));
        prop_assert_eq!(object["level"].as_str(), Some("info"));
        prop_assert_eq!(object.get("event").and_then(|e| e.as_str()), record.event.as_deref());
    }

    #[test]
    fn logfmt_reads_back_as_it_was_written(record in any_record()) {
        let pairs = parse(&line(&record, LogFormat::Logfmt, false));
        let get = |name: &str| pairs.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
        prop_assert_eq!(get("msg"), Some(record.message.as_str()));
        prop_assert_eq!(get("event"), record.event.as_deref());
        let names: BTreeSet<_> = pairs.iter().map(|(n, _)| n).collect();
        prop_assert_eq!(names.len(), pairs.len(), "a name occurs twice");
        let last = record.fields.iter().rev().find(|(n, _)| n == "ab");
        let last = last.map(|(_, value)| value.to_string());
        prop_assert_eq!(get("ab"), last.as_deref());
    }
}
