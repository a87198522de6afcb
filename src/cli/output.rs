//! Output of the commands to stdout and stderr. `println!` panics if the reader has gone (`oddsd tail | head`);
//! these macros ignore that.

use std::fmt::Display;
use std::io::Write;

/// Writes a line to stdout, the command's answer.
macro_rules! out {
    ($($text:tt)*) => {{
        let _ = $crate::cli::output::write_line(format_args!($($text)*));
    }};
}

/// Writes a line to stderr: progress and errors, beside the answer.
macro_rules! err {
    ($($text:tt)*) => {{
        use std::io::Write;
        let _ = writeln!(std::io::stderr().lock(), $($text)*);
    }};
}

pub(super) use {err, out};

/// Writes a line to stdout; returns false if nothing reads it any more.
pub fn write_line(line: impl Display) -> bool {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).is_ok()
}

/// Writes the answer of a command, as JSON or as text.
pub fn answer(as_json: bool, object: &serde_json::Value, text: &str) {
    match as_json {
        true => out!("{object}"),
        false => out!("{text}"),
    }
}
