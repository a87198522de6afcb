//! Opens the feed that the settings name. [`App::build`](super::App::build), `check` and `record` call it.

use std::time::Duration;

use anyhow::bail;
use secrecy::{ExposeSecret, SecretString};

#[cfg(feature = "simulator")]
use super::SIMULATED;
use crate::clock::Clock;
use crate::config::{FeedKind, InvalidSetting, Settings};
use oddsd_feeds::Feed;
use oddsd_feeds::odds_api::{self, OddsApi};
use oddsd_feeds::racing_api::{RacingApi, RacingApiSettings};
#[cfg(feature = "simulator")]
use oddsd_feeds::simulator::RaceDay;

/// A secret that is set: hosting panels store an unset one as an empty text.
pub fn filled(secret: &Option<SecretString>) -> Option<&SecretString> {
    let secret = secret.as_ref()?;
    (!secret.expose_secret().trim().is_empty()).then_some(secret)
}

/// The feed that the settings name. With `keep_bodies` each answer has its whole body and none is "not modified",
/// as a recording needs it.
#[cfg_attr(
    not(feature = "simulator"),
    expect(unused_variables, reason = "only the simulator needs the clock")
)]
pub fn feed(settings: &Settings, clock: &Clock, keep_bodies: bool) -> anyhow::Result<Feed> {
    let args = &settings.feed;
    let named = |list: &[String]| {
        let named = list.iter().filter(|text| !text.trim().is_empty());
        named.cloned().collect()
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
