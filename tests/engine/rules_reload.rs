//! The rules in force while their file is missing, invalid, edited, swapped or deleted.

use oddsd::rules_file::{ReloadOutcome, RulesHandle};
use serde_json::json;

use super::{DatabaseBackend, Engine, on_every_backend};
use oddsd_testkit::log::CapturedLog;

on_every_backend!(removal_records_the_rules_version_in_force,);

fn rule(name: &str, key: &str) -> String {
    format!("[[rule]]\nname = \"{name}\"\non = [\"task_completed\"]\nkeys = [\"{key}\"]\n")
}

/// A rules file in a folder of its own.
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

    /// Replaces the file by rename, as an editor or a mounted volume does.
    fn swap(&self, text: &str) {
        let other = self.folder.path().join("rules.toml.new");
        std::fs::write(&other, text).expect("written");
        std::fs::rename(other, &self.path).expect("renamed");
    }
}

fn names(handle: &RulesHandle) -> Vec<String> {
    let rules = handle.current();
    let own = rules.iter().skip(3);
    own.map(|rule| rule.name.to_string()).collect()
}

#[tokio::test]
async fn missing_rules_file_is_loaded_when_it_appears() {
    let file = File::new();
    let (handle, mut watcher) =
        RulesHandle::open(&file.path, None).expect("a missing file is allowed");
    assert_eq!(&**handle.current().version(), "built-in");
    assert_eq!(handle.state().file, None);
    for _ in 0..3 {
        assert_eq!(watcher.poll().await, ReloadOutcome::Unchanged);
    }
    file.write(rule("a", "x"));
    assert!(matches!(watcher.poll().await, ReloadOutcome::Loaded { .. }));
    assert_eq!(names(&handle), ["a"]);
    assert_eq!(watcher.poll().await, ReloadOutcome::Unchanged);
    let state = handle.state();
    assert!(state.file.is_some_and(|file| file.ends_with("rules.toml")));
    assert_eq!((state.rules, state.error), (4, None));
}

#[tokio::test]
async fn edited_rules_file_is_loaded_however_it_is_written() {
    let file = File::new();
    file.write(rule("a", "x"));
    let (handle, mut watcher) = RulesHandle::open(&file.path, None).expect("valid");
    assert_eq!(
        (names(&handle), watcher.poll().await),
        (vec!["a".into()], ReloadOutcome::Unchanged)
    );
    file.write(rule("b", "x"));
    assert!(matches!(watcher.poll().await, ReloadOutcome::Loaded { .. }));
    assert_eq!(names(&handle), ["b"]);
    file.swap(&rule("c", "x"));
    assert!(matches!(watcher.poll().await, ReloadOutcome::Loaded { .. }));
    assert_eq!(names(&handle), ["c"]);
    // Of the same length and time: the text counts.
    let time = std::fs::metadata(&file.path).and_then(|known| known.modified());
    file.write(rule("d", "x"));
    let open = std::fs::File::options().write(true).open(&file.path);
    let set = open.and_then(|file| file.set_modified(time?));
    set.expect("the old time");
    assert!(matches!(watcher.poll().await, ReloadOutcome::Loaded { .. }));
    assert_eq!(names(&handle), ["d"]);
    // And by a link that is turned to another file.
    let other = file.folder.path().join("other.toml");
    std::fs::write(&other, rule("e", "x")).expect("written");
    std::fs::remove_file(&file.path).expect("removed");
    std::os::unix::fs::symlink(&other, &file.path).expect("linked");
    assert!(matches!(watcher.poll().await, ReloadOutcome::Loaded { .. }));
    assert_eq!(names(&handle), ["e"]);
}

#[tokio::test]
async fn invalid_rules_leave_the_last_valid_ones_in_force() {
    let (log, _listening) = CapturedLog::start();
    let file = File::new();
    file.write(rule("a", "x"));
    let (handle, mut watcher) = RulesHandle::open(&file.path, None).expect("valid");
    let good = handle.current().version().clone();
    let refused = |look: ReloadOutcome| match look {
        ReloadOutcome::Rejected { error } => error,
        other => panic!("{other:?}"),
    };
    for (text, why) in [
        (rule("a", "x{").into_bytes(), "rules.toml:4:9: "),
        (b"= 1".to_vec(), "rules.toml:1:1: "),
        (b"\xff\xfe".to_vec(), "UTF-8"),
    ] {
        file.write(&text);
        let error = refused(watcher.poll().await);
        assert!(error.contains(why), "{error}");
        assert_eq!(*handle.current().version(), good);
        assert_eq!(handle.state().error, Some(error));
        assert_eq!(handle.state().version, *good);
        assert_eq!(watcher.poll().await, ReloadOutcome::Unchanged, "said once");
    }
    assert_eq!(log.lines("rules.refused").len(), 3, "{}", log.text());
    // Back to what is in force: nothing is new, and nothing is wrong any more.
    file.write(rule("a", "x"));
    assert_eq!(watcher.poll().await, ReloadOutcome::Unchanged);
    assert_eq!(handle.state().error, None);
    file.write("nothing = 1");
    refused(watcher.poll().await);
    file.write(rule("b", "x"));
    assert!(matches!(watcher.poll().await, ReloadOutcome::Loaded { .. }));
    assert_eq!(
        (names(&handle), handle.state().error),
        (vec!["b".into()], None)
    );
}

#[tokio::test]
async fn deleted_rules_file_leaves_its_rules_in_force() {
    let file = File::new();
    file.write(rule("a", "x"));
    let (handle, mut watcher) = RulesHandle::open(&file.path, None).expect("valid");
    std::fs::remove_file(&file.path).expect("removed");
    assert!(matches!(
        watcher.poll().await,
        ReloadOutcome::Rejected { .. }
    ));
    assert_eq!(watcher.poll().await, ReloadOutcome::Unchanged, "said once");
    assert_eq!(names(&handle), ["a"]);
    assert!(handle.state().error.is_some());
    file.write(rule("a", "x"));
    assert_eq!(watcher.poll().await, ReloadOutcome::Unchanged);
    assert_eq!(handle.state().error, None);
    file.write("");
    assert!(matches!(watcher.poll().await, ReloadOutcome::Loaded { .. }));
    assert_eq!(names(&handle), [""; 0]);
}

/// What is there and cannot be read is no file that is missing.
#[tokio::test]
async fn unreadable_rules_file_is_an_error_at_start() {
    let file = File::new();
    file.write(b"version = \"\xff\"");
    let why = RulesHandle::open(&file.path, None)
        .map(drop)
        .expect_err("no text");
    assert!(why.to_string().contains("UTF-8"), "{why}");
    std::fs::remove_file(&file.path).expect("removed");
    std::fs::create_dir(&file.path).expect("made");
    let why = RulesHandle::open(&file.path, None)
        .map(drop)
        .expect_err("a folder");
    assert!(why.to_string().contains("rules.toml"), "{why}");
    std::fs::remove_dir(&file.path).expect("removed");
    std::os::unix::fs::symlink("nowhere", &file.path).expect("linked");
    let (handle, mut watcher) =
        RulesHandle::open(&file.path, None).expect("the target of a link may come later");
    assert_eq!(watcher.poll().await, ReloadOutcome::Unchanged);
    std::fs::write(file.folder.path().join("nowhere"), b"\xff").expect("written");
    assert!(matches!(
        watcher.poll().await,
        ReloadOutcome::Rejected { .. }
    ));
    assert!(handle.state().error.is_some());
    file.write(rule("a", "x"));
    assert!(matches!(watcher.poll().await, ReloadOutcome::Loaded { .. }));
}

async fn removal_records_the_rules_version_in_force(backend: DatabaseBackend) {
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
        engine.watcher.poll().await;
        engine.report(done()).await;
        engine.drain().await;
        let key = match expected.len() {
            0 => "x",
            1..4 => "y",
            _ => "z",
        };
        expected.push((
            engine.relay.rules.current().version().to_string(),
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
