//! `oddsd-bench pure`: the diff and the parsers alone, without a database or a server. `main` calls it.

mod diff;
mod parse;

/// Prints the times of the diff and of the parsers.
pub fn run() -> anyhow::Result<()> {
    diff::measure()?;
    parse::measure();
    Ok(())
}
