//! The Racing API: racecards with the odds inside them, by UK date or race by race.
//!
//! One call to [`RacingApi::read`] is one complete answer or one error. What is remembered of an
//! answer is the fingerprints of its races, and only what the taker says to know is skipped: in a
//! body that came, or in one that the provider calls unmodified. So a look always speaks for its
//! whole scope, and memory holds no answer.

mod bookmakers;
mod card;
mod days;
mod page;
mod parse;
mod price;
mod races;
mod reader;
mod row;
mod spacing;
mod times;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};

pub use self::parse::{Parsed, parse_cards, read_cards};
pub use self::spacing::Spacing;
use crate::diff::{Collected, Take};
use crate::feed::http::{Auth, HttpDoor, Provider, Validators, base_url};
use crate::feed::{Ask, FeedError, Fetched, Looked};
use crate::model::Slice;

pub const SOURCE: &str = "racing_api";
pub const DEFAULT_BASE_URL: &str = "https://api.theracingapi.com/v1";
/// The provider documents `limit` and `skip` up to here: 1,000 races a day can be read.
const MAX_PAGE_LIMIT: u16 = 500;
const MAX_DAYS: u16 = 14;
/// What was read is kept for "not modified" as long as somebody keeps asking for it.
const KEEP_UNASKED: TimeDelta = TimeDelta::hours(1);

/// How to ask. Tests and mirrors set another `base_url`.
#[derive(Clone, Debug)]
pub struct RacingApiSettings {
    pub base_url: String,
    pub username: SecretString,
    pub password: SecretString,
    /// `gb`, `ire`, …; none asks for all.
    pub regions: Vec<String>,
    pub page_limit: u16,
    /// Card dates to poll, the first being today's UK date.
    pub days: u16,
    /// Limit on `/racecards/pro`.
    pub cards_per_second: f64,
    /// Limit on `/racecards/{id}/pro`.
    pub races_per_second: f64,
    /// For each request, body included.
    pub deadline: Duration,
    /// Hand over the bodies too, and have every one of them sent: for a recorder.
    pub keep_bodies: bool,
}

impl RacingApiSettings {
    /// The provider's own limits, today and tomorrow, Britain and Ireland.
    pub fn new(username: SecretString, password: SecretString) -> Self {
        Self {
            base_url: DEFAULT_BASE_URL.into(),
            username,
            password,
            regions: vec!["gb".into(), "ire".into()],
            page_limit: MAX_PAGE_LIMIT,
            days: 2,
            cards_per_second: 2.0,
            races_per_second: 5.0,
            deadline: Duration::from_secs(20),
            keep_bodies: false,
        }
    }
}

/// What is remembered of the last answer from one URL.
struct Kept {
    validators: Validators,
    /// Its races, by their texts.
    slices: Arc<[Slice]>,
    /// They are all that it said: "not modified" may be taken for them.
    whole: bool,
    total: Option<u64>,
    asked_at: DateTime<Utc>,
}

pub struct RacingApi {
    settings: RacingApiSettings,
    base: Url,
    http: HttpDoor,
    cards: Spacing,
    races: Spacing,
    kept: HashMap<Url, Kept>,
}

impl RacingApi {
    pub fn new(settings: RacingApiSettings) -> Result<Self, FeedError> {
        let bad = |detail: String| FeedError::BadRequest { detail };
        let base = base_url("RACING_API_URL", &settings.base_url)?;
        if settings.page_limit == 0 || settings.page_limit > MAX_PAGE_LIMIT {
            return Err(bad(format!(
                "a page limit of {} (The Racing API takes 1 to {MAX_PAGE_LIMIT})",
                settings.page_limit
            )));
        }
        if settings.days == 0 || settings.days > MAX_DAYS {
            return Err(bad(format!(
                "{} days to poll (1 to {MAX_DAYS} can be asked for)",
                settings.days
            )));
        }
        let spacing = |rate: f64| {
            Spacing::per_second(rate)
                .ok_or_else(|| bad(format!("a rate of {rate} requests a second")))
        };
        let provider = Provider {
            name: "The Racing API",
            credentials: "RACING_API_USERNAME and RACING_API_PASSWORD",
            deadline: settings.deadline,
        };
        Ok(Self {
            cards: spacing(settings.cards_per_second)?,
            races: spacing(settings.races_per_second)?,
            http: HttpDoor::new(provider, &base)?,
            base,
            settings,
            kept: HashMap::new(),
        })
    }

    /// One look at the feed. `now` says which days are polled and orders the looks. The bodies are
    /// those that arrived, where they are to be kept.
    pub async fn read(
        &mut self,
        ask: &Ask,
        now: DateTime<Utc>,
        to: &mut dyn Take,
    ) -> Result<Looked, FeedError> {
        self.kept
            .retain(|_, kept| now - kept.asked_at <= KEEP_UNASKED);
        match ask {
            Ask::Everything => self.days(now, to).await,
            Ask::Events(ids) => self.one_by_one(ids, now, to).await,
        }
    }

    /// The same, in memory.
    pub async fn fetch(&mut self, ask: &Ask, now: DateTime<Utc>) -> Result<Fetched, FeedError> {
        let mut events = Collected::default();
        let looked = self.read(ask, now, &mut events).await?;
        Ok(looked.with(events))
    }

    fn auth(&self) -> Auth<'_> {
        Auth::Basic {
            username: self.settings.username.expose_secret(),
            password: &self.settings.password,
        }
    }

    /// What "not modified" would stand for, if it may be the answer: only while all of it is known.
    fn unmodified(&self, url: &Url, to: &dyn Take) -> Option<&Kept> {
        let kept = self.kept.get(url).filter(|_| !self.settings.keep_bodies)?;
        let usable = kept.whole && !kept.validators.is_empty();
        let known = usable && kept.slices.iter().all(|slice| to.knows(slice).is_some());
        known.then_some(kept)
    }

    fn at(&self, parts: &[&str]) -> Url {
        let mut url = self.base.clone();
        url.path_segments_mut()
            .expect("http and https URLs have paths")
            .pop_if_empty()
            .extend(parts);
        url
    }
}
