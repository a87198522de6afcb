//! Connects the racing stand-in to the daemon: feed settings that reach it, and simulated days that it serves.
//! The feed's and the daemon's tests use it.

use chrono::{DateTime, Utc};
use oddsd_feeds::racing_api::RacingApiSettings;
use oddsd_feeds::simulator::RaceDay;
use oddsd_testkit::racing_provider::{PASSWORD, RacingProvider, SimulatedDay, USERNAME};

/// Settings that reach this provider, with the right credentials and no wait for the rate limit.
pub fn feed_settings(provider: &RacingProvider) -> RacingApiSettings {
    RacingApiSettings {
        base_url: provider.base_url(),
        cards_per_second: 10_000.0,
        races_per_second: 10_000.0,
        ..RacingApiSettings::new(USERNAME.to_owned().into(), PASSWORD.to_owned().into())
    }
}

/// The simulator's day, as the provider serves it.
pub fn simulated(day: RaceDay) -> Box<dyn SimulatedDay> {
    Box::new(Simulated(day))
}

struct Simulated(RaceDay);

impl SimulatedDay for Simulated {
    fn card_at(&mut self, now: DateTime<Utc>) -> String {
        self.0.card_at(now)
    }

    fn race_at(&mut self, id: &str, now: DateTime<Utc>) -> Option<String> {
        self.0.race_at(id, now)
    }
}
