//! Two daemons of two databases and one cache, which nobody meant to share: a laptop with the production's Redis.

use super::DaemonStack;
use super::fixture::{INVALIDATED, KEY, first_price, get, hits_with};
use crate::harness::program::Program;
use oddsd_testkit::eventually;
use oddsd_testkit::postgres;
use oddsd_testkit::resp::RespReply;

const CARD: &str = "/v1/races/by-stage";

#[tokio::test]
async fn daemon_of_another_database_says_so_and_serves_its_own_answers() {
    let (first, _card) = DaemonStack::with_card().await;
    let mut daemon = first.run();
    let path = format!("{}{CARD}", daemon.url().await);
    daemon.wait_for_log(INVALIDATED).await;
    hits_with(&path, 3.3).await;

    let (mut second, mut card) = DaemonStack::with_card().await;
    card.set_price("4.5");
    second.serve(&card);
    second.settings = second.settings.with("REDIS_URL", first.redis.url());
    let mut laptop = second.run();
    let laptop_path = format!("{}{CARD}", laptop.url().await);
    let started = ["event=cache.foreign_database", INVALIDATED];
    laptop.wait_for_logs(started).await;
    for _ in 0..20 {
        let answer = get(&laptop_path).await;
        assert_eq!(answer.cache_status(), "BYPASS");
        assert_eq!(first_price(&answer.json()), Some(4.5));
        hits_with(&path, 3.3).await;
    }

    // The key that rules name is removed for each change.
    let put = ["SET", KEY, "of another program"];
    first.redis.command(&put).await;
    card.set_price("5.5");
    second.serve(&card);
    eventually("the key is removed", async || {
        match first.redis.command(&["EXISTS", KEY]).await {
            RespReply::Int(0) => Ok(()),
            left => Err(left),
        }
    })
    .await;
    second.settled().await;
    hits_with(&path, 3.3).await;

    let program = || {
        Program::new()
            .with("FEED", "simulator")
            .with("SWITCH_FEED", "true")
            .with("LISTEN", "off")
            .with("REDIS_URL", first.redis.url())
    };
    let check = async |database: &str| {
        let program = program().with("DATABASE_URL", database);
        program.run(&["check"]).await
    };
    // Also of a database that has no tables yet, and of a file that does not exist yet.
    let new = postgres::database().await;
    for database in [second.database.as_str(), &new, "sqlite:new.db"] {
        // On a busy machine no heartbeat may come while the check waits for one.
        let failed = eventually("the check sees heartbeats", async || {
            let output = check(database).await;
            let used = "FAIL  cache     another database uses this cache";
            match output.all().contains(used) {
                true => Ok(output),
                false => Err(output.to_string()),
            }
        });
        let failed = failed.await.expect_code(78);
        failed.expect_texts(&["CACHE_NAMESPACE"]);
    }
    check(&first.database).await.expect_code(0);

    let exit = laptop.stop().await.expect_code(0);
    assert_eq!(exit.count("event=cache.foreign_database"), 1);
    assert_eq!(exit.count("event=cache.epoch_started"), 0);
    let exit = daemon.stop().await.expect_code(0);
    assert_eq!(exit.count("event=cache.epoch_started"), 1);
    assert_eq!(exit.count("event=cache.foreign_database"), 0);

    // Nobody uses it any more, and another one may come back: a warning.
    let left = check(&second.database).await.expect_code(0);
    left.expect_texts(&["warn  cache     it was last used with another database"]);

    // With a namespace of its own it caches.
    second.settings = second.settings.with("CACHE_NAMESPACE", "laptop");
    let mut laptop = second.run();
    let laptop_path = format!("{}{CARD}", laptop.url().await);
    hits_with(&laptop_path, 5.5).await;
    laptop.stop().await.expect_code(0);
}
