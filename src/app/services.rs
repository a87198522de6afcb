//! The running services of the daemon: one task each, started by [`Services::start`] and ended in order by
//! [`Services::shut_down`]. [`App::run`](super::App::run) calls both.

use std::sync::Arc;

use anyhow::anyhow;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::App;
use super::watchdog::watchdog;
use crate::cache::Cache;
use crate::http::{self, Face};
use crate::leader::Leader;
use crate::live::{Activity, Live};
use crate::relay::FloorKeeper;
use crate::store::{Lease, Store, StoreError};

pub struct Services {
    store: Store,
    cache: Arc<Cache>,
    live: Live,
    leader: Arc<Leader>,
    lease: watch::Receiver<Option<Lease>>,
    /// Ends the poller, the API and the observers. Cancelled by the stop signal, and by a critical task that ends.
    closing: CancellationToken,
    /// Ends relay and epoch monitor, which have to remove what the last cycle changed.
    relay_stop: CancellationToken,
    /// Ends the renewals of the lease, which the last removals still need.
    lease_stop: CancellationToken,
    poller: JoinHandle<Result<(), StoreError>>,
    /// Auditor, canary, warming and rules watcher: the daemon also works without them.
    observers: Vec<JoinHandle<()>>,
    relay: JoinHandle<()>,
    epoch: JoinHandle<()>,
    http: Option<JoinHandle<()>>,
    election: JoinHandle<()>,
    watchdog: JoinHandle<()>,
    listen: JoinHandle<()>,
}

impl Services {
    pub fn start(app: App, stop: &CancellationToken) -> Self {
        let closing = stop.child_token();
        let (relay_stop, lease_stop) = (CancellationToken::new(), CancellationToken::new());
        let (lease_sender, lease) = watch::channel(None);
        let audit = app.audit.as_ref().map(|audit| audit.auditor.handle.clone());
        let leader = Arc::new(app.leader(audit.clone()));
        let App {
            store,
            cache,
            live,
            clock,
            mut poller,
            pace,
            relay,
            direct,
            audit: auditing,
            rules_watcher,
            warm_queue,
            listener,
            report_token,
            ..
        } = app;
        let api = Arc::new(Face {
            store: store.clone(),
            reader: relay.reader.clone(),
            rules: relay.rules.clone(),
            live: live.clone(),
            clock,
            simulated: poller.feed_name() == "simulator",
            audited: audit,
            waiting: Default::default(),
            report_token,
            bell: Arc::clone(&relay.wakeups.outbox),
        });

        let election = spawn_critical("leader", &closing, {
            let (leader, stop) = (Arc::clone(&leader), lease_stop.clone());
            async move { leader.run(lease_sender, stop).await }
        });
        let monitor = FloorKeeper {
            store: store.clone(),
            cache: Arc::clone(&cache),
            wakeups: relay.wakeups.clone(),
        };
        let monitoring = monitor.run(lease.clone(), relay_stop.clone());
        let epoch = spawn_critical("epoch", &closing, monitoring);
        let listen = spawn_named("listen", {
            let (store, stop) = (store.clone(), closing.clone());
            let outbox = Arc::clone(&relay.wakeups.outbox);
            async move { store.listen(outbox, stop).await }
        });
        let relaying = relay.run(direct, lease.clone(), relay_stop.clone());
        let relay = spawn_critical("relay", &closing, relaying);
        let warming = http::warm(Arc::clone(&api), warm_queue, closing.clone());
        let mut observers = vec![
            spawn_named("warm", warming),
            spawn_named("rules", rules_watcher.run(closing.clone())),
        ];
        if let Some(auditing) = auditing {
            let (lease, stop) = (lease.clone(), closing.clone());
            if let Some(canary) = auditing.canary {
                let running = canary.run(lease.clone(), stop.clone());
                observers.push(spawn_named("canary", running));
            }
            observers.push(spawn_named("audit", auditing.auditor.run(lease, stop)));
        }
        let http = listener.map(|listener| {
            let serving = http::serve(listener, http::router(api), closing.clone());
            spawn_critical("http", &closing, serving)
        });
        let watchdog = spawn_named("watchdog", watchdog(poller.liveness(), closing.clone()));
        let poller = spawn_critical("poller", &closing, {
            let (lease, stop) = (lease.clone(), closing.clone());
            async move { poller.run(lease, pace, &stop).await }
        });
        Self {
            store,
            cache,
            live,
            leader,
            lease,
            closing,
            relay_stop,
            lease_stop,
            poller,
            observers,
            relay,
            epoch,
            http,
            election,
            watchdog,
            listen,
        }
    }

    /// Waits until the shutdown begins: by the stop signal, or by the end of a critical task.
    pub async fn closing(&self) {
        self.closing.cancelled().await;
    }

    /// Waits for the tasks in the order in which each feeds the next: the poller, the relay (which removes what the
    /// last cycle changed), the API, the lease. Then the daemon releases the lease and closes cache and database.
    /// `requested`: by the stop signal, and not by a task that ended.
    pub async fn shut_down(self, requested: bool) -> anyhow::Result<()> {
        let polled = self.poller.await;
        for observer in self.observers {
            let _ = observer.await;
        }
        self.relay_stop.cancel();
        let mut ends = vec![
            ("poller", polled.is_err()),
            ("relay", self.relay.await.is_err()),
            ("epoch monitor", self.epoch.await.is_err()),
        ];
        if let Some(http) = self.http {
            ends.push(("API", http.await.is_err()));
        }
        self.lease_stop.cancel();
        ends.push(("leader election", self.election.await.is_err()));
        let _ = self.watchdog.await;
        let _ = self.listen.await;
        let held = self.lease.borrow().clone();
        if let Some(lease) = held {
            self.leader.release(&lease).await;
        }
        let panicked = ends.iter().find(|(_, panicked)| *panicked);
        let reason = match (panicked, requested) {
            (Some((name, _)), _) => format!("the {name} panicked"),
            (None, true) => "asked to stop".into(),
            (None, false) => "the feed has ended".into(),
        };
        self.live.say(Activity::Stopped { reason });
        self.cache.close().await;
        self.store.close().await;
        if let Some((name, _)) = panicked {
            return Err(anyhow!("the {name} panicked; the log above shows where"));
        }
        match polled {
            Ok(Err(why)) => Err(why.into()),
            _ => Ok(()),
        }
    }
}

/// A task whose log lines carry its name.
pub fn spawn_named<T: Send + 'static>(
    name: &'static str,
    work: impl Future<Output = T> + Send + 'static,
) -> JoinHandle<T> {
    tokio::spawn(work.instrument(tracing::debug_span!("task", name)))
}

/// A task without which the others are useless: when it ends, also by a panic, `closing` begins.
fn spawn_critical<T: Send + 'static>(
    name: &'static str,
    closing: &CancellationToken,
    work: impl Future<Output = T> + Send + 'static,
) -> JoinHandle<T> {
    let closing = closing.clone().drop_guard();
    spawn_named(name, async move {
        let _closing = closing;
        work.await
    })
}
