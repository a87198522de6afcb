//! Where lines go: pretty on a terminal, logfmt elsewhere, JSON for those who ask. One event is
//! one line, whatever a runner, a feed or an upstream's error put into it.
//!
//! Our own formatter and not the ready-made ones, because people and alerts grep these lines:
//! their order (`ts level event msg …`) and quoting are part of the program's interface.

mod layer;
mod line;

use std::io::{self, IsTerminal};

use anyhow::{Context, bail};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

pub use layer::Lines;
pub use line::{Record, Value, line};

/// Libraries speak only when something is wrong; the two that warn of what we report in our own
/// words (slow statements with their SQL, lost connections) only when it is worse. Their finer levels hold connection details and
/// would bury our lines; a filter that names one of them (`info,sqlx=debug`) opens it again.
const QUIET: &str = "sqlx=error,fred=error,hyper=warn,hyper_util=warn,reqwest=warn,h2=warn,\
                     rustls=warn,moka=warn,tokio_cron_scheduler=warn";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For a person at a terminal: short time, level, message, then the fields.
    Pretty,
    Logfmt,
    Json,
}

impl LogFormat {
    pub const ALL: [Self; 3] = [Self::Pretty, Self::Logfmt, Self::Json];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pretty => "pretty",
            Self::Logfmt => "logfmt",
            Self::Json => "json",
        }
    }
}

impl std::str::FromStr for LogFormat {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let found = Self::ALL
            .into_iter()
            .find(|f| f.as_str().eq_ignore_ascii_case(text.trim()));
        match found {
            Some(format) => Ok(format),
            None => bail!("unknown log format {text:?}: use pretty, logfmt or json"),
        }
    }
}

/// Where the lines go. The daemon writes to stdout, where workers' logs are collected and grepped;
/// a command whose stdout is its answer (`--json`) logs to stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    Stdout,
    Stderr,
}

/// Starts logging for the whole process; call once, first thing.
///
/// `level` is `LOG_LEVEL`: a level or a filter such as `info,oddsd::feed=debug`. `RUST_LOG` wins
/// over it. No `format`: pretty on a terminal, logfmt elsewhere.
pub fn start(format: Option<LogFormat>, level: &str, output: Output) -> anyhow::Result<()> {
    let rust_log = std::env::var("RUST_LOG")
        .ok()
        .filter(|text| !text.trim().is_empty());
    let filter = match &rust_log {
        Some(text) => filter("RUST_LOG", text)?,
        None => filter("LOG_LEVEL", level)?,
    };
    let terminal = match output {
        Output::Stdout => io::stdout().is_terminal(),
        Output::Stderr => io::stderr().is_terminal(),
    };
    let format = format.unwrap_or(match terminal {
        true => LogFormat::Pretty,
        false => LogFormat::Logfmt,
    });
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
    let lines = Lines::new(
        format,
        terminal && !no_color,
        move |text: &str| match output {
            Output::Stdout => put(&mut io::stdout().lock(), text),
            Output::Stderr => put(&mut io::stderr().lock(), text),
        },
    );
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .try_init()
        .context("logging was started twice in one process")
}

/// A log that cannot be written (a closed pipe, a full disk) must not stop the work.
fn put(out: &mut impl io::Write, text: &str) {
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}

/// Of two directives for one target the later wins, so what a person wrote comes last.
fn filter(setting: &str, text: &str) -> anyhow::Result<EnvFilter> {
    let text = match text.trim() {
        "" => "info",
        some => some,
    };
    EnvFilter::builder()
        .parse(format!("{QUIET},{text}"))
        .with_context(|| {
            format!(
                "{setting}={text:?} is not a log filter: use error, warn, info, debug, trace, or \
                 for example info,oddsd::feed=debug"
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_quiet_unless_named() {
        let shown = |text| filter("LOG_LEVEL", text).expect("valid").to_string();
        assert!(shown("debug").contains("sqlx=error"));
        assert!(shown("debug,sqlx=trace").contains("sqlx=trace"));
        assert!(!shown("debug,sqlx=trace").contains("sqlx=error"));
        assert!(shown("  ").contains("info"));
    }

    #[test]
    fn a_wrong_filter_or_format_says_what_would_be_right() {
        let error = filter("LOG_LEVEL", "verbose=loud").expect_err("invalid");
        assert!(error.to_string().contains("LOG_LEVEL"), "{error}");
        assert!(error.to_string().contains("info"), "{error}");
        let error = "xml".parse::<LogFormat>().expect_err("invalid");
        assert!(
            error.to_string().contains("pretty, logfmt or json"),
            "{error}"
        );
    }
}
