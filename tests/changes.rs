//! `POST /v1/changes`: a reported change is stored before the response, and only requests with the token may
//! report.

use std::sync::{Arc, LazyLock};

use oddsd::clock::Clock;
use oddsd::http::{self, AppState};
use oddsd::live::EventBus;
use oddsd_cache::{Cache, Reader};
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::harness::daemon::{DaemonEnv, DaemonProcess};
use crate::store::fixture::{DatabaseBackend, TestDatabase, open};
use oddsd_testkit::proxy::{FaultProxy, ProxyMode};
use oddsd_testkit::{eventually, within};

const TOKEN: &str = "ReportCanary-9f2";

/// The read API on a store of its own, without a relay.
struct ReportApi {
    home: TestDatabase,
    url: String,
    bell: Arc<Notify>,
    _serving: tokio_util::sync::DropGuard,
}

struct ReportResponse {
    status: u16,
    headers: reqwest::header::HeaderMap,
    body: Value,
}

impl ReportApi {
    async fn open(backend: DatabaseBackend) -> Self {
        let home = backend.migrated().await;
        let store = home.store.clone();
        Self::serve(home, store, Some(TOKEN)).await
    }

    async fn serve(home: TestDatabase, store: oddsd_store::Store, token: Option<&str>) -> Self {
        let (bell, stop) = (Arc::new(Notify::new()), CancellationToken::new());
        let state = AppState {
            rules: oddsd::rules_file::RulesHandle::builtin(),
            store,
            reader: Reader::new(Arc::new(Cache::Off)),
            events: EventBus::new(),
            clock: Clock::Real,
            skew: Default::default(),
            simulated: true,
            audit: None,
            outbox_gauge: Default::default(),
            report_token: token.map(SecretString::from),
            relay_wakeup: Arc::clone(&bell),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!(
            "http://{}/v1/changes",
            listener.local_addr().expect("bound")
        );
        tokio::spawn(http::serve(listener, Arc::new(state), stop.clone()));
        Self {
            home,
            url,
            bell,
            _serving: stop.drop_guard(),
        }
    }

    async fn post(&self, body: &Value) -> ReportResponse {
        self.send(&format!("Bearer {TOKEN}"), body.to_string())
            .await
    }

    async fn send(&self, authorization: &str, body: String) -> ReportResponse {
        send(&self.url, authorization, body).await
    }

    /// The rows of the outbox: kinds, event and detail, sorted.
    async fn stored(&self) -> Vec<String> {
        let mut rows = self
            .home
            .query("SELECT kinds || ' ' || coalesce(event_key, '-') || ' ' || coalesce(detail, '-') FROM oddsd.outbox")
            .await;
        rows.sort();
        rows
    }
}

async fn send(url: &str, authorization: &str, body: String) -> ReportResponse {
    static CLIENT: LazyLock<reqwest::Client> = LazyLock::new(|| {
        // Another test may have done it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().no_proxy();
        client.pool_max_idle_per_host(0).build().expect("a client")
    });
    let mut request = CLIENT.post(url).body(body);
    if !authorization.is_empty() {
        request = request.header("authorization", authorization);
    }
    let answer = request.send().await.expect("an answer");
    ReportResponse {
        status: answer.status().as_u16(),
        headers: answer.headers().clone(),
        body: serde_json::from_str(&answer.text().await.expect("a body")).expect("JSON"),
    }
}

fn task(run: usize) -> Value {
    json!({ "change": "task_completed", "task": "build_climate", "run_id": format!("ab-{run}") })
}

async fn change_is_stored_before_the_response(backend: DatabaseBackend) {
    let api = ReportApi::open(backend).await;
    let one = api.post(&task(1)).await;
    assert_eq!(
        (one.status, one.body),
        (202, json!({ "accepted": 1, "rejected": [] }))
    );
    assert_eq!(
        api.stored().await,
        [r#"task_completed - {"run_id":"ab-1","task":"build_climate"}"#]
    );
    within("the relay's wake-up", api.bell.notified()).await;

    api.home.write("DELETE FROM oddsd.outbox").await;
    let row = json!({ "change": "row_changed", "table": "tlog", "op": "insert", "row": { "trig_id": 7, "user_id": null, "ok": true } });
    let price = json!({ "change": "price_changed", "event_id": "rac_1" });
    let moved = json!({ "change": "status_changed", "event_id": "rac_1", "market": "win" });
    let several = api
        .post(&json!({ "changes": [row, price, moved, price, task(2)] }))
        .await;
    assert_eq!(several.body["accepted"], 5);
    assert_eq!(
        api.stored().await,
        [
            "price_changed rac_1 -",
            r#"row_changed - {"op":"insert","row":{"ok":true,"trig_id":7,"user_id":null},"table":"tlog"}"#,
            r#"status_changed rac_1 {"market":"win"}"#,
            r#"task_completed - {"run_id":"ab-2","task":"build_climate"}"#,
        ],
        "the same change is stored once"
    );

    // Programs on Windows write a byte order mark.
    for body in [task(3), json!([task(4)]), json!({ "changes": [task(5)] })] {
        let token = format!("Bearer {TOKEN}");
        let marked = api.send(&token, format!("\u{feff}{body}")).await;
        assert_eq!((marked.status, &marked.body["accepted"]), (202, &json!(1)));
    }

    api.home.write("DELETE FROM oddsd.outbox").await;
    let thousand: Vec<Value> = (0..1_000).map(task).collect();
    assert_eq!(api.post(&json!(thousand)).await.body["accepted"], 1_000);
    assert_eq!(api.home.count("outbox").await, 1_000);
}

async fn invalid_change_does_not_affect_valid_ones(backend: DatabaseBackend) {
    let api = ReportApi::open(backend).await;
    let long = "x".repeat(513);
    let bad = [
        (
            json!({ "change": "row_chnged", "table": "t" }),
            "unknown change",
            "row_changed",
        ),
        (
            json!({ "change": "manual", "keys": "a" }),
            "unknown change",
            "task_completed",
        ),
        (json!({ "table": "t" }), "\"change\"", "row_changed"),
        (json!({ "change": "row_changed" }), "needs \"table\"", "add"),
        (
            json!({ "change": "task_completed", "task": "" }),
            "needs \"task\"",
            "not empty",
        ),
        (
            json!({ "change": "price_changed", "event_id": 7 }),
            "needs \"event_id\"",
            "text",
        ),
        (
            json!({ "change": "row_changed", "table": "t", "a b": 1 }),
            "not a field name",
            "letter",
        ),
        (
            json!({ "change": "row_changed", "table": "t", "row": { "": 1 } }),
            "not a field name",
            "letter",
        ),
        (
            json!({ "change": "row_changed", "table": long }),
            "longer than 512",
            "identify",
        ),
        (
            json!({ "change": "row_changed", "table": "t", "row": [1] }),
            "not a single value",
            "text",
        ),
        (
            json!({ "change": "row_changed", "table": "t", "row": { "a": {} } }),
            "not a single value",
            "text",
        ),
        (json!("row_changed"), "object", "array"),
    ];
    let mut batch = vec![task(1)];
    batch.extend(bad.iter().map(|(change, ..)| change.clone()));
    batch.push(json!({ "change": "row_changed", "table": "of_no_rule" }));
    let answer = api.post(&json!(batch)).await;
    assert_eq!((answer.status, &answer.body["accepted"]), (202, &json!(2)));
    let rejected = answer.body["rejected"].as_array().expect("a list");
    assert_eq!(rejected.len(), bad.len(), "{}", answer.body);
    for (n, ((_, error, hint), rejection)) in bad.iter().zip(rejected).enumerate() {
        assert_eq!(rejection["index"], n + 1);
        let has = |field: &str, word: &str| {
            let text = rejection[field].as_str().expect("a text");
            assert!(
                text.contains(word),
                "{field}: {word:?} is missing in {rejection}"
            );
        };
        has("error", error);
        has("hint", hint);
    }
    assert_eq!(api.home.count("outbox").await, 2);

    for (body, word) in [
        ("", "cannot be read"),
        ("{", "cannot be read"),
        ("[1,", "cannot be read"),
        ("7", "cannot be read"),
        ("[]", "no change"),
        ("{}", "no change"),
        (r#"{"changes":7}"#, "cannot be read"),
        (r#"[{"change":"nothing"}]"#, "no change"),
    ] {
        let answer = api.send(&format!("bearer {TOKEN}"), body.into()).await;
        assert_eq!(answer.status, 400, "{body}");
        let error = answer.body["error"].as_str().expect("a text");
        assert!(error.contains(word), "{body}: {error}");
        assert!(answer.body["hint"].is_string());
    }
    assert_eq!(api.home.count("outbox").await, 2);
}

async fn oversized_request_is_refused_with_the_limit(backend: DatabaseBackend) {
    let api = ReportApi::open(backend).await;
    let many: Vec<Value> = (0..1_001).map(task).collect();
    let answer = api.post(&json!(many)).await;
    assert_eq!(answer.status, 413);
    assert!(
        answer.body["error"]
            .as_str()
            .expect("a text")
            .contains("1000")
    );
    let long = api
        .post(&json!([{ "change": "row_changed", "table": "x".repeat(1 << 20) }]))
        .await;
    assert_eq!(long.status, 413);
    assert!(
        long.body["error"]
            .as_str()
            .expect("a text")
            .contains("1048576 bytes")
    );
    assert_eq!(api.home.count("outbox").await, 0);
}

async fn request_without_the_token_is_refused(backend: DatabaseBackend) {
    let api = ReportApi::open(backend).await;
    let shown = [
        String::new(),
        "Bearer".into(),
        "Bearer ".into(),
        format!("Basic {TOKEN}"),
        format!("Bearer {TOKEN}x"),
        format!("Bearer {}", &TOKEN[1..]),
        format!("Bearer {}", TOKEN.to_lowercase()),
    ];
    for shown in shown {
        let answer = api.send(&shown, task(1).to_string()).await;
        assert_eq!(answer.status, 401, "{shown}");
        assert!(
            answer.headers["www-authenticate"]
                .to_str()
                .expect("text")
                .starts_with("Bearer")
        );
        assert!(
            !answer.body.to_string().contains("Canary"),
            "{}",
            answer.body
        );
    }
    let client = reqwest::Client::builder()
        .no_proxy()
        .build()
        .expect("a client");
    let get = client.get(&api.url).send().await.expect("an answer");
    assert_eq!(
        (get.status().as_u16(), &get.headers()["allow"]),
        (405, &"POST".parse().expect("a value"))
    );
    assert_eq!(api.home.count("outbox").await, 0);

    let home = backend.migrated().await;
    let store = home.store.clone();
    let closed = ReportApi::serve(home, store, None).await;
    let answer = closed.post(&task(1)).await;
    assert_eq!(answer.status, 403);
    assert!(
        answer.body["hint"]
            .as_str()
            .expect("a text")
            .contains("REPORT_TOKEN")
    );
}

macro_rules! on_every_backend {
    ($($story:ident),+ $(,)?) => {
        mod on_postgres {
            $(#[tokio::test] async fn $story() { super::$story(super::DatabaseBackend::Postgres).await })+
        }
        mod on_sqlite {
            $(#[tokio::test] async fn $story() { super::$story(super::DatabaseBackend::Sqlite).await })+
        }
    };
}
on_every_backend!(
    change_is_stored_before_the_response,
    invalid_change_does_not_affect_valid_ones,
    oversized_request_is_refused_with_the_limit,
    request_without_the_token_is_refused,
);

#[tokio::test]
async fn report_without_the_database_is_503_and_stores_nothing() {
    let home = DatabaseBackend::Postgres.migrated().await;
    let (proxy, url) = FaultProxy::in_front_of_url(&home.url).await;
    let store = open(&url).await;
    let api = ReportApi::serve(home, store, Some(TOKEN)).await;
    proxy.set(ProxyMode::Cut);
    let away = api.post(&task(1)).await;
    assert_eq!(away.status, 503, "{}", away.body);
    let seconds = away.headers["retry-after"].to_str().expect("text");
    assert!(seconds.parse::<u32>().is_ok(), "{seconds}");
    assert_eq!(api.home.count("outbox").await, 0);
    proxy.set(ProxyMode::Pass);
    assert_eq!(api.post(&task(1)).await.status, 202);
    assert_eq!(api.home.count("outbox").await, 1);
}

/// The reported change is relayed, and the token is in no log line at any level.
#[tokio::test]
async fn daemon_relays_reports_and_never_logs_the_token() {
    let home = DatabaseBackend::Sqlite.migrated().await;
    let settings = DaemonEnv::default()
        .with("FEED", "simulator")
        .with("DATABASE_URL", home.url.as_str())
        .with("LISTEN", "127.0.0.1:0")
        .with("REPORT_TOKEN", TOKEN)
        .with("AUDIT", "false")
        .with("LOG_FORMAT", "logfmt")
        .with("RUST_LOG", "trace");
    let mut daemon = DaemonProcess::start(&settings, &["run"]);
    let url = format!("{}/v1/changes", daemon.url().await);
    let bearer = format!("Bearer {TOKEN}");
    let taken = send(&url, &bearer, task(1).to_string()).await;
    assert_eq!(taken.status, 202, "{}", taken.body);
    assert_eq!(send(&url, &bearer, "[".into()).await.status, 400);
    assert_eq!(
        send(&url, &format!("{bearer}2"), task(1).to_string())
            .await
            .status,
        401
    );
    let waiting = "outbox WHERE kinds = 'task_completed'";
    let relayed = async || match home.count(waiting).await {
        0 => Ok(()),
        rows => Err(rows),
    };
    eventually("the change is relayed", relayed).await;
    let ended = daemon.stop().await.expect_code(0);
    assert_eq!(ended.count("ReportCanary"), 0);
}
