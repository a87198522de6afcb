//! Output of the benchmarks: the report on stdout, progress on stderr. Every command of the binary uses it.

use std::fmt::Display;
use std::io::Write;

/// Prints one line to stdout.
macro_rules! out {
    ($($words:tt)*) => {{
        let _ = $crate::output::print_line(format_args!($($words)*));
    }};
}

/// Prints one line to stderr.
macro_rules! err {
    ($($words:tt)*) => {{
        use std::io::Write;
        let _ = writeln!(std::io::stderr().lock(), $($words)*);
    }};
}

pub(crate) use {err, out};

/// Prints one line to stdout; false if stdout is closed.
pub fn print_line(line: impl Display) -> bool {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).is_ok()
}
