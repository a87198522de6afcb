//! A measured process: this program started again with one part of the daemon in it, so that its memory and CPU time
//! are those of that part. The parent writes a line for each request; the worker answers each with one line of JSON.

use std::io::{BufRead, BufReader, Lines, StdinLock, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, bail};
use clap::ValueEnum;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::output::print_line;

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum WorkerKind {
    /// The daemon's poll cycle.
    Poller,
    /// Readers of one answer.
    Readers,
    /// The relay and the epoch monitor.
    Relay,
}

/// The parent's side. Dropped, it kills the process.
pub struct Worker {
    process: Child,
    input: ChildStdin,
    /// `None` while a request waits for its answer.
    output: Option<BufReader<ChildStdout>>,
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Worker {
    /// The task goes over standard input, because other users can read a command line.
    pub fn start(kind: WorkerKind, task: &impl Serialize) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let kind = kind.to_possible_value().context("a kind has a name")?;
        let mut process = Command::new(program)
            .args(["worker", kind.get_name()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start this program again")?;
        let input = process.stdin.take().context("stdin is a pipe")?;
        let output = process.stdout.take().context("stdout is a pipe")?;
        let mut worker = Self {
            process,
            input,
            output: Some(BufReader::new(output)),
        };
        worker.send(&serde_json::to_string(task)?)?;
        Ok(worker)
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Sends a line and waits for the answer.
    pub async fn request<T: DeserializeOwned>(&mut self, line: &str) -> anyhow::Result<T> {
        self.send(line)?;
        let mut output = self.output.take().context("one request at a time")?;
        // A blocking thread waits, because tasks of the runtime serve the worker meanwhile.
        let (output, line) = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            output.read_line(&mut line).map(|_| (output, line))
        })
        .await??;
        self.output = Some(output);
        if line.is_empty() {
            bail!("the measured process ended with {}", self.process.wait()?);
        }
        serde_json::from_str(&line).context("cannot read the measured process's answer")
    }

    fn send(&mut self, line: &str) -> anyhow::Result<()> {
        writeln!(self.input, "{line}")?;
        Ok(self.input.flush()?)
    }
}

/// The process's side: its task, and the requests until the parent closes the pipe.
pub fn read_task<T: DeserializeOwned>() -> anyhow::Result<(T, Lines<StdinLock<'static>>)> {
    let mut lines = std::io::stdin().lines();
    let task = lines.next().context("the first line is the task")??;
    let task = serde_json::from_str(&task).context("cannot read the task")?;
    Ok((task, lines))
}

pub fn answer(answer: &impl Serialize) -> anyhow::Result<()> {
    print_line(serde_json::to_string(answer)?);
    Ok(())
}
