//! The log: the exact line of each published event, the documented list of events against the source, and
//! properties of the formats.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};

use chrono::DateTime;
use oddsd::live::{DaemonEvent, EventBus};
use oddsd::log::{
    FieldValue, LOG_EVENTS, LogFormat, LogLayer, LogRecord, dropped_record, format_record,
};
use oddsd_cache::CacheReadState;
use oddsd_core::key::Key;
use oddsd_core::model::{CycleCounts, EventStatus, StatusSource};
use proptest::prelude::*;
use rust_decimal::Decimal;
use tracing_subscriber::layer::SubscriberExt;

use oddsd_testkit::log::keep_callsites_enabled;

const FORMATS: [LogFormat; 3] = [LogFormat::Pretty, LogFormat::Logfmt, LogFormat::Json];

/// The lines that `work` logs, each without its time.
fn written(format: LogFormat, work: impl FnOnce()) -> Vec<String> {
    let written = Arc::new(Mutex::new(String::new()));
    let sink = Arc::clone(&written);
    let layer = LogLayer::new(format, false, move |text: &str| {
        sink.lock().expect("no panic while writing").push_str(text);
    });
    keep_callsites_enabled();
    let subscriber = tracing_subscriber::registry().with(layer);
    tracing::subscriber::with_default(subscriber, work);
    let text = written.lock().expect("no panic while writing").clone();
    text.lines().map(without_time).collect()
}

fn without_time(line: &str) -> String {
    match line.split_once(' ') {
        Some((ts, rest)) if ts.starts_with("ts=") => rest.to_owned(),
        _ => line.to_owned(),
    }
}

fn complete(counts: CycleCounts, facts: u64) -> DaemonEvent {
    DaemonEvent::CycleComplete {
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

fn fetch_failed(needs_operator: bool) -> DaemonEvent {
    DaemonEvent::FetchFailed {
        cycle: 1043,
        feed: "racing_api".into(),
        failure: if needs_operator {
            "unauthorized"
        } else {
            "server_error"
        },
        needs_operator,
        attempt: 2,
        retry_ms: 3500,
        error: "HTTP 503 from the feed".into(),
    }
}

fn invalidated(cycle: Option<u64>, keys: Vec<Key>, attempts: u32) -> DaemonEvent {
    DaemonEvent::Invalidated {
        cycle,
        rule: "live-odds".into(),
        backend: "upstash",
        keys,
        tags: Vec::new(),
        reason: "PRICE_CHANGE",
        attempts,
        took_ms: 9,
        removals: 1,
        deleted: 2,
    }
}

fn invalidate_failed() -> DaemonEvent {
    DaemonEvent::InvalidateFailed {
        cycle: Some(1044),
        backend: "upstash",
        keys: 4,
        attempt: 1,
        retry_ms: 400,
        stale_s: 60,
        error: "timeout".into(),
    }
}

/// Published events with their lines.
fn golden() -> Vec<(DaemonEvent, &'static str)> {
    let counts = CycleCounts {
        changed: 120,
        reopened: 7,
        unchanged: 2450,
        stale: 3,
        no_price: 4,
        ..CycleCounts::default()
    };
    let event_key = || Key::event_prices(&"rac_1".into());
    vec![
        (
            DaemonEvent::Started {
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
            complete(CycleCounts::default(), 2),
            r#"level=info event=cycle.complete msg="Cycle complete: 0 updated | 0 skipped | 3 races | 33 horses | 26 bookmakers | 0 errors" cycle=1042 inserted=0 updated=0 withdrawn=0 skipped=0 rejected=0 fetch_ms=412 diff_ms=3 write_ms=38 next_s=10 facts=2"#,
        ),
        (
            invalidated(
                Some(1042),
                vec![Key::races_by_stage(), event_key(), event_key(), event_key()],
                1,
            ),
            r#"level=info event=cache.invalidated msg="Invalidated races cache - next API request will fetch fresh data" cycle=1042 rule=live-odds backend=upstash keys=4 took_ms=9 reason=PRICE_CHANGE deleted=2"#,
        ),
        (
            invalidated(Some(1042), vec![event_key(), event_key()], 3),
            r#"level=info event=cache.invalidated msg="Invalidated 2 cached answers" cycle=1042 rule=live-odds backend=upstash keys=2 took_ms=9 reason=PRICE_CHANGE attempts=3 deleted=2"#,
        ),
        (
            invalidated(None, vec![event_key()], 1),
            r#"level=info event=cache.invalidated msg="Invalidated 1 cached answer" rule=live-odds backend=upstash keys=1 took_ms=9 reason=PRICE_CHANGE deleted=2"#,
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
            DaemonEvent::StoreFailed {
                cycle: 1043,
                attempt: 1,
                retry_ms: 2000,
                error: "connection reset".into(),
            },
            r#"level=warn event=cycle.store_failed msg="The database did not confirm; next try in 2 s, from the stored rows" cycle=1043 attempt=1 retry_ms=2000 error="connection reset""#,
        ),
        (
            DaemonEvent::RefusedRemovals {
                cycle: 9,
                removals: 700,
                open: 900,
            },
            r#"level=warn event=cycle.removals_refused msg="Kept 700 of 900 open prices that the answer left out, until a second answer agrees" cycle=9 removals=700 open=900"#,
        ),
        (
            DaemonEvent::Read {
                key: Key::races_by_stage(),
                state: CacheReadState::Miss,
                took_ms: 3,
            },
            r#"level=debug event=cache.read msg="Cache miss: races:by-stage:v1" key=races:by-stage:v1 state=miss took_ms=3"#,
        ),
        (
            DaemonEvent::PriceMoved {
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
            DaemonEvent::RequestFailed {
                error: "connection reset".into(),
            },
            r#"level=warn event=http.store_failed msg="A request could not be answered from the database" error="connection reset""#,
        ),
        (
            DaemonEvent::AcceptFailed {
                error: "too many open files".into(),
            },
            r#"level=warn event=http.accept_failed msg="A connection could not be accepted" error="too many open files""#,
        ),
        (
            DaemonEvent::TargetFailed {
                version: "3fa1".into(),
                error: "no such field".into(),
            },
            r#"level=warn event=rules.target_failed msg="A target could not be rendered; the others were removed" version=3fa1 error="no such field""#,
        ),
        (
            DaemonEvent::Leading {
                holder: "a1b2".into(),
                fence: 4,
            },
            r#"level=info event=lease.leading msg="Holding the lease as a1b2" holder=a1b2 fence=4"#,
        ),
        (
            DaemonEvent::Standby {
                holder: "a1b2".into(),
            },
            r#"level=info event=lease.standby msg="Standing by: a1b2 holds the lease" holder=a1b2"#,
        ),
        (
            DaemonEvent::StatusChanged {
                cycle: 8,
                status: EventStatus::Live,
                by: StatusSource::Clock,
                events: 3,
            },
            r#"level=info event=status.changed msg="3 events are live now" cycle=8 status=live by=clock events=3"#,
        ),
        (
            DaemonEvent::Stopped {
                reason: "SIGTERM".into(),
            },
            r#"level=info event=daemon.stopped msg="oddsd stopped: SIGTERM" reason=SIGTERM"#,
        ),
    ]
}

#[test]
fn published_event_has_exactly_its_line() {
    for (activity, expected) in golden() {
        let lines = written(LogFormat::Logfmt, || EventBus::new().publish(activity));
        assert_eq!(lines, [expected]);
    }
}

#[test]
fn repeated_failure_is_one_line_and_a_count_at_its_end() {
    let live = EventBus::new();
    let lines = written(LogFormat::Logfmt, || {
        for _ in 0..28 {
            live.publish(fetch_failed(false));
        }
        live.publish(complete(CycleCounts::default(), 0));
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

/// The level and fields of each event that something emits.
type Emitted = BTreeMap<String, Vec<(String, BTreeSet<String>)>>;

fn emitted_by_golden_lines() -> Emitted {
    let live = EventBus::new();
    let lines = written(LogFormat::Json, || {
        golden().into_iter().for_each(|(a, _)| live.publish(a));
        // On a bus of its own, which has not seen the same error at the other level.
        EventBus::new().publish(fetch_failed(true));
        live.publish(invalidate_failed());
        tracing::error!(target: "fred", "a library");
        tracing::warn!(target: "fred", "a library");
        tracing::info!(target: "fred", "a library");
        tracing::debug!(target: "fred", "a library");
        tracing::trace!(target: "fred", "a library");
        live.publish(invalidated(Some(1042), vec![Key::races_by_stage()], 1));
    });
    let dropped = format_record(&dropped_record(3), LogFormat::Json, false);
    let mut emitted = Emitted::new();
    for line in lines.iter().chain([&dropped]) {
        let object: BTreeMap<String, serde_json::Value> =
            serde_json::from_str(line).expect("a line is JSON");
        let text = |name: &str| object[name].as_str().expect("a text").to_owned();
        let fields = object
            .keys()
            .filter(|name| !OWN_FIELDS.contains(&name.as_str()));
        let found = (text("level"), fields.cloned().collect());
        emitted.entry(text("event")).or_default().push(found);
    }
    emitted
}

/// Fields of every line.
const OWN_FIELDS: [&str; 4] = ["ts", "level", "event", "msg"];

/// The events that the daemon's source emits by tracing macros with a literal name.
fn emitted_by_source() -> Emitted {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    rust_files(&root.join("src"), &mut files);
    for crate_name in ["core", "store", "cache", "feeds"] {
        rust_files(
            &root.join("crates").join(crate_name).join("src"),
            &mut files,
        );
    }
    let mut emitted = Emitted::new();
    for file in files {
        let text = std::fs::read_to_string(&file).expect("a source file");
        let text = text.split("#[cfg(test)]").next().unwrap_or_default();
        for (level, arguments) in log_macros(text) {
            let arguments = arguments.iter().map(|text| text.as_str());
            let fields: BTreeMap<&str, &str> = arguments
                .take_while(|argument| !argument.starts_with('"'))
                .map(|argument| argument.split_once('=').unwrap_or((argument, argument)))
                .map(|(name, value)| (name.trim().trim_start_matches(['%', '?']), value.trim()))
                .collect();
            let event = fields.get("event").unwrap_or_else(|| {
                panic!(
                    "{}: a log line without an event: {fields:?}",
                    file.display()
                )
            });
            // The lines of published events have a computed name; the golden lines cover them.
            if *event == "event" {
                continue;
            }
            let names = fields.keys().filter(|name| !OWN_FIELDS.contains(name));
            let found = (level, names.map(|name| (*name).to_owned()).collect());
            emitted
                .entry(event.trim_matches('"').to_owned())
                .or_default()
                .push(found);
        }
    }
    emitted
}

fn rust_files(folder: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The level and the top-level arguments of each tracing macro in the text.
fn log_macros(text: &str) -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    for level in ["error", "warn", "info", "debug", "trace"] {
        let call = format!("{level}!(");
        for (at, _) in text.match_indices(&call) {
            let before = text[..at].chars().next_back();
            if before.is_none_or(|c| !c.is_alphanumeric() && c != '_') {
                found.push((level.to_owned(), arguments(&text[at + call.len()..])));
            }
        }
    }
    found
}

/// Splits macro arguments at their top-level commas, up to the closing parenthesis.
fn arguments(text: &str) -> Vec<String> {
    let (mut arguments, mut depth, mut quoted, mut escaped) =
        (vec![String::new()], 0, false, false);
    for c in text.chars() {
        match c {
            '"' if !escaped => quoted = !quoted,
            '(' | '[' | '{' if !quoted => depth += 1,
            ')' if !quoted && depth == 0 => break,
            ')' | ']' | '}' if !quoted => depth -= 1,
            ',' if !quoted && depth == 0 => {
                arguments.push(String::new());
                continue;
            }
            _ => {}
        }
        escaped = c == '\\' && !escaped;
        arguments.last_mut().expect("never empty").push(c);
    }
    let arguments = arguments.iter().map(|argument| argument.trim().to_owned());
    arguments.filter(|argument| !argument.is_empty()).collect()
}

#[test]
fn log_events_are_documented_with_their_levels_and_fields() {
    let mut emitted = emitted_by_source();
    for (event, lines) in emitted_by_golden_lines() {
        emitted.entry(event).or_default().extend(lines);
    }
    let documented: BTreeSet<&str> = LOG_EVENTS.iter().map(|doc| doc.name).collect();
    assert_eq!(
        documented.len(),
        LOG_EVENTS.len(),
        "an event is listed twice"
    );
    let names: BTreeSet<&str> = emitted.keys().map(String::as_str).collect();
    assert_eq!(names, documented, "left: emitted, right: LOG_EVENTS");
    for doc in LOG_EVENTS {
        assert!(is_dotted_name(doc.name), "{} is not area.event", doc.name);
        let lines = &emitted[doc.name];
        let levels: BTreeSet<&str> = lines.iter().map(|(level, _)| level.as_str()).collect();
        let documented: BTreeSet<&str> = doc.level.split(", ").collect();
        assert_eq!(levels, documented, "{}", doc.name);
        let alias = doc.alias.map(|_| "alias");
        let fields = doc.fields.iter().copied().chain(alias);
        for (_, line) in lines {
            for name in line {
                let known = fields
                    .clone()
                    .any(|field| field.trim_end_matches('?') == name);
                assert!(known, "{}: {name} is not documented", doc.name);
            }
            for field in fields.clone().filter(|field| !field.ends_with('?')) {
                assert!(line.contains(field), "{}: a line without {field}", doc.name);
            }
        }
    }
}

fn is_dotted_name(name: &str) -> bool {
    let is_word =
        |word: &str| !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    name.split_once('.')
        .is_some_and(|(area, event)| is_word(area) && is_word(event))
}

/// `UPDATE_DOCS=1` writes the file.
#[test]
fn log_events_have_an_up_to_date_page() {
    let mut page = String::from(
        "# Log events\n\nEvery line of the log has the fields `ts`, `level`, `event` and `msg`, and those of its event. Fields with `?` may be\n\
         absent. An *alias* is the name that other programs\n\
         use for the event; the line holds it in the field `alias`.\n\n\
         | event | level | fields | meaning |\n|---|---|---|---|\n",
    );
    for doc in LOG_EVENTS {
        let fields: Vec<String> = doc
            .fields
            .iter()
            .map(|field| format!("`{field}`"))
            .collect();
        let alias = doc
            .alias
            .map_or(String::new(), |alias| format!(" Alias: `{alias}`."));
        let (name, level, fields) = (doc.name, doc.level, fields.join(" "));
        page += &format!(
            "| `{name}` | {level} | {fields} | {}{alias} |\n",
            doc.meaning
        );
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/logs.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &page).expect("writes");
    }
    let written = std::fs::read_to_string(&path).expect("docs/logs.md");
    assert_eq!(written, page, "write it again with UPDATE_DOCS=1");
}

#[test]
fn error_text_cannot_forge_a_line() {
    let forged = DaemonEvent::StoreFailed {
        cycle: 1,
        attempt: 1,
        retry_ms: 1000,
        error: "x\" cycle=9\nts=now event=cycle.complete \u{1b}[2J".into(),
    };
    for format in FORMATS {
        let lines = written(format, || EventBus::new().publish(forged.clone()));
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(!lines[0].contains('\u{1b}'), "{lines:?}");
    }
}

#[test]
fn line_of_a_library_has_an_event_and_its_target() {
    let lines = written(LogFormat::Logfmt, || {
        tracing::warn!(target: "sqlx", level = 3, "slow statement");
        // As `tracing-log` passes on a record of the crate `log`.
        tracing::warn!(target: "log", { log.target = "fred", log.line = 3 }, "refused");
    });
    assert_eq!(
        lines,
        [
            r#"level=warn event=library.log msg="slow statement" level_=3 target=sqlx"#,
            r#"level=warn event=library.log msg="refused" target=fred"#
        ]
    );
}

#[test]
fn pretty_line_is_time_level_message_and_fields() {
    let record = LogRecord {
        at: DateTime::from_timestamp(1_800_000_000, 0).expect("valid"),
        level: tracing::Level::WARN,
        event: "cycle.fetch_failed".into(),
        message: r#"the feed said "no""#.into(),
        fields: vec![("cycle".into(), FieldValue::Integer(7))],
    };
    let plain = format_record(&record, LogFormat::Pretty, false);
    assert_eq!(plain, r#"08:00:00 WARN  the feed said "no"  cycle=7"#);
    let colored = format_record(&record, LogFormat::Pretty, true);
    assert!(colored.contains("\u{1b}[33mWARN"), "{colored:?}");
    assert!(colored.ends_with("\u{1b}[0m"), "{colored:?}");
}

fn any_value() -> impl Strategy<Value = FieldValue> {
    prop_oneof![
        any::<String>().prop_map(FieldValue::Text),
        any::<i64>().prop_map(|n| FieldValue::Integer(n.into())),
        any::<f64>().prop_map(FieldValue::Float),
        any::<bool>().prop_map(FieldValue::Bool),
    ]
}

fn any_record() -> impl Strategy<Value = LogRecord> {
    let fields = prop::collection::vec(("[a-z]{1,3}|ts|msg|.{0,6}", any_value()), 0..6);
    (any::<String>(), any::<String>(), fields).prop_map(|(event, message, fields)| LogRecord {
        at: DateTime::UNIX_EPOCH,
        level: tracing::Level::INFO,
        event,
        message,
        fields,
    })
}

/// Parses a logfmt line into names and unquoted values.
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
    fn line_has_no_hidden_characters(record in any_record()) {
        for format in FORMATS {
            let text = format_record(&record, format, false);
            let hidden = text.chars().any(|c| c.is_control() || ('\u{2028}'..='\u{202e}').contains(&c));
            prop_assert!(!hidden, "{:?}", text);
        }
    }

    #[test]
    fn json_line_is_valid_and_complete_for_any_record(record in any_record()) {
        let text = format_record(&record, LogFormat::Json, false);
        let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text)
            .map_err(|e| TestCaseError::fail(format!("{e}: {text}")))?;
        prop_assert_eq!(object["msg"].as_str(), Some(record.message.as_str()));
        prop_assert_eq!(object["level"].as_str(), Some("info"));
        prop_assert_eq!(object["event"].as_str(), Some(record.event.as_str()));
    }

    #[test]
    fn logfmt_line_parses_back_for_any_record(record in any_record()) {
        let pairs = parse(&format_record(&record, LogFormat::Logfmt, false));
        let get = |name: &str| pairs.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
        prop_assert_eq!(get("msg"), Some(record.message.as_str()));
        prop_assert_eq!(get("event"), Some(record.event.as_str()));
        let names: BTreeSet<_> = pairs.iter().map(|(n, _)| n).collect();
        prop_assert_eq!(names.len(), pairs.len(), "a name occurs twice");
        let last = record.fields.iter().rev().find(|(n, _)| n == "ab");
        let last = last.map(|(_, value)| value.to_string());
        prop_assert_eq!(get("ab"), last.as_deref());
    }
}
