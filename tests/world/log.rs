//! What is logged on a story's own thread. Whether a place in the code logs at all is remembered for
//! the whole process, and while only one subscriber lives, the thread that comes to such a place
//! first decides alone: one without a subscriber of its own switches it off for everybody
//! (`tracing_core::callsite`, `has_just_one`). Two that care about every place keep that from happening.

use std::sync::{Arc, LazyLock, Mutex};

use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::{DefaultGuard, Interest};
use tracing::{Dispatch, Event, Metadata, Subscriber};

/// From here on no place is switched off for good.
pub fn hear_all() {
    static ATTENTIVE: LazyLock<[Dispatch; 2]> =
        LazyLock::new(|| [Dispatch::new(Attentive), Dispatch::new(Attentive)]);
    LazyLock::force(&ATTENTIVE);
}

/// Wants to be asked about everything, and hears nothing.
struct Attentive;

impl Subscriber for Attentive {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::sometimes()
    }

    fn enabled(&self, _: &Metadata<'_>) -> bool {
        false
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, _: &Event<'_>) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// Everything that was logged on this thread, at every level, as a person would read it.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    pub fn start() -> (Self, DefaultGuard) {
        hear_all();
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_max_level(tracing::Level::TRACE)
            .with_writer(move || writer.clone())
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    pub fn text(&self) -> String {
        let text = self.0.lock().expect("unpoisoned").clone();
        String::from_utf8(text).expect("text")
    }

    pub fn lines(&self, with: &str) -> Vec<String> {
        let text = self.text();
        let lines = text.lines().filter(|line| line.contains(with));
        lines.map(str::to_owned).collect()
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("unpoisoned").write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
