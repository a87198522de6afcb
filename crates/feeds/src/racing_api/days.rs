//! Fetches whole days, page by page. The pages of a day are one list only if nothing moved between the requests:
//! each page has the same total, no race is on two pages, and no page is empty before the total is reached.

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
            };
            for (n, day) in days.iter().enumerate() {
                if let Some(how) = self.fetch_pages(*day, n, &mut fetch).await? {
                    change = format!("{day} do not fit together: {how}");
                    continue 'attempts;
                }
            }
            ensure_readable(&fetch.parser)?;
            return Ok(self.summarize(days, fetch));
        }
        Err(FeedError::BadAnswer(format!(
            "The Racing API's pages for {change}"
        )))
    }

    fn summarize(&self, days: Vec<NaiveDate>, fetch: DayFetch<'_>) -> FetchSummary {
        let parser = fetch.parser;
        FetchSummary {
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
        }
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
            let summary = self.fetch_page(url, position, fetch).await?;
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
