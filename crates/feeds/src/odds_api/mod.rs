//! The Odds API (v4): one call for each sport key, which is a league, `upcoming`, or a group of leagues. Every call
//! costs paid credits, so the client keeps the number that is left, reports it, and stops at a limit. The poller reads it
//! through `Feed`.
//!
//! An answer covers the league of its sport key. A sport key that fails is left out of the scope, and the others are
//! used. An event that a league lists is left out of `upcoming`.
//!
//! The key travels in the query. No message holds a query, and the key is masked in every body before it is parsed.

mod convert;
mod fields;
mod parse;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName};
use secrecy::{ExposeSecret, SecretString};

use super::http::{
    Auth, ProviderClient, ProviderInfo, ProviderResponse, base_url, header_text, read_count,
};
use super::{FeedError, FetchRequest, FetchSummary};
pub use convert::OddsFormat;
use oddsd_core::diff::EventSink;
use oddsd_core::model::{EventsInDoubt, Scope, SnapshotMeta};
pub(crate) use parse::find_sport;
use parse::spans_leagues;
pub use parse::{ParsedOdds, parse_odds, read_odds};

pub const SOURCE: &str = "odds_api";

const PROVIDER: &str = "The Odds API";
const BASE_URL_SETTING: &str = "ODDS_API_URL";
const KEY_SETTING: &str = "ODDS_API_KEY";

/// Once the credits are spent, no paid request is sent for this long. Then a request for the list of sports,
/// which is free, reports whether there are new ones (they come with the month, or with a larger plan).
const SPENT_FOR: Duration = Duration::from_secs(3600);

#[derive(Clone, Debug)]
pub struct OddsApiSettings {
    /// `https://api.the-odds-api.com`, without `/v4`.
    pub base_url: String,
    pub api_key: SecretString,
    /// Leagues (`baseball_mlb`), `upcoming`, or groups of leagues. Each is one paid request.
    pub sports: Vec<String>,
    /// `us`, `uk`, `eu`, …
    pub regions: Vec<String>,
    /// `h2h`, `spreads`, `totals`, …
    pub markets: Vec<String>,
    pub odds_format: OddsFormat,
    /// For one whole request.
    pub deadline: Duration,
    /// Stop asking when this many credits are left; 0 spends them all.
    pub quota_floor: u64,
    /// Return the bodies too: for a recorder.
    pub keep_bodies: bool,
}

/// Paid credits, as the provider reports them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    pub remaining: u64,
    pub used: Option<u64>,
    /// Cost of the last fetch: of one call for each sport key.
    pub last: Option<u64>,
}

impl Quota {
    fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let count = |name| read_count(header_text(headers, &HeaderName::from_static(name))?);
        Some(Self {
            remaining: count("x-requests-remaining")?,
            used: count("x-requests-used"),
            last: count("x-requests-last"),
        })
    }
}

/// The odds of the leagues that are polled.
#[derive(Debug)]
pub struct OddsApi {
    http: ProviderClient,
    base: Url,
    settings: OddsApiSettings,
    quota: Option<Quota>,
    /// The credits are spent; the free request is sent after this pause.
    spent: Option<Pause>,
    /// The provider asked to wait, when it answered for other sport keys.
    refused: Option<Pause>,
    /// Sport keys that failed in the last fetch, beside others that were read.
    failed: Vec<(String, FeedError)>,
    /// The last answer covered all sport keys.
    covered_all: bool,
}

impl OddsApi {
    pub fn new(mut settings: OddsApiSettings) -> Result<Self, FeedError> {
        // The answer for a league covers the league, so its events are taken from there.
        settings.sports.sort_by_key(|sport| spans_leagues(sport));
        let base = base_url(BASE_URL_SETTING, &settings.base_url)?;
        let provider = ProviderInfo {
            name: PROVIDER,
            credentials: KEY_SETTING,
            deadline: settings.deadline,
        };
        Ok(Self {
            http: ProviderClient::new(provider, &base)?,
            base,
            settings,
            quota: None,
            spent: None,
            refused: None,
            failed: Vec::new(),
            covered_all: false,
        })
    }

    /// Whether the last answer covered all leagues that are polled, and no sport key spans others.
    pub fn covered_everything(&self) -> bool {
        self.covered_all
            && !self
                .settings
                .sports
                .iter()
                .any(|sport| spans_leagues(sport))
    }

    /// As of the last response that reported it.
    pub fn quota(&self) -> Option<Quota> {
        self.quota
    }

    /// Sport keys that failed in the last fetch, and were left out of its answer.
    pub fn failed_sports(&self) -> &[(String, FeedError)] {
        &self.failed
    }

    /// Fetches all sport keys, or some of their events, and hands the events to `to`. Fails if no sport key could be
    /// read. `RateLimited` without a request while the credits are spent.
    pub async fn read(
        &mut self,
        request: &FetchRequest,
        now: DateTime<Utc>,
        to: &mut dyn EventSink,
    ) -> Result<FetchSummary, FeedError> {
        self.wait_until_allowed(now)?;
        let (fetched, mut failed) = self.fetch_sports(request, now).await;
        // A masked event is parsed every time, because fingerprints stand for unmasked texts.
        let secrets = self.secrets();
        let mut is_masked = false;
        let bodies = fetched.into_iter().map(|(sport, body)| {
            let masked = mask(&body, &secrets);
            is_masked |= masked.is_some();
            (sport, masked.unwrap_or(body))
        });
        let bodies: Vec<(String, String)> = bodies.collect();
        let answers: Vec<_> = bodies.iter().map(|(s, body)| (&**s, &**body)).collect();
        let format = self.settings.odds_format;
        let read = read_odds(&answers, now, format, is_masked, to);

        let mut all = ParsedOdds::default();
        let mut leagues = Vec::new();
        let mut kept = Vec::new();
        for (parsed, (sport, body)) in read.into_iter().zip(bodies) {
            let parsed = match parsed {
                Ok(parsed) => parsed,
                Err(error) => {
                    failed.push((sport, error));
                    continue;
                }
            };
            if let Scope::League(league) = parsed.scope(&sport) {
                leagues.push(league);
            }
            all.merge(parsed);
            kept.push(body);
        }
        if kept.is_empty() {
            self.failed.clear();
            return Err(self.why_nothing_was_read(failed));
        }
        let covers_all = leagues.len() == self.settings.sports.len();
        self.covered_all = covers_all;
        let scope = match (request, leagues.len()) {
            (_, 0) => Scope::Listed,
            (FetchRequest::Events(ids), _) if covers_all => Scope::Events(ids.clone()),
            (FetchRequest::Events(_), _) => Scope::Listed,
            (FetchRequest::Everything, 1) => Scope::League(leagues.remove(0)),
            (FetchRequest::Everything, _) => Scope::Leagues(leagues),
        };
        self.keep_failed(failed, now);
        let meta = SnapshotMeta {
            source: Arc::from(SOURCE),
            as_of: now,
            scope,
            in_doubt: EventsInDoubt {
                ids: all.in_doubt,
                unidentified: false,
            },
            bookmakers: all.bookmakers,
            rejected: all.rejected,
        };
        let bodies = match self.settings.keep_bodies {
            true => kept,
            false => Vec::new(),
        };
        Ok(FetchSummary { meta, bodies })
    }

    /// Sends one request for each sport key, until one shows that the next would be refused too. Returns the bodies, and
    /// the failures.
    async fn fetch_sports(
        &mut self,
        request: &FetchRequest,
        now: DateTime<Utc>,
    ) -> (Vec<(String, String)>, Vec<(String, FeedError)>) {
        let (mut bodies, mut failed) = (Vec::new(), Vec::new());
        let mut cost = None;
        for sport in self.settings.sports.clone() {
            if let Some(quota) = &mut self.quota {
                quota.last = None;
            }
            match self.fetch_sport(&sport, request, now).await {
                Ok(body) => {
                    let last = self.quota.and_then(|quota| quota.last);
                    cost = last
                        .map(|last| cost.unwrap_or(0u64).saturating_add(last))
                        .or(cost);
                    bodies.push((sport, body));
                }
                Err(error) => {
                    let is_refused = is_refusal(&error);
                    failed.push((sport, error));
                    if is_refused {
                        break;
                    }
                }
            }
        }
        if let Some(quota) = &mut self.quota {
            quota.last = cost;
        }
        (bodies, failed)
    }

    async fn fetch_sport(
        &mut self,
        sport: &str,
        request: &FetchRequest,
        now: DateTime<Utc>,
    ) -> Result<String, FeedError> {
        self.wait_for_credits(now).await?;
        let mut url = self.url(&["sports", sport, "odds"])?;
        url.query_pairs_mut()
            .append_pair("regions", &self.settings.regions.join(","))
            .append_pair("markets", &self.settings.markets.join(","))
            .append_pair("oddsFormat", self.settings.odds_format.into())
            .append_pair("dateFormat", "iso");
        if let FetchRequest::Events(ids) = request {
            let ids: Vec<&str> = ids.iter().map(|id| id.as_str()).collect();
            url.query_pairs_mut()
                .append_pair("eventIds", &ids.join(","));
        }
        self.get(url, now).await
    }

    /// The failure that decides when to ask again: a refusal, which holds for every sport key, or else the first.
    fn why_nothing_was_read(&self, mut failed: Vec<(String, FeedError)>) -> FeedError {
        let refusal = failed.iter().position(|(_, error)| is_refusal(error));
        match failed.is_empty() {
            true => FeedError::BadRequest("no sport key is set".into()),
            false => failed.swap_remove(refusal.unwrap_or(0)).1,
        }
    }

    /// Keeps the failures of an answer that is used without them. Each is logged once, until it ends or becomes another.
    fn keep_failed(&mut self, failed: Vec<(String, FeedError)>, now: DateTime<Utc>) {
        for (sport, error) in &failed {
            let mut before = self.failed.iter();
            if !before.any(|(s, known)| s == sport && known.outcome() == error.outcome()) {
                tracing::warn!(
                    event = "cycle.sport_failed",
                    %sport,
                    failure = error.outcome(),
                    %error,
                    "Fetch of {sport} failed; its rows stay as they are, and the other sports were read"
                );
            }
            if let FeedError::RateLimited { retry_after, .. } = error {
                self.refused = retry_after.and_then(|wait| Pause::starting(now, wait));
            }
        }
        self.failed = failed;
    }

    /// Fails until the provider's announced wait is over, which it announced beside answers that were used.
    fn wait_until_allowed(&mut self, now: DateTime<Utc>) -> Result<(), FeedError> {
        let left = self.refused.and_then(|pause| pause.left(now));
        let Some(left) = left else {
            self.refused = None;
            return Ok(());
        };
        Err(FeedError::RateLimited {
            retry_after: Some(left),
            detail: format!("{PROVIDER} was not asked: it announced a wait"),
        })
    }

    async fn wait_for_credits(&mut self, now: DateTime<Utc>) -> Result<(), FeedError> {
        let Some(spent) = self.spent else {
            return Ok(());
        };
        if let Some(left) = spent.left(now) {
            return Err(self.report_spent(left));
        }
        let url = self.url(&["sports"])?;
        self.get(url, now).await?;
        match self.spent.and_then(|spent| spent.left(now)) {
            Some(_) => Err(self.report_spent(SPENT_FOR)),
            None => Ok(()),
        }
    }

    /// Sends one GET, and records the credits that its response reports whatever its body holds.
    async fn get(&mut self, url: Url, now: DateTime<Utc>) -> Result<String, FeedError> {
        let auth = Auth::Query {
            name: "apiKey",
            key: &self.settings.api_key,
        };
        match self.http.get(url, auth, None, now).await {
            Ok(ProviderResponse::Fresh { headers, body, .. }) => {
                self.spent = None;
                if let Some(quota) = Quota::from_headers(&headers) {
                    self.quota = Some(quota);
                    let spent = quota.remaining <= self.settings.quota_floor;
                    self.spent = Pause::starting(now, SPENT_FOR).filter(|_| spent);
                }
                Ok(body)
            }
            Ok(ProviderResponse::NotModified) => Err(FeedError::BadAnswer(format!(
                "{PROVIDER} answered 304 to an unconditional request"
            ))),
            Err(FeedError::Unauthorized(detail)) if is_out_of_credits(&detail) => {
                self.spent = Pause::starting(now, SPENT_FOR);
                Err(FeedError::RateLimited {
                    retry_after: Some(SPENT_FOR),
                    detail: format!("the paid quota is spent: {detail}"),
                })
            }
            Err(error) => Err(error),
        }
    }

    /// The key, as configured and as encoded in the URL.
    fn secrets(&self) -> Vec<String> {
        let key = self.settings.api_key.expose_secret();
        let mut secrets = vec![key.to_owned(), as_in_url(key)];
        secrets.dedup();
        secrets.retain(|secret| !secret.is_empty());
        secrets
    }

    fn report_spent(&self, wait: Duration) -> FeedError {
        let left = self.quota.map_or(0, |quota| quota.remaining);
        FeedError::RateLimited {
            retry_after: Some(wait),
            detail: format!(
                "{PROVIDER} was not asked: {left} credits are left and the floor is {}; they come back with the new month or a larger plan",
                self.settings.quota_floor
            ),
        }
    }

    fn url(&self, path: &[&str]) -> Result<Url, FeedError> {
        let mut url = self.base.clone();
        match url.path_segments_mut() {
            Ok(mut segments) => segments.pop_if_empty().push("v4").extend(path),
            Err(()) => {
                return Err(FeedError::BadRequest(format!(
                    "{BASE_URL_SETTING} cannot have a path"
                )));
            }
        };
        Ok(url)
    }
}

/// A time during which no paid request is sent.
#[derive(Clone, Copy, Debug)]
struct Pause {
    from: DateTime<Utc>,
    until: DateTime<Utc>,
}

impl Pause {
    fn starting(now: DateTime<Utc>, wait: Duration) -> Option<Self> {
        let until = now + TimeDelta::from_std(wait).ok()?;
        Some(Self { from: now, until })
    }

    /// `None`: it is over. A clock that was set back ends it too, because its end may be of any time.
    fn left(&self, now: DateTime<Utc>) -> Option<Duration> {
        let is_on = (self.from..self.until).contains(&now);
        is_on.then(|| (self.until - now).to_std().ok()).flatten()
    }
}

/// Returns the text without the secrets, or `None` if it holds none.
fn mask(text: &str, secrets: &[String]) -> Option<String> {
    let found = secrets.iter().filter(|secret| text.contains(*secret));
    found.fold(None, |masked, secret| {
        let text = masked.as_deref().unwrap_or(text);
        Some(text.replace(secret.as_str(), "***"))
    })
}

/// Whether the failure holds for every sport key.
fn is_refusal(error: &FeedError) -> bool {
    matches!(
        error,
        FeedError::Unauthorized(_) | FeedError::RateLimited { .. }
    )
}

/// The provider refuses a key without credits with 401, like a wrong key; only its message differs.
fn is_out_of_credits(detail: &str) -> bool {
    let detail = detail.to_ascii_lowercase();
    ["out_of_usage_credits", "usage quota", "usage credits"]
        .iter()
        .any(|words| detail.contains(words))
}

/// A text as it is encoded in the query of a URL.
fn as_in_url(text: &str) -> String {
    let url = Url::parse_with_params("http://localhost", [("", text)]).expect("a valid URL");
    let query = url.query().unwrap_or_default();
    query.trim_start_matches('=').to_owned()
}
