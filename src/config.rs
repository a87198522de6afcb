//! Every setting, with the doc comment that is its `--help` text. The CLI parses them: a flag overrides its
//! environment variable, which overrides `.env`, which overrides the default.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use chrono_tz::Tz;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum};
use secrecy::{ExposeSecret, SecretString};
use strum::VariantNames;

use crate::log::LogFormat;
use crate::poller::PollerSettings;
use crate::rules_file::{RulesHandle, RulesWatcher};
use oddsd_cache::CacheSettings;
use oddsd_core::key::Namespace;
use oddsd_core::schedule::{Cadence, PollPlanner};
use oddsd_feeds::odds_api::OddsFormat;
use oddsd_store::{Retention, StoreSettings, Tls};

/// An invalid setting with its fix. The program ends with exit code 78.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidSetting(pub String);

// Every command accepts every setting; only the long help (`--help`) lists them. This is no doc comment,
// because clap would make it the description of the program.
#[derive(Clone, Debug, Args)]
#[command(mut_args(|arg| arg.global(true).hide_short_help(true)))]
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
    /// Horse racing: whole racecards, and single races near their start.
    #[value(alias = "racing_api")]
    RacingApi,
    /// Leagues of many sports, with a paid quota.
    #[value(alias = "odds_api")]
    OddsApi,
    /// Recorded exchange streams, for `oddsd replay` only.
    Betfair,
    /// A simulated race day. Needs no key and no network.
    Simulator,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Feed")]
pub struct FeedArgs {
    /// The source of the odds.
    #[arg(
        long,
        env = "FEED",
        value_enum,
        ignore_case = true,
        default_value = "racing-api"
    )]
    pub feed: FeedKind,
    /// User name of The Racing API.
    #[arg(long, env = "RACING_API_USERNAME", hide_env_values = true)]
    pub racing_api_username: Option<SecretString>,
    /// Password of The Racing API.
    #[arg(long, env = "RACING_API_PASSWORD", hide_env_values = true)]
    pub racing_api_password: Option<SecretString>,
    /// Base URL of The Racing API or of a mirror.
    #[arg(
        long,
        env = "RACING_API_URL",
        hide_env_values = true,
        default_value = "https://api.theracingapi.com/v1"
    )]
    pub racing_api_url: String,
    /// Regions to poll, comma-separated. Empty: all regions.
    #[arg(
        long,
        env = "RACING_API_REGIONS",
        default_value = "gb,ire",
        value_delimiter = ','
    )]
    pub racing_api_regions: Vec<String>,
    /// Whole-card requests a second (the provider's limit is 2).
    #[arg(long, env = "RACING_API_CARDS_PER_SECOND", value_parser = rate, default_value = "2")]
    pub racing_api_cards_per_second: f64,
    /// One-race requests a second (the provider's limit is 5).
    #[arg(long, env = "RACING_API_RACES_PER_SECOND", value_parser = rate, default_value = "5")]
    pub racing_api_races_per_second: f64,
    /// Races in one page of the answer, 1 to 500.
    #[arg(long, env = "RACING_API_PAGE", default_value = "500", value_parser = clap::value_parser!(u16).range(1..=500))]
    pub racing_api_page: u16,
    /// Key of The Odds API.
    #[arg(long, env = "ODDS_API_KEY", hide_env_values = true)]
    pub odds_api_key: Option<SecretString>,
    /// Base URL of The Odds API.
    #[arg(
        long,
        env = "ODDS_API_URL",
        hide_env_values = true,
        default_value = "https://api.the-odds-api.com"
    )]
    pub odds_api_url: String,
    /// Sport keys of The Odds API to poll, comma-separated: leagues, e.g. baseball_mlb, or upcoming; each costs quota.
    #[arg(long, env = "ODDS_API_SPORT", value_delimiter = ',', value_parser = sport_key)]
    pub odds_api_sport: Vec<String>,
    /// Bookmaker regions of The Odds API, comma-separated; each costs quota.
    #[arg(
        long,
        env = "ODDS_API_REGIONS",
        default_value = "uk",
        value_delimiter = ','
    )]
    pub odds_api_regions: Vec<String>,
    /// Markets of The Odds API, comma-separated; each costs quota.
    #[arg(
        long,
        env = "ODDS_API_MARKETS",
        default_value = "h2h",
        value_delimiter = ','
    )]
    pub odds_api_markets: Vec<String>,
    /// Notation in which The Odds API answers.
    #[arg(long, env = "ODDS_API_FORMAT", value_parser = odds_format(), default_value = "decimal")]
    pub odds_api_format: OddsFormat,
    /// Stop polling The Odds API if at most this many paid requests are left.
    #[arg(long, env = "ODDS_API_QUOTA_FLOOR", default_value = "0")]
    pub odds_api_quota_floor: u64,
    /// Timeout of one request to a feed, in seconds, including the answer's body.
    #[arg(long, env = "FEED_TIMEOUT_SECONDS", default_value = "30", value_parser = clap::value_parser!(u64).range(1..=300))]
    pub feed_timeout_seconds: u64,
    /// Seed of the simulated race day. The same seed gives the same day.
    #[arg(long, env = "SIMULATOR_SEED", default_value = "7")]
    pub simulator_seed: u64,
    /// Largest share of the open prices that one answer may leave out before a second answer must
    /// confirm it. 1: every answer is accepted.
    #[arg(long, env = "MAX_REMOVED_FRACTION", default_value = "0.5", value_parser = fraction)]
    pub max_removed_fraction: f64,
    /// Seconds after which an answer that leaves out more than that is fetched again. It is believed if each answer
    /// meanwhile agrees and the last was requested at least so much later; a failed fetch starts the wait anew.
    #[arg(long, env = "RECHECK_REMOVED_SECONDS", default_value = "10", value_parser = clap::value_parser!(u64).range(1..=600))]
    pub recheck_removed_seconds: u64,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Database")]
pub struct StoreArgs {
    /// postgres://user:password@host:5432/name, or sqlite:path/to/file.db. Required, except by `demo`. Behind
    /// Supabase use the session pooler (port 5432) with sslmode=verify-full.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<SecretString>,
    /// TLS that a connection to another host must have.
    #[arg(
        long,
        env = "DATABASE_TLS",
        value_enum,
        ignore_case = true,
        default_value = "verify-full"
    )]
    pub database_tls: Tls,
    /// Maximum number of open connections.
    #[arg(long, env = "DATABASE_MAX_CONNECTIONS", default_value = "6", value_parser = clap::value_parser!(u32).range(2..=200))]
    pub database_max_connections: u32,
    /// Seconds after which the database cancels a statement of oddsd.
    #[arg(long, env = "DATABASE_STATEMENT_TIMEOUT_SECONDS", default_value = "30", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub database_statement_timeout_seconds: u64,
    /// Migrate the tables to this version at the start.
    #[arg(long, env = "AUTO_MIGRATE", default_value = "true", action = clap::ArgAction::Set, value_parser = boolean)]
    pub auto_migrate: bool,
    /// Retention of price history, cycles and removals, in days.
    #[arg(long, env = "HISTORY_DAYS", default_value = "30", value_parser = clap::value_parser!(u64).range(1..=36500))]
    pub history_days: u64,
    /// Retention of finished events, in days.
    #[arg(long, env = "FINISHED_EVENT_DAYS", default_value = "7", value_parser = clap::value_parser!(u64).range(1..=36500))]
    pub finished_event_days: u64,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Cache")]
pub struct CacheArgs {
    /// redis://, rediss://, redis-cluster:// or redis-sentinel:// URL. Empty: the next two settings apply.
    #[arg(long, env = "REDIS_URL", hide_env_values = true)]
    pub redis_url: Option<SecretString>,
    /// Upstash REST URL. If it and REDIS_URL are empty, answers are cached in this process.
    #[arg(long, env = "UPSTASH_REDIS_REST_URL", hide_env_values = true)]
    pub upstash_redis_rest_url: Option<String>,
    /// Upstash REST token.
    #[arg(long, env = "UPSTASH_REDIS_REST_TOKEN", hide_env_values = true)]
    pub upstash_redis_rest_token: Option<SecretString>,
    /// Namespace of oddsd's own names in a Redis that several databases share on purpose (letters, digits, `.`, `_`, `-`):
    /// `oddsd:NAMESPACE:…`. The keys of other programs, which rules name, have none.
    #[arg(long, env = "CACHE_NAMESPACE", value_parser = namespace)]
    pub cache_namespace: Option<Namespace>,
    /// Use a cache. false: no cache is contacted.
    #[arg(long, env = "CACHE_ENABLED", default_value = "true", action = clap::ArgAction::Set, value_parser = boolean)]
    pub cache_enabled: bool,
    /// Milliseconds after which a removal has failed and is retried.
    #[arg(long, env = "CACHE_TIMEOUT_MS", default_value = "2000", value_parser = clap::value_parser!(u64).range(10..=60000))]
    pub cache_timeout_ms: u64,
    /// Memory for answers cached in this process, in MiB.
    #[arg(long, env = "CACHE_MEMORY_MB", default_value = "64", value_parser = clap::value_parser!(u64).range(1..=65536))]
    pub cache_memory_mb: u64,
    /// Memory of the in-process cache in front of Redis, in MiB (a single server or sentinels, with
    /// client tracking). 0: none.
    #[arg(long, env = "CACHE_FIRST_LEVEL_MB", default_value = "16", value_parser = clap::value_parser!(u64).range(0..=65536))]
    pub cache_first_level_mb: u64,
    /// Milliseconds after which a key is removed a second time, for programs that fill the cache
    /// themselves and may have read the database just before the change. 0: never.
    #[arg(long, env = "CACHE_REMOVE_AGAIN_MS", default_value = "1500", value_parser = clap::value_parser!(u64).range(0..=600000))]
    pub cache_remove_again_ms: u64,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Schedule")]
pub struct ScheduleArgs {
    /// Polling intervals by minutes to the start of a race.
    #[arg(long, env = "CADENCE", default_value = "5=10s,30=60s,120=300s,*=900s")]
    pub cadence: Cadence,
    /// Maximum number of single-race requests in one cycle. If more races are due, the whole card is fetched.
    #[arg(long, env = "MAX_ONE_RACE_CALLS", default_value = "10")]
    pub max_one_race_calls: usize,
    /// Seconds after which the whole card is fetched again, even if few races are due.
    #[arg(long, env = "WHOLE_CARD_SECONDS", default_value = "900", value_parser = clap::value_parser!(u64).range(1..=86400))]
    pub whole_card_seconds: u64,
    /// Cron expression of six fields (second first) that replaces the cadence: "0 */5 * * * *".
    #[arg(long, env = "CRON")]
    pub cron: Option<String>,
    /// Time zone of the cron expression.
    #[arg(long, env = "CRON_TIMEZONE", value_parser = timezone, default_value = "UTC")]
    pub cron_timezone: Tz,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Invalidation")]
pub struct RulesArgs {
    /// Rules file (TOML, or JSON with tasks): which changes remove which cached answers, in addition to
    /// the built-in rules. It is loaded again if it changes, or once it exists.
    #[arg(long, env = "RULES_FILE", default_value = "rules.toml")]
    pub rules_file: PathBuf,
    /// Removals a minute, of all daemons together, above which a warning is logged once.
    #[arg(long, env = "REMOVALS_PER_MINUTE_WARNING", default_value = "100")]
    pub removals_per_minute_warning: u64,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Daemon")]
pub struct DaemonArgs {
    /// Address of the read API, or "off" for a worker without one.
    #[arg(long, env = "LISTEN", default_value = "127.0.0.1:8080", value_parser = listen)]
    pub listen: Listen,
    /// Name of this daemon in the leader lease and in logs. Empty: the host name.
    #[arg(long, env = "INSTANCE")]
    pub instance: Option<String>,
    /// Duration of the leader lease (the right to write) in seconds. After it another daemon takes over.
    #[arg(long, env = "LEASE_SECONDS", default_value = "15", value_parser = clap::value_parser!(u64).range(1..=600))]
    pub lease_seconds: u64,
    /// Audit what readers are served after a change. The result is in `oddsd status`, on the page and
    /// in /metrics.
    #[arg(long, env = "AUDIT", default_value = "true", action = clap::ArgAction::Set, value_parser = boolean)]
    pub audit: bool,
    /// Seconds between two changes of a test row, which detect failures when no price changes. 0: none.
    /// Empty: 1, or 30 with Upstash, where each change costs about four billed commands.
    #[arg(long, env = "CANARY_SECONDS", value_parser = clap::value_parser!(u64).range(0..=3600))]
    pub canary_seconds: Option<u64>,
    /// Take over a database that another feed has filled: what that one stored is retired.
    #[arg(long, env = "SWITCH_FEED", default_value = "false", num_args = 0..=1, default_missing_value = "true",
          action = clap::ArgAction::Set, value_parser = boolean)]
    pub switch_feed: bool,
    /// Token with which other programs report changes by POST /v1/changes. Empty: reports are refused.
    #[arg(long, env = "REPORT_TOKEN", hide_env_values = true)]
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
    /// error, warn, info, debug or trace, or a filter such as info,oddsd_store=debug. RUST_LOG wins.
    #[arg(long, env = "LOG_LEVEL", default_value = "info")]
    pub log_level: String,
    /// pretty, logfmt or json. Empty: pretty on a terminal, logfmt elsewhere.
    #[arg(long, env = "LOG_FORMAT", value_enum, ignore_case = true)]
    pub log_format: Option<LogFormat>,
}

/// A secret that is set: hosting panels store an unset one as an empty text.
pub fn filled(secret: &Option<SecretString>) -> Option<&SecretString> {
    let secret = secret.as_ref()?;
    (!secret.expose_secret().trim().is_empty()).then_some(secret)
}

/// Treats an empty text as not set, because hosting panels store it so.
pub(crate) fn non_empty(text: &Option<String>) -> Option<&str> {
    text.as_deref()
        .map(str::trim)
        .filter(|text| !text.is_empty())
}

impl Settings {
    /// An error without a database: a file in the working folder that nobody asked for would be empty after the next
    /// deployment.
    pub fn store(&self) -> Result<StoreSettings, InvalidSetting> {
        let url = filled(&self.store.database_url).cloned();
        let url = url.ok_or_else(|| {
            InvalidSetting(
                "DATABASE_URL is not set: write postgres://user:password@host:5432/name, or sqlite:oddsd.db for a file in this \
                 folder (.env.example has it); `oddsd demo` needs none"
                    .into(),
            )
        })?;
        Ok(StoreSettings {
            url,
            tls: self.store.database_tls,
            max_connections: self.store.database_max_connections,
            statement_timeout: Duration::from_secs(self.store.database_statement_timeout_seconds),
        })
    }

    pub fn cache(&self) -> CacheSettings {
        CacheSettings {
            redis_url: self.cache.redis_url.clone(),
            upstash_url: self.cache.upstash_redis_rest_url.clone(),
            upstash_token: self.cache.upstash_redis_rest_token.clone(),
            namespace: self.cache.cache_namespace.clone().unwrap_or_default(),
            enabled: self.cache.cache_enabled,
            command_timeout: Duration::from_millis(self.cache.cache_timeout_ms),
            memory_bytes: self.cache.cache_memory_mb * 1024 * 1024,
            l1_bytes: self.cache.cache_first_level_mb * 1024 * 1024,
        }
    }

    /// Opens the rules and the task that reloads them. An existing but invalid file is an error, unless there is a
    /// `kept` text of it that was valid.
    pub fn rules(&self, kept: Option<&str>) -> Result<(RulesHandle, RulesWatcher), InvalidSetting> {
        RulesHandle::open(&self.rules.rules_file, kept).map_err(|why| {
            let file = self.rules.rules_file.display();
            InvalidSetting(format!(
                "{why}\ncorrect the file (`oddsd rules check {file}` validates it), or set RULES_FILE"
            ))
        })
    }

    pub fn second_removal_after(&self) -> Duration {
        Duration::from_millis(self.cache.cache_remove_again_ms)
    }

    pub fn poller(&self) -> PollerSettings {
        const DAY: u64 = 24 * 60 * 60;
        PollerSettings {
            max_removed_fraction: self.feed.max_removed_fraction,
            recheck_removed_after: Duration::from_secs(self.feed.recheck_removed_seconds),
            retention: Retention {
                history: Duration::from_secs(self.store.history_days * DAY),
                finished_events: Duration::from_secs(self.store.finished_event_days * DAY),
            },
        }
    }

    pub fn plan(&self) -> PollPlanner {
        PollPlanner {
            cadence: self.schedule.cadence.clone(),
            max_one_race_calls: self.schedule.max_one_race_calls,
            whole_card_every: Duration::from_secs(self.schedule.whole_card_seconds),
        }
    }

    pub fn cron(&self) -> Option<&str> {
        non_empty(&self.schedule.cron)
    }

    pub fn lease(&self) -> Duration {
        Duration::from_secs(self.daemon.lease_seconds)
    }

    /// The canary's interval; `None` disables it. `billed`: the cache bills each command.
    pub fn canary(&self, billed: bool) -> Option<Duration> {
        let usual = if billed { 30 } else { 1 };
        let seconds = self.daemon.canary_seconds.unwrap_or(usual);
        (self.daemon.audit && seconds > 0).then(|| Duration::from_secs(seconds))
    }

    /// This daemon's name in the leader lease. It is unique, so that a restarted daemon cannot be confused
    /// with its predecessor.
    pub fn instance(&self) -> String {
        let host = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
        let name = non_empty(&self.daemon.instance).unwrap_or(host.trim());
        let name = if name.is_empty() { "oddsd" } else { name };
        format!("{name}-{}-{:04x}", std::process::id(), fastrand::u16(..))
    }
}

// The parsers of settings that are neither plain numbers nor plain texts. An error names what would be valid.

fn boolean(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Ok(true),
        "false" | "no" | "off" | "0" => Ok(false),
        _ => Err("write true, false, yes, no, on, off, 1 or 0".into()),
    }
}

fn fraction(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("a share between 0 and 1, e.g. 0.5".into()),
    }
}

fn namespace(text: &str) -> Result<Namespace, String> {
    let named = Namespace::named(text.trim());
    named.ok_or_else(|| "up to 32 letters, digits, `.`, `_` and `-`, e.g. staging".into())
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.001..=1000.0).contains(&rate) => Ok(rate),
        _ => Err("requests a second, 0.001 to 1000, e.g. 2".into()),
    }
}

fn timezone(text: &str) -> Result<Tz, String> {
    text.parse()
        .map_err(|_| "the name of a time zone, e.g. UTC or Europe/London".into())
}

fn listen(text: &str) -> Result<Listen, String> {
    match text.trim() {
        "" | "off" => Ok(Listen::Off),
        address => address
            .parse()
            .map(Listen::At)
            .map_err(|_| "an address and port such as 127.0.0.1:8080, or \"off\"".into()),
    }
}

/// A sport key, or nothing: an unset list may be an empty text.
fn sport_key(text: &str) -> Result<String, String> {
    let key = text.trim();
    let is_key = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    match key.bytes().all(is_key) {
        true => Ok(key.to_owned()),
        false => Err(
            "sport keys in lower case, separated by commas, e.g. soccer_epl,basketball_nba; \
                      https://the-odds-api.com/sports-odds-data/sports-apis.html lists them"
                .into(),
        ),
    }
}

fn odds_format() -> impl TypedValueParser<Value = OddsFormat> {
    PossibleValuesParser::new(OddsFormat::VARIANTS).try_map(|text| text.parse::<OddsFormat>())
}
