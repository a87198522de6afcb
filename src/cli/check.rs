//! `check`: tests settings, rules, database, cache, feed and clock, and prints all findings, each failure with
//! its cause and fix.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use chrono::{TimeDelta, Utc};
use serde::Serialize;

use super::output::out;
use super::{BAD_CONFIGURATION, DEPENDENCY_DOWN, count_prices, feed_code, missing_file, next_step};
use crate::app;
use crate::audit::SampleRate;
use crate::clock::{Clock, MAX_CLOCK_SKEW};
use crate::config::{Listen, Settings};
use oddsd_cache::{Cache, CacheError};
use oddsd_core::model::sanitize_text;
use oddsd_core::schedule::Cron;
use oddsd_feeds::{Feed, FetchRequest};
use oddsd_store::{Store, StoreError, StoreSettings, StoreStatus};

/// A removal, a lookup, a lease and a fill.
const COMMANDS_PER_CANARY: u64 = 4;
/// The removal, and that of other programs' keys again (CACHE_REMOVE_AGAIN_MS).
const COMMANDS_PER_CHANGE: u64 = 2;
/// A day with races.
const HOURS_OF_RACING: u64 = 10;
const CACHE_TIMEOUT: Duration = Duration::from_secs(3);
/// The identity of a database without tables, which no cache can belong to.
const NEW_DATABASE: &str = "new";
/// Beyond two heartbeats, for a busy machine.
const EPOCH_MARGIN: Duration = Duration::from_millis(500);

#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// Check the settings only, without any connection.
    #[arg(long)]
    offline: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum CheckVerdict {
    Ok,
    Warn,
    Fail,
}

#[derive(Debug, Serialize)]
struct CheckFinding {
    what: &'static str,
    verdict: CheckVerdict,
    says: String,
    /// The exit code of a failure.
    #[serde(skip)]
    code: u8,
}

#[derive(Default)]
struct CheckReport(Vec<CheckFinding>);

impl CheckReport {
    fn ok(&mut self, what: &'static str, says: impl Into<String>) {
        self.add(what, CheckVerdict::Ok, 0, says.into());
    }

    fn warn(&mut self, what: &'static str, says: impl Into<String>) {
        self.add(what, CheckVerdict::Warn, 0, says.into());
    }

    fn fail(&mut self, what: &'static str, code: u8, says: impl Into<String>) {
        self.add(what, CheckVerdict::Fail, code, says.into());
    }

    fn add(&mut self, what: &'static str, verdict: CheckVerdict, code: u8, says: String) {
        self.0.push(CheckFinding {
            what,
            verdict,
            says,
            code,
        });
    }
}

pub async fn check(settings: &Settings, args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let mut report = CheckReport::default();
    check_schedule(settings, &mut report);
    check_rules(settings, &mut report);
    let feed = open_feed(settings, &mut report);
    let cache = open_cache(settings, args.offline, &mut report).await;
    check_listen(settings, args.offline, &mut report).await;
    let database = describe_database(settings, &mut report);
    if !args.offline {
        let mut identity = None;
        if let Some((settings_of_store, name)) = database {
            let feed = feed.as_ref().map(Feed::name);
            let checked = check_database(settings, feed, &settings_of_store, &name, &mut report);
            identity = checked.await;
        }
        if let Some(cache) = cache {
            ping_cache(&cache, identity, &mut report).await;
        }
        if let Some(feed) = feed {
            fetch(feed, &mut report).await;
        }
    }
    // The code of a bad configuration is the highest: it must be corrected before a server that is down.
    let codes = report.0.iter().map(|finding| finding.code);
    let code = codes.max().unwrap_or(0);
    if args.json {
        let object = serde_json::json!({ "ok": code == 0, "findings": report.0 });
        out!("{object}");
        return Ok(ExitCode::from(code));
    }
    for finding in &report.0 {
        let mark = match finding.verdict {
            CheckVerdict::Ok => "ok  ",
            CheckVerdict::Warn => "warn",
            CheckVerdict::Fail => "FAIL",
        };
        let says = sanitize_text(&finding.says, 600);
        out!("{mark}  {:<9} {says}", finding.what);
    }
    Ok(ExitCode::from(code))
}

fn check_rules(settings: &Settings, report: &mut CheckReport) {
    let handle = match settings.rules(None) {
        Ok((handle, _)) => handle,
        Err(why) => return report.fail("rules", BAD_CONFIGURATION, why.to_string()),
    };
    let file = settings.rules.rules_file.display();
    let (rules, state) = (handle.current(), handle.state());
    let (tests, failed) = rules.run_tests();
    match (state.file, failed.first()) {
        (None, _) => {
            let says = format!("the built-in rules; {file} does not exist yet");
            report.ok("rules", says);
        }
        (Some(file), Some(test)) => {
            let says = format!("{} of {tests} tests fail: {file}:{test}", failed.len());
            report.warn("rules", says);
        }
        (Some(file), None) => {
            let (rules, version) = (rules.iter().len(), rules.version());
            let says = format!("{rules} with the rules of {file}, version {version}");
            report.ok("rules", says);
        }
    }
}

fn check_schedule(settings: &Settings, report: &mut CheckReport) {
    let zone = settings.schedule.cron_timezone;
    let cron = settings.cron();
    let cron = cron.map(|line| (line, Cron::parse(line, zone.name(), Utc::now())));
    match cron {
        Some((line, Ok(cron))) => {
            let next = cron.next_after(Utc::now());
            let next = next.map_or("never".into(), |at| at.format("%F %T UTC").to_string());
            report.ok("schedule", format!("cron {line} ({zone}), next at {next}"));
        }
        Some((_, Err(why))) => {
            report.fail("schedule", BAD_CONFIGURATION, format!("CRON: {why:#}"));
        }
        None => {
            let says = format!("by minutes to the start: {}", settings.schedule.cadence);
            report.ok("schedule", says);
        }
    }
    if settings.lease() < Duration::from_secs(5) {
        let says =
            "with LEASE_SECONDS below 5 the lease is lost at a slow commit; the default is 15";
        report.warn("lease", says);
    }
}

fn open_feed(settings: &Settings, report: &mut CheckReport) -> Option<Feed> {
    match app::feed(settings, &Clock::Real, false) {
        Ok(feed) => {
            report.ok("feed", format!("{}: settings are complete", feed.name()));
            Some(feed)
        }
        Err(why) => {
            report.fail("feed", BAD_CONFIGURATION, format!("{why:#}"));
            None
        }
    }
}

/// Opens the cache, which begins to connect; `offline` only checks its settings.
async fn open_cache(settings: &Settings, offline: bool, report: &mut CheckReport) -> Option<Cache> {
    let wanted = settings.cache();
    if offline {
        match wanted.describe() {
            Ok(says) => report.ok("cache", says),
            Err(why) => report.fail("cache", BAD_CONFIGURATION, format!("{why:#}")),
        }
        return None;
    }
    match Cache::open(&wanted).await {
        Ok(Cache::Off) => {
            let says = "CACHE_ENABLED=false: no answer is cached and none is removed";
            report.warn("cache", says);
            None
        }
        Ok(Cache::InProcess(_)) => {
            report.warn(
                "cache",
                "not configured: answers are cached in the daemon's process, and other programs cannot read them. Set REDIS_URL, or \
                 UPSTASH_REDIS_REST_URL and UPSTASH_REDIS_REST_TOKEN, if your API reads from Redis",
            );
            None
        }
        Ok(cache) => {
            report.ok("cache", format!("{} at {}", cache.backend(), cache.host()));
            if cache.is_billed() {
                report.ok("cost", projected_commands(settings, &cache));
            }
            Some(cache)
        }
        Err(why) => {
            report.fail("cache", BAD_CONFIGURATION, format!("{why:#}"));
            None
        }
    }
}

/// Projects the billed commands of a month. Cycles with changes: the maximum, as if a race were always near its
/// start, and the usual number, ten hours a day at the interval of 20 minutes before a start. The canary and the
/// heartbeats cost the same on an idle day. `oddsd status` shows what was really sent.
fn projected_commands(settings: &Settings, cache: &Cache) -> String {
    let cadence = &settings.schedule.cadence;
    let month = TimeDelta::days(30).num_seconds() as u64;
    let cycles = |seconds: u64, ahead: TimeDelta| {
        COMMANDS_PER_CHANGE * seconds / cadence.every(ahead).as_secs().max(1)
    };
    let most = cycles(month, TimeDelta::zero());
    let racing = 30 * HOURS_OF_RACING * 3600;
    let usual = cycles(racing, TimeDelta::minutes(20));
    let audit = match settings.daemon.audit {
        true => SampleRate::BILLED.lookups(Duration::from_secs(racing)),
        false => 0,
    };
    let canary = settings.canary(true);
    let canary = canary.map_or(0, |every| COMMANDS_PER_CANARY * month / every.as_secs());
    let beats = cache.heartbeat_interval();
    let beats = beats.map_or(0, |every| month / every.as_secs().max(1));
    let total = usual + audit + canary + beats;
    format!(
        "about {total} billed commands a month: {usual} for cycles with changes with {HOURS_OF_RACING} hours of racing a day (at most \
         {most}), {audit} for checked answers (AUDIT), {canary} for the canary (CANARY_SECONDS), {beats} for heartbeats; reads are extra"
    )
}

async fn check_listen(settings: &Settings, offline: bool, report: &mut CheckReport) {
    let Listen::At(address) = settings.daemon.listen else {
        let says = "off: a worker without a read API (status and tail read the database)";
        return report.ok("listen", says);
    };
    if !address.ip().is_loopback() {
        let says =
            format!("{address} is open to other machines, and the read API has no passwords");
        report.warn("listen", says);
    }
    if offline {
        return;
    }
    match tokio::net::TcpListener::bind(address).await {
        Ok(_) => report.ok("listen", format!("{address} is free")),
        Err(why) => report.warn(
            "listen",
            format!("{address} cannot be opened ({why}); unless a running oddsd has it, set another LISTEN"),
        ),
    }
}

/// The settings of the database and its name as text, checked without a connection.
fn describe_database(
    settings: &Settings,
    report: &mut CheckReport,
) -> Option<(StoreSettings, String)> {
    let described = settings
        .store()
        .map_err(|why| why.to_string())
        .and_then(|wanted| match wanted.describe() {
            Ok(name) => Ok((wanted, name)),
            Err(why) => Err(why.to_string()),
        });
    match described {
        Ok((wanted, name)) => {
            report.ok("database", format!("{name}: settings are complete"));
            Some((wanted, name))
        }
        Err(why) => {
            report.fail("database", BAD_CONFIGURATION, why);
            None
        }
    }
}

/// Returns the identity of the database; `None` if it cannot be known now.
async fn check_database(
    settings: &Settings,
    feed: Option<&str>,
    wanted: &StoreSettings,
    name: &str,
    report: &mut CheckReport,
) -> Option<String> {
    if let Some(file) = missing_file(settings) {
        let folder = file.parent().filter(|path| !path.as_os_str().is_empty());
        if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
            let folder = folder.display();
            let says =
                format!("there is no folder {folder}; create it, or set another DATABASE_URL");
            report.fail("database", BAD_CONFIGURATION, says);
            return None;
        }
        let file = file.display();
        let says = format!("{file} does not exist yet; `oddsd run` creates it");
        report.ok("database", says);
        return Some(NEW_DATABASE.into());
    }
    let store = match Store::open(wanted).await {
        Ok(store) => store,
        Err(why) => {
            let says = format!("{name}: {why}{}", next_step(&why));
            report.fail("database", database_code(&why), says);
            return None;
        }
    };
    report.ok("database", format!("{name}: connected"));
    let schema = store.check_schema().await;
    let migration = store.dry_run_migration(false).await;
    match (schema, &migration) {
        (Ok(()), _) => report.ok("schema", "the tables have this version"),
        // Tables of a newer version cannot be migrated either: one finding says it.
        (Err(StoreError::Schema(_)), Err(StoreError::Schema(why))) => {
            report.fail("schema", BAD_CONFIGURATION, why.clone());
        }
        (Err(StoreError::Schema(why)), _) if settings.store.auto_migrate => {
            let says = format!("{why} (AUTO_MIGRATE migrates them at the next start)");
            report.warn("schema", says);
        }
        (Err(why), _) => report.fail("schema", database_code(&why), why.to_string()),
    }
    match migration {
        Ok(_) => report.ok("rights", "tables and views can be created"),
        Err(StoreError::Schema(_)) => {}
        Err(why) => report.fail("rights", database_code(&why), why.to_string()),
    }
    if let Some(feed) = feed {
        check_feed_of_database(settings, feed, &store, report).await;
    }
    match store.server_time().await {
        Ok(theirs) => check_clock(Utc::now() - theirs, report),
        Err(why) => report.fail("clock", database_code(&why), why.to_string()),
    }
    if let Ok(status) = store.status().await {
        check_status(&status, report);
    }
    let identity = match store.identity().await {
        Err(StoreError::Schema(_)) => Some(NEW_DATABASE.into()),
        identity => identity.ok(),
    };
    store.close().await;
    identity
}

/// The feed that fills the database, if it is another one than the settings name.
async fn check_feed_of_database(
    settings: &Settings,
    feed: &str,
    store: &Store,
    report: &mut CheckReport,
) {
    // Without tables there is no feed yet.
    if let Ok(Some(kept)) = store.live_feed().await
        && kept != feed
    {
        match settings.daemon.switch_feed {
            true => report.warn(
                "feed",
                format!("the next start retires what {kept} stored (SWITCH_FEED)"),
            ),
            false => report.fail("feed", BAD_CONFIGURATION, app::foreign_feed(&kept, feed)),
        }
    }
}

fn check_clock(skew: TimeDelta, report: &mut CheckReport) {
    if skew.abs() > MAX_CLOCK_SKEW {
        let seconds = skew.num_seconds();
        let says =
            format!("this machine and the database differ by {seconds} s; synchronise both by NTP");
        report.warn("clock", says);
    } else {
        let ms = skew.num_milliseconds().abs().max(1);
        let says = format!("this machine and the database agree within {ms} ms");
        report.ok("clock", says);
    }
}

/// The leader lease and the outbox.
fn check_status(status: &StoreStatus, report: &mut CheckReport) {
    let expires_at = status.lease_expires_at;
    if let Some(holder) = &status.holder
        && expires_at.is_some_and(|at| at > Utc::now())
    {
        let says = format!("held by {holder}; another daemon would stand by");
        report.ok("lease", says);
    }
    let (pending, age) = (status.outbox_pending, status.outbox_oldest_seconds);
    if pending > 0 {
        let error = status.outbox_last_error.as_ref();
        let error = error.map_or(String::new(), |why| format!(" (last error: {why})"));
        let says = format!("{pending} removals are pending, the oldest for {age:.0} s{error}");
        report.warn("outbox", says);
    }
}

fn database_code(why: &StoreError) -> u8 {
    match why {
        StoreError::Down(_) => DEPENDENCY_DOWN,
        _ => BAD_CONFIGURATION,
    }
}

async fn ping_cache(cache: &Cache, identity: Option<String>, report: &mut CheckReport) {
    let started = Instant::now();
    let _ = tokio::time::timeout(CACHE_TIMEOUT, cache.connected()).await;
    match cache.ping().await {
        Ok(()) => {
            let ms = started.elapsed().as_millis().max(1);
            report.ok("cache", format!("answers in {ms} ms"));
            for limitation in cache.limitations().await {
                report.warn("cache", limitation);
            }
            if let Some(identity) = identity {
                cache.set_database(&identity);
                check_epoch(cache, report).await;
            }
        }
        Err(why @ CacheError::Refused(_)) => {
            report.fail("cache", BAD_CONFIGURATION, why.to_string());
        }
        Err(why) => {
            let says = format!("{why}; removals would wait in the outbox until it is back");
            report.fail("cache", DEPENDENCY_DOWN, says);
        }
    }
    cache.close().await;
}

/// Whether another database uses the cache: its heartbeats change what is found.
async fn check_epoch(cache: &Cache, report: &mut CheckReport) {
    let Ok(Some(found)) = cache.foreign_epoch().await else {
        return;
    };
    let beat = cache.heartbeat_interval().unwrap_or_default();
    tokio::time::sleep(beat * 2 + EPOCH_MARGIN).await;
    match cache.foreign_epoch().await {
        Ok(Some(now)) if now != found => report.fail(
            "cache",
            BAD_CONFIGURATION,
            "another database uses this cache: nothing of it would be read or kept. Give each database a cache of its own, or a \
             CACHE_NAMESPACE if they share it on purpose",
        ),
        Ok(Some(_)) => report.warn(
            "cache",
            "it was last used with another database, or before this one's server was restarted; a daemon uses it once it has had no \
             heartbeat for a minute",
        ),
        Ok(None) | Err(_) => {}
    }
}

async fn fetch(mut feed: Feed, report: &mut CheckReport) {
    match feed.fetch(&FetchRequest::Everything, Utc::now()).await {
        Ok(fetched) => {
            let snapshot = &fetched.snapshot;
            let (events, prices) = (snapshot.events.len(), count_prices(snapshot));
            report.ok("feed", format!("answers: {events} events, {prices} prices"));
            if !snapshot.rejected.is_empty() {
                report.warn("feed", format!("rejected rows: {}", snapshot.rejected));
            }
            if let Feed::OddsApi(feed) = &feed {
                for (sport, why) in feed.failed_sports() {
                    report.fail("feed", feed_code(why), format!("{sport}: {why}"));
                }
                if let Some(quota) = feed.quota() {
                    let (left, cost) = (quota.remaining, quota.last.unwrap_or(0));
                    let says = format!("{left} paid requests left, this request cost {cost}");
                    report.ok("quota", says);
                }
            }
        }
        Err(why) => report.fail("feed", feed_code(&why), why.to_string()),
    }
}
