//! Tests that follow the worked examples and the documents step by step: the real program, servers and
//! files, and a cache with keys of another program.

mod jobs;
mod web_app;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::harness::program::Program;
use oddsd_testkit::redis::RedisServer;
use oddsd_testkit::resp::{RespClient, RespReply};

const PUT: &str = include_str!("../../deploy/put.lua");
/// Longer than any test.
const TTL_MS: &str = "86400000";

/// A file of the project.
fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn text(path: &str) -> String {
    std::fs::read_to_string(file(path)).expect(path)
}

/// Lines of a README's shell blocks, put together where they go on.
fn shell_lines(readme: &str) -> Vec<String> {
    let blocks = readme.split("```").skip(1).step_by(2);
    let blocks = blocks.filter_map(|block| block.strip_prefix("sh\n"));
    let lines = blocks.map(|block| block.replace("\\\n", " "));
    let lines: Vec<String> = lines
        .flat_map(|block| block.lines().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    let shown = lines.iter().map(|line| match line.find(" # ") {
        Some(remark) => line[..remark].trim().to_owned(),
        None => line.trim().to_owned(),
    });
    shown.filter(|line| !line.is_empty()).collect()
}

/// Splits one line as a shell does, without variables.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), None);
    for c in line.chars() {
        match (c, quoted) {
            (c, Some(mark)) if c == mark => quoted = None,
            (c, Some(_)) => word.push(c),
            ('\'' | '"', None) => quoted = Some(c),
            (' ', None) => words.extend(Some(std::mem::take(&mut word)).filter(|w| !w.is_empty())),
            (c, None) => word.push(c),
        }
    }
    words.extend(Some(word).filter(|word| !word.is_empty()));
    words
}

/// The application's cache.
struct Pages {
    server: RedisServer,
    wire: RespClient,
}

impl Pages {
    async fn open() -> Self {
        let server = RedisServer::start().await;
        let wire = RespClient::connect(server.port()).await.expect("Redis");
        Self { server, wire }
    }

    /// A page, and the patterns that shall remove it.
    async fn put(&mut self, key: &str, patterns: &[String]) {
        let done = match patterns {
            [] => self.wire.command(&["SET", key, "page"]).await,
            _ => {
                let count = (1 + patterns.len()).to_string();
                let mut script = vec!["EVAL".to_owned(), PUT.into(), count, key.into()];
                let lists = patterns
                    .iter()
                    .map(|pattern| format!("oddsd:members:{{b0000}}:{pattern}"));
                script.extend(lists);
                script.extend(["page".into(), TTL_MS.into()]);
                self.wire.command(&script).await
            }
        };
        let done = done.expect("an answer");
        assert!(!matches!(done, RespReply::Error(_)), "{key}: {done:?}");
    }

    /// All names that are not oddsd's own.
    async fn names(&mut self) -> BTreeSet<String> {
        match self.wire.command(&["KEYS", "*"]).await.expect("an answer") {
            RespReply::Array(names) => names
                .iter()
                .map(RespReply::text)
                .filter(|name| !name.starts_with("oddsd:"))
                .collect(),
            other => panic!("no names: {other:?}"),
        }
    }
}

/// The rules that the documents show are rules, and pass their tests.
#[tokio::test]
async fn documents_show_working_commands() {
    let oddsd = Program::new();
    let path = oddsd.folder().join("shown");
    let shown = path.display().to_string();
    let mut blocks = 0;
    for document in ["README.md", "docs/invalidation.md"] {
        for block in text(document).split("```").skip(1).step_by(2) {
            let Some((_, block)) = block
                .split_once('\n')
                .filter(|(kind, _)| matches!(*kind, "toml" | "json"))
            else {
                continue;
            };
            std::fs::write(&path, block).expect("a file");
            oddsd.run(&["rules", "test", &shown]).await.expect_code(0);
            blocks += 1;
        }
    }
    assert_eq!(blocks, 3);
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}
