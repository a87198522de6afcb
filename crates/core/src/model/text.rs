//! Foreign text: made safe for a log or page, and compared with known names.
//! Used wherever text from a feed, a user or another program is shown or rejected.

/// Makes foreign text safe for a log or page: removes control characters (they can move a terminal's cursor or
/// fake a log line) and bidirectional overrides, and cuts it to `max` characters.
pub fn sanitize_text(text: &str, max: usize) -> String {
    let mut plain: String = text
        .chars()
        .filter(|c| {
            !c.is_control() && !matches!(*c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        })
        .take(max + 1)
        .collect();
    if plain.chars().count() > max {
        plain = plain.chars().take(max - 1).collect();
        plain.push('…');
    }
    plain
}

/// Removes a UTF-8 byte order mark, which programs on Windows write before a text and JSON does not allow.
pub fn strip_byte_order_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text)
}

/// Returns the name that is most like `word`, ignoring case, if it is near enough to suggest: at most a third of
/// the letters differ (in short words one, in longer ones at least two, so that two swapped letters are found).
pub fn suggest<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Foreign words may be long, and the distance costs the product of both lengths.
    let word: String = word.to_lowercase().chars().take(64).collect();
    let max = match word.chars().count() {
        0..4 => 1,
        letters => (letters / 3).max(2),
    };
    let distances = names
        .into_iter()
        .map(|name| (strsim::levenshtein(&word, &name.to_lowercase()), name));
    distances
        .filter(|(distance, _)| *distance <= max)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sanitized_text_removes_control_characters_and_cuts() {
        assert_eq!(sanitize_text("Red\u{1b}[2J Rum\n", 80), "Red[2J Rum");
        assert_eq!(sanitize_text("abcdef", 4), "abc…");
    }

    #[test]
    fn suggestion_is_given_for_a_typo_and_not_for_another_word() {
        let names = ["user_id", "trig_id", "Amount"];
        let suggested = |word| suggest(word, names);
        assert_eq!(suggested("usr_id"), Some("user_id"));
        assert_eq!(suggested("trig_idd"), Some("trig_id"));
        assert_eq!(suggested("amount"), Some("Amount"));
        assert_eq!(suggested("aomunt"), Some("Amount"));
        assert_eq!(suggested("venue"), None);
        assert_eq!(suggest("", names), None);
        assert_eq!(suggest("x", []), None);
    }
}
