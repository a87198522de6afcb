//! `demo` shows a price change from the feed to a reader, without servers.

use crate::harness::program::Program;

#[tokio::test]
async fn demo_shows_a_price_change_and_removes_its_files() {
    // The configured port is taken.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = taken.local_addr().map(|address| (taken, address));
    let (_taken, address) = taken.expect("bound");
    let oddsd = Program::new().with("LISTEN", address);
    let moved = |line: &str| {
        line.contains("reader")
            && line.contains(" -> ")
            && (line.contains("shortens") || line.contains("drifts"))
    };
    let seen = |text: &str| {
        let words = ["MISS -> refilled", "HIT", "removed ", "prices changed"];
        words.iter().all(|word| text.contains(word)) && text.lines().any(moved)
    };
    let output = oddsd.run_until_output(&["demo"], seen).await.expect_code(0);
    let output = output.expect_texts(&[
        "SIMULATED",
        "/v1/races/by-stage",
        "MISS -> refilled",
        "HIT",
        "removed ",
        "prices changed",
        "next: oddsd check",
        &format!("port {} is taken; using ", address.port()),
    ]);
    assert!(output.stdout.lines().any(moved), "no move seen:\n{output}");
    assert_eq!(oddsd.temporary_files(), [""; 0]);
    let files = std::fs::read_dir(oddsd.folder()).expect("readable").count();
    assert_eq!(files, 1, "only the folder for temporary files");
}

#[tokio::test]
async fn demo_ignores_the_configured_database_and_cache() {
    let oddsd = Program::new()
        .with("LISTEN", "127.0.0.1:0")
        .with("DATABASE_URL", "sqlite:mine.db")
        .with("REDIS_URL", "redis://127.0.0.1:1")
        .with("AUTO_MIGRATE", "false")
        .with("CACHE_ENABLED", "false");
    oddsd
        .run_until_output(&["demo"], |text| text.contains("HIT"))
        .await
        .expect_code(0);
    oddsd.run(&["demo", "--for", "100ms"]).await.expect_code(0);
    assert!(!oddsd.folder().join("mine.db").exists());
}
