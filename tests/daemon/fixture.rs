//! The fixture of the end-to-end tests: a provider, a database and a cache around the real program, a
//! small card of tomorrow's races, and an independent parser of the served prices to compare with the
//! stored rows.

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

use chrono::{NaiveDate, TimeDelta, Utc};
use chrono_tz::Europe::London;
use oddsd_core::model::BookmakerId;
use rust_decimal::Decimal;
use serde_json::{Value, json};
use sqlx::{PgConnection, Row};

use crate::harness::daemon::{DaemonEnv, DaemonExit, DaemonProcess};
use oddsd_testkit::racing_provider::{PASSWORD, RacingProvider, USERNAME};
use oddsd_testkit::redis::RedisServer;
use oddsd_testkit::resp::RespReply;
use oddsd_testkit::{eventually, postgres};

pub const KEY: &str = "races:by-stage:v1";
/// The cache timeout in milliseconds, for tests of a cache that does not answer.
pub const SHORT_TIMEOUT_MS: &str = "1000";
pub const INVALIDATED: &str = "Invalidated races cache - next API request will fetch fresh data";

pub struct DaemonStack {
    pub provider: RacingProvider,
    pub redis: RedisServer,
    pub database: String,
    pub settings: DaemonEnv,
}

impl DaemonStack {
    /// Postgres and Redis, and nothing on the card yet.
    pub async fn build() -> Self {
        let provider = RacingProvider::start().await;
        let redis = RedisServer::start().await;
        let database = postgres::database().await;
        let settings = DaemonEnv::default()
            .with("RACING_API_URL", provider.base_url())
            .with("RACING_API_USERNAME", USERNAME)
            .with("RACING_API_PASSWORD", PASSWORD)
            .with("RACING_API_CARDS_PER_SECOND", "1000")
            .with("RACING_API_RACES_PER_SECOND", "1000")
            .with("DATABASE_URL", database.as_str())
            .with("REDIS_URL", redis.url())
            // Slowness of the machine is no cache failure.
            .with("CACHE_TIMEOUT_MS", "20000")
            // Tests of the second removal set their own delay.
            .with("CACHE_REMOVE_AGAIN_MS", "0")
            // The canary reports outages by itself; its own tests switch it on.
            .with("AUDIT", "false")
            .with("LISTEN", "127.0.0.1:0")
            .with("LOG_FORMAT", "logfmt")
            // Tomorrow's races, polled every second.
            .with("CADENCE", "*=1s")
            .with("WHOLE_CARD_SECONDS", "1");
        Self {
            provider,
            redis,
            database,
            settings,
        }
    }

    /// As `build`, with a small card being served.
    pub async fn with_card() -> (Self, SmallCard) {
        let (stack, card) = (Self::build().await, SmallCard::with_races(4));
        stack.serve(&card);
        (stack, card)
    }

    pub fn serve(&self, card: &SmallCard) {
        self.provider.serve_cards(card.races.clone());
    }

    pub fn run(&self) -> DaemonProcess {
        DaemonProcess::start(&self.settings, &["run"])
    }

    pub async fn run_once(&self) -> DaemonExit {
        DaemonProcess::start(&self.settings, &["once"])
            .wait_for_exit()
            .await
    }

    pub async fn db(&self) -> PgConnection {
        postgres::connect(&self.database).await
    }

    /// Stores another program's value under the unmanaged key.
    pub async fn put_unmanaged(&self, value: &str) {
        let put = self.redis.command(&["SET", KEY, value]).await;
        assert_eq!(put, RespReply::Status("OK".into()));
    }

    pub async fn cached(&self) -> Option<Vec<u8>> {
        match self.redis.command(&["GET", KEY]).await {
            RespReply::Bulk(value) => Some(value),
            RespReply::Nil => None,
            other => panic!("GET {KEY}: {other:?}"),
        }
    }

    /// Every open price that is stored.
    pub async fn stored(&self) -> Prices {
        stored(&mut self.db().await).await
    }

    pub async fn number(&self, query: &'static str) -> i64 {
        let row = sqlx::query(query).fetch_one(&mut self.db().await).await;
        row.expect("an answer").get(0)
    }

    /// Lets the lease expire now, so that a test need not wait for its time.
    pub async fn end_lease(&self) {
        let end = "UPDATE oddsd.leases SET expires_at = now()";
        let ended = sqlx::query(end).execute(&mut self.db().await).await;
        ended.expect("the lease ends");
    }

    /// The number of removals that are not made yet.
    pub async fn outbox(&self) -> i64 {
        let waiting = "SELECT count(*) FROM oddsd.outbox WHERE kinds NOT IN ('again', 'canary')";
        self.number(waiting).await
    }

    /// Waits until every removal is made. A claim whose answer was lost is due again only when it has
    /// run out.
    pub async fn settled(&self) {
        eventually("the outbox is empty", async || match self.outbox().await {
            0 => Ok(()),
            waiting => Err(waiting),
        })
        .await;
    }

    /// Asserts that the stored prices equal the card and that history repeats no value.
    pub async fn assert_stored(&self, card: &SmallCard) {
        assert_same(&self.stored().await, &open_prices(&card.races));
        self.assert_no_repeats().await;
    }

    pub async fn assert_no_repeats(&self) {
        let repeats = self
            .number(
                "SELECT count(*) FROM (SELECT (decimal, fractional, ew_places, ew_denom, status)
                     IS NOT DISTINCT FROM lag((decimal, fractional, ew_places, ew_denom, status))
                     OVER (PARTITION BY price_id ORDER BY cycle_id) AS same,
                     row_number() OVER (PARTITION BY price_id ORDER BY cycle_id) AS n
                 FROM oddsd.price_history) h WHERE same AND n > 1",
            )
            .await;
        assert_eq!(repeats, 0, "history rows that say what the last one said");
    }
}

/// (race, horse, bookmaker) → decimal odds.
pub type Prices = BTreeMap<(String, String, String), Decimal>;

pub async fn stored(db: &mut PgConnection) -> Prices {
    let rows = sqlx::query(
        "SELECT e.key, s.key, b.key, p.decimal FROM oddsd.prices p
         JOIN oddsd.events e ON e.id = p.event_id JOIN oddsd.selections s ON s.id = p.selection_id
         JOIN oddsd.bookmakers b ON b.id = p.bookmaker_id WHERE p.status = 'open'",
    )
    .fetch_all(db)
    .await;
    let rows = rows.expect("prices").into_iter();
    rows.map(|row| {
        let decimal: Decimal = row.get(3);
        ((row.get(0), row.get(1), row.get(2)), decimal.normalize())
    })
    .collect()
}

/// Every open price of the served JSON, read without the daemon's parser.
pub fn open_prices(races: &[Value]) -> Prices {
    let mut prices = Prices::new();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    for race in races {
        for runner in race["runners"].as_array().into_iter().flatten() {
            if runner["number"] == "NR" || text(&runner["jockey"]).starts_with("NON-RUNNER") {
                continue;
            }
            for odds in runner["odds"].as_array().into_iter().flatten() {
                let decimal = text(&odds["decimal"]).parse::<Decimal>();
                let Some(decimal) = decimal.ok().filter(|odds| *odds > Decimal::ONE) else {
                    continue;
                };
                let bookmaker = BookmakerId::from_name(&text(&odds["bookmaker"])).expect("named");
                let key = (
                    text(&race["race_id"]),
                    text(&runner["horse_id"]),
                    bookmaker.to_string(),
                );
                prices.entry(key).or_insert(decimal.normalize());
            }
        }
    }
    prices
}

/// Shows the first difference only.
pub fn assert_same(stored: &Prices, served: &Prices) {
    let missing: Vec<_> = served
        .iter()
        .filter(|(k, v)| stored.get(k) != Some(v))
        .collect();
    let beyond: Vec<_> = stored
        .iter()
        .filter(|(k, _)| !served.contains_key(k))
        .collect();
    assert!(
        missing.is_empty() && beyond.is_empty(),
        "{} of {} served prices are not stored so, e.g. {:?}; {} are stored and not served, e.g. {:?}",
        missing.len(),
        served.len(),
        missing.first(),
        beyond.len(),
        beyond.first()
    );
}

/// Tomorrow in Britain: these races are listed and have not started.
pub fn tomorrow() -> NaiveDate {
    Utc::now().with_timezone(&London).date_naive() + TimeDelta::days(1)
}

/// A small card.
#[derive(Clone)]
pub struct SmallCard {
    pub races: Vec<Value>,
}

impl SmallCard {
    /// So many races of three runners at four bookmakers.
    pub fn with_races(races: usize) -> Self {
        Self {
            races: (0..races).map(race).collect(),
        }
    }

    pub fn odds(&mut self, race: usize, runner: usize, bookmaker: usize) -> &mut Value {
        &mut self.races[race]["runners"][runner]["odds"][bookmaker]
    }

    /// The first bookmaker's price on the first runner of the first race.
    pub fn set_price(&mut self, decimal: &str) {
        self.odds(0, 0, 0)["decimal"] = json!(decimal);
    }

    /// Withdraws the runner as the provider does it.
    pub fn scratch(&mut self, race: usize, runner: usize) {
        self.races[race]["runners"][runner]["number"] = json!("NR");
        self.races[race]["runners"][runner]["jockey"] = json!("NON-RUNNER(5)");
    }
}

fn race(n: usize) -> Value {
    let day = tomorrow();
    json!({
        "race_id": format!("rac_{n}"), "course": "Hereford", "course_id": "crs_1", "date": day.to_string(),
        "off_time": format!("{}:30", n % 9 + 1), "off_dt": format!("{day}T{}:30:00+00:00", n % 9 + 13),
        "race_name": format!("Mill Pond Hurdle {n}"), "distance": "2m53y", "distance_f": "16.0",
        "region": "GB", "race_class": "Class 4", "type": "Hurdle", "age_band": "4yo+", "prize": "£4,193",
        "field_size": "3", "going": "Good", "surface": "Turf", "big_race": false, "is_abandoned": false,
        "race_status": null, "runners": (0..3).map(|r| runner(n, r)).collect::<Vec<_>>(),
    })
}

fn runner(race: usize, n: usize) -> Value {
    let updated = Utc::now().with_timezone(&London);
    let updated = updated.format("%Y-%m-%d %H:%M:%S").to_string();
    let odds = ["Bet365", "Coral", "William Hill", "Betfair Exchange"];
    let odds = odds.iter().enumerate().map(|(b, bookmaker)| {
        json!({
            "bookmaker": bookmaker, "fractional": "", "decimal": format!("{}.{b}", 3 + n),
            "ew_places": "3", "ew_denom": "5", "updated": updated, "history": [],
        })
    });
    json!({
        "horse_id": format!("hrs_{race}_{n}"), "horse": format!("Quiet Kettle {race} {n}"), "age": "5",
        "sex": "mare", "trainer": "Ned Vaisey", "jockey": "Isla Hexley", "number": (n + 1).to_string(),
        "draw": "0", "lbs": "158", "form": "542-", "last_run": "186", "odds": odds.collect::<Vec<_>>(),
    })
}

/// One answer of the read API.
pub struct HttpAnswer {
    pub status: u16,
    pub headers: HashMap<String, String>,
    pub body: String,
}

impl HttpAnswer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// MISS, HIT or BYPASS.
    pub fn cache_status(&self) -> &str {
        self.header("x-cache-status")
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }
}

/// Reads until the answer comes from the cache; every answer on the way shows this price.
pub async fn hits_with(path: &str, price: f64) {
    eventually("the answer comes from the cache", async || {
        let answer = get(path).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        let cache = answer.cache_status().to_owned();
        assert_eq!(first_price(&answer.json()), Some(price), "{cache}");
        (cache == "HIT").then_some(()).ok_or(cache)
    })
    .await;
}

pub async fn get(url: &str) -> HttpAnswer {
    request(reqwest::Method::GET, url, &[]).await
}

pub async fn request(method: reqwest::Method, url: &str, headers: &[(&str, &str)]) -> HttpAnswer {
    // Made once, because that is slow. Connections are not pooled, because each test has its own
    // runtime.
    static CLIENT: LazyLock<reqwest::Client> = LazyLock::new(|| {
        let client = reqwest::Client::builder().no_proxy();
        let client = client.pool_max_idle_per_host(0).build();
        client.expect("a client")
    });
    let mut request = CLIENT.request(method, url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = request.send().await.expect("an answer");
    let headers = answer.headers().iter();
    HttpAnswer {
        status: answer.status().as_u16(),
        headers: headers
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap_or("?").to_owned()))
            .collect(),
        body: answer.text().await.expect("a body"),
    }
}

/// The best price of the first runner of the first race, as a reader of the card sees it.
pub fn first_price(card: &Value) -> Option<f64> {
    let lists = card["stages"].as_object().expect("stages").values();
    let mut races = lists.flat_map(|list| list.as_array().expect("a list"));
    let race = races.find(|race| race["race_id"] == "rac_0")?;
    let runners = race["runners_data"].as_array().expect("runners");
    let runner = runners.iter().find(|r| r["horse_id"] == "hrs_0_0")?;
    runner["best_odds_decimal"].as_f64()
}
