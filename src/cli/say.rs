//! What a command tells whoever called it. `println!` panics when the reader has gone (`oddsd tail |
//! head`); a command only stops talking.

use std::fmt::Display;
use std::io::Write;

/// One line to stdout, the command's answer.
macro_rules! say {
    ($($words:tt)*) => {{
        let _ = $crate::cli::say::heard(format_args!($($words)*));
    }};
}

/// One line to stderr: progress and complaints, beside the answer.
macro_rules! remark {
    ($($words:tt)*) => {{
        use std::io::Write;
        let _ = writeln!(std::io::stderr().lock(), $($words)*);
    }};
}

pub(super) use {remark, say};

/// Says one line to stdout; false when nobody reads any more.
pub fn heard(line: impl Display) -> bool {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).is_ok()
}
