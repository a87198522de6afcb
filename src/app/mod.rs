//! Builds the daemon from the settings and runs it: `build` opens the adapters and assembles the services, `run`
//! starts them and shuts them down in order. The commands `run`, `once`, `demo` and `replay` and the tests call it.

mod feeds;
mod supervisor;
mod watchdog;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use chrono::Utc;
use secrecy::SecretString;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::audit::{self, AuditHandle, Auditor, Canary, SampleRate};
use crate::clock::{Clock, ClockSkew};
use crate::config::{InvalidSetting, Listen, Settings, filled};
use crate::leader::Leader;
use crate::live::{DaemonEvent, EventBus, RecentRate};
use crate::poller::{CycleOutcome, PollSchedule, Poller};
use crate::relay::{DirectPath, RateAlert, Relay, direct_channel};
use crate::rules_file::{RulesHandle, RulesWatcher};
use crate::wakeups::Wakeups;
use oddsd_cache::{Cache, Reader};
use oddsd_core::key::Key;
use oddsd_core::schedule::{Cron, CronTicks, PollRule};
use oddsd_feeds::Feed;
#[cfg(feature = "simulator")]
use oddsd_feeds::simulator::RaceDaySize;
use oddsd_store::{AcquireResult, CommitNotifier, KeptSetting, LastChecked, Store, StoreError};

use feeds::claim_database;
pub use feeds::{ensure_not_live, feed, foreign_feed};
use supervisor::Services;

/// The limit from SIGTERM to exit, whatever blocks: [`stop_on_signals`](crate::cli::stop_on_signals) ends the process
/// then. The last lines of the log may take another second.
pub const SHUTDOWN: Duration = Duration::from_secs(24);
/// The limit for the relay in `once`; the next run removes the rest.
const ONCE_RELAY: Duration = Duration::from_secs(10);
/// How often `once` polls when the failures are temporary.
const ONCE_TRIES: u32 = 3;
/// Keys that wait to be loaded again; a key beyond them is loaded by its next reader.
const WARM_QUEUE: usize = 64;
/// The size of the provider's real days.
#[cfg(feature = "simulator")]
const SIMULATED: RaceDaySize = RaceDaySize {
    races: 57,
    bookmakers: 28,
};

/// Open adapters and assembled services that do not run yet.
pub struct App {
    pub store: Store,
    pub cache: Arc<Cache>,
    pub live: EventBus,
    clock: Clock,
    holder: String,
    lease_ttl: Duration,
    poller: Poller,
    schedule: PollSchedule,
    relay: Relay,
    direct: DirectPath,
    audit: Option<Audit>,
    rules_watcher: RulesWatcher,
    warm_queue: mpsc::Receiver<Key>,
    checks: LastChecked,
    listener: Option<TcpListener>,
    report_token: Option<SecretString>,
}

struct Audit {
    auditor: Auditor,
    canary: Option<Canary>,
}

impl App {
    /// Opens all adapters. It succeeds while the cache or the feed is unreachable. Settings that can never work and
    /// an unreachable database are errors that state what to do.
    pub async fn build(settings: &Settings) -> anyhow::Result<Self> {
        let feed = feed(settings, &Clock::Real, false)?;
        let schedule = PollSchedule::live(poll_rule(settings)?);
        Self::build_with(settings, feed, Clock::Real, schedule).await
    }

    /// As `build`, with another clock, feed or schedule.
    pub async fn build_with(
        settings: &Settings,
        feed: Feed,
        clock: Clock,
        schedule: PollSchedule,
    ) -> anyhow::Result<Self> {
        let live = EventBus::new();
        let store = open_store(settings).await?;
        if !matches!(feed, Feed::Replay(_)) {
            claim_database(&store, feed.name(), settings.daemon.switch_feed).await?;
        }
        let (rules, rules_watcher) = open_rules(settings, &store).await?;
        let cache = Cache::open(&settings.cache())
            .await
            .map_err(|why| InvalidSetting(format!("{why:#}")))?;
        cache.set_database(&store.identity().await?);
        let cache = Arc::new(cache);
        let listener = bind(settings.daemon.listen).await?;
        let holder = settings.instance();
        live.publish(DaemonEvent::Started {
            version: env!("CARGO_PKG_VERSION"),
            feed: feed.name().into(),
            store: store.backend().into(),
            cache: cache.backend().into(),
        });

        let wakeups = Wakeups::default();
        let (commits, direct) = direct_channel();
        let (warm, warm_queue) = mpsc::channel(WARM_QUEUE);
        let reader = Reader::new(Arc::clone(&cache));
        let (audit_events, audit_queue) = audit::channel();
        let audit_events = settings.daemon.audit.then_some(audit_events);
        let relay = Relay {
            reader: reader.clone(),
            live: live.clone(),
            wakeups: wakeups.clone(),
            audit_events: audit_events.clone(),
            warm_queue: Some(warm),
            alert: RateAlert::above(settings.rules.removals_per_minute_warning),
            second_removal_after: settings.second_removal_after(),
            ..Relay::without_observers(
                store.clone(),
                Arc::clone(&cache),
                rules.clone(),
                holder.clone(),
            )
        };
        let notifier = CommitNotifier {
            relay: Some(commits),
            auditor: audit_events,
            outbox_wakeup: Arc::clone(&wakeups.outbox),
        };
        let audit = settings.daemon.audit.then(|| {
            let handle = AuditHandle::new(sample_rate(&cache), rules, !clock.is_simulated());
            let every = settings.canary(cache.is_billed());
            let every = every.filter(|_| !matches!(*cache, Cache::Off));
            Audit {
                canary: every.map(|every| {
                    let (store, notifier) = (store.clone(), notifier.clone());
                    Canary::new(store, &reader, notifier, every, handle.clone())
                }),
                auditor: Auditor {
                    store: store.clone(),
                    reader,
                    database_waits: relay.database_waits.clone(),
                    events: audit_queue,
                    handle,
                    timeout: audit::PROBE_TIMEOUT,
                },
            }
        });
        let checks = LastChecked::default();
        let poller = Poller::new(
            feed,
            store.clone(),
            live.clone(),
            clock.clone(),
            settings.poller(),
            notifier,
            Arc::clone(&checks),
        )
        .with_correction_wakeup(wakeups.correction);
        Ok(Self {
            store,
            cache,
            live,
            clock,
            holder,
            lease_ttl: settings.lease(),
            poller,
            schedule,
            relay,
            direct,
            audit,
            rules_watcher,
            warm_queue,
            checks,
            listener,
            report_token: filled(&settings.daemon.report_token).cloned(),
        })
    }

    /// The address of the read API; `None` where it is switched off.
    pub fn address(&self) -> Option<SocketAddr> {
        self.listener.as_ref()?.local_addr().ok()
    }

    /// Runs until `stop` or the end of the feed, then shuts down: what was begun is finished, within a limit.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let services = Services::start(self, &stop);
        services.closing().await;
        let requested = stop.is_cancelled();
        // Other tasks of the command wait for the end of the run as well.
        stop.cancel();
        services.shut_down(requested).await
    }

    /// One cycle and one drain of the outbox, for an external cron.
    pub async fn once(mut self, stop: CancellationToken) -> anyhow::Result<OnceOutcome> {
        let acquiring = self.store.acquire_lease(&self.holder, self.lease_ttl);
        let lease = match acquiring.await? {
            AcquireResult::Granted(lease) => lease,
            AcquireResult::HeldBy { holder, expires_in } => {
                return Ok(OnceOutcome::HeldElsewhere { holder, expires_in });
            }
        };
        let leader = Arc::new(self.leader(None));
        let lease_stop = CancellationToken::new();
        let (lease_sender, lease_receiver) = watch::channel(Some(lease.clone()));
        let leading = tokio::spawn({
            let (leader, stop) = (Arc::clone(&leader), lease_stop.clone());
            async move { leader.run(lease_sender, stop).await }
        });
        // Boxed: these futures nest deeper than the compiler computes layouts.
        let cycle = Box::pin(self.poller.poll_once(&lease, ONCE_TRIES, &stop)).await;
        let pending = Box::pin(self.relay.drain_all(ONCE_RELAY)).await;
        lease_stop.cancel();
        let _ = leading.await;
        let held = lease_receiver.borrow().clone();
        if let Some(lease) = held {
            leader.release(&lease).await;
        }
        self.cache.close().await;
        self.store.close().await;
        Ok(OnceOutcome::Done { cycle, pending })
    }

    fn leader(&self, audit: Option<AuditHandle>) -> Leader {
        let (live, cache) = (self.live.clone(), Arc::clone(&self.cache));
        let (rules, started_at) = (self.relay.rules.clone(), Utc::now());
        let recent = RecentRate::default();
        // `oddsd status` reads it.
        let state = move || {
            let commands = cache.commands();
            json!({
                "version": env!("CARGO_PKG_VERSION"),
                "started_at": started_at,
                "said_at": Utc::now(),
                "cache": {
                    "backend": cache.backend(), "host": cache.host(),
                    "is_billed": cache.is_billed(), "commands": commands,
                    "commands_per_minute": commands.and_then(|total| recent.per_minute(total, Instant::now())),
                },
                "counters": live.counters(),
                "rules": rules.state(),
                "audit": audit.as_ref().map(|audit| audit.report(Instant::now())),
            })
        };
        Leader {
            store: self.store.clone(),
            live: self.live.clone(),
            holder: self.holder.clone(),
            ttl: self.lease_ttl,
            checks: Arc::clone(&self.checks),
            correction: Arc::clone(&self.relay.wakeups.correction),
            clock: self.clock.clone(),
            skew: Arc::new(ClockSkew::default()),
            state: Box::new(state),
        }
    }
}

/// The result of [`App::once`].
pub enum OnceOutcome {
    Done {
        cycle: CycleOutcome,
        /// Removals that are left to the next run.
        pending: Result<i64, StoreError>,
    },
    HeldElsewhere {
        holder: String,
        expires_in: Duration,
    },
}

/// The rule by which the settings poll the feed.
pub fn poll_rule(settings: &Settings) -> anyhow::Result<PollRule> {
    let Some(line) = settings.cron() else {
        return Ok(PollRule::Adaptive(settings.plan()));
    };
    let (zone, now) = (settings.schedule.cron_timezone.name(), Utc::now());
    let cron =
        Cron::parse(line, zone, now).map_err(|why| InvalidSetting(format!("CRON: {why:#}")))?;
    Ok(PollRule::Cron(Box::new(CronTicks::new(cron, now))))
}

/// The rules in force and the watcher of their file. The database keeps the last valid text of it, for a start at
/// which the file is missing or invalid.
async fn open_rules(
    settings: &Settings,
    store: &Store,
) -> anyhow::Result<(RulesHandle, RulesWatcher)> {
    let kept = store.kept_setting(KeptSetting::Rules).await?;
    let (rules, watcher) = settings.rules(kept.as_deref())?;
    let mut watcher = watcher.keeping_text_in(store.clone());
    watcher.keep_text().await;
    Ok((rules, watcher))
}

async fn open_store(settings: &Settings) -> anyhow::Result<Store> {
    let store = Store::open(&settings.store()?).await?;
    if settings.store.auto_migrate {
        for line in store.migrate(false).await? {
            tracing::info!(event = "store.migrated", "The database: {line}");
        }
    }
    store.check_schema().await?;
    Ok(store)
}

async fn bind(listen: Listen) -> anyhow::Result<Option<TcpListener>> {
    let Listen::At(address) = listen else {
        return Ok(None);
    };
    let bound = TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address}; stop what uses it, or give another --listen address, or --listen off")
    });
    bound.map(Some)
}

fn sample_rate(cache: &Cache) -> SampleRate {
    match cache {
        Cache::Off => SampleRate::NONE,
        cache if cache.is_billed() => SampleRate::BILLED,
        _ => SampleRate::FREE,
    }
}
