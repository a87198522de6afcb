//! Captures the log of a test's own thread.
//!
//! Whether a callsite logs at all is cached for the whole process. While only one subscriber lives, the
//! thread that reaches a callsite first decides alone: one without a subscriber switches it off for every
//! thread (`tracing_core::callsite`, `has_just_one`). Two subscribers with interest `sometimes` prevent that.

use std::sync::{Arc, LazyLock, Mutex};

use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::{DefaultGuard, Interest};
use tracing::{Dispatch, Event, Metadata, Subscriber};

/// From now on no callsite is switched off for good.
pub fn keep_callsites_enabled() {
    static KEEPERS: LazyLock<[Dispatch; 2]> =
        LazyLock::new(|| [Dispatch::new(InterestKeeper), Dispatch::new(InterestKeeper)]);
    LazyLock::force(&KEEPERS);
}

/// Is interested in every callsite, and enables none.
struct InterestKeeper;

impl Subscriber for InterestKeeper {
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

/// Every event of this thread, at every level, as text.
#[derive(Clone, Default)]
pub struct CapturedLog(Arc<Mutex<Vec<u8>>>);

impl CapturedLog {
    pub fn start() -> (Self, DefaultGuard) {
        keep_callsites_enabled();
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

impl std::io::Write for CapturedLog {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("unpoisoned").write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
