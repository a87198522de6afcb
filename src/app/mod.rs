//! Builds the house, opens it and closes it: doors from settings, loops in their tasks, and an
//! orderly end within a bound. `run` and the tests open the same house.

mod feeds;
mod watchdog;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use chrono::Utc;
use secrecy::SecretString;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::audit::{self, Audited, Auditor, Canary, Rate};
use crate::cache::{Cache, Reader};
use crate::config::{BadSetting, Listen, Settings};
use crate::feed::Feed;
use crate::feed::simulator::Size;
use crate::http::{self, Face};
use crate::ingest::{Cycle, Ingest, Pace};
use crate::invalidate::{Alarm, Fast, FloorKeeper, Relay, hand_over};
use crate::key::Key;
use crate::lead::Leader;
use crate::live::{Activity, Live};
use crate::rulebook::{Rulebook, RulesKeeper};
use crate::schedule::{Clock, Cron, Ticker};
use crate::store::{Acquired, Checks, Poke, Store, StoreError};

/// SIGTERM to exit: the running transaction, one relay pass, open requests, and goodbye.
const SHUTDOWN: Duration = Duration::from_secs(25);
/// What `once` gives the relay before it leaves the rest to the next run.
const ONCE_RELAY: Duration = Duration::from_secs(10);
/// A look that fails for a passing reason is repeated by `once` so often.
const ONCE_TRIES: u32 = 3;
/// Answers that wait to be loaded again; of more, the next reader loads.
const WARMED: usize = 64;
/// The size of the provider's real days.
const SIMULATED: Size = Size {
    races: 57,
    bookmakers: 28,
};

use feeds::filled;
pub use feeds::{feed, feed_for_recording};
use watchdog::watchdog;

pub struct App {
    pub store: Store,
    pub cache: Arc<Cache>,
    pub live: Live,
    clock: Clock,
    holder: String,
    lease_ttl: Duration,
    ingest: Ingest,
    pace: Pace,
    relay: Relay,
    fast: Fast,
    audit: Option<Audit>,
    keeper: RulesKeeper,
    to_warm: mpsc::Receiver<Key>,
    checks: Checks,
    listener: Option<TcpListener>,
    report_token: Option<SecretString>,
}

/// Who looks at what became of the changes.
struct Audit {
    auditor: Auditor,
    canary: Option<Canary>,
}

impl App {
    /// Opens every door. With a cache or feed that is down it succeeds; with settings that can
    /// never work, or a database that does not answer, it says what to do.
    pub async fn build(settings: &Settings) -> anyhow::Result<Self> {
        let feed = feed(settings, &Clock::Real)?;
        let pace = match settings.cron() {
            Some(line) => {
                let zone = settings.schedule.cron_timezone.name();
                let cron =
                    Cron::parse(line, zone).map_err(|why| BadSetting(format!("CRON: {why:#}")))?;
                Pace::Cron(Box::new(Ticker::start(cron).await?))
            }
            None => Pace::Adaptive(settings.plan()),
        };
        Self::build_with(settings, feed, Clock::Real, pace).await
    }

    /// The same house on another clock, with a feed and a pace that are already there.
    pub async fn build_with(
        settings: &Settings,
        feed: Feed,
        clock: Clock,
        pace: Pace,
    ) -> anyhow::Result<Self> {
        let live = Live::new();
        let (rules, keeper) = settings.rules()?;
        let store = Store::open(&settings.store()).await?;
        if settings.store.auto_migrate {
            for line in store.migrate(false).await? {
                tracing::info!(event = "store.migrated", "The database: {line}");
            }
        }
        store.check_schema().await?;
        let cache = Cache::open(&settings.cache())
            .await
            .map_err(|why| BadSetting(format!("{why:#}")))?;
        let cache = Arc::new(cache);
        let listener = match settings.daemon.listen {
            Listen::Off => None,
            Listen::At(address) => Some(TcpListener::bind(address).await.with_context(|| {
                format!("cannot listen on {address}; stop what uses it, or give another --listen address, or --listen off")
            })?),
        };
        let (bell, checks) = (Arc::new(Notify::new()), Checks::default());
        let holder = settings.instance();
        live.say(Activity::Started {
            version: env!("CARGO_PKG_VERSION"),
            feed: feed.name().into(),
            store: store.backend().into(),
            cache: cache.backend().into(),
        });
        let (told, fast) = hand_over();
        let (warm, to_warm) = mpsc::channel(WARMED);
        let reader = Reader::new(Arc::clone(&cache));
        let (auditor, hears) = audit::hearing();
        let auditor = settings.daemon.audit.then_some(auditor);
        let relay = Relay {
            reader: reader.clone(),
            live: live.clone(),
            poke: Arc::clone(&bell),
            auditor: auditor.clone(),
            warm: Some(warm),
            alarm: Alarm::at(settings.rules.removals_per_minute_warning),
            again_after: settings.remove_again(),
            ..Relay::alone(
                store.clone(),
                Arc::clone(&cache),
                rules.clone(),
                holder.clone(),
            )
        };
        let poke = Poke {
            relay: Some(told),
            auditor,
            bell,
        };
        let rate = match &*cache {
            Cache::Off => Rate::NONE,
            cache if cache.is_billed() => Rate::BILLED,
            _ => Rate::FREE,
        };
        let audit = settings.daemon.audit.then(|| {
            let audited = Audited::new(rate, rules, matches!(clock, Clock::Real));
            let every = settings.canary(cache.is_billed());
            let every = every.filter(|_| !matches!(*cache, Cache::Off));
            let (store, poke) = (store.clone(), poke.clone());
            Audit {
                canary: every
                    .map(|every| Canary::new(store.clone(), &reader, poke, every, audited.clone())),
                auditor: Auditor {
                    store,
                    reader,
                    told: hears,
                    audited,
                    patience: audit::PATIENCE,
                },
            }
        });
        let ingest = Ingest::new(
            feed,
            store.clone(),
            live.clone(),
            clock.clone(),
            settings.ingest(),
            poke,
            Arc::clone(&checks),
        );
        Ok(Self {
            store,
            cache,
            live,
            clock,
            holder,
            lease_ttl: settings.lease(),
            ingest,
            pace,
            relay,
            fast,
            audit,
            keeper,
            to_warm,
            checks,
            listener,
            report_token: filled(&settings.daemon.report_token).cloned(),
        })
    }

    /// Where the read API answers.
    pub fn address(&self) -> Option<SocketAddr> {
        self.listener.as_ref()?.local_addr().ok()
    }

    /// Works until `stop`; everything that was begun is finished, within a bound.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let Self {
            store,
            cache,
            live,
            clock,
            holder,
            lease_ttl,
            mut ingest,
            pace,
            relay,
            fast,
            audit,
            keeper,
            to_warm,
            checks,
            listener,
            report_token,
        } = self;
        let audited = audit.as_ref().map(|audit| audit.auditor.audited.clone());
        let simulated = ingest.feed_name() == "simulator";
        let (lease_tx, lease_rx) = watch::channel(None);
        let leader = Arc::new(Leader {
            store: store.clone(),
            live: live.clone(),
            holder,
            ttl: lease_ttl,
            checks,
            state: Box::new(state(&live, &cache, &relay.rules, audited.clone())),
            corrected: ingest.corrected(),
        });
        // Whichever loop ends first, by itself or by a panic, takes the house down with it: without
        // any one of them the others would go on and mean nothing.
        let closing = stop.child_token();
        // The loops end in this order: cycles, then the relay (what the last cycle left), then the
        // lease. Each has its own token, so that none goes before the one that feeds it.
        let (relay_stop, lease_stop) = (CancellationToken::new(), CancellationToken::new());
        let leading = vital("lease", &closing, {
            let (leader, stop) = (Arc::clone(&leader), lease_stop.clone());
            async move { leader.run(lease_tx, stop).await }
        });
        let relaying = vital(
            "relay",
            &closing,
            relay
                .clone()
                .run(fast, lease_rx.clone(), relay_stop.clone()),
        );
        let floor = FloorKeeper {
            store: store.clone(),
            cache: Arc::clone(&cache),
            no_floor: Arc::clone(&relay.no_floor),
            back: Arc::clone(&relay.back),
        };
        let vouching = vital(
            "floor",
            &closing,
            floor.run(lease_rx.clone(), relay_stop.clone()),
        );
        let face = Arc::new(Face {
            store: store.clone(),
            reader: relay.reader.clone(),
            rules: relay.rules.clone(),
            live: live.clone(),
            clock,
            simulated,
            audited: audited.clone(),
            waiting: Default::default(),
            report_token,
            bell: Arc::clone(&relay.poke),
        });
        let warming = named(
            "warm",
            http::warm(Arc::clone(&face), to_warm, closing.clone()),
        );
        let reading_rules = named("rules", keeper.run(closing.clone()));
        let serving = listener.map(|listener| {
            let router = http::router(face);
            vital(
                "http",
                &closing,
                http::serve(listener, router, closing.clone()),
            )
        });
        // Without these the house goes on as well.
        let auditing = audit.map(|audit| {
            let (lease, stop) = (lease_rx.clone(), closing.clone());
            let canary = audit
                .canary
                .map(|canary| named("canary", canary.run(lease.clone(), stop.clone())));
            (named("audit", audit.auditor.run(lease, stop)), canary)
        });
        let listening = named("listen", {
            let (store, bell, stop) = (store.clone(), Arc::clone(&relay.poke), closing.clone());
            async move { store.listen(bell, stop).await }
        });
        let beat = named("watchdog", watchdog(ingest.pulse(), closing.clone()));
        let cycles = vital("cycles", &closing, {
            let (lease, stop) = (lease_rx.clone(), closing.clone());
            async move { ingest.run(lease, pace, &stop).await }
        });

        closing.cancelled().await;
        let asked = stop.is_cancelled();
        // For whoever else waits for our end.
        stop.cancel();
        let close = async {
            let cycled = cycles.await;
            if let Some((auditor, canary)) = auditing {
                let _ = auditor.await;
                if let Some(canary) = canary {
                    let _ = canary.await;
                }
            }
            let _ = tokio::join!(warming, reading_rules);
            relay_stop.cancel();
            let relayed = relaying.await;
            let vouched = vouching.await;
            let served = match serving {
                Some(serving) => serving.await,
                None => Ok(()),
            };
            lease_stop.cancel();
            let led = leading.await;
            let _ = beat.await;
            let _ = listening.await;
            let held = lease_rx.borrow().clone();
            if let Some(lease) = held {
                leader.let_go(&lease).await;
            }
            let ends = [&relayed, &vouched, &served, &led];
            let crashed = cycled.is_err() || ends.iter().any(|end| end.is_err());
            let reason = match (crashed, asked) {
                (true, _) => "a loop panicked",
                (false, true) => "asked to stop",
                (false, false) => "the feed has ended",
            };
            live.say(Activity::Stopped {
                reason: reason.into(),
            });
            cache.close().await;
            store.close().await;
            match cycled {
                _ if crashed => Err(anyhow!("a loop panicked; the log above says where")),
                Ok(Err(why)) => Err(why.into()),
                _ => Ok(()),
            }
        };
        tokio::time::timeout(SHUTDOWN, close)
            .await
            .unwrap_or_else(|_| {
                Err(anyhow!(
                    "not everything could be finished within {} s; what was committed is safe, and its removals wait in the outbox",
                    SHUTDOWN.as_secs()
                ))
            })
    }

    /// One cycle and one drain of the outbox, for an external cron.
    pub async fn once(mut self, stop: CancellationToken) -> anyhow::Result<Once> {
        let lease = match self.store.acquire(&self.holder, self.lease_ttl).await? {
            Acquired::Mine(lease) => lease,
            Acquired::HeldBy {
                holder,
                for_another,
            } => {
                return Ok(Once::HeldElsewhere {
                    holder,
                    for_another,
                });
            }
        };
        let leader = Arc::new(Leader {
            store: self.store.clone(),
            live: self.live.clone(),
            holder: self.holder,
            ttl: self.lease_ttl,
            checks: self.checks,
            state: Box::new(state(&self.live, &self.cache, &self.relay.rules, None)),
            corrected: self.ingest.corrected(),
        });
        let lease_stop = CancellationToken::new();
        let (lease_tx, lease_rx) = watch::channel(Some(lease.clone()));
        let leading = named("lease", {
            let (leader, stop) = (Arc::clone(&leader), lease_stop.clone());
            async move { leader.run(lease_tx, stop).await }
        });
        let cycle = self.ingest.look(&lease, ONCE_TRIES, &stop).await;
        let pending = self.relay.drain_all(ONCE_RELAY).await;
        lease_stop.cancel();
        let _ = leading.await;
        let held = lease_rx.borrow().clone();
        if let Some(lease) = held {
            leader.let_go(&lease).await;
        }
        self.cache.close().await;
        self.store.close().await;
        Ok(Once::Done { cycle, pending })
    }
}

/// What `once` came to.
pub enum Once {
    Done {
        cycle: Cycle,
        /// Removals that are left to the next run.
        pending: Result<i64, StoreError>,
    },
    HeldElsewhere {
        holder: String,
        for_another: Duration,
    },
}

/// What the daemon says of itself with each renewal of its lease.
fn state(
    live: &Live,
    cache: &Arc<Cache>,
    rules: &Rulebook,
    audited: Option<Audited>,
) -> impl Fn() -> serde_json::Value + Send + Sync + 'static {
    let (live, cache, started_at) = (live.clone(), Arc::clone(cache), Utc::now());
    let rules = rules.clone();
    move || {
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "started_at": started_at,
            "said_at": Utc::now(),
            "cache": { "backend": cache.backend(), "host": cache.host() },
            "counters": live.counters(),
            "rules": rules.state(),
            "audit": audited.as_ref().map(|audited| audited.report(Instant::now())),
        })
    }
}

/// A task with a name in whatever it logs.
fn named<T: Send + 'static>(
    name: &'static str,
    work: impl Future<Output = T> + Send + 'static,
) -> JoinHandle<T> {
    use tracing::Instrument;
    tokio::spawn(work.instrument(tracing::debug_span!("task", name)))
}

/// A task without which the house makes no sense: when it ends, however it ends, `closing` begins.
fn vital<T: Send + 'static>(
    name: &'static str,
    closing: &CancellationToken,
    work: impl Future<Output = T> + Send + 'static,
) -> JoinHandle<T> {
    let closing = closing.clone().drop_guard();
    named(name, async move {
        let _closing = closing;
        work.await
    })
}
