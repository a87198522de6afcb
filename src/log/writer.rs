//! Writes finished log lines to a stream, on a thread of its own. [`super::start`] starts it for the process.
//!
//! A line is queued, and never written by the thread that logs it: a reader that takes nothing (a stopped collector, a
//! paused terminal) must not stop the work. Lines that find the queue full, or that the stream refuses, are counted, and
//! reported in the stream as soon as it takes lines again.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// Bytes of lines that wait. The lines that are being written may take as much again.
const QUEUE_BYTES: usize = 1 << 20;
/// The largest single write. Each one that returns is progress.
const CHUNK_BYTES: usize = 16 << 10;
/// How long the exit waits for a stream that makes no progress.
const EXIT_PATIENCE: Duration = Duration::from_secs(1);
/// The pause before a full stream that does not block is tried again.
const FULL_PAUSE: Duration = Duration::from_millis(20);

/// Static, because the log is the process'.
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// The number of log lines that were dropped since the start.
pub fn dropped_lines() -> u64 {
    DROPPED.load(Relaxed)
}

/// A clone shares the queue.
#[derive(Clone)]
pub struct LogWriter(Arc<SharedQueue>);

#[derive(Default)]
struct SharedQueue {
    queue: Mutex<LineQueue>,
    changed: Condvar,
}

#[derive(Default)]
struct LineQueue {
    /// Lines with their newlines.
    lines: Vec<u8>,
    /// Lines that were dropped after `lines`. Nothing fits until the thread takes both, so that the report stands
    /// where the lines are missing.
    dropped: u64,
    /// The thread has taken lines and not written all of them.
    is_writing: bool,
    /// Writes that returned.
    progress: u64,
}

impl LogWriter {
    /// Starts the thread. `report` formats the line, newline included, with the number of lines that were dropped.
    pub fn start(
        stream: File,
        report: impl Fn(u64) -> String + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::<SharedQueue>::default();
        let thread = StreamWriter {
            stream,
            is_mid_line: false,
            unreported: 0,
            shared: Arc::clone(&shared),
        };
        std::thread::Builder::new()
            .name("log".into())
            .spawn(move || thread.run(report))?;
        Ok(Self(shared))
    }

    /// Queues a line, newline included, or drops it if it does not fit.
    pub fn push(&self, line: &str) {
        let mut queue = self.0.queue.lock();
        if queue.dropped > 0 || queue.lines.len() + line.len() > QUEUE_BYTES {
            queue.dropped += 1;
            DROPPED.fetch_add(1, Relaxed);
            return;
        }
        queue.lines.extend_from_slice(line.as_bytes());
        self.0.changed.notify_all();
    }

    /// Waits until the queued lines are written, unless the stream takes nothing for a second.
    pub fn flush(&self) {
        let mut queue = self.0.queue.lock();
        let (mut progress, mut limit) = (queue.progress, Instant::now() + EXIT_PATIENCE);
        while queue.is_writing || !queue.is_empty() {
            let waited = self.0.changed.wait_until(&mut queue, limit);
            if queue.progress != progress {
                (progress, limit) = (queue.progress, Instant::now() + EXIT_PATIENCE);
            } else if waited.timed_out() {
                return;
            }
        }
    }
}

impl LineQueue {
    fn is_empty(&self) -> bool {
        self.lines.is_empty() && self.dropped == 0
    }
}

/// The thread's side.
struct StreamWriter {
    stream: File,
    /// A failed write has left a line without its end.
    is_mid_line: bool,
    /// Dropped lines that no written line reports.
    unreported: u64,
    shared: Arc<SharedQueue>,
}

impl StreamWriter {
    fn run(mut self, report: impl Fn(u64) -> String) {
        loop {
            let (lines, dropped) = self.take();
            self.report(&report);
            let unwritten = self.write(&lines).split(|byte| *byte == b'\n').count() as u64 - 1;
            DROPPED.fetch_add(unwritten, Relaxed);
            self.unreported += unwritten + dropped;
            self.report(&report);
        }
    }

    /// Waits for lines.
    fn take(&self) -> (Vec<u8>, u64) {
        let mut queue = self.shared.queue.lock();
        queue.is_writing = false;
        self.shared.changed.notify_all();
        while queue.is_empty() {
            self.shared.changed.wait(&mut queue);
        }
        queue.is_writing = true;
        let LineQueue { lines, dropped, .. } = &mut *queue;
        (std::mem::take(lines), std::mem::take(dropped))
    }

    fn report(&mut self, report: impl Fn(u64) -> String) {
        if self.unreported > 0 && self.write(report(self.unreported).as_bytes()).is_empty() {
            self.unreported = 0;
        }
    }

    /// Returns the rest that the stream refused, because nothing reads it any more or the disk is full.
    fn write<'a>(&mut self, text: &'a [u8]) -> &'a [u8] {
        if self.is_mid_line && self.write_all(b"\n").is_empty() {
            self.is_mid_line = false;
        }
        let rest = self.write_all(text);
        if rest.len() < text.len() {
            self.is_mid_line = !text[..text.len() - rest.len()].ends_with(b"\n");
        }
        rest
    }

    fn write_all<'a>(&mut self, mut text: &'a [u8]) -> &'a [u8] {
        while !text.is_empty() {
            match self.stream.write(&text[..text.len().min(CHUNK_BYTES)]) {
                Ok(0) => break,
                Ok(written) => {
                    text = &text[written..];
                    self.shared.queue.lock().progress += 1;
                }
                Err(why) if why.kind() == ErrorKind::Interrupted => {}
                Err(why) if why.kind() == ErrorKind::WouldBlock => std::thread::sleep(FULL_PAUSE),
                Err(_) => break,
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, PipeReader};
    use std::os::fd::OwnedFd;

    fn start() -> (LogWriter, PipeReader) {
        let (reader, stream) = io::pipe().expect("a pipe");
        let stream = File::from(OwnedFd::from(stream));
        let writer = LogWriter::start(stream, |dropped| format!("{dropped} dropped\n"));
        (writer.expect("a thread"), reader)
    }

    /// Numbered lines of a kilobyte.
    fn line(number: usize) -> String {
        format!("{number:0>1023}\n")
    }

    #[test]
    fn lines_of_a_reader_that_pauses_are_written_or_reported_in_their_place() {
        let (writer, reader) = start();
        // The queue, the lines that are being written and the pipe itself hold fewer.
        let pushed = 3 * QUEUE_BYTES / 1024;
        (0..pushed).for_each(|number| writer.push(&line(number)));
        let (mut next, mut dropped) = (0, 0);
        let mut lines = BufReader::new(reader).lines();
        // A line after the gap must follow the report of the gap.
        writer.push("last\n");
        while next < pushed || dropped == 0 {
            let line = lines.next().expect("open").expect("text");
            match line.strip_suffix(" dropped") {
                Some(count) => {
                    let count: usize = count.parse().expect("a number");
                    (dropped, next) = (dropped + count, next + count);
                }
                None => {
                    assert_eq!(line.parse(), Ok(next), "in order");
                    next += 1;
                }
            }
        }
        assert!(dropped > 0);
    }
}
