//! The actions of a rule beside a removal: load the answer again at once, or serve it as stale meanwhile.

use oddsd_core::key::Key;

use super::{DatabaseBackend, Engine, on_every_backend};
use crate::daemon::fixture::{HttpAnswer, get};
use crate::store::fixture::{StateWriter, TestDay, offer};
use oddsd_testkit::eventually;

on_every_backend!(
    removed_answer_is_warmed_without_a_reader,
    answer_marked_stale_is_served_until_the_new_one_is_loaded,
);

fn then(what: &str) -> String {
    format!(
        "builtin = false\n[[rule]]\nname = \"again\"\non = [\"price_changed\"]\n\
         keys = [\"event:{{event_id}}:prices:v1\"]\nthen = \"{what}\"\n"
    )
}

/// Reads until an answer matches. Redis may answer later than the reader's budget; then the database answers.
async fn until(url: &str, is: impl Fn(&HttpAnswer) -> bool) -> HttpAnswer {
    eventually(url, async || {
        let answer = get(url).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        match is(&answer) {
            true => Ok(answer),
            false => Err(answer.body),
        }
    })
    .await
}

async fn removed_answer_is_warmed_without_a_reader(backend: DatabaseBackend) {
    let mut engine = Engine::with(backend, &then("remove_and_warm")).await;
    let api = engine.serve_api().await;
    let mut ann = StateWriter::start(&engine.home.store, "ann").await;
    let mut day = TestDay::with_races(1, 1, 1);
    ann.commit_snapshot(&day.snapshot()).await;
    engine.drain().await;
    engine.begin_epoch().await;
    let url = format!("{}/v1/events/rac_0/prices", api.url);
    until(&url, |answer| answer.cache_status() == "HIT").await;
    day.advance(10);
    day.set(0, 0, Some(offer(777)));
    ann.commit_snapshot(&day.snapshot()).await;
    engine.drain().await;
    let key = Key::event_prices(&"rac_0".into());
    let entry = eventually("the warmed entry", async || {
        let lookup = engine.cache().get(&key, &[]).await.expect("an answer");
        lookup.entry.ok_or("not loaded")
    })
    .await;
    let body = String::from_utf8_lossy(&entry.body).into_owned();
    assert!(body.contains("7.77"), "{body}");
    let log = engine.log().await;
    assert_eq!(
        log.last().map(|line| line.keys.clone()),
        Some(vec![key.to_string()])
    );
}

async fn answer_marked_stale_is_served_until_the_new_one_is_loaded(backend: DatabaseBackend) {
    let mut engine = Engine::with(backend, &then("mark_stale")).await;
    let api = engine.serve_api().await;
    let mut ann = StateWriter::start(&engine.home.store, "ann").await;
    let mut day = TestDay::with_races(1, 1, 1);
    ann.commit_snapshot(&day.snapshot()).await;
    engine.drain().await;
    engine.begin_epoch().await;
    let url = format!("{}/v1/events/rac_0/prices", api.url);
    let mut seen_stale = false;
    // Half a minute after its load the old answer may not be served at all.
    for round in 0..50 {
        let (old, new) = (100 + round * 2, 101 + round * 2);
        for cents in [old, new] {
            day.advance(10);
            day.set(0, 0, Some(offer(200 + cents)));
            ann.commit_snapshot(&day.snapshot()).await;
            engine.drain().await;
            let shows = format!("{}", f64::from(200 + cents as i32) / 100.0);
            let answer = get(&url).await;
            match answer.cache_status() {
                "STALE" => {
                    assert!(
                        !answer.body.contains(&shows),
                        "the old one: {}",
                        answer.body
                    );
                    seen_stale = true;
                }
                _ => assert!(
                    answer.body.contains(&shows),
                    "{} {}",
                    answer.cache_status(),
                    answer.body
                ),
            }
            let new = until(&url, |answer| answer.cache_status() == "HIT").await;
            assert!(new.body.contains(&shows), "{shows} {}", new.body);
        }
        if seen_stale {
            return;
        }
    }
    panic!("nobody was ever served a stale answer");
}
