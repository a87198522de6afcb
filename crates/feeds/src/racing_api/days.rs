//! Fetches whole days, page by page. The pages of a day are one list only if nothing moved between the requests:
//! each page has the same total, no race is on two pages, and no page is empty before the total is reached.
//!
//! The provider answers 404 for a day without racing, and for a wrong path. A day that is answered 404 has no races
//! if another day of the same fetch has a card: then the path is right, the day is in the scope, and the shrink guard
//! decides as about any other answer without races. If every day is answered 404, the fetch fails, or, once
//! this process has read a card, gives an answer that covers no day and removes nothing.

use chrono::{DateTime, Days, NaiveDate, Utc};

use super::answer::{PageSummary, ensure_readable, parse_page};
use super::race::{ListPosition, RaceParser};
use super::{CachedResponse, RacingApi, SOURCE, times};
use crate::http::{ProviderResponse, Url};
use crate::{FeedError, FetchSummary};
use oddsd_core::diff::EventSink;
use oddsd_core::model::{Scope, SnapshotMeta};

/// The provider accepts no larger `skip`.
const MAX_SKIP: u64 = 500;
/// A list that changes between two pages is read once more from its beginning.
const ATTEMPTS: usize = 2;

/// One attempt to fetch all days.
struct DayFetch<'a> {
    now: DateTime<Utc>,
    to: &'a mut dyn EventSink,
    parser: RaceParser,
    bodies: Vec<String>,
    /// Days that were answered 404, and the first of these answers.
    without_card: Vec<NaiveDate>,
    not_found: Option<FeedError>,
}

impl RacingApi {
    pub(super) async fn fetch_days(
        &mut self,
        now: DateTime<Utc>,
        to: &mut dyn EventSink,
    ) -> Result<FetchSummary, FeedError> {
        let today = times::uk_date(now);
        let days: Vec<_> = (0..u64::from(self.settings.days))
            .filter_map(|n| today.checked_add_days(Days::new(n)))
            .collect();
        let mut change = String::new();
        'attempts: for _ in 0..ATTEMPTS {
            to.start(now);
            let mut fetch = DayFetch {
                now,
                to: &mut *to,
                parser: RaceParser::new(now),
                bodies: Vec::new(),
                without_card: Vec::new(),
                not_found: None,
            };
            for (n, day) in days.iter().enumerate() {
                if let Some(how) = self.fetch_pages(*day, n, &mut fetch).await? {
                    change = format!("{day} do not fit together: {how}");
                    continue 'attempts;
                }
            }
            ensure_readable(&fetch.parser)?;
            return self.summarize(days, fetch);
        }
        Err(FeedError::BadAnswer(format!(
            "The Racing API's pages for {change}"
        )))
    }

    fn summarize(
        &mut self,
        mut days: Vec<NaiveDate>,
        fetch: DayFetch<'_>,
    ) -> Result<FetchSummary, FeedError> {
        if fetch.without_card.len() < days.len() {
            self.has_read_card = true;
        } else if let Some(error) = fetch.not_found {
            if !self.has_read_card {
                return Err(error);
            }
            days.clear();
        }
        self.log_days_without_card(fetch.without_card);
        let parser = fetch.parser;
        Ok(FetchSummary {
            meta: SnapshotMeta {
                source: SOURCE.into(),
                as_of: fetch.now,
                scope: Scope::Days {
                    days,
                    regions: self.settings.regions.clone(),
                },
                in_doubt: parser.in_doubt,
                bookmakers: parser.bookmakers.listed,
                rejected: parser.rejects,
            },
            bodies: fetch.bodies,
        })
    }

    /// Logs each day once, until it has a card.
    fn log_days_without_card(&mut self, days: Vec<NaiveDate>) {
        for day in days.iter().filter(|day| !self.without_card.contains(day)) {
            tracing::info!(
                event = "cycle.day_without_card",
                %day,
                "The provider has no card for {day}: it answered 404, so that day has no races"
            );
        }
        self.without_card = days;
    }

    /// Fetches all pages of a day. Returns how the list changed between two requests, or `None` if the pages fit
    /// together.
    async fn fetch_pages(
        &mut self,
        date: NaiveDate,
        day: usize,
        fetch: &mut DayFetch<'_>,
    ) -> Result<Option<String>, FeedError> {
        let (mut total, mut seen) = (None, 0);
        for page in 0.. {
            self.cards.wait().await;
            let url = self.cards_url(date, seen);
            let position = ListPosition { day, page };
            let summary = match self.fetch_page(url, position, fetch).await {
                Err(error @ FeedError::NotFound(_)) if page == 0 => {
                    fetch.without_card.push(date);
                    fetch.not_found.get_or_insert(error);
                    return Ok(None);
                }
                summary => summary?,
            };
            if page > 0 && summary.total != total {
                return Ok(Some(format!(
                    "the total changed from {} to {}",
                    describe_total(total),
                    describe_total(summary.total)
                )));
            }
            if let Some(id) = fetch.parser.listed_twice.take() {
                return Ok(Some(format!("{id} came twice")));
            }
            let skipped = seen;
            seen += summary.races_seen;
            total = summary.total;
            let done = match total {
                Some(total) => seen >= total,
                None => summary.races_seen < u64::from(self.settings.page_limit),
            };
            if done {
                break;
            }
            if summary.races_seen == 0 {
                return Ok(Some(format!(
                    "an empty page after {skipped} of {} races",
                    describe_total(total)
                )));
            }
            if seen > MAX_SKIP {
                return Err(FeedError::BadAnswer(format!(
                    "The Racing API lists {} races for {date}, more than its paging can reach; ask for fewer regions",
                    describe_total(total)
                )));
            }
        }
        Ok(None)
    }

    /// Sends one request and hands the page's races over, or the cached ones if the page is unmodified.
    async fn fetch_page(
        &mut self,
        url: Url,
        position: ListPosition,
        fetch: &mut DayFetch<'_>,
    ) -> Result<PageSummary, FeedError> {
        let reusable = self.reusable(&url, fetch.to);
        let validators = reusable.map(|cached| &cached.validators);
        let request = self
            .http
            .get(url.clone(), self.auth(), validators, fetch.now);
        let ProviderResponse::Fresh {
            validators, body, ..
        } = request.await?
        else {
            let page = self.renew_cached(&url, fetch.now).page.clone();
            page.hand_over(&mut fetch.parser, fetch.to, position);
            return Ok(page);
        };
        let last = self.cached.get(&url).map(|cached| &cached.page);
        let page = parse_page(&body, last, &mut fetch.parser, fetch.to, position)?;
        if self.settings.keep_bodies {
            fetch.bodies.push(body);
        }
        let cached = CachedResponse {
            validators,
            page: page.clone(),
            requested_at: fetch.now,
        };
        self.cached.insert(url, cached);
        Ok(page)
    }

    fn cards_url(&self, day: NaiveDate, skip: u64) -> Url {
        let mut url = self.url(&["racecards", "pro"]);
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
}

fn describe_total(total: Option<u64>) -> String {
    total.map_or_else(|| "an untold number of".into(), |total| total.to_string())
}
