//! Whole days, page by page. The pages of a day are one list only if nothing moved while it was read:
//! every page gives the same total, no race comes twice, and no page is empty before the total is
//! reached.

use std::sync::Arc;

use chrono::{DateTime, Days, NaiveDate, Utc};

use super::page::{Page, Told};
use super::reader::{Place, Reader};
use super::{Kept, RacingApi, SOURCE, times};
use crate::diff::Take;
use crate::feed::http::{Answer, MAX_BODY, MAX_STREAMED, Request, Url};
use crate::feed::slices::MAX_REST;
use crate::feed::{FeedError, Looked};
use crate::model::{Look, Scope};

/// The provider takes no larger `skip`.
const MAX_SKIP: u64 = 500;
/// A list of races that changes between two pages is read once more from its beginning.
const LOOKS: usize = 2;

/// A look that is going on.
struct Looking<'a> {
    now: DateTime<Utc>,
    to: &'a mut dyn Take,
    reader: Reader,
    bodies: Vec<String>,
}

enum Pages {
    All,
    /// The list changed under our eyes: how.
    Moved(String),
}

impl RacingApi {
    pub(super) async fn days(
        &mut self,
        now: DateTime<Utc>,
        to: &mut dyn Take,
    ) -> Result<Looked, FeedError> {
        let today = times::uk_date(now);
        let days: Vec<_> = (0..u64::from(self.settings.days))
            .filter_map(|n| today.checked_add_days(Days::new(n)))
            .collect();
        let mut why = String::new();
        for _ in 0..LOOKS {
            to.begin(now);
            let mut looking = Looking {
                now,
                to: &mut *to,
                reader: Reader::new(now),
                bodies: Vec::new(),
            };
            match self.all_days(&days, &mut looking).await? {
                Pages::All => return Ok(self.looked(days, looking)),
                Pages::Moved(what) => why = what,
            }
        }
        Err(FeedError::BadAnswer {
            detail: format!("The Racing API's pages for {why}"),
        })
    }

    fn looked(&self, days: Vec<NaiveDate>, looking: Looking<'_>) -> Looked {
        let reader = looking.reader;
        let scope = match reader.partial {
            // A race that could not be read must not look like one that left the card.
            true => Scope::Listed,
            false => Scope::Days {
                days,
                regions: self.settings.regions.clone(),
            },
        };
        Looked {
            look: Look {
                source: SOURCE.into(),
                as_of: looking.now,
                scope,
                bookmakers: reader.bookmakers.listed,
                rejects: reader.rejects,
            },
            bodies: looking.bodies,
        }
    }

    async fn all_days(
        &mut self,
        days: &[NaiveDate],
        looking: &mut Looking<'_>,
    ) -> Result<Pages, FeedError> {
        for (n, day) in days.iter().enumerate() {
            if let Pages::Moved(what) = self.pages(*day, n, looking).await? {
                return Ok(Pages::Moved(format!("{day} do not fit together: {what}")));
            }
        }
        Ok(Pages::All)
    }

    async fn pages(
        &mut self,
        date: NaiveDate,
        day: usize,
        looking: &mut Looking<'_>,
    ) -> Result<Pages, FeedError> {
        let (mut total, mut seen) = (None, 0);
        for page in 0.. {
            self.cards.wait().await;
            let url = self.cards_url(date, seen);
            let told = self.page(url, Place { day, page }, looking).await?;
            if page > 0 && told.total != total {
                return Ok(Pages::Moved(format!(
                    "the total changed from {} to {}",
                    number(total),
                    number(told.total)
                )));
            }
            if let Some(twice) = looking.reader.twice.take() {
                return Ok(Pages::Moved(format!("{twice} came twice")));
            }
            let skipped = seen;
            seen += told.races_seen;
            total = told.total;
            let done = match total {
                Some(total) => seen >= total,
                None => told.races_seen < u64::from(self.settings.page_limit),
            };
            if done {
                break;
            }
            if told.races_seen == 0 {
                return Ok(Pages::Moved(format!(
                    "an empty page after {skipped} of {} races",
                    number(total)
                )));
            }
            if seen > MAX_SKIP {
                return Err(FeedError::BadAnswer {
                    detail: format!(
                        "The Racing API lists {} races for {date}, more than its paging can reach; \
                         ask for fewer regions",
                        number(total)
                    ),
                });
            }
        }
        Ok(Pages::All)
    }

    /// One request, or what is known of the last one for this URL.
    async fn page(
        &mut self,
        url: Url,
        place: Place,
        looking: &mut Looking<'_>,
    ) -> Result<Told, FeedError> {
        let unmodified = self.unmodified(&url, looking.to);
        if let Some(told) = self.ask(&url, unmodified, place, looking).await? {
            return Ok(self.keep(url, told, looking.now));
        }
        let kept = self
            .kept
            .get_mut(&url)
            .expect("only what is kept makes a request conditional");
        kept.asked_at = looking.now;
        for slice in kept.slices.iter() {
            let Some(id) = looking.to.knows(slice) else {
                // It was known when we asked. Without it nothing else may be taken for gone.
                looking.reader.partial = true;
                continue;
            };
            if looking.reader.meet(&id, place) {
                looking.to.same(slice);
            } else {
                // It changed its day while this one stayed as it is.
                looking.reader.again(&id, place);
            }
        }
        Ok(Told {
            total: kept.total,
            races_seen: kept.slices.len() as u64,
            slices: kept.slices.clone(),
            whole: kept.whole,
        })
    }

    /// `None`: not modified.
    async fn ask(
        &self,
        url: &Url,
        unmodified: Option<&Kept>,
        place: Place,
        looking: &mut Looking<'_>,
    ) -> Result<Option<(Answer, Told)>, FeedError> {
        let keeps = self.settings.keep_bodies;
        let request = Request {
            url: url.clone(),
            auth: self.auth(),
            known: unmodified.map(|kept| &kept.validators),
            max_body: if keeps { MAX_BODY } else { MAX_STREAMED },
        };
        let before = self.kept.get(url).map(|kept| kept.slices.clone());
        let before = before.unwrap_or_default();
        let mut body = Vec::new();
        let Looking { to, reader, .. } = looking;
        let mut page = Page::new(reader, &mut **to, place, MAX_REST, before);
        let mut each = |chunk: &[u8]| {
            if keeps {
                body.extend_from_slice(chunk);
            }
            page.push(chunk)
        };
        let answer = self.http.stream(request, looking.now, &mut each).await?;
        if matches!(answer, Answer::NotModified { .. }) {
            return Ok(None);
        }
        let told = page.finish()?;
        if keeps {
            let body = String::from_utf8(body).expect("what was read is text");
            looking.bodies.push(body);
        }
        Ok(Some((answer, told)))
    }

    fn keep(&mut self, url: Url, (answer, told): (Answer, Told), now: DateTime<Utc>) -> Told {
        if let Answer::Fresh { validators, .. } = answer {
            let kept = Kept {
                validators,
                slices: Arc::clone(&told.slices),
                whole: told.whole,
                total: told.total,
                asked_at: now,
            };
            self.kept.insert(url, kept);
        }
        told
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
}

fn number(total: Option<u64>) -> String {
    total.map_or_else(|| "an untold number of".into(), |total| total.to_string())
}
