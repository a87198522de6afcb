//! Logging: pretty on a terminal, logfmt elsewhere, JSON on request, one line an event for any text of a
//! feed or an upstream. `cli::main` starts it.
//!
//! The formatter is our own, because operators and alerts grep these lines: their order
//! (`ts level event msg …`) and quoting are part of the program's interface.

mod events;
mod format;
mod layer;

use std::io::{self, IsTerminal};

use anyhow::Context;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

pub use events::{LOG_EVENTS, LogEventDoc};
pub use format::{FieldValue, LogRecord, format_record};
pub use layer::LogLayer;

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

/// Starts logging for the whole process. Call it once, before anything logs.
///
/// `level` is `LOG_LEVEL`: a level, or a filter such as `info,oddsd_feeds=debug`; `RUST_LOG` overrides it.
/// Without a `format` it is pretty on a terminal and logfmt elsewhere.
pub fn start(format: Option<LogFormat>, level: &str, output: LogOutput) -> anyhow::Result<()> {
    let rust_log = std::env::var("RUST_LOG")
        .ok()
        .filter(|text| !text.trim().is_empty());
    let filter = match &rust_log {
        Some(text) => filter("RUST_LOG", text)?,
        None => filter("LOG_LEVEL", level)?,
    };
    let terminal = match output {
        LogOutput::Stdout => io::stdout().is_terminal(),
        LogOutput::Stderr => io::stderr().is_terminal(),
    };
    let format = format.unwrap_or(match terminal {
        true => LogFormat::Pretty,
        false => LogFormat::Logfmt,
    });
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
    let layer = LogLayer::new(
        format,
        terminal && !no_color,
        move |line: &str| match output {
            LogOutput::Stdout => write_line(&mut io::stdout().lock(), line),
            LogOutput::Stderr => write_line(&mut io::stderr().lock(), line),
        },
    );
    tracing_subscriber::registry()
        .with(filter)
        .with(layer)
        .try_init()
        .context("logging was started twice in one process")
}

/// Ignores errors: a log that cannot be written (a closed pipe, a full disk) must not stop the work.
fn write_line(out: &mut impl io::Write, line: &str) {
    let _ = out.write_all(line.as_bytes());
    let _ = out.flush();
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
