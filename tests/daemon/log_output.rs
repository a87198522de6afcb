//! Tests of the daemon's log on a stream that is not read, or not read any more: the daemon works on, and ends.

use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::unix::pipe;

use super::DaemonStack;
use super::fixture::{SmallCard, get, open_prices};
use crate::harness::daemon::{DaemonExit, DaemonProcess, field};
use oddsd_testkit::pipe::full_pipe;
use oddsd_testkit::ports::free_port;
use oddsd_testkit::{eventually, within};

/// Far below the limit of a shutdown, and far above what a busy machine needs for one.
const PROMPT: Duration = Duration::from_secs(15);

/// The daemon with its log on `stdout`, and its URL: nothing can be read from its log.
async fn run_into(stack: &mut DaemonStack, stdout: OwnedFd) -> (DaemonProcess, String) {
    let address = format!("127.0.0.1:{}", free_port());
    stack.settings = stack.settings.with("LISTEN", &address);
    let stdout = Stdio::from(stdout);
    let daemon =
        DaemonProcess::start_with_output(&stack.settings, &["run"], stdout, Stdio::piped());
    eventually("the read API listens", || TcpStream::connect(&address)).await;
    (daemon, format!("http://{address}"))
}

/// Waits until the database has these prices.
async fn until_stored(stack: &DaemonStack, card: &SmallCard) {
    let expected = open_prices(&card.races);
    eventually("the card is stored", async || {
        match stack.stored().await == expected {
            true => Ok(()),
            false => Err("other prices"),
        }
    })
    .await;
}

/// Stops it, which must be prompt.
async fn stop(daemon: DaemonProcess) -> DaemonExit {
    let asked = Instant::now();
    let ended = daemon.stop().await.expect_code(0);
    assert!(asked.elapsed() < PROMPT, "it took {:?}", asked.elapsed());
    ended
}

#[tokio::test]
async fn daemon_works_and_stops_while_its_log_is_not_read() {
    let (mut stack, mut card) = DaemonStack::with_card().await;
    // Creates the tables that the test asks.
    stack.run_once().await.expect_code(0);
    let (_unread, stdout) = full_pipe().await.expect("a pipe");
    let (daemon, url) = run_into(&mut stack, stdout).await;
    for price in ["4.5", "5.5"] {
        card.set_price(price);
        stack.serve(&card);
        until_stored(&stack, &card).await;
    }
    assert_eq!(get(&format!("{url}/livez")).await.status, 200);
    stop(daemon).await;
    assert_eq!(stack.outbox().await, 0);
    let held = "SELECT count(*) FROM oddsd.leases WHERE expires_at > now()";
    assert_eq!(stack.number(held).await, 0, "the lease is free");
}

#[tokio::test]
async fn log_that_is_read_again_reports_how_many_lines_were_dropped() {
    let (mut stack, _card) = DaemonStack::with_card().await;
    // At this level each load has a line with its key.
    stack.settings = stack.settings.with("LOG_LEVEL", "debug");
    let (reader, stdout) = full_pipe().await.expect("a pipe");
    let (mut daemon, url) = run_into(&mut stack, stdout).await;
    let mut loads = 0;
    let dropped = eventually("log lines are dropped", async || {
        loads += 1;
        let unknown = format!("{url}/v1/events/{loads:0>30000}/prices");
        assert_eq!(get(&unknown).await.status, 404);
        match dropped_lines(&url).await {
            0 => Err("none"),
            dropped => Ok(dropped),
        }
    })
    .await;
    daemon.read_log(reader);
    let line = daemon.wait_for_log("event=log.dropped").await;
    let reported = field(&line, "log_lines").expect("a number");
    let reported: u64 = reported.parse().expect("a number");
    assert!(reported >= dropped, "{line}, of at least {dropped}");
    let ended = stop(daemon).await;
    assert_eq!(ended.count("event=daemon.started"), 1);
    assert_eq!(ended.count("event=daemon.stopped"), 1);
}

#[tokio::test]
async fn daemon_works_and_stops_when_its_log_is_not_read_any_more() {
    let (mut stack, mut card) = DaemonStack::with_card().await;
    stack.run_once().await.expect_code(0);
    let (reader, stdout) = full_pipe().await.expect("a pipe");
    drop(reader);
    let (daemon, url) = run_into(&mut stack, stdout).await;
    for price in ["4.5", "5.5"] {
        card.set_price(price);
        stack.serve(&card);
        until_stored(&stack, &card).await;
    }
    assert!(dropped_lines(&url).await > 0);
    let ended = stop(daemon).await;
    assert_eq!(ended.text(), "", "nothing else on stderr");
}

#[tokio::test]
async fn daemon_that_cannot_start_ends_while_none_of_its_output_is_read() {
    let (mut stack, _card) = DaemonStack::with_card().await;
    let (_unread, output) = full_pipe().await.expect("a pipe");
    let stderr = output.try_clone().expect("a descriptor");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    stack.settings = stack.settings.with("LISTEN", address);
    let (output, stderr) = (Stdio::from(output), Stdio::from(stderr));
    let daemon = DaemonProcess::start_with_output(&stack.settings, &["run"], output, stderr);
    daemon.wait_for_exit().await.expect_code(1);
}

/// A result, unlike a log, waits for its reader. A signal ends the wait.
#[tokio::test]
async fn tail_stops_while_its_lines_are_not_read() {
    let (stack, _card) = DaemonStack::with_card().await;
    stack.run_once().await.expect_code(0);
    // More than a pipe holds.
    let copies = "INSERT INTO oddsd.cycles SELECT (jsonb_populate_record(c, jsonb_build_object('id', n))).*
                  FROM oddsd.cycles c, generate_series(1001, 3000) n WHERE c.id = (SELECT min(id) FROM oddsd.cycles)";
    let copied = sqlx::query(copies).execute(&mut stack.db().await).await;
    copied.expect("cycles");
    let (output, stdout) = pipe::pipe().expect("a pipe");
    let output = Stdio::from(output.into_blocking_fd().expect("a descriptor"));
    let args = ["tail", "--last", "2000"];
    let tail = DaemonProcess::start_with_output(&stack.settings, &args, output, Stdio::piped());
    let mut lines = BufReader::with_capacity(1, stdout).lines();
    let first = within("a line", lines.next_line()).await.expect("text");
    assert!(first.is_some_and(|line| line.contains("  cycle ")));
    let asked = Instant::now();
    tail.stop().await.expect_code(1);
    assert!(asked.elapsed() < PROMPT, "it took {:?}", asked.elapsed());
}

/// The counter in `/metrics`.
async fn dropped_lines(url: &str) -> u64 {
    let metrics = get(&format!("{url}/metrics")).await.body;
    let mut lines = metrics.lines();
    let count = lines.find_map(|line| line.strip_prefix("oddsd_log_lines_dropped_total "));
    count.expect("a counter").parse().expect("a number")
}
