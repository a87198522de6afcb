//! The Racing API: racecards with the odds inside them, by UK date or race by race.
//!
//! One call to [`RacingApi::fetch`] is one complete answer or one error. Pages that the provider
//! calls unmodified are taken from memory, so that a snapshot always speaks for its whole scope.

mod card;
mod parse;
mod price;
mod row;
mod spacing;
mod times;

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, Days, NaiveDate, TimeDelta, Utc};
use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};

pub use self::parse::{Parsed, parse_cards};
pub use self::spacing::Spacing;
use crate::feed::http::{Answer, Auth, HttpDoor, Provider, Validators, base_url};
use crate::feed::{Ask, FeedError, Fetched};
use crate::model::{EventId, Rejects, Scope, Snapshot};

pub const SOURCE: &str = "racing_api";
pub const DEFAULT_BASE_URL: &str = "https://api.theracingapi.com/v1";
/// The provider documents `limit` and `skip` up to here: 1,000 races a day can be read.
const MAX_PAGE_LIMIT: u16 = 500;
const MAX_SKIP: u64 = 500;
const MAX_DAYS: u16 = 14;
/// A list of races that changes between two pages is read once more from its beginning.
const LOOKS: usize = 2;
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
    /// Ask only for what was modified. A recorder does not: it wants every body.
    pub conditional: bool,
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
            conditional: true,
        }
    }
}

/// What was read from one URL, with what makes the next request for it conditional.
struct Kept {
    validators: Validators,
    page: Parsed,
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

    /// One look at the feed. `now` says which days are polled and orders the snapshots. The bodies are those
    /// that arrived: a page that was not modified sends none.
    pub async fn fetch(&mut self, ask: &Ask, now: DateTime<Utc>) -> Result<Fetched, FeedError> {
        self.kept
            .retain(|_, kept| now - kept.asked_at <= KEEP_UNASKED);
        let mut bodies = Vec::new();
        let (found, scope) = match ask {
            Ask::Everything => self.days(now, &mut bodies).await?,
            Ask::Events(ids) => self.one_by_one(ids, now, &mut bodies).await?,
        };
        let snapshot = Snapshot {
            source: SOURCE.into(),
            as_of: now,
            scope,
            events: found.events,
            bookmakers: found.bookmakers,
            rejects: found.rejects,
        };
        Ok(Fetched { snapshot, bodies })
    }

    async fn days(
        &mut self,
        now: DateTime<Utc>,
        bodies: &mut Vec<String>,
    ) -> Result<(Parsed, Scope), FeedError> {
        let today = times::uk_date(now);
        let days: Vec<_> = (0..u64::from(self.settings.days))
            .filter_map(|n| today.checked_add_days(Days::new(n)))
            .collect();
        let mut found = Parsed::default();
        for day in &days {
            found.append(self.day(*day, now, bodies).await?);
        }
        let scope = match found.partial {
            // A race that could not be read must not look like one that left the card.
            true => Scope::Listed,
            false => Scope::Days {
                days,
                regions: self.settings.regions.clone(),
            },
        };
        Ok((found, scope))
    }

    async fn day(
        &mut self,
        day: NaiveDate,
        now: DateTime<Utc>,
        bodies: &mut Vec<String>,
    ) -> Result<Parsed, FeedError> {
        let mut why = String::new();
        for _ in 0..LOOKS {
            match self.pages(day, now, bodies).await? {
                Pages::All(races) => return Ok(races),
                Pages::Moved(what) => why = what,
            }
        }
        Err(FeedError::BadAnswer {
            detail: format!("The Racing API's pages for {day} do not fit together: {why}"),
        })
    }

    /// All pages of one day. They are one list only if nothing moved while it was read: every page gives
    /// the same total, no race comes twice, and no page is empty before the total is reached.
    async fn pages(
        &mut self,
        day: NaiveDate,
        now: DateTime<Utc>,
        bodies: &mut Vec<String>,
    ) -> Result<Pages, FeedError> {
        let mut races = Parsed::default();
        loop {
            let skip = races.races_seen;
            self.cards.wait().await;
            let page = self.page(self.cards_url(day, skip), now, bodies).await?;
            if skip > 0 {
                if page.total != races.total {
                    return Ok(Pages::Moved(format!(
                        "the total changed from {} to {}",
                        told(races.total),
                        told(page.total)
                    )));
                }
                let known = |id: &EventId| races.events.iter().any(|e| e.event.id == *id);
                if let Some(twice) = page.events.iter().find(|e| known(&e.event.id)) {
                    return Ok(Pages::Moved(format!("{} came twice", twice.event.id)));
                }
            }
            let listed = page.races_seen;
            races.append(page);
            let done = match races.total {
                Some(total) => races.races_seen >= total,
                None => listed < u64::from(self.settings.page_limit),
            };
            if done {
                return Ok(Pages::All(races));
            }
            if listed == 0 {
                return Ok(Pages::Moved(format!(
                    "an empty page after {skip} of {} races",
                    told(races.total)
                )));
            }
            if races.races_seen > MAX_SKIP {
                return Err(FeedError::BadAnswer {
                    detail: format!(
                        "The Racing API lists {} races for {day}, more than its paging can reach; \
                         ask for fewer regions",
                        told(races.total)
                    ),
                });
            }
        }
    }

    /// Each race by its own call. A race that the provider no longer knows is in the scope and absent. What goes
    /// wrong with one race leaves that race out of the scope; what concerns the provider as a
    /// whole (credentials, rate, connection) ends the look.
    async fn one_by_one(
        &mut self,
        ids: &[EventId],
        now: DateTime<Utc>,
        bodies: &mut Vec<String>,
    ) -> Result<(Parsed, Scope), FeedError> {
        let mut found = Parsed::default();
        let mut answered = Vec::with_capacity(ids.len());
        let mut rejects = Rejects::default();
        let mut first_failure = None;
        for id in ids {
            if answered.contains(id) {
                continue;
            }
            let url = self.race_url(id)?;
            self.races.wait().await;
            match self.page(url, now, bodies).await {
                Ok(mut page) => {
                    let others = keep_only(&mut page, id);
                    let found_it = !page.events.is_empty();
                    if !found_it || others > 0 {
                        rejects.add_rows("not_the_race", others.max(1), id);
                    }
                    if found_it {
                        answered.push(id.clone());
                    }
                    found.append(page);
                }
                Err(FeedError::NotFound { .. }) => answered.push(id.clone()),
                Err(
                    error @ (FeedError::Unauthorized { .. }
                    | FeedError::RateLimited { .. }
                    | FeedError::Unreachable { .. }
                    | FeedError::Ended),
                ) => return Err(error),
                Err(
                    error @ (FeedError::BadRequest { .. }
                    | FeedError::ServerError { .. }
                    | FeedError::BadAnswer { .. }
                    | FeedError::TooLarge { .. }),
                ) => {
                    rejects.add("race_failed", &error);
                    first_failure.get_or_insert(error);
                }
            }
        }
        found.rejects.merge(rejects);
        match first_failure {
            Some(error) if answered.is_empty() => Err(error),
            _ => Ok((found, Scope::Events(answered))),
        }
    }

    /// One request, or what the last one for this URL brought.
    async fn page(
        &mut self,
        url: Url,
        now: DateTime<Utc>,
        bodies: &mut Vec<String>,
    ) -> Result<Parsed, FeedError> {
        let auth = Auth::Basic {
            username: self.settings.username.expose_secret(),
            password: &self.settings.password,
        };
        let known = self.kept.get(&url).filter(|_| self.settings.conditional);
        let known = known.map(|kept| &kept.validators);
        match self.http.get(url.clone(), auth, known, now).await? {
            Answer::Fresh {
                body, validators, ..
            } => {
                let page = parse_cards(&body, now)?;
                bodies.push(body);
                if !validators.is_empty() {
                    let kept = Kept {
                        validators,
                        page: page.clone(),
                        asked_at: now,
                    };
                    self.kept.insert(url, kept);
                }
                Ok(page)
            }
            Answer::NotModified { .. } => {
                let kept = self
                    .kept
                    .get_mut(&url)
                    .expect("only a kept page makes a request conditional");
                kept.asked_at = now;
                Ok(kept.page.clone())
            }
        }
    }

    fn cards_url(&self, day: NaiveDate, skip: u64) -> Url {
        let mut url = self.at(&["racecards", "pro"]);
        let mut query = url.query_pairs_mut();
        query.append_pair("date", &day.to_string());
        for region in &self.settings.regions {
            query.append_pair("region_codes", region);
        }
        query
            .append_pair("limit", &self.settings.page_limit.to_string())
            .append_pair("skip", &skip.to_string());
        drop(query);
        url
    }

    fn race_url(&self, id: &EventId) -> Result<Url, FeedError> {
        // An empty or dotted part would vanish from the path and leave the call for the whole day.
        if matches!(id.as_str(), "" | "." | "..") {
            return Err(FeedError::BadRequest {
                detail: format!("{id:?} is no race id"),
            });
        }
        Ok(self.at(&["racecards", id.as_str(), "pro"]))
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

fn told(total: Option<u64>) -> String {
    total.map_or_else(|| "an untold number of".into(), |total| total.to_string())
}

/// Drops what was not asked for, and says how many prices that were.
fn keep_only(page: &mut Parsed, id: &EventId) -> u64 {
    let prices = |page: &Parsed| {
        page.events
            .iter()
            .map(|e| e.prices.len() as u64)
            .sum::<u64>()
    };
    let before = prices(page);
    page.events.retain(|found| found.event.id == *id);
    before - prices(page)
}

enum Pages {
    All(Parsed),
    /// The list changed under our eyes: how.
    Moved(String),
}
