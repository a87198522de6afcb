//! The Odds API (v4): one call for a whole league. Every call spends paid credits, so what the
//! provider says is left of them is kept, told, and obeyed.
//!
//! The key travels in the query. It is kept out of every message by never putting a query into
//! one, and out of what was read by removing it from whatever comes back before it is read.

mod answer;
mod outcome;
mod parse;
mod rows;
mod whole;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName};
use secrecy::{ExposeSecret, SecretString};

use super::http::{
    Answer, Auth, HttpDoor, MAX_BODY, MAX_STREAMED, Provider, Request, base_url, header_text,
};
use super::{Ask, FeedError, Fetched, Looked};
use crate::diff::{Collected, Take};
use crate::model::{Look, Scope, Slice, Snapshot};
use answer::{Told, masked};
pub use outcome::OddsFormat;
use parse::Reading;
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
    /// Hand over the bodies too: for a recorder.
    pub keep_bodies: bool,
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
    /// What was asked last, and the texts of the answer's events.
    last: Option<(Url, Arc<[Slice]>)>,
    /// The provider has listed an event twice: since then answers are read as a whole.
    lists_twice: bool,
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
            last: None,
            lists_twice: false,
        })
    }

    /// As of the last answer that told it.
    pub fn quota(&self) -> Option<Quota> {
        self.quota
    }

    /// Asks for the whole league, or for some of its events. `RateLimited` without asking while
    /// the credits are spent.
    pub async fn read(
        &mut self,
        ask: &Ask,
        now: DateTime<Utc>,
        to: &mut dyn Take,
    ) -> Result<Looked, FeedError> {
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
        let mut parsed = None;
        let mut bodies = Vec::new();
        if !self.lists_twice {
            parsed = self.event_by_event(&url, now, to, &mut bodies).await?;
            if parsed.is_none() {
                self.lists_twice = true;
                bodies.clear();
                tracing::warn!(
                    event = "feed.listed_twice",
                    "{PROVIDER} lists an event twice in one answer: from now on its answers are held in memory as a whole"
                );
            }
        }
        let parsed = match parsed {
            Some(parsed) => parsed,
            None => self.as_a_whole(url, now, to, &mut bodies).await?,
        };
        let league = &self.settings.sport;
        let mut scope = parsed.scope(league);
        if let (Ask::Events(ids), Scope::League(_)) = (ask, &scope) {
            scope = Scope::Events(ids.clone());
        }
        let look = Look {
            source: Arc::from(SOURCE),
            as_of: now,
            scope,
            bookmakers: parsed.bookmakers,
            rejects: parsed.rejects,
        };
        Ok(Looked { look, bodies })
    }

    /// The same, in memory.
    pub async fn fetch(&mut self, ask: &Ask, now: DateTime<Utc>) -> Result<Fetched, FeedError> {
        let mut events = Collected::default();
        let looked = self.read(ask, now, &mut events).await?;
        Ok(looked.with(events))
    }

    /// `None`: the answer lists an event twice, and what was handed over has to be forgotten.
    async fn event_by_event(
        &mut self,
        url: &Url,
        now: DateTime<Utc>,
        to: &mut dyn Take,
        bodies: &mut Vec<String>,
    ) -> Result<Option<Parsed>, FeedError> {
        to.begin(now);
        let secrets = self.secrets(url);
        let before = self.last.take().filter(|(asked, _)| asked == url);
        let before = before.map(|(_, slices)| slices).unwrap_or_default();
        let (sport, keeps) = (self.settings.sport.clone(), self.settings.keep_bodies);
        let reading = Reading::new(now, &sport, self.settings.odds_format);
        let mut answer = answer::Answer::new(reading, to, &secrets, before);
        let mut body = Vec::new();
        let mut failure = None;
        // Read to its end even so: what the call has cost is told whatever the body says.
        let mut each = |chunk: &[u8]| {
            if keeps {
                body.extend_from_slice(chunk);
            }
            if failure.is_none() {
                failure = answer.push(chunk).err();
            }
            Ok(())
        };
        let request = Request {
            url: url.clone(),
            auth: self.auth(),
            known: None,
            max_body: if keeps { MAX_BODY } else { MAX_STREAMED },
        };
        let answered = self.door.stream(request, now, &mut each).await;
        self.learn_credits(answered, now)?;
        if let Some(failure) = failure {
            return Err(failure);
        }
        let told = answer.finish()?;
        if keeps {
            let body = String::from_utf8(body).expect("what was read is text");
            bodies.push(masked(&body, &secrets).into_owned());
        }
        Ok(match told {
            Told::All(parsed, slices) => {
                self.last = Some((url.clone(), slices));
                Some(*parsed)
            }
            Told::Twice => None,
        })
    }

    async fn as_a_whole(
        &mut self,
        url: Url,
        now: DateTime<Utc>,
        to: &mut dyn Take,
        bodies: &mut Vec<String>,
    ) -> Result<Parsed, FeedError> {
        to.begin(now);
        let body = self.get(url, now).await?;
        let settings = &self.settings;
        let mut parsed = parse_odds(&body, now, &settings.sport, settings.odds_format)?;
        for event in parsed.events.drain(..) {
            to.take(event, None);
        }
        if settings.keep_bodies {
            bodies.push(body);
        }
        Ok(parsed)
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

    /// One GET of a body that is not large, without the key.
    async fn get(&mut self, url: Url, now: DateTime<Utc>) -> Result<String, FeedError> {
        let secrets = self.secrets(&url);
        let request = Request {
            url,
            auth: self.auth(),
            known: None,
            max_body: MAX_BODY,
        };
        let (answer, body) = match self.door.get(request, now).await {
            Ok((answer, body)) => (Ok(answer), body),
            Err(error) => (Err(error), String::new()),
        };
        self.learn_credits(answer, now)?;
        Ok(masked(&body, &secrets).into_owned())
    }

    fn auth(&self) -> Auth<'_> {
        Auth::Query {
            name: "apiKey",
            key: &self.settings.api_key,
        }
    }

    /// The key, as it is and as the URL spells it.
    fn secrets(&self, url: &Url) -> Vec<String> {
        let key = self.settings.api_key.expose_secret();
        let mut secrets = vec![key.to_owned(), as_in_url(url, key)];
        secrets.dedup();
        secrets
    }

    /// What an answer says about the quota.
    fn learn_credits(
        &mut self,
        answer: Result<Answer, FeedError>,
        now: DateTime<Utc>,
    ) -> Result<(), FeedError> {
        match answer {
            Ok(Answer::Fresh { headers, .. }) => {
                self.spent_until = None;
                if let Some(quota) = Quota::of(&headers) {
                    self.quota = Some(quota);
                    let spent = quota.remaining <= self.settings.quota_floor;
                    self.spent_until = spent.then(|| now + SPENT_FOR);
                }
                Ok(())
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
