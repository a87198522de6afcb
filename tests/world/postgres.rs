//! A database of its own for each story, on the private server that `./test` starts.

use std::sync::atomic::{AtomicU32, Ordering};

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// The private server's own URL.
pub fn server_url() -> String {
    std::env::var("ODDSD_TEST_POSTGRES_URL")
        .expect("no test database: run ./test, which starts a private PostgreSQL")
}

/// Creates an empty database and returns its URL.
pub async fn database() -> String {
    let server = server_url();
    let name = format!(
        "t{}_{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    );
    let mut admin = PgConnection::connect(&server)
        .await
        .expect("the private PostgreSQL answers");
    let create = format!("CREATE DATABASE {name} TEMPLATE template0");
    admin
        .execute(AssertSqlSafe(create))
        .await
        .expect("a database");
    admin.close().await.ok();
    let (base, _) = server
        .rsplit_once('/')
        .expect("a URL ends with a database name");
    format!("{base}/{name}")
}

/// A plain connection, for what a story wants to see with its own eyes.
pub async fn connect(url: &str) -> PgConnection {
    PgConnection::connect(url)
        .await
        .expect("the story's database answers")
}
