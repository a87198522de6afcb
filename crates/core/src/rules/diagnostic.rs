//! Diagnostics of a rules file: every mistake at once, each with its position and a suggestion.
//! The loader collects them; `oddsd rules check` and the daemon's reload show them.

use std::fmt;

use crate::model::suggest;

/// A rules file that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.lines())]
pub struct RulesError {
    /// The file's name as the user gave it.
    pub file: String,
    /// In the order of the text; never empty.
    pub diagnostics: Vec<Diagnostic>,
}

impl RulesError {
    fn lines(&self) -> String {
        let lines = self.diagnostics.iter();
        let lines: Vec<String> = lines
            .map(|fault| format!("{}:{fault}", self.file))
            .collect();
        lines.join("\n")
    }
}

/// One mistake. Lines and columns are counted from one, columns in characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Diagnostic {
    /// Line in the file.
    pub line: usize,
    /// Column in the line.
    pub column: usize,
    /// What is wrong, and what to try instead.
    pub message: String,
}

impl Diagnostic {
    /// `at` is an offset in bytes.
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

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.message)
    }
}

/// A value and its offset in the text, in bytes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Spanned<T> {
    pub(super) at: usize,
    pub(super) value: T,
}

/// The diagnostics of one text.
pub(super) struct Diagnostics<'a> {
    text: &'a str,
    pub(super) list: Vec<Diagnostic>,
}

impl<'a> Diagnostics<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let list = Vec::new();
        Self { text, list }
    }

    /// Adds a mistake at an offset in bytes.
    pub(super) fn report(&mut self, at: usize, message: impl Into<String>) {
        self.list.push(Diagnostic::at(self.text, at, message));
    }

    /// Adds the mistake of a failed step.
    pub(super) fn ok<T>(&mut self, result: Result<T, Spanned<String>>) -> Option<T> {
        let report = |error: Spanned<String>| self.report(error.at, error.value);
        result.map_err(report).ok()
    }

    pub(super) fn line(&self, at: usize) -> usize {
        Diagnostic::at(self.text, at, "").line
    }
}

/// ` (did you mean "price_changed"?)`, or all known words if none is near.
pub fn suggestion<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.into_iter().collect();
    match suggest(word, known.iter().copied()) {
        Some(near) => format!(" (did you mean \"{near}\"?)"),
        None if known.is_empty() => String::new(),
        None => format!(" (one of {})", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggestion_names_a_near_word_or_all_words() {
        let known = ["price_changed", "price_withdrawn", "manual"];
        assert_eq!(suggestion("manaul", known), " (did you mean \"manual\"?)");
        assert_eq!(
            suggestion("weather", known),
            " (one of price_changed, price_withdrawn, manual)"
        );
    }

    #[test]
    fn diagnostic_counts_lines_and_columns_as_editors_do() {
        let text = "a\nbé = 1\n";
        let fault = Diagnostic::at(text, text.find('=').expect("there"), "x");
        assert_eq!((fault.line, fault.column), (2, 4));
        assert_eq!(Diagnostic::at(text, 0, "x").line, 1);
        assert_eq!(Diagnostic::at(text, 999, "x").line, 3);
    }
}
