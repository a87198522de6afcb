//! What somebody may have meant.

/// The name that is fewest edits away from `word` (Levenshtein, case aside), if that is near enough to
/// be worth saying: at most a third of the word, and two letters that changed places.
pub fn nearest<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word: Vec<char> = word.to_lowercase().chars().take(64).collect();
    let most = match word.len() {
        0..4 => 1,
        letters => (letters / 3).max(2),
    };
    let near = names
        .into_iter()
        .map(|name| (edits(&word, &name.to_lowercase()), name));
    near.filter(|(edits, _)| *edits <= most)
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, name)| name)
}

fn edits(word: &[char], name: &str) -> usize {
    let mut row: Vec<usize> = (0..=word.len()).collect();
    for (n, letter) in name.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], n + 1);
        for at in 0..word.len() {
            let changed = diagonal + usize::from(word[at] != letter);
            diagonal = row[at + 1];
            row[at + 1] = changed.min(row[at] + 1).min(diagonal + 1);
        }
    }
    row[word.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_understood_and_another_word_is_not() {
        let names = ["user_id", "trig_id", "Amount"];
        let meant = |word| nearest(word, names);
        assert_eq!(meant("usr_id"), Some("user_id"));
        assert_eq!(meant("trig_idd"), Some("trig_id"));
        assert_eq!(meant("amount"), Some("Amount"));
        assert_eq!(meant("aomunt"), Some("Amount"));
        assert_eq!(meant("venue"), None);
        assert_eq!(nearest("", names), None);
        assert_eq!(nearest("x", []), None);
    }
}
