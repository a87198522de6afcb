//! What is wrong with a rules file, and where: every fault at once, each with the next thing to try.

use std::fmt;

use crate::model::nearest;

/// A rules file that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRules {
    /// As the user named it.
    pub file: String,
    /// In the order of the text; never empty.
    pub faults: Vec<Fault>,
}

/// One fault. Lines and columns are counted from one, columns in characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    pub line: usize,
    pub column: usize,
    pub message: String,
}

impl Fault {
    /// `at` is in bytes.
    pub(super) fn at(text: &str, at: usize, message: impl Into<String>) -> Self {
        let before = text.get(..at).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Self {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            message: message.into(),
        }
    }
}

impl fmt::Display for BadRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, fault) in self.faults.iter().enumerate() {
            if n > 0 {
                f.write_str("\n")?;
            }
            let Fault {
                line,
                column,
                message,
            } = fault;
            write!(f, "{}:{line}:{column}: {message}", self.file)?;
        }
        Ok(())
    }
}

impl std::error::Error for BadRules {}

/// ` (did you mean "price_changed"?)`, or the whole choice when nothing is near.
pub fn suggestion<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.into_iter().collect();
    match nearest(word, known.iter().copied()) {
        Some(near) => format!(" (did you mean \"{near}\"?)"),
        None if known.is_empty() => String::new(),
        None => format!(" (one of {})", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_word_is_recognised_and_otherwise_all_are_named() {
        let known = ["price_changed", "price_withdrawn", "manual"];
        assert_eq!(suggestion("manaul", known), " (did you mean \"manual\"?)");
        assert_eq!(
            suggestion("weather", known),
            " (one of price_changed, price_withdrawn, manual)"
        );
    }

    #[test]
    fn places_are_counted_as_an_editor_counts_them() {
        let text = "a\nbé = 1\n";
        let fault = Fault::at(text, text.find('=').expect("there"), "x");
        assert_eq!((fault.line, fault.column), (2, 4));
        assert_eq!(Fault::at(text, 0, "x").line, 1);
        assert_eq!(Fault::at(text, 999, "x").line, 3);
    }
}
