//! Tables to this version, and the four names that people already read, as views over them.
//!
//! Where a table (or somebody's view) of such a name exists, nothing is dropped: `migrate` stops and
//! says so; with `adopt` its rows are imported, it is renamed aside, and the view takes its name
//! with its column types and its readers' grants, all in one transaction.

use sqlx::migrate::{Migrate, Migration, MigrationType, Migrator};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, Row, SqlSafeStr};

use super::{Postgres, adopt, explain, views};
use crate::store::{Result, StoreError, schema_verdict, to_the_end};

const MIGRATIONS: &[(i64, &str, &str)] = &[(
    1,
    "tables",
    include_str!("../../../migrations/postgres/0001_tables.sql"),
)];

fn migrator() -> Migrator {
    let mut migrator = Migrator::with_migrations(
        MIGRATIONS
            .iter()
            .map(|(version, name, sql)| {
                Migration::new(
                    *version,
                    (*name).into(),
                    MigrationType::Simple,
                    sql.into_sql_str(),
                    false,
                )
            })
            .collect(),
    );
    // In our own schema, beside the tables: other programs use sqlx's default name, too.
    migrator.dangerous_set_table_name("oddsd.migrations");
    migrator
}

impl Postgres {
    pub async fn migrate(&self, adopt: bool) -> Result<Vec<String>> {
        let db = self.clone();
        to_the_end(async move {
            let mut connection = db.connection().await?;
            connection.execute("CREATE SCHEMA IF NOT EXISTS oddsd").await.map_err(explain)?;
            let before = applied(&mut connection).await?;
            migrator().run(&db.pool).await.map_err(|error| {
                StoreError::Schema(format!(
                    "the tables cannot be brought to this version: {error}; nothing of this step was kept"
                ))
            })?;
            let mut said = Vec::new();
            for (version, name, _) in MIGRATIONS.iter().filter(|(version, ..)| !before.contains(version)) {
                said.push(format!("applied {version:04} {name}"));
            }
            said.extend(compatibility_views(&mut connection, adopt).await?);
            Ok(said)
        })
        .await
    }

    pub async fn check_schema(&self) -> Result<()> {
        let applied = applied(&mut *self.connection().await?).await?;
        schema_verdict(
            applied.last().copied(),
            MIGRATIONS.last().map_or(0, |(version, ..)| *version),
        )
    }
}

async fn applied(connection: &mut PgConnection) -> Result<Vec<i64>> {
    let known: bool = sqlx::query_scalar("SELECT to_regclass('oddsd.migrations') IS NOT NULL")
        .fetch_one(&mut *connection)
        .await
        .map_err(explain)?;
    if !known {
        return Ok(Vec::new());
    }
    let applied = connection.list_applied_migrations("oddsd.migrations").await;
    let applied = applied
        .map_err(|error| StoreError::Schema(format!("oddsd.migrations cannot be read: {error}")))?;
    Ok(applied.iter().map(|migration| migration.version).collect())
}

/// Creates or renews the views under the names that people read.
async fn compatibility_views(connection: &mut PgConnection, adopt: bool) -> Result<Vec<String>> {
    let mut tx = connection.begin().await.map_err(explain)?;
    // One migration at a time; the lock ends with the transaction.
    tx.execute("SELECT pg_advisory_xact_lock(7238190275)")
        .await
        .map_err(explain)?;
    let mut said = Vec::new();
    let mut foreign = Vec::new();
    for view in views::ALL {
        if let Some(kind) = standing(&mut tx, view.name).await? {
            foreign.push((view, kind));
        }
    }
    if !foreign.is_empty() && !adopt {
        let names: Vec<String> = foreign
            .iter()
            .map(|(view, kind)| format!("{kind} {}", view.name))
            .collect();
        return Err(StoreError::Schema(format!(
            "this database already has {}; nothing was touched. `oddsd migrate --adopt` imports the rows, renames \
             what stands there to *{} and puts a view with the same columns in its place, in one transaction",
            names.join(", "),
            adopt::ASIDE
        )));
    }
    for (view, _) in &foreign {
        said.push(adopt::rename_aside(&mut tx, view.name).await?);
    }
    if foreign.iter().any(|(_, kind)| *kind == "table") {
        said.extend(adopt::import(&mut tx).await?);
    }
    for view in views::ALL {
        let adopted = foreign.iter().any(|(one, _)| one.name == view.name);
        let aside = adopted.then(|| format!("{}{}", view.name, adopt::ASIDE));
        views::create(&mut tx, view, aside.as_deref()).await?;
    }
    tx.commit().await.map_err(explain)?;
    Ok(said)
}

/// What stands under this name that is not ours: `table`, `view`, …
async fn standing(connection: &mut PgConnection, name: &str) -> Result<Option<&'static str>> {
    let row = sqlx::query(
        "SELECT relkind::text AS kind, coalesce(obj_description(oid, 'pg_class'), '') AS comment
         FROM pg_class WHERE oid = to_regclass($1)",
    )
    .bind(name)
    .fetch_optional(connection)
    .await
    .map_err(explain)?;
    Ok(row.and_then(
        |row| match (row.get::<&str, _>("kind"), row.get::<&str, _>("comment")) {
            ("v", comment) if comment.starts_with(views::MARK) => None,
            ("v", _) => Some("view"),
            ("m", _) => Some("materialized view"),
            _ => Some("table"),
        },
    ))
}

pub(super) async fn run(connection: &mut PgConnection, sql: String) -> Result<u64> {
    let done = connection
        .execute(AssertSqlSafe(sql))
        .await
        .map_err(explain)?;
    Ok(done.rows_affected())
}
