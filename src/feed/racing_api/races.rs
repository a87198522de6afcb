//! Each race by its own call. A race that the provider no longer knows is in the scope and absent.
//! What goes wrong with one race leaves that race out of the scope; what concerns the provider as a
//! whole (credentials, rate, connection) ends the look.

use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::parse::{Parsed, parse_cards};
use super::{Kept, RacingApi, SOURCE};
use crate::diff::Take;
use crate::feed::http::{Answer, MAX_BODY, Request, Url, Validators};
use crate::feed::{FeedError, Looked};
use crate::model::{EventId, Look, Rejects, Scope, Slice};

/// What a call for one race came to.
enum Brought {
    /// The text that it is known by.
    Same(Slice),
    Read(Box<Parsed>, Option<Slice>),
}

impl RacingApi {
    pub(super) async fn one_by_one(
        &mut self,
        ids: &[EventId],
        now: DateTime<Utc>,
        to: &mut dyn Take,
    ) -> Result<Looked, FeedError> {
        to.begin(now);
        let mut found = Parsed::default();
        let mut answered = Vec::with_capacity(ids.len());
        let mut rejects = Rejects::default();
        let mut first_failure = None;
        let mut bodies = Vec::new();
        for id in ids {
            if answered.contains(id) {
                continue;
            }
            let url = self.race_url(id)?;
            self.races.wait().await;
            match self.one_race(url, id, now, to, &mut bodies).await {
                Ok(Brought::Same(slice)) => {
                    to.same(&slice);
                    answered.push(id.clone());
                }
                Ok(Brought::Read(mut race, slice)) => {
                    let others = keep_only(&mut race, id);
                    let found_it = !race.events.is_empty();
                    if !found_it || others > 0 {
                        rejects.add_rows("not_the_race", others.max(1), id);
                    }
                    if found_it {
                        answered.push(id.clone());
                    }
                    for event in race.events.drain(..) {
                        to.take(event, slice);
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
        found.rejects.merge(rejects);
        if let Some(error) = first_failure
            && answered.is_empty()
        {
            return Err(error);
        }
        let look = Look {
            source: SOURCE.into(),
            as_of: now,
            scope: Scope::Events(answered),
            bookmakers: found.bookmakers,
            rejects: found.rejects,
        };
        Ok(Looked { look, bodies })
    }

    /// Hands over nothing: an answer that fails late must leave nothing behind.
    async fn one_race(
        &mut self,
        url: Url,
        id: &EventId,
        now: DateTime<Utc>,
        to: &mut dyn Take,
        bodies: &mut Vec<String>,
    ) -> Result<Brought, FeedError> {
        let is_it = |to: &dyn Take, slice| to.knows(slice).is_some_and(|known| known == *id);
        let unmodified = self.unmodified(&url, to);
        let unmodified = unmodified.filter(|kept| is_it(to, &kept.slices[0]));
        let request = Request {
            url: url.clone(),
            auth: self.auth(),
            known: unmodified.map(|kept| &kept.validators),
            max_body: MAX_BODY,
        };
        let (answer, body) = self.http.get(request, now).await?;
        let validators = match answer {
            Answer::Fresh { validators, .. } => validators,
            Answer::NotModified { .. } => {
                let kept = self.kept.get_mut(&url);
                let kept = kept.expect("only what is kept makes a request conditional");
                kept.asked_at = now;
                return Ok(Brought::Same(kept.slices[0]));
            }
        };
        let slice = Slice::of(body.as_bytes());
        let brought = match is_it(to, &slice) {
            true => Brought::Same(slice),
            false => {
                let race = parse_cards(&body, now)?;
                let clean = race.rejects.is_empty() && race.races_seen == 1;
                let clean = clean && race.events.iter().all(|race| race.event.id == *id);
                Brought::Read(Box::new(race), clean.then_some(slice))
            }
        };
        let whole = !matches!(brought, Brought::Read(_, None));
        self.keep_race(url, validators, slice, whole, now);
        if self.settings.keep_bodies {
            bodies.push(body);
        }
        Ok(brought)
    }

    fn keep_race(
        &mut self,
        url: Url,
        validators: Validators,
        slice: Slice,
        whole: bool,
        now: DateTime<Utc>,
    ) {
        let kept = Kept {
            validators,
            slices: Arc::new([slice]),
            whole,
            total: None,
            asked_at: now,
        };
        self.kept.insert(url, kept);
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
