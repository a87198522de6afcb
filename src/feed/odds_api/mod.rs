//! The Odds API (v4): one call for a whole league. Every call spends paid credits, so what the
//! provider says is left of them is kept, told, and obeyed.
//!
//! The key travels in the query. It is kept out of every message by never putting a query into
//! one, and out of bodies by removing it from whatever comes back.

mod outcome;
mod parse;
mod rows;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName};
use secrecy::{ExposeSecret, SecretString};

use super::http::{Answer, Auth, HttpDoor, Provider, base_url, header_text};
use super::{Ask, FeedError, Fetched};
use crate::model::{Scope, Snapshot};
pub use outcome::OddsFormat;
pub use parse::{Parsed, SOURCE, league_of, parse_odds};

const PROVIDER: &str = "The Odds API";
const BASE_URL_SETTING: &str = "ODDS_API_URL";
const KEY_SETTING: &str = "ODDS_API_KEY";

/// Once the credits are spent nothing is asked for this long. Then the list of sports, which is
/// free, tells whether there are new ones (they come with the month, or with a larger plan).
const SPENT_FOR: Duration = Duration::from_secs(3600);

#[derive(Clone, Debug)]
pub struct Settings {
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
}

/// The provider's word on our paid credits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    pub remaining: u64,
    pub used: Option<u64>,
    /// What the last call cost.
    pub last: Option<u64>,
}

impl Quota {
    fn of(headers: &HeaderMap) -> Option<Self> {
        let count = |name: &'static str| {
            let text = header_text(headers, &HeaderName::from_static(name))?.trim();
            // Seen as "498" and as "498.0".
            text.split('.').next()?.parse().ok()
        };
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
    door: HttpDoor,
    base: Url,
    settings: Settings,
    quota: Option<Quota>,
    /// The credits were spent; look again then.
    spent_until: Option<DateTime<Utc>>,
}

impl OddsApi {
    pub fn new(settings: Settings) -> Result<Self, FeedError> {
        let base = base_url(BASE_URL_SETTING, &settings.base_url)?;
        let provider = Provider {
            name: PROVIDER,
            credentials: KEY_SETTING,
            deadline: settings.deadline,
        };
        Ok(Self {
            door: HttpDoor::new(provider, &base)?,
            base,
            settings,
            quota: None,
            spent_until: None,
        })
    }

    /// As of the last answer that told it.
    pub fn quota(&self) -> Option<Quota> {
        self.quota
    }

    /// Asks for the whole league, or for some of its events. `RateLimited` without asking while
    /// the credits are spent.
    pub async fn fetch(&mut self, ask: &Ask, now: DateTime<Utc>) -> Result<Fetched, FeedError> {
        self.wait_for_credits(now).await?;
        let mut url = self.url(&["sports", &self.settings.sport, "odds"])?;
        url.query_pairs_mut()
            .append_pair("regions", &self.settings.regions.join(","))
            .append_pair("markets", &self.settings.markets.join(","))
            .append_pair("oddsFormat", self.settings.odds_format.as_str())
            .append_pair("dateFormat", "iso");
        if let Ask::Events(ids) = ask {
            let ids: Vec<&str> = ids.iter().map(|id| id.as_str()).collect();
            url.query_pairs_mut()
                .append_pair("eventIds", &ids.join(","));
        }
        let body = self.get(url, now).await?;

        let league = &self.settings.sport;
        let parsed = parse_odds(&body, now, league, self.settings.odds_format)?;
        let mut snapshot = parsed.into_snapshot(now, league);
        if let (Ask::Events(ids), Scope::League(_)) = (ask, &snapshot.scope) {
            snapshot.scope = Scope::Events(ids.clone());
        }
        Ok(Fetched {
            snapshot,
            bodies: vec![body],
        })
    }

    async fn wait_for_credits(&mut self, now: DateTime<Utc>) -> Result<(), FeedError> {
        let Some(until) = self.spent_until else {
            return Ok(());
        };
        // A clock that was set back must not make the wait longer than it is.
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

    /// One GET that learns what it can about the quota, and lets the key go no further.
    async fn get(&mut self, url: Url, now: DateTime<Utc>) -> Result<String, FeedError> {
        let auth = Auth::Query {
            name: "apiKey",
            key: &self.settings.api_key,
        };
        let in_url = as_in_url(&url, self.settings.api_key.expose_secret());
        match self.door.get(url, auth, None, now).await {
            Ok(Answer::Fresh { body, headers, .. }) => {
                if let Some(quota) = Quota::of(&headers) {
                    self.quota = Some(quota);
                    let spent = quota.remaining <= self.settings.quota_floor;
                    self.spent_until = spent.then(|| now + SPENT_FOR);
                } else {
                    self.spent_until = None;
                }
                let key = self.settings.api_key.expose_secret();
                let told = |key: &str| !key.is_empty() && body.contains(key);
                Ok(match told(key) || told(&in_url) {
                    true => body.replace(key, "***").replace(&in_url, "***"),
                    false => body,
                })
            }
            Ok(Answer::NotModified { .. }) => Err(FeedError::BadAnswer {
                detail: format!("{PROVIDER} answered 304 to an unconditional request"),
            }),
            Err(FeedError::Unauthorized { detail }) if is_out_of_credits(&detail) => {
                self.spent_until = Some(now + SPENT_FOR);
                Err(FeedError::RateLimited {
                    retry_after: Some(SPENT_FOR),
                    detail: format!("the paid quota is spent: {detail}"),
                })
            }
            Err(error) => Err(error),
        }
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
                return Err(FeedError::BadRequest {
                    detail: format!("{BASE_URL_SETTING} cannot have a path"),
                });
            }
        };
        Ok(url)
    }
}

impl Parsed {
    /// The answer as what it says about `league` at `as_of`.
    pub fn into_snapshot(self, as_of: DateTime<Utc>, league: &str) -> Snapshot {
        Snapshot {
            source: Arc::from(SOURCE),
            as_of,
            scope: self.scope(league),
            events: self.events,
            bookmakers: self.bookmakers,
            rejects: self.rejects,
        }
    }
}

/// The provider refuses a spent key with 401, like a wrong one; its message tells them apart.
fn is_out_of_credits(detail: &str) -> bool {
    let detail = detail.to_ascii_lowercase();
    ["out_of_usage_credits", "usage quota", "usage credits"]
        .iter()
        .any(|words| detail.contains(words))
}

/// A text as the query of a URL spells it.
fn as_in_url(url: &Url, text: &str) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.query_pairs_mut().append_pair("", text);
    url.query()
        .unwrap_or_default()
        .trim_start_matches('=')
        .to_owned()
}
