//! Opens the feed that the settings name, and checks that the database is its own. [`App::build`](super::App::build),
//! `check` and `record` call it.

use std::time::Duration;

#[cfg(feature = "simulator")]
use super::SIMULATED;
use crate::clock::Clock;
use crate::config::{FeedKind, InvalidSetting, Settings, filled};
use anyhow::bail;
use oddsd_feeds::Feed;
use oddsd_feeds::odds_api::{self, OddsApi};
use oddsd_feeds::racing_api::{RacingApi, RacingApiSettings};
#[cfg(feature = "simulator")]
use oddsd_feeds::simulator::RaceDay;
use oddsd_store::{KeptSetting, Store};

/// The feed that the settings name. With `keep_bodies` each answer has its whole body and none is "not modified",
/// as a recording needs it.
#[cfg_attr(
    not(feature = "simulator"),
    expect(unused_variables, reason = "only the simulator needs the clock")
)]
pub fn feed(settings: &Settings, clock: &Clock, keep_bodies: bool) -> anyhow::Result<Feed> {
    let args = &settings.feed;
    let named = |list: &[String]| {
        let named = list.iter().map(|text| text.trim());
        let named = named.filter(|text| !text.is_empty());
        named.map(str::to_owned).collect()
    };
    let deadline = Duration::from_secs(args.feed_timeout_seconds);
    match args.feed {
        FeedKind::RacingApi => {
            let username = filled(&args.racing_api_username);
            let password = filled(&args.racing_api_password);
            let (Some(username), Some(password)) = (username, password) else {
                bail!(InvalidSetting(
                    "The Racing API needs RACING_API_USERNAME and RACING_API_PASSWORD; set both, or try \
                     `oddsd demo`, which needs no key"
                        .into()
                ));
            };
            let settings = RacingApiSettings {
                base_url: args.racing_api_url.clone(),
                regions: named(&args.racing_api_regions),
                page_limit: args.racing_api_page,
                cards_per_second: args.racing_api_cards_per_second,
                races_per_second: args.racing_api_races_per_second,
                deadline,
                keep_bodies,
                ..RacingApiSettings::new(username.clone(), password.clone())
            };
            Ok(Feed::RacingApi(Box::new(RacingApi::new(settings)?)))
        }
        FeedKind::OddsApi => {
            let Some(key) = filled(&args.odds_api_key) else {
                bail!(InvalidSetting("The Odds API needs ODDS_API_KEY".into()))
            };
            let mut sports: Vec<String> = Vec::new();
            for sport in &args.odds_api_sport {
                if !sport.is_empty() && !sports.contains(sport) {
                    sports.push(sport.clone());
                }
            }
            if sports.is_empty() {
                bail!(InvalidSetting(
                    "The Odds API needs ODDS_API_SPORT, the leagues to poll, e.g. baseball_mlb"
                        .into()
                ));
            }
            let settings = odds_api::OddsApiSettings {
                base_url: args.odds_api_url.clone(),
                api_key: key.clone(),
                sports,
                regions: named(&args.odds_api_regions),
                markets: named(&args.odds_api_markets),
                odds_format: args.odds_api_format,
                deadline,
                quota_floor: args.odds_api_quota_floor,
                keep_bodies,
            };
            Ok(Feed::OddsApi(Box::new(OddsApi::new(settings)?)))
        }
        #[cfg(feature = "simulator")]
        FeedKind::Simulator => {
            let now = clock.now().with_timezone(&chrono_tz::Europe::London);
            let day = RaceDay::new(args.simulator_seed, now.date_naive(), SIMULATED);
            Ok(Feed::Simulator(Box::new(day)))
        }
        #[cfg(not(feature = "simulator"))]
        FeedKind::Simulator => bail!(InvalidSetting(
            "this build leaves the simulator out; build with the feature `simulator`, or choose another FEED"
                .into()
        )),
        FeedKind::Betfair => bail!(InvalidSetting(
            "betfair streams come from recordings: `oddsd replay FILE --feed betfair`".into()
        )),
    }
}

/// A database holds the odds of one live feed: with two, invented or replayed prices would be shown beside real ones.
/// The first feed is kept; another one is refused, unless `switch` says that it takes over. Its first whole answer
/// unlists what the other one stored.
pub(super) async fn claim_database(store: &Store, feed: &str, switch: bool) -> anyhow::Result<()> {
    let kept = store.live_feed().await?;
    match kept.as_deref() {
        Some(other) if other != feed && !switch => bail!(InvalidSetting(foreign_feed(other, feed))),
        Some(other) if other != feed => {
            tracing::warn!(
                event = "feed.switched",
                from = other,
                to = feed,
                "This database now belongs to {feed}; its first whole answer unlists what {other} stored"
            );
        }
        _ => {}
    }
    Ok(store.keep_setting(KeptSetting::Feed, feed).await?)
}

/// The message for a database that another feed fills.
pub fn foreign_feed(kept: &str, feed: &str) -> String {
    format!(
        "this database holds the odds of {kept}, and FEED is {feed}: they would be mixed. Give {feed} a database of its own \
         (DATABASE_URL), or start once with --switch-feed, which retires what {kept} stored"
    )
}

/// A recording does not belong into a database with live odds, unless `into_live` says so.
pub async fn ensure_not_live(store: &Store, into_live: bool) -> anyhow::Result<()> {
    match store.live_feed().await? {
        Some(live) if !into_live => bail!(InvalidSetting(format!(
            "this database holds the live odds of {live}, and the recording would be mixed with them. Replay into a database of \
             its own (DATABASE_URL=sqlite:replay.db), or pass --into-live"
        ))),
        _ => Ok(()),
    }
}
