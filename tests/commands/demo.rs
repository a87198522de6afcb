//! `demo`: a stranger sees a price travel, on a machine with nothing on it.

use crate::harness::program::Oddsd;

#[tokio::test]
async fn the_demo_shows_a_price_on_its_way_to_a_reader_and_cleans_up() {
    // Somebody has the port already.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = taken.local_addr().map(|address| (taken, address));
    let (_taken, address) = taken.expect("bound");
    let oddsd = Oddsd::new().with("LISTEN", address);
    let moved = |line: &str| {
        line.contains("reader")
            && line.contains(" -> ")
            && (line.contains("shortens") || line.contains("drifts"))
    };
    let seen = |said: &str| {
        let words = ["MISS -> refilled", "HIT", "removed ", "prices changed"];
        words.iter().all(|word| said.contains(word)) && said.lines().any(moved)
    };
    let told = oddsd.run_until(&["demo"], seen).await.is(0);
    let told = told.says(&[
        "SIMULATED",
        "/v1/races/by-stage",
        "MISS -> refilled",
        "HIT",
        "removed ",
        "prices changed",
        "next: oddsd check",
        &format!("port {} is taken; using ", address.port()),
    ]);
    assert!(told.stdout.lines().any(moved), "no move seen:\n{told}");
    assert_eq!(oddsd.left_behind(), [""; 0]);
    let files = std::fs::read_dir(oddsd.folder()).expect("readable").count();
    assert_eq!(files, 1, "only the folder for temporary files");
}

/// What the demo shows is its own, whatever is set for the daemon.
#[tokio::test]
async fn the_demo_touches_nothing_that_is_set() {
    let oddsd = Oddsd::new()
        .with("LISTEN", "127.0.0.1:0")
        .with("DATABASE_URL", "sqlite:mine.db")
        .with("REDIS_URL", "redis://127.0.0.1:1")
        .with("AUTO_MIGRATE", "false")
        .with("CACHE_ENABLED", "false");
    oddsd
        .run_until(&["demo"], |said| said.contains("HIT"))
        .await
        .is(0);
    oddsd.run(&["demo", "--for", "100ms"]).await.is(0);
    assert!(!oddsd.folder().join("mine.db").exists());
}
