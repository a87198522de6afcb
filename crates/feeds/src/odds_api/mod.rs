//! The Odds API (v4): one call for a whole league. Every call costs paid credits, so the client keeps the number
//! that is left, reports it, and stops at a limit. The poller reads it through `Feed`.
//!
//! The key travels in the query. No message holds a query, and the key is masked in every body before it is parsed.

mod convert;
mod fields;
mod parse;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
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
pub(crate) use parse::find_league;
use parse::read_merged;
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
    /// The league: `baseball_mlb`.
    pub sport: String,
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
    /// Cost of the last call.
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

/// One league's odds.
#[derive(Debug)]
pub struct OddsApi {
    http: ProviderClient,
    base: Url,
    settings: OddsApiSettings,
    quota: Option<Quota>,
    /// The credits are spent; the free request is sent at this time.
    spent_until: Option<DateTime<Utc>>,
}

impl OddsApi {
    pub fn new(settings: OddsApiSettings) -> Result<Self, FeedError> {
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
            spent_until: None,
        })
    }

    /// As of the last response that reported it.
    pub fn quota(&self) -> Option<Quota> {
        self.quota
    }

    /// Fetches the whole league, or some of its events, and hands them to `to`. `RateLimited` without a request
    /// while the credits are spent.
    pub async fn read(
        &mut self,
        request: &FetchRequest,
        now: DateTime<Utc>,
        to: &mut dyn EventSink,
    ) -> Result<FetchSummary, FeedError> {
        self.wait_for_credits(now).await?;
        let mut url = self.url(&["sports", &self.settings.sport, "odds"])?;
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
        let body = self.get(url, now).await?;
        let settings = &self.settings;
        // A masked event is parsed every time, because fingerprints stand for unmasked texts.
        let masked = mask(&body, &self.secrets());
        let (sport, format) = (&settings.sport, settings.odds_format);
        let parsed = match &masked {
            None => read_odds(&body, now, sport, format, to)?,
            Some(masked) => read_merged(masked, now, sport, format, to)?,
        };
        let mut scope = parsed.scope(sport);
        if let (FetchRequest::Events(ids), Scope::League(_)) = (request, &scope) {
            scope = Scope::Events(ids.clone());
        }
        let meta = SnapshotMeta {
            source: Arc::from(SOURCE),
            as_of: now,
            scope,
            in_doubt: EventsInDoubt::default(),
            bookmakers: parsed.bookmakers,
            rejected: parsed.rejected,
        };
        let bodies = match settings.keep_bodies {
            true => vec![masked.unwrap_or(body)],
            false => Vec::new(),
        };
        Ok(FetchSummary { meta, bodies })
    }

    async fn wait_for_credits(&mut self, now: DateTime<Utc>) -> Result<(), FeedError> {
        let Some(until) = self.spent_until else {
            return Ok(());
        };
        // A clock that was set back must not make the wait longer.
        let wait = (until - now).to_std().unwrap_or_default().min(SPENT_FOR);
        if wait > Duration::ZERO {
            return Err(self.spent(wait));
        }
        let url = self.url(&["sports"])?;
        self.get(url, now).await?;
        match self.spent_until.filter(|until| *until > now) {
            Some(_) => Err(self.spent(SPENT_FOR)),
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
                self.spent_until = None;
                if let Some(quota) = Quota::from_headers(&headers) {
                    self.quota = Some(quota);
                    let spent = quota.remaining <= self.settings.quota_floor;
                    self.spent_until = spent.then(|| now + SPENT_FOR);
                }
                Ok(body)
            }
            Ok(ProviderResponse::NotModified) => Err(FeedError::BadAnswer(format!(
                "{PROVIDER} answered 304 to an unconditional request"
            ))),
            Err(FeedError::Unauthorized(detail)) if is_out_of_credits(&detail) => {
                self.spent_until = Some(now + SPENT_FOR);
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

    fn spent(&self, wait: Duration) -> FeedError {
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

/// Returns the text without the secrets, or `None` if it holds none.
fn mask(text: &str, secrets: &[String]) -> Option<String> {
    let found = secrets.iter().filter(|secret| text.contains(*secret));
    found.fold(None, |masked, secret| {
        let text = masked.as_deref().unwrap_or(text);
        Some(text.replace(secret.as_str(), "***"))
    })
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
