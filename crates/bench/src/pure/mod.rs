//! The pure parts alone, without a database or a server: `oddsd-bench pure`.

mod diff;
mod parse;

/// Prints the times of the diff and of the parsers.
pub fn measure() {
    diff::measure();
    parse::measure();
}
