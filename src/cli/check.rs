//! `check`: opens every door, and reports all of it at once: what is wrong, why, and the fix.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use chrono::{TimeDelta, Utc};
use serde::Serialize;

use super::say::say;
use super::{BAD_CONFIGURATION, DEPENDENCY_DOWN, missing_file, next_step};
use crate::app;
use crate::cache::{Cache, CacheError};
use crate::clock::Clock;
use crate::config::{Listen, Settings};
use crate::feed::{Ask, Feed, FeedError};
use crate::schedule::Cron;
use crate::store::{Store, StoreError};

/// A clock that is further off than this puts races into the wrong stage.
const CLOCK_SKEW: TimeDelta = TimeDelta::seconds(5);
/// Removed once, looked for, leased and filled once.
const COMMANDS_A_BEAT: u64 = 4;
const CACHE_PATIENCE: Duration = Duration::from_secs(3);

#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// Look at the settings only; contact nobody.
    #[arg(long)]
    offline: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    Warn,
    Fail,
}

#[derive(Debug, Serialize)]
struct Finding {
    what: &'static str,
    verdict: Verdict,
    says: String,
    /// What the exit code follows when it fails.
    #[serde(skip)]
    code: u8,
}

#[derive(Default)]
struct Report(Vec<Finding>);

impl Report {
    fn ok(&mut self, what: &'static str, says: impl Into<String>) {
        self.0.push(Finding {
            what,
            verdict: Verdict::Ok,
            says: says.into(),
            code: 0,
        });
    }
    fn warn(&mut self, what: &'static str, says: impl Into<String>) {
        self.0.push(Finding {
            what,
            verdict: Verdict::Warn,
            says: says.into(),
            code: 0,
        });
    }
    fn fail(&mut self, what: &'static str, code: u8, says: impl Into<String>) {
        self.0.push(Finding {
            what,
            verdict: Verdict::Fail,
            says: says.into(),
            code,
        });
    }
}

pub async fn check(settings: &Settings, args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let mut report = Report::default();
    schedule(settings, &mut report);
    rules(settings, &mut report);
    let feed = feed(settings, &mut report);
    let cache = cache(settings, &mut report).await;
    listen(settings, args.offline, &mut report).await;
    if !args.offline {
        database(settings, &mut report).await;
        if let Some(cache) = cache {
            reach_cache(&cache, &mut report).await;
        }
        if let Some(feed) = feed {
            ask_feed(feed, &mut report).await;
        }
    }
    // A wrong setting is named before a server that is away: it is the one to mend first.
    let failed = report
        .0
        .iter()
        .filter(|finding| finding.verdict == Verdict::Fail);
    let code = failed.map(|finding| finding.code).max().unwrap_or(0);
    if args.json {
        say!(
            "{}",
            serde_json::json!({ "ok": code == 0, "findings": report.0 })
        );
    } else {
        for finding in &report.0 {
            let mark = match finding.verdict {
                Verdict::Ok => "ok  ",
                Verdict::Warn => "warn",
                Verdict::Fail => "FAIL",
            };
            say!(
                "{mark}  {:<9} {}",
                finding.what,
                crate::model::plain_text(&finding.says, 600)
            );
        }
    }
    Ok(ExitCode::from(code))
}

fn rules(settings: &Settings, report: &mut Report) {
    let (book, file) = match settings.rules() {
        Ok((book, _)) => (book, settings.rules.rules_file.display()),
        Err(why) => return report.fail("rules", BAD_CONFIGURATION, why.to_string()),
    };
    let (rules, state) = (book.now(), book.state());
    let (tests, failed) = rules.test();
    match (state.file, failed.first()) {
        (None, _) => report.ok(
            "rules",
            format!("the built-in ones; {file} is not there yet"),
        ),
        (Some(file), Some(test)) => report.warn(
            "rules",
            format!("{} of {tests} tests fail: {file}:{test}", failed.len()),
        ),
        (Some(file), None) => report.ok(
            "rules",
            format!(
                "{} with those of {file}, version {}",
                rules.len(),
                rules.version()
            ),
        ),
    }
}

fn schedule(settings: &Settings, report: &mut Report) {
    match settings.cron() {
        Some(line) => match Cron::parse(
            line,
            settings.schedule.cron_timezone.name(),
            Clock::Real.now(),
        ) {
            Ok(cron) => report.ok(
                "schedule",
                format!(
                    "cron {line} ({}), next at {}",
                    settings.schedule.cron_timezone,
                    cron.next_after(Utc::now())
                        .map_or("never".into(), |next| next.format("%F %T UTC").to_string())
                ),
            ),
            Err(why) => report.fail("schedule", BAD_CONFIGURATION, format!("CRON: {why:#}")),
        },
        None => report.ok(
            "schedule",
            format!("by minutes to the off: {}", settings.schedule.cadence),
        ),
    }
    let lease = settings.lease();
    if lease < Duration::from_secs(5) {
        report.warn(
            "lease",
            "LEASE_SECONDS below 5 changes hands at the first slow commit; the default is 15",
        );
    }
}

fn feed(settings: &Settings, report: &mut Report) -> Option<Feed> {
    match app::feed(settings, &Clock::Real) {
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

async fn cache(settings: &Settings, report: &mut Report) -> Option<Cache> {
    match Cache::open(&settings.cache()).await {
        Ok(Cache::Off) => {
            report.warn(
                "cache",
                "CACHE_ENABLED=false: nothing is cached and nothing is removed",
            );
            None
        }
        Ok(cache @ Cache::Memory(_)) => {
            report.warn(
                "cache",
                "not configured: answers are cached in this process, where no other program sees them. Set REDIS_URL, or \
                 UPSTASH_REDIS_REST_URL and UPSTASH_REDIS_REST_TOKEN, if your API reads from Redis",
            );
            drop(cache);
            None
        }
        Ok(cache) => {
            report.ok("cache", format!("{} at {}", cache.backend(), cache.host()));
            if cache.backend() == "upstash" {
                report.ok("cost", projected_commands(settings));
            }
            Some(cache)
        }
        Err(why) => {
            report.fail("cache", BAD_CONFIGURATION, format!("{why:#}"));
            None
        }
    }
}

/// One billed command a cycle that changed something: the most there can be, were a race always
/// near its off, and what ten hours of racing a day come to at the rate of half an hour before it.
fn projected_commands(settings: &Settings) -> String {
    let cadence = &settings.schedule.cadence;
    let month = TimeDelta::days(30);
    let most = month.num_seconds() as u64 / cadence.every(TimeDelta::zero()).as_secs().max(1);
    let usual = 30 * 10 * 3600 / cadence.every(TimeDelta::minutes(20)).as_secs().max(1);
    let canary = match settings.canary(true) {
        Some(every) => format!(
            "the canary (CANARY_SECONDS) costs about {} more",
            COMMANDS_A_BEAT * month.num_seconds() as u64 / every.as_secs()
        ),
        None => "there is no canary".into(),
    };
    format!(
        "one billed command a changing cycle: about {usual} a month with ten hours of racing a day, at most {most}; {canary}; reads \
         come on top"
    )
}

async fn listen(settings: &Settings, offline: bool, report: &mut Report) {
    let Listen::At(address) = settings.daemon.listen else {
        report.ok(
            "listen",
            "off: a worker that nobody asks (status and tail go through the database)",
        );
        return;
    };
    if !address.ip().is_loopback() {
        report.warn(
            "listen",
            format!("{address} is open to other machines; the read API has no passwords"),
        );
    }
    if offline {
        return;
    }
    match tokio::net::TcpListener::bind(address).await {
        Ok(_) => report.ok("listen", format!("{address} is free")),
        Err(why) => report.warn(
            "listen",
            format!("{address} cannot be opened ({why}); if that is not a running oddsd, give another LISTEN"),
        ),
    }
}

async fn database(settings: &Settings, report: &mut Report) {
    if let Some(file) = missing_file(settings) {
        return match file
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
        {
            Some(folder) if !folder.is_dir() => report.fail(
                "database",
                BAD_CONFIGURATION,
                format!(
                    "there is no folder {}; make it, or give another DATABASE_URL",
                    folder.display()
                ),
            ),
            _ => report.ok(
                "database",
                format!(
                    "{} does not exist yet; `oddsd run` makes it",
                    file.display()
                ),
            ),
        };
    }
    let store = match Store::open(&settings.store()).await {
        Ok(store) => store,
        Err(why) => {
            let says = format!("{why}{}", next_step(&why));
            return report.fail("database", database_code(&why), says);
        }
    };
    report.ok("database", format!("{}: connected", store.backend()));
    match store.check_schema().await {
        Ok(()) => report.ok("schema", "the tables are of this version"),
        Err(StoreError::Schema(why)) if settings.store.auto_migrate => {
            report.warn(
                "schema",
                format!("{why} (AUTO_MIGRATE does it at the next start)"),
            );
        }
        Err(why) => report.fail("schema", database_code(&why), why.to_string()),
    }
    match store.rehearse_migration(false).await {
        Ok(_) => report.ok("rights", "tables and views can be created"),
        Err(why) => report.fail("rights", database_code(&why), why.to_string()),
    }
    match store.clock().await {
        Ok(theirs) => {
            let skew = Utc::now() - theirs;
            if skew.abs() > CLOCK_SKEW {
                report.warn(
                    "clock",
                    format!(
                        "this machine and the database differ by {} s; set both by NTP",
                        skew.num_seconds()
                    ),
                );
            } else {
                report.ok(
                    "clock",
                    format!(
                        "this machine and the database agree within {} ms",
                        skew.num_milliseconds().abs().max(1)
                    ),
                );
            }
        }
        Err(why) => report.fail("clock", database_code(&why), why.to_string()),
    }
    if let Ok(status) = store.status().await {
        let held = status
            .lease_expires_at
            .is_some_and(|until| until > Utc::now());
        if let (Some(holder), true) = (&status.holder, held) {
            report.ok(
                "lease",
                format!("held by {holder}; another daemon would stand by"),
            );
        }
        if status.outbox_pending > 0 {
            report.warn(
                "outbox",
                format!(
                    "{} removals are pending, the oldest for {:.0} s{}",
                    status.outbox_pending,
                    status.outbox_oldest_seconds,
                    status
                        .outbox_last_error
                        .map(|why| format!(" (last error: {why})"))
                        .unwrap_or_default()
                ),
            );
        }
    }
    store.close().await;
}

fn database_code(why: &StoreError) -> u8 {
    match why {
        StoreError::Down(_) => DEPENDENCY_DOWN,
        _ => BAD_CONFIGURATION,
    }
}

async fn reach_cache(cache: &Cache, report: &mut Report) {
    let asked = Instant::now();
    let _ = tokio::time::timeout(CACHE_PATIENCE, cache.connected()).await;
    match cache.ping().await {
        Ok(()) => report.ok(
            "cache",
            format!("answers in {} ms", asked.elapsed().as_millis().max(1)),
        ),
        Err(why @ CacheError::Refused { .. }) => {
            report.fail("cache", BAD_CONFIGURATION, why.to_string())
        }
        Err(why) => report.fail(
            "cache",
            DEPENDENCY_DOWN,
            format!("{why}; removals would wait in the outbox until it is back"),
        ),
    }
    cache.close().await;
}

async fn ask_feed(mut feed: Feed, report: &mut Report) {
    match feed.fetch(&Ask::Everything, Utc::now()).await {
        Ok(fetched) => {
            let prices: usize = fetched
                .snapshot
                .events
                .iter()
                .map(|event| event.prices.len())
                .sum();
            report.ok(
                "feed",
                format!(
                    "answers: {} events, {prices} prices",
                    fetched.snapshot.events.len()
                ),
            );
            if !fetched.snapshot.rejects.is_empty() {
                report.warn("feed", format!("set aside: {}", fetched.snapshot.rejects));
            }
            if let Feed::OddsApi(feed) = &feed
                && let Some(quota) = feed.quota()
            {
                report.ok(
                    "quota",
                    format!(
                        "{} paid requests left, this look cost {}",
                        quota.remaining,
                        quota.last.unwrap_or(0)
                    ),
                );
            }
        }
        Err(why @ (FeedError::Unauthorized { .. } | FeedError::BadRequest { .. })) => {
            report.fail("feed", BAD_CONFIGURATION, why.to_string());
        }
        Err(why) => report.fail("feed", DEPENDENCY_DOWN, why.to_string()),
    }
}
