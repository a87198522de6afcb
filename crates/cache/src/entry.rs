//! One cached answer: its body, the database snapshot of its load, and how long it may be served. All backends
//! store it; a cache server stores it as a header line of text and the body, so that a lookup is a plain read.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bytes::Bytes;

use oddsd_core::key::Tag;
use oddsd_core::model::DbSnapshot;

/// The format of a stored entry; another one is a miss. The removal script depends on it, and on the
/// position of the mark in the line.
const FORMAT: &str = "o2";
/// Length of format, epoch id and version: no two stored entries share this prefix.
pub(super) const VERSION_PREFIX: usize = 2 + 1 + 16 + 1 + 32;
/// Stands in the place of the time (ms of the server's clock) at which the entry was marked stale.
const UNMARKED: &str = "0000000000000";
/// Fast, and saves half of what the best level would.
const COMPRESSION_LEVEL: i32 = 1;
/// A longer header line is not an entry.
const LONGEST_LINE: usize = 256 * 1024;
/// The largest size of a decompressed body.
const LARGEST_BODY: usize = 64 * 1024 * 1024;

/// One cached answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The answer.
    pub body: Bytes,
    /// The version, which is the token of the lease that filled it: no two entries have the same.
    pub version: u128,
    /// The answer is "there is none"; the body may be empty.
    pub absent: bool,
    /// The database snapshot that the load included at least.
    pub snapshot: DbSnapshot,
    /// Removing one of these removes the entry.
    pub tags: Vec<Tag>,
    /// When its load began.
    pub stored_at: Instant,
    /// How long it is fresh, from `stored_at` on.
    pub fresh: Duration,
    /// How long after that it may be served while a load renews it.
    pub while_revalidating: Duration,
    /// How long after `fresh` it may be served when the load fails.
    pub on_error: Duration,
    /// How long the load took.
    pub load_time: Duration,
}

impl Entry {
    /// The time since its load began.
    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.stored_at)
    }

    #[cfg(test)]
    pub(super) fn sample(body: impl Into<Bytes>) -> Self {
        Self {
            body: body.into(),
            version: 7,
            absent: false,
            snapshot: DbSnapshot::from_commit_count(1),
            tags: Vec::new(),
            stored_at: Instant::now(),
            fresh: Duration::from_secs(60),
            while_revalidating: Duration::ZERO,
            on_error: Duration::ZERO,
            load_time: Duration::from_millis(3),
        }
    }

    /// The time to live from `stored_at` on, stale time included.
    pub fn ttl(&self) -> Duration {
        self.fresh + self.while_revalidating.max(self.on_error)
    }

    /// Whether to renew it now although it is still fresh (XFetch); `draw` is uniform in 0..1.
    pub fn wants_renewal(&self, age: Duration, early: f64, draw: impl FnOnce() -> f64) -> bool {
        let left = self.fresh.saturating_sub(age).as_secs_f64();
        let load = self.load_time.as_secs_f64() * early;
        // Beyond twenty loads from the end the probability is below 10^-8: skip draw and logarithm.
        left <= load * 20.0 && load * -draw().max(f64::MIN_POSITIVE).ln() >= left
    }

    /// The entry after a stale mark, set `after` this time since it was stored: no longer fresh, and servable as
    /// stale from then on for as long as it would have been after its fresh time.
    pub(super) fn marked_stale(self, after: Duration) -> Self {
        let after = after.min(self.fresh);
        let longer = |time: Duration| match time.is_zero() {
            true => time,
            false => after + time,
        };
        Self {
            fresh: Duration::ZERO,
            while_revalidating: longer(self.while_revalidating),
            on_error: longer(self.on_error),
            ..self
        }
    }

    /// The form in which a cache server stores it. `server_ms` is the server's clock now; `as_text` where the server
    /// takes only text.
    pub(super) fn encode(
        &self,
        epoch_id: &str,
        server_ms: u64,
        compress_from: usize,
        as_text: bool,
    ) -> Vec<u8> {
        let small = (self.body.len() >= compress_from)
            .then(|| zstd::bulk::compress(&self.body, COMPRESSION_LEVEL).ok())
            .flatten()
            .filter(|small| small.len() < self.body.len());
        let plain_text = std::str::from_utf8(&self.body).is_ok();
        let (form, body) = match small {
            Some(small) if as_text => ("zb", STANDARD_NO_PAD.encode(small).into_bytes()),
            Some(small) => ("z", small),
            None if as_text && !plain_text => {
                ("b", STANDARD_NO_PAD.encode(&self.body).into_bytes())
            }
            None => ("-", self.body.to_vec()),
        };
        let ms = |time: Duration| time.as_millis();
        let mut line = String::with_capacity(128);
        let _ = write!(
            line,
            "{FORMAT} {epoch_id} {:032x} {UNMARKED} {server_ms} {} {} {} {} {} {form} {}",
            self.version,
            ms(self.fresh),
            ms(self.while_revalidating),
            ms(self.on_error),
            self.load_time.as_micros(),
            self.snapshot,
            if self.absent { 'a' } else { '-' },
        );
        for tag in &self.tags {
            let _ = write!(line, " {tag}");
        }
        line.push('\n');
        let mut stored = line.into_bytes();
        stored.extend_from_slice(&body);
        stored
    }

    /// Parses what `encode` wrote; returns the epoch id and the entry. `None`: not an entry of this format.
    /// `age` converts a time of the server's clock to the time since.
    pub(super) fn decode(
        stored: &Bytes,
        now: Instant,
        age: impl Fn(u64) -> Duration,
    ) -> Option<(String, Self)> {
        let end = stored
            .iter()
            .take(LONGEST_LINE)
            .position(|byte| *byte == b'\n')?;
        let line = std::str::from_utf8(&stored[..end]).ok()?;
        let mut words = line.split(' ');
        if words.next() != Some(FORMAT) {
            return None;
        }
        let epoch_id = words.next()?.to_owned();
        let stamp = u128::from_str_radix(words.next()?, 16).ok()?;
        let marked_ms: u64 = words.next()?.parse().ok()?;
        let stored_ms: u64 = words.next()?.parse().ok()?;
        let mut number = || words.next()?.parse::<u64>().ok();
        let (fresh, while_revalidating, on_error) = (number()?, number()?, number()?);
        let load = number()?;
        let snapshot = DbSnapshot::parse(words.next()?)?;
        let form = words.next()?;
        let absent = words.next()? == "a";
        let tags: Vec<Tag> = words.map(Tag::from_stored).collect();
        let body = stored.slice(end + 1..);
        let body = match form {
            "-" => body,
            "b" => STANDARD_NO_PAD.decode(&body).ok()?.into(),
            "z" => decompress(&body)?,
            "zb" => decompress(&STANDARD_NO_PAD.decode(&body).ok()?)?,
            _ => return None,
        };
        let entry = Self {
            body,
            version: stamp,
            absent,
            snapshot,
            tags,
            stored_at: now.checked_sub(age(stored_ms)).unwrap_or(now),
            fresh: Duration::from_millis(fresh),
            while_revalidating: Duration::from_millis(while_revalidating),
            on_error: Duration::from_millis(on_error),
            load_time: Duration::from_micros(load),
        };
        let entry = match marked_ms {
            0 => entry,
            at => entry.marked_stale(Duration::from_millis(at.saturating_sub(stored_ms))),
        };
        Some((epoch_id, entry))
    }
}

fn decompress(small: &[u8]) -> Option<Bytes> {
    let size = zstd::zstd_safe::get_frame_content_size(small).ok()??;
    let size = usize::try_from(size).ok()?;
    let body = (size <= LARGEST_BODY).then(|| zstd::bulk::decompress(small, size).ok());
    body.flatten().map(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(body: &[u8]) -> Entry {
        Entry {
            snapshot: DbSnapshot::parse("3:9:3,5").expect("a snapshot"),
            tags: vec![Tag::event(&"rac 1".into()), Tag::event(&"x".into())],
            fresh: Duration::from_secs(30),
            while_revalidating: Duration::from_secs(20),
            on_error: Duration::from_secs(30),
            ..Entry::sample(body.to_vec())
        }
    }

    fn encode_and_decode(entry: &Entry, compress_from: usize, as_text: bool) -> (String, Entry) {
        let stored = entry.encode("00000000000000ff", 1000, compress_from, as_text);
        assert!(!as_text || std::str::from_utf8(&stored).is_ok());
        let read = Entry::decode(&stored.into(), entry.stored_at, |_| Duration::ZERO);
        read.expect("an entry")
    }

    proptest! {
        #[test]
        fn a_stored_entry_is_read_back_unchanged(body in prop::collection::vec(any::<u8>(), 0..400), absent: bool, from in 0usize..500, as_text: bool) {
            let entry = Entry { absent, ..entry(&body) };
            let (epoch_id, back) = encode_and_decode(&entry, from, as_text);
            prop_assert_eq!(epoch_id, "00000000000000ff");
            prop_assert_eq!(back, entry);
        }

        #[test]
        fn invalid_bytes_are_no_entry_and_no_panic(stored in prop::collection::vec(any::<u8>(), 0..80), cut in 0usize..120) {
            let now = Instant::now();
            let _ = Entry::decode(&stored.into(), now, |_| Duration::ZERO);
            let whole = entry(b"body").encode("00000000000000ff", 1, 1, false);
            let _ = Entry::decode(&Bytes::copy_from_slice(&whole[..cut.min(whole.len())]), now, |_| Duration::ZERO);
        }
    }

    #[test]
    fn large_bodies_are_compressed() {
        let body = r#"{"bookmaker":"bet365","decimal":"3.25"}"#.repeat(1000);
        let entry = entry(body.as_bytes());
        let stored = entry.encode("00000000000000ff", 1, 1024, false);
        assert!(stored.len() < body.len() / 20, "{}", stored.len());
        assert!(
            stored[..VERSION_PREFIX].ends_with(b"0007"),
            "the script compares so many"
        );
        assert_eq!(&stored[53..=65], UNMARKED.as_bytes(), "the script marks it");
        assert_eq!(encode_and_decode(&entry, 1024, true).1.body, entry.body);
    }

    #[test]
    fn a_stale_mark_ends_the_fresh_time_and_keeps_the_stale_time() {
        let entry = entry(b"body");
        let mut stored = entry.encode("00000000000000ff", 1_000, 1024, false);
        stored[53..=65].copy_from_slice(b"0000000011000");
        let read = Entry::decode(&stored.into(), entry.stored_at, |_| Duration::ZERO);
        let (_, marked) = read.expect("an entry");
        let seconds = |time: Duration| time.as_secs();
        assert_eq!(marked.fresh, Duration::ZERO);
        assert_eq!(seconds(marked.while_revalidating), 10 + 20);
        assert_eq!(seconds(marked.on_error), 10 + 30);
        assert_eq!((&marked.body, marked.version), (&entry.body, entry.version));
        // A mark after the fresh time does not change the end; nor does a second mark.
        let late = entry.clone().marked_stale(Duration::from_secs(40));
        assert_eq!(late.ttl(), entry.ttl());
        assert_eq!(late.clone().marked_stale(Duration::from_secs(45)), late);
        let none = Entry {
            while_revalidating: Duration::ZERO,
            ..entry
        };
        let none = none.marked_stale(Duration::ZERO);
        assert_eq!(none.while_revalidating, Duration::ZERO, "never stale");
    }

    #[test]
    fn slow_loads_are_renewed_early() {
        let entry = entry(b"");
        let early = |age_ms, draw| entry.wants_renewal(Duration::from_millis(age_ms), 1.0, || draw);
        assert!(!early(0, 1e-300) && !early(29_000, 1e-300));
        assert!(early(29_999, 0.5) && !early(29_990, 0.5));
        assert!(early(30_001, 1.0));
        assert!(!entry.wants_renewal(Duration::from_millis(29_999), 0.0, || 0.1));
    }
}
