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
        let lines = self
            .diagnostics
            .iter()
            .map(|mistake| format!("{}:{mistake}", self.file));
        lines.collect::<Vec<_>>().join("\n")
    }
}

/// One mistake. Lines and columns are counted from one, columns in characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Diagnostic {
    /// Line in the file.
    pub line: usize,
    /// Column in the line.
    pub column: usize,
    /// The mistake, and a correction to try.
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

/// A mistake before its line is known: its offset in bytes, and the message.
pub(super) type Mistake = (usize, String);

/// The diagnostics of one text.
pub(super) struct Diagnostics<'a> {
    pub(super) text: &'a str,
    pub(super) list: Vec<Diagnostic>,
}

impl Diagnostics<'_> {
    /// Adds a mistake at an offset in bytes.
    pub(super) fn report(&mut self, at: usize, message: impl Into<String>) {
        self.list.push(Diagnostic::at(self.text, at, message));
    }

    /// Adds the mistake of a failed step.
    pub(super) fn ok<T>(&mut self, result: Result<T, Mistake>) -> Option<T> {
        result.map_err(|(at, why)| self.report(at, why)).ok()
    }
}

/// `unknown change "price_chnaged" (did you mean "price_changed"?)`
pub(super) fn unknown<'a>(
    what: &str,
    word: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> String {
    format!("unknown {what} {word:?}{}", suggestion(word, known))
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
    fn diagnostic_counts_lines_and_columns_as_editors_do() {
        let text = "a\nbé = 1\n";
        let mistake = Diagnostic::at(text, text.find('=').expect("there"), "x");
        assert_eq!((mistake.line, mistake.column), (2, 4));
        assert_eq!(Diagnostic::at(text, 0, "x").line, 1);
        assert_eq!(Diagnostic::at(text, 999, "x").line, 3);
    }
}
