//! A test of random faults in random order: in the end the stored rows equal the last good card, every
//! removal is made, and no cached answer differs.

use fastrand::Rng;
use serde_json::{Value, json};

use super::DaemonStack;
use super::fixture::{SHORT_TIMEOUT_MS, SmallCard, get, request};
use crate::harness::daemon::DaemonProcess;
use oddsd_testkit::proxy::{FaultProxy, ProxyMode};
use oddsd_testkit::racing_provider::RacingFault;

const STEPS: usize = 30;

struct FaultRun {
    stack: DaemonStack,
    proxy: FaultProxy,
    card: SmallCard,
    daemon: DaemonProcess,
    url: String,
    rng: Rng,
    cache_is_up: bool,
}

impl FaultRun {
    async fn begin(seed: u64) -> Self {
        let (mut stack, card) = DaemonStack::with_card().await;
        let (proxy, database) = FaultProxy::in_front_of_url(&stack.database).await;
        stack.settings = stack
            .settings
            .with("DATABASE_URL", database)
            .with("CACHE_TIMEOUT_MS", SHORT_TIMEOUT_MS)
            .with("LEASE_SECONDS", "1");
        let mut daemon = stack.run();
        let url = daemon.url().await;
        daemon.wait_for_log("inserted=48").await;
        Self {
            stack,
            proxy,
            card,
            daemon,
            url,
            rng: Rng::with_seed(seed),
            cache_is_up: true,
        }
    }

    /// Changes the card, never so much that the shrink protection asks for a second poll.
    fn change(&mut self) {
        let rng = &mut self.rng;
        let decimal = format!("{}.{:02}", rng.u32(2..30), rng.u32(0..100));
        let (race, runner, bookmaker) = (rng.usize(0..4), rng.usize(0..3), rng.usize(0..4));
        match rng.u32(0..10) {
            0 => self.card.races[race]["going"] = json!(format!("Good {decimal}")),
            1 => self.card.odds(race, runner, bookmaker)["decimal"] = json!("-"),
            2 if self.card.races[race]["runners"][0]["number"] == "1" => self.card.scratch(race, 0),
            2 => {
                self.card.races[race]["runners"][0] =
                    SmallCard::with_races(4).races[race]["runners"][0].take()
            }
            _ => self.card.odds(race, runner, bookmaker)["decimal"] = json!(decimal),
        }
        // In any case one price changes.
        let was = self.card.odds(race, 2, 3)["decimal"].take();
        let mut moved = was.clone();
        while moved == was {
            let (whole, part) = (self.rng.u32(2..30), self.rng.u32(1..1000));
            moved = json!(format!("{whole}.{part:03}"));
        }
        self.card.odds(race, 2, 3)["decimal"] = moved;
        self.stack.serve(&self.card);
    }

    async fn a_cycle(&mut self) {
        self.daemon.skip_log();
        self.daemon.wait_for_log("Cycle complete").await;
    }

    /// Waits for the next request to the provider. A repeated failure is not logged again, so its line
    /// cannot be waited for.
    async fn a_request(&self) {
        let seen = self.stack.provider.requests().len();
        self.stack.provider.until_requests(seen + 1).await;
    }

    async fn step(&mut self) -> &'static str {
        match self.rng.u32(0..12) {
            0..=3 => {
                self.change();
                "change"
            }
            4 => {
                let answer = get(&format!("{}/v1/races/by-stage", self.url)).await;
                assert_eq!(answer.status, 200);
                "read"
            }
            5 => {
                self.a_cycle().await;
                let answer = get(&format!("{}/v1/races/by-stage", self.url)).await;
                assert_eq!(answer.status, 200);
                "cycle, read"
            }
            6 => {
                let faults = [
                    RacingFault::Status(500),
                    RacingFault::Html,
                    RacingFault::Truncated,
                ];
                let fault = self.rng.choice(faults).expect("some");
                self.stack.provider.fault(fault).await;
                self.a_request().await;
                self.change();
                self.stack.provider.clear().await;
                self.a_cycle().await;
                "feed"
            }
            7 => {
                self.proxy.set(ProxyMode::CutAnswerTo("price_changed"));
                self.change();
                self.proxy.until_cut().await;
                // The database stays unreachable for a while.
                assert_eq!(get(&format!("{}/readyz", self.url)).await.status, 503);
                self.proxy.set(ProxyMode::Pass);
                self.a_cycle().await;
                "database"
            }
            8 => {
                self.proxy.set(ProxyMode::CutAnswerTo("price_changed"));
                self.change();
                self.proxy.until_cut().await;
                self.proxy.set(ProxyMode::Pass);
                self.a_cycle().await;
                "commit"
            }
            9 | 10 => {
                if self.cache_is_up {
                    self.stack.redis.kill().await;
                } else {
                    self.stack.redis.restart().await;
                }
                self.cache_is_up = !self.cache_is_up;
                "cache"
            }
            _ => {
                let crashed = std::mem::replace(&mut self.daemon, self.stack.run());
                crashed.crash().await;
                self.url = self.daemon.url().await;
                self.daemon.wait_for_log("Cycle complete").await;
                "crash"
            }
        }
    }
}

/// The served races and runners, without the time of the request.
fn reported(card: &Value) -> Vec<(String, Value)> {
    let lists = card["stages"].as_object().expect("stages").values();
    let races = lists.flat_map(|list| list.as_array().expect("a list"));
    let mut reported: Vec<_> = races
        .map(|race| (race["race_id"].to_string(), race["runners_data"].clone()))
        .collect();
    reported.sort_by(|a, b| a.0.cmp(&b.0));
    reported
}

#[tokio::test]
async fn random_faults_leave_the_right_rows_and_cache() {
    let seed = oddsd_testkit::seed();
    println!("ODDSD_TEST_SEED={seed}");
    let mut run = FaultRun::begin(seed).await;
    for n in 0..STEPS {
        let step = run.step().await;
        println!("{n}: {step}");
    }
    if !run.cache_is_up {
        run.stack.redis.restart().await;
    }
    run.change();
    run.a_cycle().await;
    // The first poll may have begun before the change; the second one includes it.
    run.daemon.wait_for_log("Cycle complete").await;
    run.stack.settled().await;
    run.stack.assert_stored(&run.card).await;
    let path = format!("{}/v1/races/by-stage", run.url);
    let cached = get(&path).await;
    let fresh = request(
        reqwest::Method::GET,
        &path,
        &[("cache-control", "no-cache")],
    )
    .await;
    assert_eq!(fresh.cache_status(), "BYPASS");
    assert_eq!(reported(&cached.json()), reported(&fresh.json()));
    run.daemon.stop().await.expect_code(0);
}
