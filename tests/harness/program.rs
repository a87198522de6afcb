//! Runs a command of the real program to its end, in a folder of its own and with an empty environment.
//! The tests of the commands use it and check its output and exit code.

use serde_json::Value;
use std::path::Path;
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use super::RUN_LIMIT;

/// A folder, with a database in it, and an environment. Nothing of this process' environment reaches the program.
pub struct Program {
    folder: tempfile::TempDir,
    env: Vec<(String, String)>,
}

#[derive(Debug)]
pub struct ProgramOutput {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Program {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let temp = folder.path().join("tmp");
        std::fs::create_dir(&temp).expect("a folder for temporary files");
        let env = vec![
            ("TMPDIR".into(), temp.display().to_string()),
            ("DATABASE_URL".into(), "sqlite:oddsd.db".into()),
        ];
        Self { folder, env }
    }

    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.set(name, value);
        self
    }

    pub fn set(&mut self, name: &str, value: impl ToString) {
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.into(), value.to_string()));
    }

    /// Its working folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Files that it left in the folder for temporary files.
    pub fn temporary_files(&self) -> Vec<String> {
        std::fs::read_dir(self.folder.path().join("tmp"))
            .expect("the folder is there")
            .map(|entry| entry.expect("readable").file_name().display().to_string())
            .collect()
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_oddsd"));
        command
            .args(args)
            .env_clear()
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    pub async fn run(&self, args: &[&str]) -> ProgramOutput {
        let output = tokio::time::timeout(RUN_LIMIT, self.command(args).output()).await;
        let output = output
            .unwrap_or_else(|_| panic!("oddsd {} does not end", args.join(" ")))
            .expect("oddsd starts");
        ProgramOutput {
            code: output.status.code().expect("it ends by itself"),
            stdout: String::from_utf8(output.stdout).expect("UTF-8"),
            stderr: String::from_utf8(output.stderr).expect("UTF-8"),
        }
    }
}

impl Program {
    /// Starts it, and sends SIGTERM as soon as either stream holds enough.
    pub async fn run_until_output(
        &self,
        args: &[&str],
        enough: impl Fn(&str) -> bool,
    ) -> ProgramOutput {
        let what = args.join(" ");
        let mut child = self.command(args).spawn().expect("oddsd starts");
        let mut out = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut err = BufReader::new(child.stderr.take().expect("piped")).lines();
        let (mut stdout, mut stderr) = (String::new(), String::new());
        let (mut out_open, mut err_open, mut stopped) = (true, true, false);
        let end = async {
            while out_open || err_open {
                let (line, text, open) = tokio::select! {
                    line = out.next_line(), if out_open => (line, &mut stdout, &mut out_open),
                    line = err.next_line(), if err_open => (line, &mut stderr, &mut err_open),
                };
                match line.expect("UTF-8") {
                    Some(line) => *text += &(line + "\n"),
                    None => *open = false,
                }
                if !stopped && (enough(&stdout) || enough(&stderr)) {
                    stopped = true;
                    let pid = child.id().expect("not yet waited for").to_string();
                    let sent = std::process::Command::new("kill").arg(&pid).status();
                    assert!(sent.expect("kill(1)").success(), "kill {pid}");
                }
            }
            child.wait().await.expect("a status")
        };
        let Ok(status) = tokio::time::timeout(RUN_LIMIT, end).await else {
            panic!("oddsd {what} does not end; its output:\n{stdout}\n{stderr}");
        };
        ProgramOutput {
            code: status.code().expect("it ends by itself"),
            stdout,
            stderr,
        }
    }
}

impl ProgramOutput {
    /// Asserts its exit code.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self}");
        self
    }

    /// Asserts that each text is on either stream.
    #[track_caller]
    pub fn expect_texts(self, words: &[&str]) -> Self {
        let all = self.all();
        for word in words {
            assert!(all.contains(word), "{word:?} is missing in:\n{self}");
        }
        self
    }

    #[track_caller]
    pub fn expect_none_of(self, words: &[&str]) -> Self {
        let all = self.all();
        for word in words {
            assert!(!all.contains(word), "{word:?} is in:\n{self}");
        }
        self
    }

    /// Its output as one JSON value.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|why| panic!("no JSON ({why}):\n{self}"))
    }

    /// Its output as one JSON value for each line.
    #[track_caller]
    pub fn json_lines(&self) -> Vec<Value> {
        let lines = self.stdout.lines();
        lines
            .map(|line| {
                serde_json::from_str(line)
                    .unwrap_or_else(|why| panic!("no JSON ({why}): {line}\n{self}"))
            })
            .collect()
    }

    pub fn all(&self) -> String {
        format!("{}\n{}", self.stdout, self.stderr)
    }
}

impl std::fmt::Display for ProgramOutput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "exit {}\n--- stdout\n{}\n--- stderr\n{}",
            self.code, self.stdout, self.stderr
        )
    }
}
