//! Fetches each race by its own call. A race that the provider no longer knows is in the scope and absent. A
//! failure that concerns one race leaves that race out of the scope; one that concerns the provider
//! (credentials, rate, connection) fails the fetch.

use chrono::{DateTime, Utc};

use super::answer::{PageSummary, parse_cards};
use super::{CachedResponse, RacingApi, SOURCE};
use crate::http::{ProviderResponse, Url};
use crate::{FeedError, FetchSummary};
use oddsd_core::diff::EventSink;
use oddsd_core::model::{
    Bookmaker, EventId, EventsInDoubt, Fingerprint, RejectedRows, Scope, SnapshotMeta,
};

/// The results of the calls for several races.
struct RacesFetch<'a> {
    now: DateTime<Utc>,
    to: &'a mut dyn EventSink,
    bookmakers: Vec<Bookmaker>,
    rejects: RejectedRows,
    bodies: Vec<String>,
}

impl RacingApi {
    pub(super) async fn fetch_races(
        &mut self,
        ids: &[EventId],
        now: DateTime<Utc>,
        to: &mut dyn EventSink,
    ) -> Result<FetchSummary, FeedError> {
        to.start(now);
        let mut fetch = RacesFetch {
            now,
            to,
            bookmakers: Vec::new(),
            rejects: RejectedRows::default(),
            bodies: Vec::new(),
        };
        let mut answered = Vec::with_capacity(ids.len());
        let mut first_failure = None;
        for id in ids {
            if answered.contains(id) {
                continue;
            }
            let url = self.race_url(id)?;
            self.races.wait().await;
            match self.fetch_race(url, id, &mut fetch).await {
                Ok(true) | Err(FeedError::NotFound(_)) => answered.push(id.clone()),
                Ok(false) => {}
                Err(
                    error @ (FeedError::Unauthorized(_)
                    | FeedError::RateLimited { .. }
                    | FeedError::Unreachable(_)
                    | FeedError::Ended),
                ) => return Err(error),
                Err(
                    error @ (FeedError::BadRequest(_)
                    | FeedError::ServerError(_)
                    | FeedError::BadAnswer(_)
                    | FeedError::TooLarge(_)),
                ) => {
                    fetch.rejects.add("race_failed", &error);
                    first_failure.get_or_insert(error);
                }
            }
        }
        if let Some(error) = first_failure
            && answered.is_empty()
        {
            return Err(error);
        }
        let meta = SnapshotMeta {
            source: SOURCE.into(),
            as_of: now,
            scope: Scope::Events(answered),
            in_doubt: EventsInDoubt::default(),
            bookmakers: fetch.bookmakers,
            rejected: fetch.rejects,
        };
        Ok(FetchSummary {
            meta,
            bodies: fetch.bodies,
        })
    }

    /// Returns whether the response holds the race. The response is parsed whole before the race is handed over:
    /// one that fails while it is parsed must leave nothing behind.
    async fn fetch_race(
        &mut self,
        url: Url,
        id: &EventId,
        fetch: &mut RacesFetch<'_>,
    ) -> Result<bool, FeedError> {
        let is_the_race = |to: &dyn EventSink, fingerprint| {
            to.find_unchanged(fingerprint)
                .is_some_and(|known| known == *id)
        };
        let reusable = self.reusable(&url, fetch.to);
        let reusable = reusable.filter(|cached| {
            let fingerprints = &cached.page.fingerprints;
            fingerprints
                .first()
                .is_some_and(|fingerprint| is_the_race(fetch.to, fingerprint))
        });
        let validators = reusable.map(|cached| &cached.validators);
        let request = self
            .http
            .get(url.clone(), self.auth(), validators, fetch.now);
        let ProviderResponse::Fresh {
            validators, body, ..
        } = request.await?
        else {
            let cached = self.renew_cached(&url, fetch.now);
            fetch.to.mark_unchanged(&cached.page.fingerprints[0]);
            return Ok(true);
        };
        let fingerprint = Fingerprint::compute(body.as_bytes());
        let (mut found, mut whole) = (true, true);
        if is_the_race(fetch.to, &fingerprint) {
            fetch.to.mark_unchanged(&fingerprint);
        } else {
            let parsed = parse_cards(&body, fetch.now)?;
            let (races, others): (Vec<_>, Vec<_>) = parsed
                .events
                .into_iter()
                .partition(|race| race.event.id == *id);
            whole = parsed.rejected.is_empty() && parsed.races_seen == 1 && others.is_empty();
            found = !races.is_empty();
            let other_prices: usize = others.iter().map(|race| race.prices.len()).sum();
            if !found || other_prices > 0 {
                let rows = other_prices.max(1) as u64;
                fetch.rejects.add_rows("not_the_race", rows, id);
            }
            for race in races {
                fetch.to.push(race, whole.then_some(fingerprint));
            }
            fetch.rejects.merge(parsed.rejected);
            for bookmaker in parsed.bookmakers {
                if fetch.bookmakers.iter().all(|b| b.id != bookmaker.id) {
                    fetch.bookmakers.push(bookmaker);
                }
            }
        }
        let cached = CachedResponse {
            validators,
            page: PageSummary {
                body: fingerprint,
                total: None,
                races_seen: 1,
                fingerprints: vec![fingerprint],
                whole,
            },
            requested_at: fetch.now,
        };
        self.cached.insert(url, cached);
        if self.settings.keep_bodies {
            fetch.bodies.push(body);
        }
        Ok(found)
    }

    fn race_url(&self, id: &EventId) -> Result<Url, FeedError> {
        // URLs drop an empty or dotted part, and the rest would request the whole day.
        if matches!(id.as_str(), "" | "." | "..") {
            return Err(FeedError::BadRequest(format!("{id:?} is no race id")));
        }
        Ok(self.url(&["racecards", id.as_str(), "pro"]))
    }
}
