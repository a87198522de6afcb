//! Writes a feed's answers to a file, for `oddsd record`. Each record is flushed before the next one
//! is fetched, so a crash costs at most the record that was being written.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;

use super::RecordedFeed;
use oddsd_core::model::Scope;

/// Consecutive answers are similar: with a window of 16 MiB each compresses to its difference, and
/// every zstd decodes that window by default.
const WINDOW_LOG: u32 = 24;

pub struct Recorder {
    path: PathBuf,
    output: Box<dyn Write + Send>,
    seq: u64,
}

#[derive(Serialize)]
struct RecordLine<'a> {
    seq: u64,
    feed: RecordedFeed,
    fetched_at: String,
    scope: &'a Scope,
    bodies: &'a [String],
}

impl Recorder {
    /// Creates a file, compressed if its name ends in `.zst`. An existing file is never overwritten,
    /// because a recording cannot be made again.
    pub fn create(path: impl AsRef<Path>) -> anyhow::Result<Self> {
        let path = path.as_ref().to_owned();
        let file = File::create_new(&path).with_context(|| {
            format!(
                "cannot start the recording {}; an existing file is never overwritten, so name a new one",
                path.display()
            )
        })?;
        let output: Box<dyn Write + Send> = if path.extension().is_some_and(|e| e == "zst") {
            let mut encoder = zstd::Encoder::new(file, zstd::DEFAULT_COMPRESSION_LEVEL)?;
            encoder.window_log(WINDOW_LOG)?;
            encoder.long_distance_matching(true)?;
            encoder.include_checksum(true)?;
            Box::new(encoder.auto_finish())
        } else {
            Box::new(file)
        };
        Ok(Self {
            path,
            output,
            seq: 0,
        })
    }

    /// Appends one answer.
    pub fn write(
        &mut self,
        feed: RecordedFeed,
        fetched_at: DateTime<Utc>,
        scope: &Scope,
        bodies: &[String],
    ) -> anyhow::Result<()> {
        let mut line = serde_json::to_vec(&RecordLine {
            seq: self.seq,
            feed,
            fetched_at: fetched_at.to_rfc3339_opts(SecondsFormat::AutoSi, true),
            scope,
            bodies,
        })?;
        line.push(b'\n');
        let written = self.output.write_all(&line);
        let written = written.and_then(|()| self.output.flush());
        written.with_context(|| {
            format!(
                "cannot write record {} to {}; is the disk full?",
                self.seq,
                self.path.display()
            )
        })?;
        self.seq += 1;
        Ok(())
    }

    /// Records written so far.
    pub fn records(&self) -> u64 {
        self.seq
    }
}
