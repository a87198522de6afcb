//! The running services of the daemon: one task each, started by [`Services::start`] and ended in order by
//! [`Services::shut_down`]. [`App::run`](super::App::run) calls both.

use std::sync::Arc;

use anyhow::anyhow;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle};
use tokio_util::sync::CancellationToken;

use super::App;
use super::watchdog::watchdog;
use crate::http::{self, AppState};
use crate::leader::Leader;
use crate::live::{DaemonEvent, EventBus};
use crate::relay::EpochMonitor;
use oddsd_cache::Cache;
use oddsd_store::{Store, StoreError, WriterLease};

pub struct Services {
    store: Store,
    cache: Arc<Cache>,
    live: EventBus,
    leader: Arc<Leader>,
    lease: watch::Receiver<Option<WriterLease>>,
    /// Cancelled by the stop signal, and when the poller or a critical task ends.
    closing: CancellationToken,
    poller: JoinHandle<Result<(), StoreError>>,
    /// In the order of the shutdown, which follows the poller's end.
    phases: Vec<Phase>,
}

/// Tasks that the shutdown waits for together. `stop` ends those that outlive the poller; the others end with `closing`.
struct Phase {
    stop: CancellationToken,
    tasks: Vec<Task>,
}

struct Task {
    name: &'static str,
    is_critical: bool,
    handle: JoinHandle<()>,
}

impl Services {
    pub fn start(app: App, stop: &CancellationToken) -> Self {
        let closing = stop.child_token();
        let (relay_stop, lease_stop) = (CancellationToken::new(), CancellationToken::new());
        let (lease_sender, lease) = watch::channel(None);
        let audit = app.audit.as_ref().map(|audit| audit.auditor.handle.clone());
        let leader = Arc::new(app.leader(audit.clone()));
        let (relay, mut poller) = (app.relay, app.poller);
        let wakeups = relay.wakeups.clone();
        let api = Arc::new(AppState {
            store: app.store.clone(),
            reader: relay.reader.clone(),
            rules: relay.rules.clone(),
            events: app.live.clone(),
            clock: app.clock,
            skew: Arc::clone(&leader.skew),
            simulated: poller.feed_name() == "simulator",
            audit,
            outbox_gauge: Default::default(),
            report_token: app.report_token,
            relay_wakeup: Arc::clone(&wakeups.outbox),
        });

        let electing = Arc::clone(&leader);
        let electing_stop = lease_stop.clone();
        let electing = async move { electing.run(lease_sender, electing_stop).await };
        let (listening, listening_stop) = (app.store.clone(), closing.clone());
        let outbox = Arc::clone(&wakeups.outbox);
        let listening = async move { listening.listen(outbox, listening_stop).await };
        let watching = watchdog(poller.liveness(), closing.clone());
        let lease_tasks = vec![
            Task::critical("leader election", &closing, electing),
            Task::optional("watchdog", watching),
            Task::optional("listen", listening),
        ];

        let monitor = EpochMonitor {
            store: app.store.clone(),
            cache: Arc::clone(&app.cache),
            wakeups,
        };
        let monitoring = monitor.run(lease.clone(), relay_stop.clone());
        let relaying = relay.run(app.direct, lease.clone(), relay_stop.clone());
        let mut relay_tasks = vec![
            Task::critical("relay", &closing, relaying),
            Task::critical("epoch monitor", &closing, monitoring),
        ];
        if let Some(listener) = app.listener {
            let serving = http::serve(listener, http::router(Arc::clone(&api)), closing.clone());
            relay_tasks.push(Task::critical("API", &closing, serving));
        }

        let warming = http::warm(api, app.warm_queue, closing.clone());
        let mut observers = vec![
            Task::optional("warm", warming),
            Task::optional("rules", app.rules_watcher.run(closing.clone())),
        ];
        if let Some(audit) = app.audit {
            let auditing = audit.auditor.run(lease.clone(), closing.clone());
            observers.push(Task::optional("audit", auditing));
            let canary = audit.canary.into_iter();
            let probing = canary.map(|canary| canary.run(lease.clone(), closing.clone()));
            observers.extend(probing.map(|probing| Task::optional("canary", probing)));
        }

        let (schedule, polling_lease, polling_stop) =
            (app.schedule, lease.clone(), closing.clone());
        let polling = async move { poller.run(polling_lease, schedule, &polling_stop).await };
        Self {
            store: app.store,
            cache: app.cache,
            live: app.live,
            leader,
            lease,
            poller: tokio::spawn(end_with(&closing, polling)),
            phases: vec![
                Phase {
                    stop: closing.clone(),
                    tasks: observers,
                },
                // After the poller, to remove what the last cycle changed.
                Phase {
                    stop: relay_stop,
                    tasks: relay_tasks,
                },
                // After the relay, whose last removals need the lease.
                Phase {
                    stop: lease_stop,
                    tasks: lease_tasks,
                },
            ],
            closing,
        }
    }

    /// Waits until the shutdown begins: by the stop signal, or by the end of the poller or a critical task.
    pub async fn closing(&self) {
        self.closing.cancelled().await;
    }

    /// Call it after [`Services::closing`] has returned. Ends the tasks phase by phase, releases the lease and closes cache and database. `requested`: by the stop
    /// signal, and not by a task that ended.
    pub async fn shut_down(self, requested: bool) -> anyhow::Result<()> {
        let polled = self.poller.await;
        let mut panicked = polled.is_err().then_some("poller");
        for phase in self.phases {
            phase.stop.cancel();
            for task in phase.tasks {
                let ended: Result<(), JoinError> = task.handle.await;
                if ended.is_err() && task.is_critical {
                    panicked.get_or_insert(task.name);
                }
            }
        }
        let held = self.lease.borrow().clone();
        if let Some(lease) = held {
            self.leader.release(&lease).await;
        }
        let reason = match (panicked, &polled) {
            (Some(name), _) => format!("the {name} panicked"),
            (None, Ok(Err(_))) => "the poller failed".into(),
            (None, _) if requested => "asked to stop".into(),
            (None, _) => "the feed has ended".into(),
        };
        self.live.publish(DaemonEvent::Stopped { reason });
        self.cache.close().await;
        self.store.close().await;
        match (panicked, polled) {
            (Some(name), _) => Err(anyhow!("the {name} panicked; the log above shows where")),
            (None, Ok(Err(why))) => Err(why.into()),
            (None, _) => Ok(()),
        }
    }
}

impl Task {
    /// A task without which the others are useless: when it ends, also by a panic, `closing` begins.
    fn critical(
        name: &'static str,
        closing: &CancellationToken,
        work: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        Self {
            is_critical: true,
            ..Self::optional(name, end_with(closing, work))
        }
    }

    fn optional(name: &'static str, work: impl Future<Output = ()> + Send + 'static) -> Self {
        Self {
            name,
            is_critical: false,
            handle: tokio::spawn(work),
        }
    }
}

/// Cancels `closing` when `work` ends.
fn end_with<T, W: Future<Output = T>>(
    closing: &CancellationToken,
    work: W,
) -> impl Future<Output = T> + use<T, W> {
    let closing = closing.clone().drop_guard();
    async move {
        let _closing = closing;
        work.await
    }
}
