//! Fetches each race by its own call. A race that the provider no longer knows is in the scope and absent. A
//! failure that concerns one race leaves that race out of the scope; one that concerns the provider
//! (credentials, rate, connection) fails the fetch.

use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::answer::{ParsedCards, parse_cards};
use super::{CachedResponse, RacingApi, SOURCE};
use crate::http::{MAX_BODY, ProviderRequest, ProviderResponse, Url};
use crate::{FeedError, FetchSummary};
use oddsd_core::diff::EventSink;
use oddsd_core::model::{EventId, Fingerprint, RejectedRows, Scope, SnapshotMeta};

/// The result of a call for one race.
enum RaceFetch {
    /// The sink knows its text.
    Unchanged(Fingerprint),
    Parsed(Box<ParsedCards>, Option<Fingerprint>),
}

impl RacingApi {
    pub(super) async fn fetch_races(
        &mut self,
        ids: &[EventId],
        now: DateTime<Utc>,
        to: &mut dyn EventSink,
    ) -> Result<FetchSummary, FeedError> {
        to.start(now);
        let mut found = ParsedCards::default();
        let mut answered = Vec::with_capacity(ids.len());
        let mut rejects = RejectedRows::default();
        let mut first_failure = None;
        let mut bodies = Vec::new();
        for id in ids {
            if answered.contains(id) {
                continue;
            }
            let url = self.race_url(id)?;
            self.races.wait().await;
            match self.fetch_race(url, id, now, to, &mut bodies).await {
                Ok(RaceFetch::Unchanged(fingerprint)) => {
                    to.mark_unchanged(&fingerprint);
                    answered.push(id.clone());
                }
                Ok(RaceFetch::Parsed(mut race, fingerprint)) => {
                    let others = keep_only(&mut race, id);
                    let found_it = !race.events.is_empty();
                    if !found_it || others > 0 {
                        rejects.add_rows("not_the_race", others.max(1), id);
                    }
                    if found_it {
                        answered.push(id.clone());
                    }
                    for event in race.events.drain(..) {
                        to.push(event, fingerprint);
                    }
                    found.append(*race);
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
        found.rejected.merge(rejects);
        if let Some(error) = first_failure
            && answered.is_empty()
        {
            return Err(error);
        }
        let meta = SnapshotMeta {
            source: SOURCE.into(),
            as_of: now,
            scope: Scope::Events(answered),
            bookmakers: found.bookmakers,
            rejected: found.rejected,
        };
        Ok(FetchSummary { meta, bodies })
    }

    /// Hands nothing over: a response that fails while it is parsed must leave nothing behind.
    async fn fetch_race(
        &mut self,
        url: Url,
        id: &EventId,
        now: DateTime<Utc>,
        to: &mut dyn EventSink,
        bodies: &mut Vec<String>,
    ) -> Result<RaceFetch, FeedError> {
        let is_it = |to: &dyn EventSink, fingerprint| {
            to.find_unchanged(fingerprint)
                .is_some_and(|known| known == *id)
        };
        let reusable = self.reusable(&url, to);
        let reusable = reusable.filter(|cached| {
            cached
                .fingerprints
                .first()
                .is_some_and(|fingerprint| is_it(to, fingerprint))
        });
        let request = ProviderRequest {
            url: url.clone(),
            auth: self.auth(),
            validators: reusable.map(|cached| &cached.validators),
            max_body: MAX_BODY,
        };
        let (answer, body) = self.http.get(request, now).await?;
        let validators = match answer {
            ProviderResponse::Fresh { validators, .. } => validators,
            ProviderResponse::NotModified => {
                let cached = self.cached.get_mut(&url);
                let cached = cached.expect("only a cached response makes a request conditional");
                cached.requested_at = now;
                return Ok(RaceFetch::Unchanged(cached.fingerprints[0]));
            }
        };
        let fingerprint = Fingerprint::compute(body.as_bytes());
        let fetched = match is_it(to, &fingerprint) {
            true => RaceFetch::Unchanged(fingerprint),
            false => {
                let race = parse_cards(&body, now)?;
                let clean = race.rejected.is_empty() && race.races_seen == 1;
                let clean = clean && race.events.iter().all(|race| race.event.id == *id);
                RaceFetch::Parsed(Box::new(race), clean.then_some(fingerprint))
            }
        };
        let whole = !matches!(fetched, RaceFetch::Parsed(_, None));
        let cached = CachedResponse {
            validators,
            fingerprints: Arc::new([fingerprint]),
            whole,
            total: None,
            requested_at: now,
        };
        self.cached.insert(url, cached);
        if self.settings.keep_bodies {
            bodies.push(body);
        }
        Ok(fetched)
    }

    fn race_url(&self, id: &EventId) -> Result<Url, FeedError> {
        // URLs drop an empty or dotted part, and the rest would request the whole day.
        if matches!(id.as_str(), "" | "." | "..") {
            return Err(FeedError::BadRequest {
                detail: format!("{id:?} is no race id"),
            });
        }
        Ok(self.url(&["racecards", id.as_str(), "pro"]))
    }
}

/// Drops other races than the requested one, and returns the number of their prices.
fn keep_only(page: &mut ParsedCards, id: &EventId) -> u64 {
    let prices = |page: &ParsedCards| {
        page.events
            .iter()
            .map(|e| e.prices.len() as u64)
            .sum::<u64>()
    };
    let before = prices(page);
    page.events.retain(|found| found.event.id == *id);
    before - prices(page)
}
