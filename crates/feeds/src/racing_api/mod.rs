//! The Racing API: racecards with their odds, by UK date or race by race. The poller reads it through `Feed`.
//!
//! One call to [`RacingApi::read`] returns one complete answer or one error. Of an answer only the fingerprints
//! of its races are kept, and a race is skipped only if the sink knows its fingerprint, in a body that
//! arrived and in one that the provider calls unmodified. So an answer always covers its whole scope, and
//! memory holds one body at a time.

mod answer;
mod bookmakers;
mod card;
mod days;
mod fields;
mod price;
mod race;
mod races;
mod rate_limit;
mod times;

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};

use self::answer::PageSummary;
pub(crate) use self::answer::parse_pages;
pub use self::answer::{CardsReader, ParsedCards, parse_cards};
pub use self::rate_limit::RateLimiter;
use crate::http::{Auth, ProviderClient, ProviderInfo, Validators, base_url};
use crate::{FeedError, FetchRequest, FetchSummary};
use oddsd_core::diff::EventSink;

pub const SOURCE: &str = "racing_api";
pub const DEFAULT_BASE_URL: &str = "https://api.theracingapi.com/v1";
/// The provider documents `limit` and `skip` up to here: 1,000 races a day can be read.
const MAX_PAGE_LIMIT: u16 = 500;
const MAX_DAYS: u16 = 14;
/// A URL that was not requested for this long is forgotten.
const CACHE_TTL: TimeDelta = TimeDelta::hours(1);

/// Tests and mirrors set another `base_url`.
#[derive(Clone, Debug)]
pub struct RacingApiSettings {
    pub base_url: String,
    pub username: SecretString,
    pub password: SecretString,
    /// `gb`, `ire`, …; an empty list requests all.
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
    /// Return the bodies too, and send no conditional requests: for a recorder.
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

/// The last response from one URL, to which a 304 refers.
struct CachedResponse {
    validators: Validators,
    page: PageSummary,
    requested_at: DateTime<Utc>,
}

pub struct RacingApi {
    settings: RacingApiSettings,
    base: Url,
    http: ProviderClient,
    cards: RateLimiter,
    races: RateLimiter,
    cached: HashMap<Url, CachedResponse>,
    /// A day had a card: the base URL is right.
    has_read_card: bool,
    /// Days that the last answer had no card for.
    without_card: Vec<NaiveDate>,
}

impl RacingApi {
    pub fn new(settings: RacingApiSettings) -> Result<Self, FeedError> {
        let bad = FeedError::BadRequest;
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
        let limit = |rate: f64| {
            RateLimiter::per_second(rate)
                .ok_or_else(|| bad(format!("a rate of {rate} requests a second")))
        };
        let provider = ProviderInfo {
            name: "The Racing API",
            credentials: "RACING_API_USERNAME and RACING_API_PASSWORD",
            deadline: settings.deadline,
        };
        Ok(Self {
            cards: limit(settings.cards_per_second)?,
            races: limit(settings.races_per_second)?,
            http: ProviderClient::new(provider, &base)?,
            base,
            settings,
            cached: HashMap::new(),
            has_read_card: false,
            without_card: Vec::new(),
        })
    }

    /// Fetches once and hands the races to `to`. `now` decides which days are polled, and orders the answers.
    pub async fn read(
        &mut self,
        request: &FetchRequest,
        now: DateTime<Utc>,
        to: &mut dyn EventSink,
    ) -> Result<FetchSummary, FeedError> {
        self.cached
            .retain(|_, response| now - response.requested_at <= CACHE_TTL);
        match request {
            FetchRequest::Everything => self.fetch_days(now, to).await,
            FetchRequest::Events(ids) => self.fetch_races(ids, now, to).await,
        }
    }

    fn auth(&self) -> Auth<'_> {
        Auth::Basic {
            username: self.settings.username.expose_secret(),
            password: &self.settings.password,
        }
    }

    /// Returns the cached response if a 304 may stand for it: only while the sink knows all of its races.
    fn reusable(&self, url: &Url, to: &dyn EventSink) -> Option<&CachedResponse> {
        let cached = self.cached.get(url);
        cached
            .filter(|_| !self.settings.keep_bodies)
            .filter(|cached| !cached.validators.is_empty() && cached.page.is_stored(to))
    }

    /// Returns the cached response that a 304 stands for, and keeps it for another hour.
    fn renew_cached(&mut self, url: &Url, now: DateTime<Utc>) -> &CachedResponse {
        let cached = self.cached.get_mut(url);
        let cached = cached.expect("only a cached response makes a request conditional");
        cached.requested_at = now;
        cached
    }

    fn url(&self, parts: &[&str]) -> Url {
        let mut url = self.base.clone();
        url.path_segments_mut()
            .expect("http and https URLs have paths")
            .pop_if_empty()
            .extend(parts);
        url
    }
}
