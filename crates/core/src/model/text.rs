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

/// Returns the name that `word` probably is with a slip: at most two letters differ, ignoring case. A name of up to five
/// letters has many neighbours that are words of their own: there one slip after the first letter counts.
pub fn find_misspelt<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    let distances = names.into_iter().filter_map(|name| {
        let known = name.to_lowercase();
        let is_short = known.chars().count() <= 5;
        let distance = match is_short {
            true => strsim::osa_distance(&word, &known),
            false => strsim::levenshtein(&word, &known),
        };
        let is_near = match is_short {
            true => distance <= 1 && word.chars().next() == known.chars().next(),
            false => distance <= 2,
        };
        is_near.then_some((distance, name))
    });
    distances
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// Whether the user or password of a connection URL holds a character that ends them, such as `/` or `#`, unescaped:
/// what follows it is read as path or fragment, and the `@` with it.
pub fn has_unescaped_credentials(url: &str) -> bool {
    let Some((_, rest)) = url.split_once("://") else {
        return false;
    };
    let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let (path, fragment) = tail.split_once('#').unwrap_or((tail, ""));
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    // A query may hold an @ in a value.
    let query_begins = query.split('&').next().unwrap_or_default();
    let in_query = !authority.contains('@')
        && query_begins
            .split('=')
            .next()
            .is_some_and(|name| name.contains('@'));
    path.contains('@') || fragment.contains('@') || in_query
}

/// The remedy for [`has_unescaped_credentials`].
pub const ESCAPE_CREDENTIALS: &str = "a character in the user or password has to be escaped: write @ as %40, / as %2F, # as %23, \
     ? as %3F, % as %25";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sanitized_text_removes_control_characters_and_cuts() {
        assert_eq!(sanitize_text("Red\u{1b}[2J Rum\n", 80), "Red[2J Rum");
        assert_eq!(sanitize_text("abcdef", 4), "abc…");
    }

    #[test]
    fn unescaped_characters_in_a_password_are_noticed() {
        for url in [
            "postgres://u:p/ss@host/db",
            "postgres://u:p#ss@host:5432/db",
            "postgres://u:12/34@host/db",
            "postgres://u:12?34@host/db",
            "postgres://u:a@b/c@host/db",
            "postgres://u:a@b#c@host/db",
            "redis://default:p@ss:w/rd#1@127.0.0.1:6379",
        ] {
            assert!(has_unescaped_credentials(url), "{url}");
        }
        for url in [
            "postgres://u:p%2Fss@host/db?sslmode=require",
            "postgres://u@host/db?application_name=a@b",
            "postgres:///db?host=/run&user=a",
            "redis://:p@ss@host:6379/0",
            "sqlite:a@b.db",
            "",
        ] {
            assert!(!has_unescaped_credentials(url), "{url}");
        }
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
