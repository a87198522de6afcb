//! Logging: pretty on a terminal, logfmt elsewhere, JSON on request, one line an event for any text of a
//! feed or an upstream. `cli::main` starts it.
//!
//! The formatter is our own, because operators and alerts grep these lines: their order
//! (`ts level event msg …`) and quoting are part of the program's interface.

mod events;
mod format;
mod layer;
mod writer;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::sync::OnceLock;

use anyhow::Context;
use chrono::Utc;
use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

pub use events::{LOG_EVENTS, LogEventDoc};
pub use format::{FieldValue, LogRecord, format_record};
pub use layer::LogLayer;
use writer::LogWriter;
pub use writer::dropped_lines;

/// Levels of the libraries. sqlx and fred log errors only, because oddsd reports slow statements and lost
/// connections itself. Their finer levels hold connection details; a filter that names one of them
/// (`info,sqlx=debug`) enables it again.
const LIBRARY_LEVELS: &str = "sqlx=error,fred=error,hyper=warn,hyper_util=warn,reqwest=warn,h2=warn,\
                              rustls=warn,moka=warn";

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Modules of the daemon that became crates; filters with their old names keep working.
const FORMER_MODULES: [(&str, &str); 3] = [
    ("oddsd::cache", "oddsd_cache"),
    ("oddsd::feed", "oddsd_feeds"),
    ("oddsd::store", "oddsd_store"),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For an operator at a terminal: short time, level, message, then the fields.
    Pretty,
    /// One line of key=value pairs an event.
    Logfmt,
    /// One JSON object an event.
    Json,
}

/// Where the lines are written. The daemon writes to stdout, where workers' logs are collected; a command
/// whose stdout is its answer logs to stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogOutput {
    Stdout,
    Stderr,
}

/// The writer of this process.
static WRITER: OnceLock<LogWriter> = OnceLock::new();

/// Writes the queued lines when it is dropped; see [`flush`].
#[must_use]
pub struct LogGuard(());

impl Drop for LogGuard {
    fn drop(&mut self) {
        flush();
    }
}

/// Starts logging for the whole process, panics included. Call it once, before anything logs, and keep the guard until
/// the end.
///
/// `level` is `LOG_LEVEL`: a level, or a filter such as `info,oddsd_feeds=debug`; `RUST_LOG` overrides it.
/// Without a `format` it is pretty on a terminal and logfmt elsewhere.
pub fn start(
    format: Option<LogFormat>,
    level: &str,
    output: LogOutput,
) -> anyhow::Result<LogGuard> {
    let rust_log = std::env::var("RUST_LOG")
        .ok()
        .filter(|text| !text.trim().is_empty());
    let filter = match &rust_log {
        Some(text) => filter("RUST_LOG", text)?,
        None => filter("LOG_LEVEL", level)?,
    };
    let (terminal, stream) = match output {
        LogOutput::Stdout => (io::stdout().is_terminal(), duplicate(io::stdout())),
        LogOutput::Stderr => (io::stderr().is_terminal(), duplicate(io::stderr())),
    };
    let format = format.unwrap_or(match terminal {
        true => LogFormat::Pretty,
        false => LogFormat::Logfmt,
    });
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
    let color = terminal && !no_color;
    let report = move |lines| format_record(&dropped_record(lines), format, color) + "\n";
    let writer = LogWriter::start(stream?, report).context("the log cannot be started")?;
    let lines = writer.clone();
    let layer = LogLayer::new(format, color, move |line: &str| lines.push(line));
    tracing_subscriber::registry()
        .with(filter)
        .with(layer)
        .try_init()
        .context("logging was started twice in one process")?;
    std::panic::set_hook(Box::new(log_panic));
    WRITER.get_or_init(|| writer);
    Ok(LogGuard(()))
}

/// Waits until the queued lines are written, unless the stream takes nothing for a second.
pub fn flush() {
    if let Some(writer) = WRITER.get() {
        writer.flush();
    }
}

/// Writes a last line to stderr, beside the log; gives up if the stream takes nothing for a second.
pub fn write_to_stderr(line: &str) {
    let writer =
        duplicate(io::stderr()).and_then(|stream| Ok(LogWriter::start(stream, |_| String::new())?));
    if let Ok(writer) = writer {
        writer.push(&format!("{line}\n"));
        writer.flush();
    }
}

/// The stream itself, past the buffer and the lock of the standard library: another thread's output must not wait for
/// a log that is not read.
fn duplicate(stream: impl AsFd) -> anyhow::Result<File> {
    let stream = stream.as_fd().try_clone_to_owned();
    Ok(File::from(stream.context("the log cannot be started")?))
}

/// The record of lines that were dropped. It is formatted by the writer, because a queue that was full may be full again.
pub fn dropped_record(log_lines: u64) -> LogRecord {
    LogRecord {
        at: Utc::now(),
        level: Level::WARN,
        event: "log.dropped".into(),
        message: format!("{log_lines} log lines were dropped, because the log was not read"),
        fields: vec![(
            "log_lines".into(),
            FieldValue::Integer(i128::from(log_lines)),
        )],
    }
}

/// The standard hook writes to stderr and waits for it, and its lines have no event.
fn log_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let error = panic.payload_as_str().unwrap_or("?");
    let thread = std::thread::current();
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then_some(backtrace);
    tracing::error!(
        event = "daemon.panicked",
        error,
        at = panic.location().map(tracing::field::display),
        thread = thread.name(),
        backtrace = backtrace.map(tracing::field::display),
        "Panicked, which is a defect of oddsd: {error}"
    );
}

/// Of two directives for one target the later wins, so the operator's text comes last. The library takes a word that is
/// no level for a target, and then logs nothing else; here it is an error.
fn filter(setting: &str, text: &str) -> anyhow::Result<Targets> {
    let wrong = || {
        format!(
            "{setting}={text:?} is not a log filter: use error, warn (or warning), info, debug, trace or off, or for example \
             info,oddsd_feeds=debug"
        )
    };
    let mut filter = LIBRARY_LEVELS.to_owned();
    for directive in text.split(',').map(str::trim) {
        let (target, level) = match directive.rsplit_once('=') {
            Some((target, level)) => (Some(target.trim()), level.trim()),
            None if directive.is_empty() => continue,
            None => (None, directive),
        };
        let level = match level.to_ascii_lowercase().as_str() {
            "warning" => "warn".to_owned(),
            level => level.to_owned(),
        };
        anyhow::ensure!(LEVELS.contains(&level.as_str()), wrong());
        filter += &match target {
            Some(target) => format!(",{target}={level}"),
            None => format!(",{level}"),
        };
    }
    if !text
        .split(',')
        .any(|directive| !directive.trim().is_empty())
    {
        filter += ",info";
    }
    for (module, target) in FORMER_MODULES {
        filter = filter.replace(module, target);
    }
    filter.parse().with_context(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_log_little_unless_named() {
        let shown = |text| filter("LOG_LEVEL", text).expect("valid").to_string();
        assert!(shown("debug").contains("sqlx=error"));
        assert!(shown("debug,sqlx=trace").contains("sqlx=trace"));
        assert!(!shown("debug,sqlx=trace").contains("sqlx=error"));
        assert!(shown("  ").contains("info"));
        assert!(shown("info,oddsd::store=debug").contains("oddsd_store=debug"));
    }

    #[test]
    fn invalid_filter_is_named_with_a_valid_example() {
        for text in [
            "verbose=loud",
            "loud",
            "info,loud",
            "oddsd_store=",
            "3",
            "verbose",
        ] {
            let error = filter("LOG_LEVEL", text).expect_err("invalid").to_string();
            assert!(
                error.contains("LOG_LEVEL") && error.contains("warning"),
                "{error}"
            );
        }
    }

    #[test]
    fn level_is_read_in_any_case_and_with_its_other_name() {
        let shown = |text| filter("LOG_LEVEL", text).expect("valid").to_string();
        for text in ["warning", " WARN ", "Warning"] {
            assert_eq!(shown(text), shown("warn"));
        }
        assert_eq!(
            shown("info, oddsd_store=WARNING,"),
            shown("info,oddsd_store=warn")
        );
    }
}
