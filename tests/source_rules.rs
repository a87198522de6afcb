//! Rules of the source that neither Cargo nor clippy can check: only `key` formats cache keys, and each
//! file states its purpose. They cover `src` and the `src` of every shipped crate.

use std::path::{Path, PathBuf};

/// Fragments of cache keys; `key.rs` alone writes them.
const KEY_FRAGMENTS: [&str; 4] = ["\"races:", ":prices:", "\"event:", "\"lease:"];
/// Crates that are not shipped.
const TEST_CRATES: [&str; 2] = ["crates/testkit/", "crates/bench/"];

struct SourceFile {
    /// Relative to the repository, e.g. `crates/core/src/key.rs`.
    path: String,
    text: String,
}

impl SourceFile {
    fn new(path: &str, text: &str) -> Self {
        let (path, text) = (path.into(), text.into());
        Self { path, text }
    }

    /// Lines of code with their numbers, without comments and the file's own tests.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let tests = self.text.find("#[cfg(test)]").unwrap_or(self.text.len());
        let lines = (1..).zip(self.text[..tests].lines());
        lines.filter(|(_, line)| !line.trim_start().starts_with("//"))
    }
}

/// Every Rust file below a folder named `src`.
fn source_files() -> Vec<SourceFile> {
    fn read(folder: &Path, root: &Path, into: &mut Vec<SourceFile>) {
        for entry in std::fs::read_dir(folder).expect("a readable folder") {
            let path = entry.expect("a readable entry").path();
            if path.is_dir() {
                read(&path, root, into);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root).expect("below the root");
                let text = std::fs::read_to_string(&path).expect("UTF-8");
                into.push(SourceFile::new(name.to_str().expect("UTF-8"), &text));
            }
        }
    }
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let crates = std::fs::read_dir(root.join("crates")).expect("the crates");
    let crates = crates.map(|entry| entry.expect("a readable entry").path());
    let mut files = Vec::new();
    for package in crates.chain([root.clone()]) {
        if package.join("src").is_dir() {
            read(&package.join("src"), &root, &mut files);
        }
    }
    assert!(files.len() > 100, "{} files", files.len());
    files
}

fn keys_formatted_outside_key(files: &[SourceFile]) -> Vec<String> {
    let mut found = Vec::new();
    for file in files {
        let exempt = TEST_CRATES.iter().any(|of| file.path.starts_with(of));
        if exempt || file.path.ends_with("src/key.rs") {
            continue;
        }
        for (number, line) in file.code() {
            if KEY_FRAGMENTS.iter().any(|fragment| line.contains(fragment)) {
                found.push(format!("{}:{number}: {line}", file.path));
            }
        }
    }
    found
}

fn without_header(files: &[SourceFile]) -> Vec<&str> {
    let without = files.iter().filter(|file| !file.text.starts_with("//! "));
    without.map(|file| file.path.as_str()).collect()
}

#[test]
fn keys_are_formatted_in_one_module() {
    assert_eq!(keys_formatted_outside_key(&source_files()), [""; 0]);
}

#[test]
fn files_state_their_purpose() {
    assert_eq!(without_header(&source_files()), [""; 0]);
}

#[test]
fn violations_are_found() {
    let one = |path: &str, text: &str| [SourceFile::new(path, text)];
    let key = r#"let key = format!("races:{day}");"#;
    let keys = |path: &str, text: &str| keys_formatted_outside_key(&one(path, text)).len();
    assert_eq!(keys("src/http/read.rs", key), 1);
    assert_eq!(keys("crates/cache/src/lib.rs", key), 1);
    assert_eq!(keys("src/key.rs", key), 0);
    assert_eq!(keys("crates/core/src/key.rs", key), 0);
    assert_eq!(keys("src/http/read.rs", &format!("// {key}")), 0);
    assert_eq!(keys("src/http/read.rs", &format!("#[cfg(test)]\n{key}")), 0);
    assert_eq!(
        without_header(&one("src/feed/mod.rs", "use std::fmt;")).len(),
        1
    );
    assert_eq!(
        without_header(&one("src/feed/mod.rs", "//! Feeds.")).len(),
        0
    );
}
