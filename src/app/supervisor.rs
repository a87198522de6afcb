//! The running services of the daemon: one task each, started by [`Services::start`] and ended in order by
//! [`Services::shut_down`]. [`App::run`](super::App::run) calls both.

use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::App;
use super::watchdog::watchdog;
use crate::http::{self, AppState};
use crate::leader::Leader;
use crate::live::{DaemonEvent, EventBus};
use crate::relay::EpochMonitor;
use oddsd_cache::Cache;
use oddsd_store::{Store, StoreError, WriterLease};

/// The limits of the shutdown's steps. Together they are below [`SHUTDOWN`](super::SHUTDOWN), so that a dependency that
/// hangs does not make the process overdue.
const POLLER_LIMIT: Duration = Duration::from_secs(10);
const OBSERVERS_LIMIT: Duration = Duration::from_secs(2);
const RELAY_LIMIT: Duration = Duration::from_secs(8);
const LEASE_LIMIT: Duration = Duration::from_millis(500);
const RELEASE_LIMIT: Duration = Duration::from_secs(1);
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

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
    limit: Duration,
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
            let serving = http::serve(listener, Arc::clone(&api), closing.clone());
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
                    limit: OBSERVERS_LIMIT,
                    tasks: observers,
                },
                // After the poller, to remove what the last cycle changed.
                Phase {
                    stop: relay_stop,
                    limit: RELAY_LIMIT,
                    tasks: relay_tasks,
                },
                // After the relay, whose last removals need the lease.
                Phase {
                    stop: lease_stop,
                    limit: LEASE_LIMIT,
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
    ///
    /// A step that a hanging dependency holds up is left: a write goes on or fails as it would in a crash, which loses
    /// nothing.
    pub async fn shut_down(self, requested: bool) -> anyhow::Result<()> {
        let mut unfinished = Vec::new();
        let polled = timeout(POLLER_LIMIT, self.poller).await;
        let mut panicked = matches!(polled, Ok(Err(_))).then_some("poller");
        if polled.is_err() {
            unfinished.push("poller");
        }
        for phase in self.phases {
            phase.stop.cancel();
            let limit = Instant::now() + phase.limit;
            for task in phase.tasks {
                match timeout_at(limit, task.handle).await {
                    Ok(Err(_)) if task.is_critical => {
                        panicked.get_or_insert(task.name);
                    }
                    Ok(_) => {}
                    Err(_) => unfinished.push(task.name),
                }
            }
        }
        let held = self.lease.borrow().clone();
        if let Some(lease) = held {
            let releasing = self.leader.release(&lease);
            if timeout(RELEASE_LIMIT, releasing).await.is_err() {
                unfinished.push("lease");
            }
        }
        if !unfinished.is_empty() {
            let tasks = unfinished.join(", ");
            tracing::warn!(
                event = "daemon.unfinished",
                tasks,
                "Not waited for any longer: {tasks}. What was committed is safe, and its removals wait in the outbox"
            );
        }
        let poller_error = match polled {
            Ok(Ok(Err(why))) => Some(why),
            _ => None,
        };
        let reason = match (panicked, &poller_error) {
            (Some(name), _) => format!("the {name} panicked"),
            (None, Some(_)) => "the poller failed".into(),
            (None, None) if requested => "asked to stop".into(),
            (None, None) => "the feed has ended".into(),
        };
        self.live.publish(DaemonEvent::Stopped { reason });
        // Sessions that do not answer end with the process.
        let closing = async { tokio::join!(self.cache.close(), self.store.close()) };
        let _ = timeout(CLOSE_LIMIT, closing).await;
        match (panicked, poller_error) {
            (Some(name), _) => Err(anyhow!("the {name} panicked; the log above shows where")),
            (None, Some(why)) => Err(why.into()),
            (None, None) => Ok(()),
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
