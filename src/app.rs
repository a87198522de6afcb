//! Builds the house, opens it and closes it: doors from settings, loops in their tasks, and an
//! orderly end within a bound. `run` and the tests open the same house.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use chrono::Utc;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::cache::{Cache, Reader};
use crate::config::{BadSetting, FeedKind, Listen, Settings};
use crate::feed::Feed;
use crate::feed::odds_api::{self, OddsApi};
use crate::feed::racing_api::{RacingApi, RacingApiSettings};
use crate::feed::simulator::{RaceDay, Simulator, Size};
use crate::http::{self, Face};
use crate::ingest::{Checks, Cycle, Ingest, Pace};
use crate::invalidate::{Batch, Relay};
use crate::lead::Leader;
use crate::live::{Activity, Live};
use crate::schedule::{Clock, Cron, Ticker};
use crate::store::{Acquired, Lease, Store, StoreError};

/// SIGTERM to exit: the running transaction, one relay pass, open requests, and goodbye.
const SHUTDOWN: Duration = Duration::from_secs(25);
/// What `once` gives the relay before it leaves the rest to the next run.
const ONCE_RELAY: Duration = Duration::from_secs(10);
/// A look that fails for a passing reason is repeated by `once` so often.
const ONCE_TRIES: u32 = 3;
/// The size of the provider's real days.
const SIMULATED: Size = Size {
    races: 57,
    bookmakers: 28,
};

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
    checks: Checks,
    listener: Option<TcpListener>,
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
        let (poke, checks) = (Arc::new(Notify::new()), Checks::default());
        let holder = settings.instance();
        live.say(Activity::Started {
            version: env!("CARGO_PKG_VERSION"),
            feed: feed.name().into(),
            store: store.backend().into(),
            cache: cache.backend().into(),
        });
        let relay = Relay::new(
            store.clone(),
            Arc::clone(&cache),
            live.clone(),
            holder.clone(),
            Arc::clone(&poke),
        );
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
            checks,
            listener,
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
            checks,
            listener,
        } = self;
        let (lease_tx, lease_rx) = watch::channel(None);
        let leader = Arc::new(Leader {
            store: store.clone(),
            live: live.clone(),
            holder,
            ttl: lease_ttl,
            checks,
            state: Box::new(state(&live, &cache)),
        });
        // The loops end in this order: cycles, then the relay (what the last cycle left), then the
        // lease. Each has its own token, so that none goes before the one that feeds it.
        let (relay_stop, lease_stop) = (CancellationToken::new(), CancellationToken::new());
        let leading = named("lease", {
            let (leader, stop) = (Arc::clone(&leader), lease_stop.clone());
            async move { leader.run(lease_tx, stop).await }
        });
        let relaying = named("relay", relay.run(relay_stop.clone()));
        let serving = listener.map(|listener| {
            let face = Face {
                store: store.clone(),
                reader: Reader::new(Arc::clone(&cache)),
                live: live.clone(),
                clock,
            };
            named(
                "http",
                http::serve(listener, http::router(Arc::new(face)), stop.clone()),
            )
        });
        let beat = named("watchdog", watchdog(live.clone(), stop.clone()));
        let mut cycles = named("cycles", {
            let (lease, stop) = (lease_rx.clone(), stop.clone());
            async move { ingest.run(lease, pace, &stop).await }
        });

        // The feed may end by itself (a recording); otherwise somebody asks us to stop.
        let ended = tokio::select! {
            ended = &mut cycles => Some(ended),
            () = stop.cancelled() => None,
        };
        let by_itself = ended.is_some();
        stop.cancel();
        let close = async {
            let cycled = match ended {
                Some(ended) => ended,
                None => cycles.await,
            };
            relay_stop.cancel();
            let relayed = relaying.await;
            if let Some(serving) = serving {
                let _ = serving.await;
            }
            lease_stop.cancel();
            let crashed = leading.await.is_err() || relayed.is_err() || cycled.is_err();
            let _ = beat.await;
            let held: Option<Lease> = lease_rx.borrow().clone();
            if let Some(lease) = held {
                leader.let_go(&lease).await;
            }
            let reason = if crashed {
                "a loop panicked"
            } else if by_itself {
                "the feed has ended"
            } else {
                "asked to stop"
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
                    "not everything could be finished within {} s",
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
        let renewing = named("lease", {
            let (store, live, lease, ttl) = (
                self.store.clone(),
                self.live.clone(),
                lease.clone(),
                self.lease_ttl,
            );
            let state = state(&live, &self.cache);
            async move {
                loop {
                    tokio::time::sleep(ttl / 3).await;
                    let _ = store.renew(&lease, ttl, &state(), &[]).await;
                }
            }
        });
        let cycle = self.ingest.look(&lease, ONCE_TRIES, &stop).await;
        let removed = self.relay.drain(ONCE_RELAY).await;
        renewing.abort();
        self.store.release(&lease).await.ok();
        self.cache.close().await;
        self.store.close().await;
        Ok(Once::Done { cycle, removed })
    }
}

/// What `once` came to.
pub enum Once {
    Done {
        cycle: Cycle,
        removed: Result<Batch, StoreError>,
    },
    HeldElsewhere {
        holder: String,
        for_another: Duration,
    },
}

/// The feed that the settings name.
pub fn feed(settings: &Settings, clock: &Clock) -> anyhow::Result<Feed> {
    feed_with(settings, clock, true)
}

fn feed_with(settings: &Settings, clock: &Clock, conditional: bool) -> anyhow::Result<Feed> {
    let args = &settings.feed;
    let named = |value: &Vec<String>| {
        value
            .iter()
            .filter(|text| !text.trim().is_empty())
            .cloned()
            .collect()
    };
    let deadline = Duration::from_secs(args.feed_timeout_seconds);
    match args.feed {
        FeedKind::RacingApi => {
            let (Some(username), Some(password)) =
                (&args.racing_api_username, &args.racing_api_password)
            else {
                bail!(BadSetting(
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
                conditional,
                ..RacingApiSettings::new(username.clone(), password.clone())
            };
            Ok(Feed::RacingApi(Box::new(RacingApi::new(settings)?)))
        }
        FeedKind::OddsApi => {
            let Some(key) = &args.odds_api_key else {
                bail!(BadSetting("The Odds API needs ODDS_API_KEY".into()))
            };
            let Some(sport) = args
                .odds_api_sport
                .as_deref()
                .filter(|sport| !sport.trim().is_empty())
            else {
                bail!(BadSetting(
                    "The Odds API needs ODDS_API_SPORT, the league to poll, e.g. baseball_mlb"
                        .into()
                ));
            };
            let settings = odds_api::Settings {
                base_url: args.odds_api_url.clone(),
                api_key: key.clone(),
                sport: sport.trim().into(),
                regions: named(&args.odds_api_regions),
                markets: named(&args.odds_api_markets),
                odds_format: args.odds_api_format.into(),
                deadline,
                quota_floor: args.odds_api_quota_floor,
            };
            Ok(Feed::OddsApi(Box::new(OddsApi::new(settings)?)))
        }
        FeedKind::Simulator => {
            let day = clock
                .now()
                .with_timezone(&chrono_tz::Europe::London)
                .date_naive();
            let day = RaceDay::new(args.simulator_seed, day, SIMULATED);
            Ok(Feed::Simulator(Box::new(Simulator::new(day))))
        }
        FeedKind::Betfair => bail!(BadSetting(
            "betfair streams come from recordings: `oddsd replay FILE --feed betfair`".into()
        )),
    }
}

/// The same feed for a recorder, which wants every body and no "not modified".
pub fn feed_for_recording(settings: &Settings, clock: &Clock) -> anyhow::Result<Feed> {
    feed_with(settings, clock, false)
}

/// What the daemon says of itself with each renewal of its lease.
fn state(
    live: &Live,
    cache: &Arc<Cache>,
) -> impl Fn() -> serde_json::Value + Send + Sync + 'static {
    let (live, cache, started_at) = (live.clone(), Arc::clone(cache), Utc::now());
    move || {
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "started_at": started_at,
            "said_at": Utc::now(),
            "cache": { "backend": cache.backend(), "host": cache.host() },
            "counters": live.counters(),
        })
    }
}

/// systemd's readiness and watchdog: fed while cycles go on, starved when the loop hangs. A cycle
/// says when the next one is due; the watchdog allows for that and a little more.
async fn watchdog(live: Live, stop: CancellationToken) {
    const SLACK: i64 = 120;
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let Some(every) = sd_notify::watchdog_enabled() else {
        return;
    };
    let due = AtomicI64::new(Utc::now().timestamp() + SLACK);
    let mut watcher = live.watch();
    let mut beat = tokio::time::interval(every / 3);
    loop {
        tokio::select! {
            heard = watcher.next() => {
                let now = Utc::now().timestamp();
                match heard {
                    Some(crate::live::Heard::Said(said)) => match &said.activity {
                        Activity::CycleComplete { next_s, .. } => due.store(now + *next_s as i64 + SLACK, Ordering::Relaxed),
                        Activity::FetchFailed { retry_ms, .. } | Activity::StoreFailed { retry_ms, .. } => {
                            due.store(now + (*retry_ms / 1000) as i64 + SLACK, Ordering::Relaxed);
                        }
                        Activity::StandingBy { .. } => due.store(i64::MAX, Ordering::Relaxed),
                        _ => {}
                    },
                    Some(crate::live::Heard::Missed(_)) => due.store(now + SLACK, Ordering::Relaxed),
                    None => return,
                }
            }
            _ = beat.tick() => {
                if Utc::now().timestamp() < due.load(Ordering::Relaxed) {
                    let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
                }
            }
            () = stop.cancelled() => {
                let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
                return;
            }
        }
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
