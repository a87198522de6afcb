//! The rules in force and their file: there or not, right or wrong, edited, swapped, gone.

use oddsd::rulebook::{Rulebook, RulesLook};
use serde_json::json;

use super::{Backend, Engine, on_every_backend};
use oddsd_testkit::log::Log;

on_every_backend!(every_removal_bears_the_version_that_was_in_force,);

fn rule(name: &str, key: &str) -> String {
    format!("[[rule]]\nname = \"{name}\"\non = [\"task_completed\"]\nkeys = [\"{key}\"]\n")
}

/// A file of its own, and whoever keeps it.
struct File {
    folder: tempfile::TempDir,
    path: std::path::PathBuf,
}

impl File {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("rules.toml");
        Self { folder, path }
    }

    fn write(&self, text: impl AsRef<[u8]>) {
        std::fs::write(&self.path, text).expect("written");
    }

    /// As a careful editor does it, or a mounted volume.
    fn swap(&self, text: &str) {
        let other = self.folder.path().join("rules.toml.new");
        std::fs::write(&other, text).expect("written");
        std::fs::rename(other, &self.path).expect("renamed");
    }
}

fn names(book: &Rulebook) -> Vec<String> {
    let rules = book.now();
    let own = rules.iter().skip(3);
    own.map(|rule| rule.name.to_string()).collect()
}

#[tokio::test]
async fn a_file_that_is_missing_is_taken_up_when_it_appears() {
    let file = File::new();
    let (book, mut keeper) = Rulebook::open(&file.path).expect("no file is no fault");
    assert_eq!(&**book.now().version(), "built-in");
    assert_eq!(book.state().file, None);
    for _ in 0..3 {
        assert_eq!(keeper.look().await, RulesLook::Same);
    }
    file.write(rule("a", "x"));
    assert!(matches!(keeper.look().await, RulesLook::Taken { .. }));
    assert_eq!(names(&book), ["a"]);
    assert_eq!(keeper.look().await, RulesLook::Same);
    let state = book.state();
    assert!(state.file.is_some_and(|file| file.ends_with("rules.toml")));
    assert_eq!((state.rules, state.error), (4, None));
}

#[tokio::test]
async fn an_edited_file_takes_effect_however_it_is_written() {
    let file = File::new();
    file.write(rule("a", "x"));
    let (book, mut keeper) = Rulebook::open(&file.path).expect("valid");
    assert_eq!(
        (names(&book), keeper.look().await),
        (vec!["a".into()], RulesLook::Same)
    );
    file.write(rule("b", "x"));
    assert!(matches!(keeper.look().await, RulesLook::Taken { .. }));
    assert_eq!(names(&book), ["b"]);
    file.swap(&rule("c", "x"));
    assert!(matches!(keeper.look().await, RulesLook::Taken { .. }));
    assert_eq!(names(&book), ["c"]);
    // Of the same length and time: the text counts.
    let time = std::fs::metadata(&file.path).and_then(|known| known.modified());
    file.write(rule("d", "x"));
    let open = std::fs::File::options().write(true).open(&file.path);
    let set = open.and_then(|file| file.set_modified(time?));
    set.expect("the old time");
    assert!(matches!(keeper.look().await, RulesLook::Taken { .. }));
    assert_eq!(names(&book), ["d"]);
    // And by a link that is turned to another file.
    let other = file.folder.path().join("other.toml");
    std::fs::write(&other, rule("e", "x")).expect("written");
    std::fs::remove_file(&file.path).expect("removed");
    std::os::unix::fs::symlink(&other, &file.path).expect("linked");
    assert!(matches!(keeper.look().await, RulesLook::Taken { .. }));
    assert_eq!(names(&book), ["e"]);
}

#[tokio::test]
async fn wrong_rules_leave_the_last_good_ones_in_force() {
    let (log, _listening) = Log::start();
    let file = File::new();
    file.write(rule("a", "x"));
    let (book, mut keeper) = Rulebook::open(&file.path).expect("valid");
    let good = book.now().version().clone();
    let refused = |look: RulesLook| match look {
        RulesLook::Refused { error } => error,
        other => panic!("{other:?}"),
    };
    for (text, why) in [
        (rule("a", "x{").into_bytes(), "rules.toml:4:9: "),
        (b"= 1".to_vec(), "rules.toml:1:1: "),
        (b"\xff\xfe".to_vec(), "UTF-8"),
    ] {
        file.write(&text);
        let error = refused(keeper.look().await);
        assert!(error.contains(why), "{error}");
        assert_eq!(*book.now().version(), good);
        assert_eq!(book.state().error, Some(error));
        assert_eq!(book.state().version, *good);
        assert_eq!(keeper.look().await, RulesLook::Same, "said once");
    }
    assert_eq!(log.lines("rules.refused").len(), 3, "{}", log.text());
    // Back to what is in force: nothing is new, and nothing is wrong any more.
    file.write(rule("a", "x"));
    assert_eq!(keeper.look().await, RulesLook::Same);
    assert_eq!(book.state().error, None);
    file.write("nothing = 1");
    refused(keeper.look().await);
    file.write(rule("b", "x"));
    assert!(matches!(keeper.look().await, RulesLook::Taken { .. }));
    assert_eq!((names(&book), book.state().error), (vec!["b".into()], None));
}

#[tokio::test]
async fn a_file_that_goes_away_takes_no_rules_with_it() {
    let file = File::new();
    file.write(rule("a", "x"));
    let (book, mut keeper) = Rulebook::open(&file.path).expect("valid");
    std::fs::remove_file(&file.path).expect("removed");
    assert!(matches!(keeper.look().await, RulesLook::Refused { .. }));
    assert_eq!(keeper.look().await, RulesLook::Same, "said once");
    assert_eq!(names(&book), ["a"]);
    assert!(book.state().error.is_some());
    file.write(rule("a", "x"));
    assert_eq!(keeper.look().await, RulesLook::Same);
    assert_eq!(book.state().error, None);
    file.write("");
    assert!(matches!(keeper.look().await, RulesLook::Taken { .. }));
    assert_eq!(names(&book), [""; 0]);
}

/// What is there and cannot be read is no file that is missing.
#[tokio::test]
async fn what_is_no_text_is_refused_at_the_start() {
    let file = File::new();
    file.write(b"version = \"\xff\"");
    let why = Rulebook::open(&file.path).map(drop).expect_err("no text");
    assert!(why.to_string().contains("UTF-8"), "{why}");
    std::fs::remove_file(&file.path).expect("removed");
    std::fs::create_dir(&file.path).expect("made");
    let why = Rulebook::open(&file.path).map(drop).expect_err("a folder");
    assert!(why.to_string().contains("rules.toml"), "{why}");
    std::fs::remove_dir(&file.path).expect("removed");
    std::os::unix::fs::symlink("nowhere", &file.path).expect("linked");
    let (book, mut keeper) = Rulebook::open(&file.path).expect("what a link names may come yet");
    assert_eq!(keeper.look().await, RulesLook::Same);
    std::fs::write(file.folder.path().join("nowhere"), b"\xff").expect("written");
    assert!(matches!(keeper.look().await, RulesLook::Refused { .. }));
    assert!(book.state().error.is_some());
    file.write(rule("a", "x"));
    assert!(matches!(keeper.look().await, RulesLook::Taken { .. }));
}

async fn every_removal_bears_the_version_that_was_in_force(backend: Backend) {
    let mut engine = Engine::start(backend).await;
    let mut expected = Vec::new();
    let done =
        || json!({ "change": "task_completed", "task": "t", "n": fastrand::u64(..).to_string() });
    let texts = [
        Some(rule("a", "x")),
        Some(format!("version = 7\n{}", rule("a", "y"))),
        Some("[[rule]".into()),
        None,
        Some(rule("b", "z")),
    ];
    for text in texts {
        match &text {
            Some(text) => std::fs::write(&engine.rules, text).expect("written"),
            None => std::fs::remove_file(&engine.rules).expect("removed"),
        }
        engine.keeper.look().await;
        engine.report(done()).await;
        engine.relayed().await;
        let key = match expected.len() {
            0 => "x",
            1..4 => "y",
            _ => "z",
        };
        expected.push((
            engine.relay.rules.now().version().to_string(),
            vec![key.to_owned()],
        ));
    }
    let log = engine.log().await;
    let told: Vec<_> = log
        .into_iter()
        .map(|line| (line.rules, line.keys))
        .collect();
    assert_eq!(told, expected);
    assert!(
        told[1].0.starts_with("7 ") && told[1].0 == told[3].0,
        "{told:?}"
    );
}
