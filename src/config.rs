//! Every setting, once: the doc comment here is the `--help` text is the reference. A flag wins over
//! its environment variable, which wins over `.env`, which wins over the default.

mod rules;
mod words;

use std::net::SocketAddr;
use std::time::Duration;

use chrono_tz::Tz;
use clap::{Args, ValueEnum};
use secrecy::SecretString;

use crate::cache::CacheSettings;
use crate::feed::odds_api::OddsFormat;
use crate::log::LogFormat;
use crate::poller::IngestSettings;
use crate::schedule::{Cadence, Plan};
use crate::store::{Retention, StoreSettings, Tls};
pub use rules::RulesArgs;
use words::{fraction, listen, rate, timezone};

/// A setting that can never work, with its fix: the program stops and says so (exit code 78).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadSetting(pub String);

impl std::fmt::Display for BadSetting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadSetting {}

#[derive(Clone, Debug, Args)]
pub struct Settings {
    #[command(flatten)]
    pub feed: FeedArgs,
    #[command(flatten)]
    pub store: StoreArgs,
    #[command(flatten)]
    pub cache: CacheArgs,
    #[command(flatten)]
    pub schedule: ScheduleArgs,
    #[command(flatten)]
    pub rules: RulesArgs,
    #[command(flatten)]
    pub daemon: DaemonArgs,
    #[command(flatten)]
    pub log: LogArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FeedKind {
    /// Horse racing: whole cards, and one race at a time near its off.
    RacingApi,
    /// Leagues of many sports, within a paid quota.
    OddsApi,
    /// Recorded exchange streams; only `oddsd replay` reads them.
    Betfair,
    /// An invented race day: no key, no network.
    Simulator,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Feed")]
pub struct FeedArgs {
    /// Who knows the odds.
    #[arg(
        long,
        env = "FEED",
        value_enum,
        default_value = "racing-api",
        global = true,
        hide_short_help = true
    )]
    pub feed: FeedKind,
    /// User name of The Racing API.
    #[arg(
        long,
        env = "RACING_API_USERNAME",
        hide_env_values = true,
        global = true,
        hide_short_help = true
    )]
    pub racing_api_username: Option<SecretString>,
    /// Password of The Racing API.
    #[arg(
        long,
        env = "RACING_API_PASSWORD",
        hide_env_values = true,
        global = true,
        hide_short_help = true
    )]
    pub racing_api_password: Option<SecretString>,
    /// Where The Racing API (or a mirror of it) answers.
    #[arg(
        long,
        env = "RACING_API_URL",
        hide_env_values = true,
        default_value = "https://api.theracingapi.com/v1",
        global = true,
        hide_short_help = true
    )]
    pub racing_api_url: String,
    /// Regions to poll, comma-separated; empty: all of them.
    #[arg(
        long,
        env = "RACING_API_REGIONS",
        default_value = "gb,ire",
        value_delimiter = ',',
        global = true,
        hide_short_help = true
    )]
    pub racing_api_regions: Vec<String>,
    /// Whole-card requests a second (the provider's limit is 2).
    #[arg(
        long,
        env = "RACING_API_CARDS_PER_SECOND",
        value_parser = rate,
        default_value = "2",
        global = true,
        hide_short_help = true
    )]
    pub racing_api_cards_per_second: f64,
    /// One-race requests a second (the provider's limit is 5).
    #[arg(
        long,
        env = "RACING_API_RACES_PER_SECOND",
        value_parser = rate,
        default_value = "5",
        global = true,
        hide_short_help = true
    )]
    pub racing_api_races_per_second: f64,
    /// Races a page, 1 to 500.
    #[arg(long, env = "RACING_API_PAGE", default_value = "500", value_parser = clap::value_parser!(u16).range(1..=500), global = true, hide_short_help = true)]
    pub racing_api_page: u16,
    /// Key of The Odds API.
    #[arg(
        long,
        env = "ODDS_API_KEY",
        hide_env_values = true,
        global = true,
        hide_short_help = true
    )]
    pub odds_api_key: Option<SecretString>,
    /// Where The Odds API answers.
    #[arg(
        long,
        env = "ODDS_API_URL",
        hide_env_values = true,
        default_value = "https://api.the-odds-api.com",
        global = true,
        hide_short_help = true
    )]
    pub odds_api_url: String,
    /// League of The Odds API to poll, e.g. baseball_mlb.
    #[arg(long, env = "ODDS_API_SPORT", global = true, hide_short_help = true)]
    pub odds_api_sport: Option<String>,
    /// Bookmaker regions of The Odds API, comma-separated; each costs quota.
    #[arg(
        long,
        env = "ODDS_API_REGIONS",
        default_value = "uk",
        value_delimiter = ',',
        global = true,
        hide_short_help = true
    )]
    pub odds_api_regions: Vec<String>,
    /// Markets of The Odds API, comma-separated; each costs quota.
    #[arg(
        long,
        env = "ODDS_API_MARKETS",
        default_value = "h2h",
        value_delimiter = ',',
        global = true,
        hide_short_help = true
    )]
    pub odds_api_markets: Vec<String>,
    /// Notation in which The Odds API answers.
    #[arg(
        long,
        env = "ODDS_API_FORMAT",
        value_enum,
        default_value = "decimal",
        global = true,
        hide_short_help = true
    )]
    pub odds_api_format: OddsNotation,
    /// Stop asking The Odds API when no more than this many paid requests are left.
    #[arg(
        long,
        env = "ODDS_API_QUOTA_FLOOR",
        default_value = "0",
        global = true,
        hide_short_help = true
    )]
    pub odds_api_quota_floor: u64,
    /// Seconds that one request to a feed may take, answer included.
    #[arg(long, env = "FEED_TIMEOUT_SECONDS", default_value = "30", value_parser = clap::value_parser!(u64).range(1..=300), global = true, hide_short_help = true)]
    pub feed_timeout_seconds: u64,
    /// Seed of the simulated race day: the same seed is the same day.
    #[arg(
        long,
        env = "SIMULATOR_SEED",
        default_value = "7",
        global = true,
        hide_short_help = true
    )]
    pub simulator_seed: u64,
    /// Largest share of the open prices that one answer may leave out before a second look must
    /// agree; 1 believes every answer at once.
    #[arg(long, env = "MAX_REMOVED_FRACTION", default_value = "0.5", value_parser = fraction, global = true, hide_short_help = true)]
    pub max_removed_fraction: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OddsNotation {
    Decimal,
    American,
}

impl From<OddsNotation> for OddsFormat {
    fn from(notation: OddsNotation) -> Self {
        match notation {
            OddsNotation::Decimal => Self::Decimal,
            OddsNotation::American => Self::American,
        }
    }
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Database")]
pub struct StoreArgs {
    /// postgres://user:password@host:5432/name, or sqlite:path/to/file.db. Behind Supabase use the
    /// session pooler (port 5432) with sslmode=verify-full.
    #[arg(
        long,
        env = "DATABASE_URL",
        default_value = "sqlite:oddsd.db",
        hide_env_values = true,
        hide_default_value = false,
        global = true,
        hide_short_help = true
    )]
    pub database_url: SecretString,
    /// What to demand of a connection to another host.
    #[arg(
        long,
        env = "DATABASE_TLS",
        value_enum,
        default_value = "verify-full",
        global = true,
        hide_short_help = true
    )]
    pub database_tls: Tls,
    /// Most connections held at once.
    #[arg(long, env = "DATABASE_MAX_CONNECTIONS", default_value = "6", value_parser = clap::value_parser!(u32).range(2..=200), global = true, hide_short_help = true)]
    pub database_max_connections: u32,
    /// Seconds after which the database ends a statement of ours.
    #[arg(long, env = "DATABASE_STATEMENT_TIMEOUT_SECONDS", default_value = "30", value_parser = clap::value_parser!(u64).range(1..=3600), global = true, hide_short_help = true)]
    pub database_statement_timeout_seconds: u64,
    /// Bring the tables to this version at start.
    #[arg(long, env = "AUTO_MIGRATE", default_value = "true", action = clap::ArgAction::Set, global = true, hide_short_help = true)]
    pub auto_migrate: bool,
    /// Days that price history, cycles and removals are kept.
    #[arg(long, env = "HISTORY_DAYS", default_value = "30", value_parser = clap::value_parser!(u64).range(1..=36500), global = true, hide_short_help = true)]
    pub history_days: u64,
    /// Days that finished events are kept.
    #[arg(long, env = "FINISHED_EVENT_DAYS", default_value = "7", value_parser = clap::value_parser!(u64).range(1..=36500), global = true, hide_short_help = true)]
    pub finished_event_days: u64,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Cache")]
pub struct CacheArgs {
    /// redis://, rediss://, redis-cluster:// or redis-sentinel:// URL. Empty: see the next two.
    #[arg(
        long,
        env = "REDIS_URL",
        hide_env_values = true,
        global = true,
        hide_short_help = true
    )]
    pub redis_url: Option<SecretString>,
    /// Upstash REST URL. Empty, with REDIS_URL empty: answers are cached in this process.
    #[arg(
        long,
        env = "UPSTASH_REDIS_REST_URL",
        hide_env_values = true,
        global = true,
        hide_short_help = true
    )]
    pub upstash_redis_rest_url: Option<String>,
    /// Upstash REST token.
    #[arg(
        long,
        env = "UPSTASH_REDIS_REST_TOKEN",
        hide_env_values = true,
        global = true,
        hide_short_help = true
    )]
    pub upstash_redis_rest_token: Option<SecretString>,
    /// false: no cache is contacted at all.
    #[arg(long, env = "CACHE_ENABLED", default_value = "true", action = clap::ArgAction::Set, global = true, hide_short_help = true)]
    pub cache_enabled: bool,
    /// Milliseconds that one removal may take before it counts as failed and is retried.
    #[arg(long, env = "CACHE_TIMEOUT_MS", default_value = "2000", value_parser = clap::value_parser!(u64).range(10..=60000), global = true, hide_short_help = true)]
    pub cache_timeout_ms: u64,
    /// Mebibytes that answers cached in this process may take.
    #[arg(long, env = "CACHE_MEMORY_MB", default_value = "64", value_parser = clap::value_parser!(u64).range(1..=65536), global = true, hide_short_help = true)]
    pub cache_memory_mb: u64,
    /// Mebibytes of this process that may hold answers in front of Redis (one server or sentinels;
    /// Redis tells it what changes). 0: none.
    #[arg(long, env = "CACHE_FIRST_LEVEL_MB", default_value = "16", value_parser = clap::value_parser!(u64).range(0..=65536), global = true, hide_short_help = true)]
    pub cache_first_level_mb: u64,
    /// Milliseconds after which a key is removed once more, for programs that fill the cache on their
    /// own and may have asked the database just before the change. 0: never.
    #[arg(long, env = "CACHE_REMOVE_AGAIN_MS", default_value = "1500", value_parser = clap::value_parser!(u64).range(0..=600000), global = true, hide_short_help = true)]
    pub cache_remove_again_ms: u64,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Schedule")]
pub struct ScheduleArgs {
    /// How often to look, by minutes to the off.
    #[arg(
        long,
        env = "CADENCE",
        default_value = "5=10s,30=60s,120=300s,*=900s",
        global = true,
        hide_short_help = true
    )]
    pub cadence: Cadence,
    /// With more races due than this, the whole card is fetched instead of one race each.
    #[arg(
        long,
        env = "MAX_ONE_RACE_CALLS",
        default_value = "10",
        global = true,
        hide_short_help = true
    )]
    pub max_one_race_calls: usize,
    /// Seconds after which the whole card is fetched again, whatever is due.
    #[arg(long, env = "WHOLE_CARD_SECONDS", default_value = "900", value_parser = clap::value_parser!(u64).range(1..=86400), global = true, hide_short_help = true)]
    pub whole_card_seconds: u64,
    /// Six fields (second first) instead of the cadence: "0 */5 * * * *". Empty: the cadence.
    #[arg(long, env = "CRON", global = true, hide_short_help = true)]
    pub cron: Option<String>,
    /// Time zone of the cron line.
    #[arg(
        long,
        env = "CRON_TIMEZONE",
        value_parser = timezone,
        default_value = "UTC",
        global = true,
        hide_short_help = true
    )]
    pub cron_timezone: Tz,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Daemon")]
pub struct DaemonArgs {
    /// Where the read API listens; "off" for a worker that nobody asks.
    #[arg(long, env = "LISTEN", default_value = "127.0.0.1:8080", value_parser = listen, global = true, hide_short_help = true)]
    pub listen: Listen,
    /// Name of this daemon in the lease and in logs. Empty: the host's name.
    #[arg(long, env = "INSTANCE", global = true, hide_short_help = true)]
    pub instance: Option<String>,
    /// Seconds for which the right to write is held; another daemon takes over after them.
    #[arg(long, env = "LEASE_SECONDS", default_value = "15", value_parser = clap::value_parser!(u64).range(1..=600), global = true, hide_short_help = true)]
    pub lease_seconds: u64,
    /// Look at what readers are served after a change: freshness in `oddsd status`, on the page and in
    /// /metrics.
    #[arg(long, env = "AUDIT", default_value = "true", action = clap::ArgAction::Set, global = true, hide_short_help = true)]
    pub audit: bool,
    /// Seconds between two changes of a row of no meaning, by which silence is noticed without traffic.
    /// 0: none. Empty: 1; with Upstash, where each costs about four billed commands, 30.
    #[arg(long, env = "CANARY_SECONDS", value_parser = clap::value_parser!(u64).range(0..=3600), global = true, hide_short_help = true)]
    pub canary_seconds: Option<u64>,
    /// What other programs show to report changes with POST /v1/changes. Empty: nobody may.
    #[arg(
        long,
        env = "REPORT_TOKEN",
        hide_env_values = true,
        global = true,
        hide_short_help = true
    )]
    pub report_token: Option<SecretString>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listen {
    Off,
    At(SocketAddr),
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Log")]
pub struct LogArgs {
    /// error, warn, info, debug or trace, or a filter such as info,oddsd::store=debug. RUST_LOG wins.
    #[arg(
        long,
        env = "LOG_LEVEL",
        default_value = "info",
        global = true,
        hide_short_help = true
    )]
    pub log_level: String,
    /// pretty, logfmt or json. Empty: pretty on a terminal, logfmt elsewhere.
    #[arg(long, env = "LOG_FORMAT", global = true, hide_short_help = true)]
    pub log_format: Option<String>,
}

/// Hosting panels spell "not set" as an empty text.
fn set(text: &Option<String>) -> Option<&str> {
    text.as_deref()
        .map(str::trim)
        .filter(|text| !text.is_empty())
}

impl Settings {
    pub fn store(&self) -> StoreSettings {
        StoreSettings {
            url: self.store.database_url.clone(),
            tls: self.store.database_tls,
            max_connections: self.store.database_max_connections,
            statement_timeout: Duration::from_secs(self.store.database_statement_timeout_seconds),
        }
    }

    pub fn cache(&self) -> CacheSettings {
        CacheSettings {
            redis_url: self.cache.redis_url.clone(),
            upstash_url: self.cache.upstash_redis_rest_url.clone(),
            upstash_token: self.cache.upstash_redis_rest_token.clone(),
            enabled: self.cache.cache_enabled,
            command_timeout: Duration::from_millis(self.cache.cache_timeout_ms),
            memory_bytes: self.cache.cache_memory_mb * 1024 * 1024,
            first_level_bytes: self.cache.cache_first_level_mb * 1024 * 1024,
        }
    }

    pub fn remove_again(&self) -> Duration {
        Duration::from_millis(self.cache.cache_remove_again_ms)
    }

    pub fn ingest(&self) -> IngestSettings {
        const DAY: u64 = 24 * 60 * 60;
        IngestSettings {
            max_removed_fraction: self.feed.max_removed_fraction,
            retention: Retention {
                history: Duration::from_secs(self.store.history_days * DAY),
                finished_events: Duration::from_secs(self.store.finished_event_days * DAY),
            },
        }
    }

    pub fn plan(&self) -> Plan {
        Plan {
            cadence: self.schedule.cadence.clone(),
            max_one_race_calls: self.schedule.max_one_race_calls,
            whole_card_every: Duration::from_secs(self.schedule.whole_card_seconds),
        }
    }

    pub fn cron(&self) -> Option<&str> {
        set(&self.schedule.cron)
    }

    pub fn lease(&self) -> Duration {
        Duration::from_secs(self.daemon.lease_seconds)
    }

    /// `None`: no canary. `billed`: the cache bills each command.
    pub fn canary(&self, billed: bool) -> Option<Duration> {
        let usual = if billed { 30 } else { 1 };
        let seconds = self.daemon.canary_seconds.unwrap_or(usual);
        (self.daemon.audit && seconds > 0).then(|| Duration::from_secs(seconds))
    }

    /// Who we are in the lease: unique, so that a restarted daemon is not taken for its predecessor.
    pub fn instance(&self) -> String {
        let host = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
        let name = set(&self.daemon.instance).unwrap_or(host.trim());
        let name = if name.is_empty() { "oddsd" } else { name };
        format!("{name}-{}-{:04x}", std::process::id(), fastrand::u16(..))
    }

    pub fn log_format(&self) -> anyhow::Result<Option<LogFormat>> {
        set(&self.log.log_format).map(str::parse).transpose()
    }
}
