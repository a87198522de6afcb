//! The floors of the house, read from its source: imports go down, thought stays pure, keys are
//! spelt in one place, each library is known to one room. `src/lib.rs` draws the same picture.

use std::path::{Path, PathBuf};

/// Rooms by floor, from the ground up.
const FLOORS: [&[&str]; 7] = [
    &["model", "key"],
    &["diff", "rules", "stage"],
    &[
        "feed", "store", "cache", "schedule", "live", "log", "rulebook",
    ],
    &["ingest", "invalidate", "audit", "lead"],
    &["config", "http"],
    &["app"],
    &["cli"],
];
/// Thought has no clock, no files, no network, and waits for nothing.
const PURE_FLOORS: usize = 2;
const IMPURE: [&str; 9] = [
    "async ",
    ".await",
    "Utc::now",
    "Local::now",
    "Instant::now",
    "SystemTime",
    "std::fs",
    "std::net",
    "tokio",
];
/// A library, and the only places that know it.
const KNOWN_TO: [(&str, &[&str]); 5] = [
    ("fred::", &["cache/redis/"]),
    // The bench's other designs must not stand among the product's own statements.
    ("sqlx::", &["store/", "cli/bench/postgres/"]),
    (
        "reqwest::",
        &[
            "feed/http/",
            // Both hand requests to `feed/http`.
            "feed/odds_api/mod.rs",
            "feed/racing_api/mod.rs",
            "cache/upstash/",
            "cli/demo.rs",
        ],
    ),
    // The cache hands out the bytes that the pages send.
    ("axum::", &["http/", "cache/mod.rs"]),
    ("tokio_cron_scheduler::", &["schedule/"]),
];
/// How keys begin and end; `key.rs` alone writes them.
const KEY_TEXTS: [&str; 4] = ["\"races:", ":prices:", "\"event:", "\"lease:"];
const NO_ROOMS: [&str; 7] = [
    "utils", "util", "common", "helpers", "manager", "types", "services",
];
const LONGEST_FILE: usize = 500;
struct Source {
    /// Under `src`, e.g. `cache/redis/mod.rs`.
    path: String,
    text: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        let (path, text) = (path.into(), text.into());
        Self { path, text }
    }

    fn room(&self) -> &str {
        let first = self.path.split('/').next().unwrap_or_default();
        first.strip_suffix(".rs").unwrap_or(first)
    }

    /// How often `super` leads from here to the root.
    fn depth(&self) -> usize {
        let folders = self.path.matches('/').count();
        folders + usize::from(!self.path.ends_with("mod.rs"))
    }

    /// The code without its comments and its tests: whole lines, so that numbers stay true.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let tests = self.text.find("#[cfg(test)]").unwrap_or(self.text.len());
        let lines = self.text[..tests].lines().enumerate();
        lines
            .map(|(n, line)| (n + 1, line))
            .filter(|(_, line)| !line.trim_start().starts_with("//"))
    }

    /// Each line on which one of these stands.
    fn find<'a>(&'a self, words: &'a [&str]) -> impl Iterator<Item = String> + 'a {
        let on = |line: &str| words.iter().find(|word| line.contains(**word)).copied();
        self.lines()
            .filter_map(move |(n, line)| Some(format!("src/{}:{n}: {}", self.path, on(line)?)))
    }

    /// Other rooms that are named here, with their line.
    fn rooms_named(&self) -> Vec<(usize, String)> {
        let code: Vec<(usize, &str)> = self.lines().collect();
        let root = "super::".repeat(self.depth());
        let mut found = Vec::new();
        for (at, (n, line)) in code.iter().enumerate() {
            for from_root in ["crate::", root.as_str()] {
                let Some((_, after)) = line.split_once(from_root) else {
                    continue;
                };
                // `use crate::{a::B, c::D};` may go on over lines.
                let rest: String = code[at + 1..].iter().map(|(_, line)| *line).collect();
                found.extend(heads(&format!("{after}{rest}")).map(|room| (*n, room)));
            }
        }
        found.retain(|(_, room)| floor(room).is_some() && room != self.room());
        found
    }
}

/// The first words of a path after the root: one, or those of a list in braces.
fn heads(path: &str) -> std::vec::IntoIter<String> {
    let word = |text: &str| -> String {
        let text = text.trim_start().chars();
        text.take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
            .collect()
    };
    let Some(list) = path.strip_prefix('{') else {
        return vec![word(path)].into_iter();
    };
    let (mut depth, mut words, mut start) = (0, Vec::new(), 0);
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                words.push(word(&list[start..at]));
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                words.push(word(&list[start..at]));
                start = at + 1;
            }
            _ => {}
        }
    }
    words.into_iter()
}

fn floor(room: &str) -> Option<usize> {
    FLOORS.iter().position(|rooms| rooms.contains(&room))
}

fn house() -> Vec<Source> {
    fn read(folder: &Path, root: &Path, into: &mut Vec<Source>) {
        for entry in std::fs::read_dir(folder).expect("readable") {
            let path = entry.expect("readable").path();
            if path.is_dir() {
                read(&path, root, into);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let name = path.strip_prefix(root).expect("under the root");
                let text = std::fs::read_to_string(&path).expect("UTF-8");
                into.push(Source::new(name.to_str().expect("UTF-8"), &text));
            }
        }
    }
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut house = Vec::new();
    read(&root, &root, &mut house);
    house.retain(|source| !matches!(source.path.as_str(), "lib.rs" | "main.rs"));
    assert!(house.len() > 50, "the house has rooms");
    house
}

/// What is wrong with the floors in these sources.
fn floors_broken(house: &[Source]) -> Vec<String> {
    let mut wrong = Vec::new();
    for source in house {
        let Some(here) = floor(source.room()) else {
            wrong.push(format!("src/{}: on no floor", source.path));
            continue;
        };
        for (n, other) in source.rooms_named() {
            let there = floor(&other).expect("a room");
            // The ground floor is words: they may speak of each other.
            if there > here || there == here && here > 0 {
                let way = if there == here { "sideways" } else { "up" };
                wrong.push(format!("src/{}:{n}: {other} is {way}", source.path));
            }
        }
        if here < PURE_FLOORS {
            wrong.extend(source.find(&IMPURE));
        }
    }
    wrong
}

fn strangers(house: &[Source]) -> Vec<String> {
    let mut wrong = Vec::new();
    for source in house {
        for (library, rooms) in KNOWN_TO {
            let known = rooms.iter().any(|room| source.path.starts_with(room));
            if !known {
                wrong.extend(source.find(&[library]));
            }
        }
    }
    wrong
}

fn keys_spelt_elsewhere(house: &[Source]) -> Vec<String> {
    let others = house.iter().filter(|source| source.path != "key.rs");
    others.flat_map(|source| source.find(&KEY_TEXTS)).collect()
}

fn loose_ends(house: &[Source]) -> Vec<String> {
    house
        .iter()
        .flat_map(|source| {
            source.find(&[
                ".unwrap()",
                concat!("todo", "!("),
                concat!("unimplemented", "!("),
                "dbg!(",
            ])
        })
        .collect()
}

fn shapeless(house: &[Source]) -> Vec<String> {
    let mut wrong = Vec::new();
    for source in house {
        let parts = source.path.split('/');
        for part in parts.map(|part| part.trim_end_matches(".rs")) {
            if NO_ROOMS.contains(&part) {
                wrong.push(format!("src/{}: what is in {part}?", source.path));
            }
        }
        // Tests may be longer than what they test.
        let tests = source
            .text
            .find("#[cfg(test)]")
            .unwrap_or(source.text.len());
        let lines = source.text[..tests].lines().count();
        if lines > LONGEST_FILE {
            wrong.push(format!("src/{}: {lines} lines", source.path));
        }
        if !source.text.starts_with("//! ") {
            wrong.push(format!("src/{}: does not say what it is for", source.path));
        }
    }
    wrong
}

#[test]
fn imports_go_down() {
    assert_eq!(floors_broken(&house()), [""; 0]);
}

#[test]
fn a_library_is_known_to_one_room() {
    assert_eq!(strangers(&house()), [""; 0]);
}

#[test]
fn only_the_key_room_spells_keys() {
    assert_eq!(keys_spelt_elsewhere(&house()), [""; 0]);
}

#[test]
fn nothing_unwraps_and_nothing_is_left_to_do() {
    assert_eq!(loose_ends(&house()), [""; 0]);
}

#[test]
fn rooms_have_names_reasons_and_bounds() {
    assert_eq!(shapeless(&house()), [""; 0]);
}

#[test]
fn a_broken_floor_is_seen() {
    let broken = |path: &str, text: &str| floors_broken(&[Source::new(path, text)]).len();
    assert_eq!(broken("store/mod.rs", "use crate::diff::Changes;"), 0);
    assert_eq!(broken("store/mod.rs", "use crate::store::Lease;"), 0);
    assert_eq!(broken("store/rows.rs", "use super::Lease;"), 0);
    assert_eq!(broken("store/mod.rs", "// see crate::ingest::run"), 0);
    assert_eq!(
        broken("store/mod.rs", "#[cfg(test)]\nuse crate::app::App;"),
        0
    );
    assert_eq!(broken("store/mod.rs", "use crate::ingest::Ingest;"), 1);
    assert_eq!(broken("store/mod.rs", "use crate::cache::Cache;"), 1);
    assert_eq!(broken("store/mod.rs", "let a = crate::app::feed();"), 1);
    assert_eq!(broken("store/mod.rs", "use super::cache::Cache;"), 1);
    assert_eq!(broken("store/rows.rs", "use super::super::app::App;"), 1);
    let list = "use crate::{\n    model::{self, Event},\n    live::Live, cache,\n};";
    assert_eq!(broken("store/mod.rs", list), 2);
    assert_eq!(broken("attic.rs", ""), 1);
    assert_eq!(broken("diff/mod.rs", "let now = Utc::now();"), 1);
    assert_eq!(broken("rules.rs", "pub async fn targets() {}"), 1);
    assert_eq!(broken("stage/mod.rs", "cache.remove().await"), 1);
}

#[test]
fn a_stranger_a_key_and_a_loose_end_are_seen() {
    let one = |path: &str, text: &str| [Source::new(path, text)];
    assert_eq!(strangers(&one("app.rs", "use sqlx::Row;")).len(), 1);
    assert_eq!(
        strangers(&one("cache/memory.rs", "fred::connect()")).len(),
        1
    );
    assert_eq!(
        strangers(&one("cache/redis/mod.rs", "fred::connect()")).len(),
        0
    );
    let key = r#"let key = format!("races:{day}");"#;
    assert_eq!(keys_spelt_elsewhere(&one("http/read.rs", key)).len(), 1);
    assert_eq!(keys_spelt_elsewhere(&one("key.rs", key)).len(), 0);
    assert_eq!(
        loose_ends(&one("app.rs", "feed.fetch().unwrap();")).len(),
        1
    );
    assert_eq!(
        shapeless(&one("feed/utils.rs", "//! Odds and ends.")).len(),
        1
    );
    assert_eq!(shapeless(&one("feed/mod.rs", "use std::fmt;")).len(), 1);
    let long = format!("//! Long.\n{}", "\n".repeat(LONGEST_FILE));
    assert_eq!(shapeless(&one("feed/mod.rs", &long)).len(), 1);
}
