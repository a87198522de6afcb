//! Invalid arguments and settings: the message names them with a fix, and the exit code tells usage from
//! configuration.

use std::process::Stdio;

use super::simulated;
use crate::harness::program::Program;

#[tokio::test]
async fn invalid_argument_is_2_with_a_suggestion() {
    let oddsd = Program::new();
    for (args, words) in [
        (&["chekc"][..], "'check'"),
        (&["run", "--databse-url", "x"], "'--database-url'"),
        (&["run", "--listen", "nowhere"], "127.0.0.1:8080"),
        (&["run", "--for", "soon"], "30s, 5m or 2h"),
        (&["replay"], "<FILE>"),
        (&["record"], "--out"),
        (&["replay", "x", "--speed", "0"], "above zero"),
    ] {
        oddsd
            .run(args)
            .await
            .expect_code(2)
            .expect_texts(&[words, "--help"]);
    }
    oddsd
        .run(&[])
        .await
        .expect_code(2)
        .expect_texts(&["oddsd demo"]);
}

#[tokio::test]
async fn invalid_variable_is_78_and_named_with_its_fix() {
    let wrong: &[(&str, &str, &[&str])] = &[
        ("FEED", "horses", &["racing-api", "simulator"]),
        ("RACING_API_PAGE", "501", &["1..=500"]),
        ("RACING_API_CARDS_PER_SECOND", "0", &["requests a second"]),
        ("RACING_API_RACES_PER_SECOND", "NaN", &["requests a second"]),
        ("FEED_TIMEOUT_SECONDS", "0", &["1..=300"]),
        ("ODDS_API_FORMAT", "roman", &["decimal", "american"]),
        ("ODDS_API_QUOTA_FLOOR", "-1", &["--odds-api-quota-floor"]),
        ("MAX_REMOVED_FRACTION", "2", &["between 0 and 1"]),
        ("SIMULATOR_SEED", "seven", &["--simulator-seed"]),
        ("DATABASE_TLS", "maybe", &["verify-full"]),
        ("DATABASE_MAX_CONNECTIONS", "1", &["2..=200"]),
        (
            "DATABASE_STATEMENT_TIMEOUT_SECONDS",
            "x",
            &["--database-statement"],
        ),
        ("AUTO_MIGRATE", "maybe", &["true, false"]),
        ("HISTORY_DAYS", "0", &["1..=36500"]),
        ("CACHE_ENABLED", "perhaps", &["true, false"]),
        ("CACHE_NAMESPACE", "a:b", &["letters, digits"]),
        ("CACHE_TIMEOUT_MS", "1", &["10..=60000"]),
        ("CACHE_MEMORY_MB", "0", &["1..=65536"]),
        ("CADENCE", "fast", &["minutes=interval", "5=10s,30=60s"]),
        ("CADENCE", "5=10s", &["*=900s"]),
        ("WHOLE_CARD_SECONDS", "0", &["1..=86400"]),
        ("CRON_TIMEZONE", "London", &["Europe/London"]),
        ("LISTEN", "8080", &["127.0.0.1:8080", "off"]),
        ("LEASE_SECONDS", "0", &["1..=600"]),
        ("LOG_FORMAT", "xml", &["pretty", "logfmt", "json"]),
        ("LOG_LEVEL", "verbose=loud", &["info,oddsd_feeds=debug"]),
        ("RUST_LOG", "verbose=loud", &["info,oddsd_feeds=debug"]),
    ];
    for (name, value, words) in wrong {
        let output = simulated().with(name, value);
        let output = output
            .run(&["check", "--offline"])
            .await
            .expect_code(78)
            .expect_texts(words);
        assert!(
            output.all().contains(name),
            "{name} is not named:\n{output}"
        );
    }
}

/// Hosting panels store an unset variable as an empty text.
#[tokio::test]
async fn empty_variable_is_unset() {
    let plain = simulated().run(&["check", "--offline", "--json"]).await;
    let mut empty = simulated();
    for name in [
        "REDIS_URL",
        "UPSTASH_REDIS_REST_URL",
        "UPSTASH_REDIS_REST_TOKEN",
        "CACHE_NAMESPACE",
        "CACHE_ENABLED",
        "RACING_API_PAGE",
        "ODDS_API_KEY",
        "CRON",
        "CADENCE",
        "LOG_FORMAT",
        "LOG_LEVEL",
        "LEASE_SECONDS",
    ] {
        empty.set(name, "");
    }
    let empty = empty
        .run(&["check", "--offline", "--json"])
        .await
        .expect_code(0);
    assert_eq!(empty.json(), plain.json());
    let feed = Program::new()
        .with("RACING_API_USERNAME", "")
        .with("RACING_API_PASSWORD", "");
    let output = feed.run(&["check", "--offline"]).await.expect_code(78);
    output.expect_texts(&["RACING_API_USERNAME and RACING_API_PASSWORD", "oddsd demo"]);
}

#[tokio::test]
async fn flag_overrides_the_environment_and_the_env_file() {
    let oddsd = Program::new();
    std::fs::write(oddsd.folder().join(".env"), "FEED=simulator\nLISTEN=off\n").expect("writes");
    let output = oddsd.run(&["check", "--offline"]).await.expect_code(0);
    output.expect_texts(&["simulator: settings are complete", "off: a worker"]);
    let flag = [
        "check",
        "--offline",
        "--listen",
        "127.0.0.1:9",
        "--feed=racing-api",
    ];
    oddsd
        .run(&flag)
        .await
        .expect_code(78)
        .expect_none_of(&["off: a worker"]);
    let oddsd = oddsd.with("LISTEN", "127.0.0.1:0");
    let output = oddsd.run(&["check", "--offline"]).await.expect_code(0);
    output.expect_none_of(&["off: a worker"]);
}

#[tokio::test]
async fn help_fits_a_terminal_and_lists_every_command() {
    let oddsd = Program::new();
    let output = oddsd.run(&["-h"]).await.expect_code(0);
    assert!(output.stdout.lines().count() < 30, "{output}");
    for command in [
        "run",
        "once",
        "demo",
        "check",
        "replay",
        "record",
        "migrate",
        "tail",
        "status",
        "invalidate",
        "watch",
        "healthcheck",
    ] {
        assert!(
            output.stdout.contains(&format!("\n  {command} ")),
            "{command}"
        );
        let long = oddsd.run(&[command, "--help"]).await.expect_code(0);
        let settings = long.expect_texts(&["[env: DATABASE_URL]", "[env: CADENCE=]", "[default: "]);
        assert!(
            settings
                .stdout
                .lines()
                .all(|line| line.chars().count() <= 100)
        );
    }
    let long = oddsd.run(&["--help"]).await.expect_code(0);
    long.expect_texts(&["Exit codes: 0 ok", "69 a dependency is down", "78 bad"]);
}

/// As in `oddsd tail | head -n 1`.
#[tokio::test]
async fn closed_stdout_causes_no_panic() {
    let oddsd = simulated();
    oddsd.run(&["once"]).await.expect_code(0);
    for args in [
        &["--help"][..],
        &["status"],
        &["tail", "--for", "100ms"],
        &["check", "--offline"],
    ] {
        let mut command = oddsd.command(args);
        // The other end is closed before anything is written.
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let child = command.stdout(Stdio::from(writer)).spawn().expect("starts");
        let ended = child.wait_with_output().await.expect("it ends");
        let text = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(!text.contains("panicked"), "{args:?}: {text}");
        assert_eq!(ended.status.code(), Some(0), "{args:?}: {text}");
    }
}
