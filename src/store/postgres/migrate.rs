//! Tables to this version, and the four names that people already read, as views over them.
//!
//! Where a table (or somebody's view) of such a name exists, nothing is dropped: `migrate` stops and
//! says so; with `adopt` its rows are imported, it is renamed aside, and the view takes its name
//! with its column types and its readers' grants. All of it is one transaction: it happens or not.

use sqlx::migrate::{Migrate, Migration, MigrationType, Migrator};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, Row, SqlSafeStr};

use super::connect::connect;
use super::{Postgres, adopt, explain, rights, views};
use crate::store::{Result, StoreError, schema_verdict, to_the_end, too_new};

const MIGRATIONS: &[(i64, &str, &str)] = &[
    (
        1,
        "tables",
        include_str!("../../../migrations/postgres/0001_tables.sql"),
    ),
    (
        2,
        "history",
        include_str!("../../../migrations/postgres/0002_history.sql"),
    ),
    (
        3,
        "canary",
        include_str!("../../../migrations/postgres/0003_canary.sql"),
    ),
    (
        4,
        "rules",
        include_str!("../../../migrations/postgres/0004_rules.sql"),
    ),
    (
        5,
        "status",
        include_str!("../../../migrations/postgres/0005_status.sql"),
    ),
];
const TABLE: &str = "oddsd.migrations";

fn migrator() -> Migrator {
    let migrations = MIGRATIONS.iter().map(|(version, name, sql)| {
        Migration::new(
            *version,
            (*name).into(),
            MigrationType::Simple,
            sql.into_sql_str(),
            false,
        )
    });
    let mut migrator = Migrator::with_migrations(migrations.collect());
    // In our own schema, beside the tables: other programs use sqlx's default name, too.
    migrator.dangerous_set_table_name(TABLE);
    // Ours covers the schema and the views as well, and ends with the transaction.
    migrator.set_locking(false);
    migrator
}

fn needed() -> i64 {
    MIGRATIONS.last().map_or(0, |(version, ..)| *version)
}

impl Postgres {
    /// A rehearsal does everything and keeps nothing.
    pub async fn migrate(&self, adopt: bool, rehearse: bool) -> Result<Vec<String>> {
        let options = self.options.clone();
        to_the_end(async move {
            // A connection of its own, without the pool's statement timeout: adopting takes its time.
            let mut connection = connect(&options).await?;
            let mut tx = connection.begin().await.map_err(explain)?;
            tx.execute(
                "SET LOCAL client_min_messages = warning; SELECT pg_advisory_xact_lock(7238190275)",
            )
            .await
            .map_err(explain)?;
            keep_out_of_our_schema(&mut tx).await?;
            let foreign = foreign(&mut tx).await?;
            if !foreign.is_empty() && !adopt {
                return Err(standing_in_the_way(&foreign));
            }
            let mut said = tables(&mut tx).await?;
            said.extend(compatibility_views(&mut tx, &foreign).await?);
            let ended = if rehearse {
                tx.rollback().await
            } else {
                tx.commit().await
            };
            ended.map_err(explain)?;
            connection.close().await.ok();
            Ok(said)
        })
        .await
    }

    pub async fn check_schema(&self) -> Result<()> {
        let mut connection = self.connection().await?;
        schema_verdict(applied(&mut connection).await?.last().copied(), needed())?;
        for view in views::ALL {
            if !matches!(standing(&mut connection, view.name).await?, Standing::Ours) {
                return Err(StoreError::Schema(format!(
                    "{} is not the view that oddsd made; run `oddsd migrate`",
                    view.name
                )));
            }
        }
        Ok(())
    }
}

/// The views belong where people look. A user called `oddsd` has our own schema first in its path.
async fn keep_out_of_our_schema(connection: &mut PgConnection) -> Result<()> {
    let path: String = sqlx::query_scalar(
        "SELECT coalesce(string_agg(quote_ident(name), ', ' ORDER BY place), '')
         FROM unnest(current_schemas(false)) WITH ORDINALITY AS path (name, place) WHERE name <> 'oddsd'",
    )
    .fetch_one(&mut *connection)
    .await
    .map_err(explain)?;
    if path.is_empty() {
        return Err(StoreError::Misconfigured(
            "the user of DATABASE_URL sees no schema for the views that people read; grant it USAGE and CREATE on \
             schema public, or set its search_path"
                .into(),
        ));
    }
    run(connection, format!("SET LOCAL search_path = {path}")).await?;
    Ok(())
}

async fn tables(connection: &mut PgConnection) -> Result<Vec<String>> {
    let before = applied(connection).await?;
    if let Some(newer) = before.last().filter(|version| **version > needed()) {
        return Err(too_new(*newer, needed()));
    }
    if before.is_empty() {
        connection
            .execute("CREATE SCHEMA IF NOT EXISTS oddsd")
            .await
            .map_err(explain)?;
    }
    let done = migrator().run_direct(None, connection, false).await;
    done.map_err(|error| match error {
        sqlx::migrate::MigrateError::Execute(error)
        | sqlx::migrate::MigrateError::ExecuteMigration(error, _) => explain(error),
        error => StoreError::Schema(format!(
            "the tables cannot be brought to this version: {error}; nothing was touched"
        )),
    })?;
    Ok(MIGRATIONS
        .iter()
        .filter(|(version, ..)| !before.contains(version))
        .map(|(version, name, _)| format!("applied {version:04} {name}"))
        .collect())
}

async fn applied(connection: &mut PgConnection) -> Result<Vec<i64>> {
    let known: bool = sqlx::query_scalar("SELECT to_regclass('oddsd.migrations') IS NOT NULL")
        .fetch_one(&mut *connection)
        .await
        .map_err(explain)?;
    if !known {
        return Ok(Vec::new());
    }
    let applied = connection.list_applied_migrations(TABLE).await;
    let applied =
        applied.map_err(|error| StoreError::Schema(format!("{TABLE} cannot be read: {error}")))?;
    Ok(applied.iter().map(|migration| migration.version).collect())
}

/// What stands under the name of a view of ours.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    Nothing,
    Ours,
    Foreign(&'static str),
}

type Foreign = (&'static views::View, &'static str);

async fn foreign(connection: &mut PgConnection) -> Result<Vec<Foreign>> {
    let mut foreign = Vec::new();
    for view in views::ALL {
        if let Standing::Foreign(kind) = standing(connection, view.name).await? {
            foreign.push((view, kind));
        }
    }
    Ok(foreign)
}

fn standing_in_the_way(foreign: &[Foreign]) -> StoreError {
    let names: Vec<String> = foreign
        .iter()
        .map(|(view, kind)| format!("{kind} {}", view.name))
        .collect();
    StoreError::Schema(format!(
        "this database already has {}; nothing was touched. `oddsd migrate --adopt` imports the rows, renames \
         what stands there to *{} and puts a view with the same columns in its place, in one transaction",
        names.join(", "),
        adopt::ASIDE
    ))
}

/// Creates the views under the names that people read, in place of what stands there.
async fn compatibility_views(
    connection: &mut PgConnection,
    foreign: &[Foreign],
) -> Result<Vec<String>> {
    let mut said = Vec::new();
    for (view, _) in foreign {
        said.push(adopt::rename_aside(connection, view.name).await?);
    }
    if foreign.iter().any(|(_, kind)| *kind == "table") {
        said.extend(adopt::import(connection).await?);
    }
    for view in views::ALL {
        if foreign.iter().any(|(one, _)| one.name == view.name) {
            let aside = format!("{}{}", view.name, adopt::ASIDE);
            said.extend(views::create(connection, view, Some(&aside)).await?);
            said.extend(rights::keep(connection, view.name, &aside).await?);
        } else if standing(connection, view.name).await? == Standing::Nothing {
            views::create(connection, view, None).await?;
            rights::read_only(connection, view.name).await?;
        }
    }
    Ok(said)
}

async fn standing(connection: &mut PgConnection, name: &str) -> Result<Standing> {
    let row = sqlx::query(
        "SELECT relkind::text AS kind, coalesce(obj_description(oid, 'pg_class'), '') AS comment
         FROM pg_class WHERE oid = to_regclass($1)",
    )
    .bind(name)
    .fetch_optional(connection)
    .await
    .map_err(explain)?;
    let Some(row) = row else {
        return Ok(Standing::Nothing);
    };
    Ok(
        match (row.get::<&str, _>("kind"), row.get::<&str, _>("comment")) {
            ("v", comment) if comment.starts_with(views::MARK) => Standing::Ours,
            ("v", _) => Standing::Foreign("view"),
            ("m", _) => Standing::Foreign("materialized view"),
            _ => Standing::Foreign("table"),
        },
    )
}

pub(super) async fn run(connection: &mut PgConnection, sql: String) -> Result<u64> {
    let done = connection
        .execute(AssertSqlSafe(sql))
        .await
        .map_err(explain)?;
    Ok(done.rows_affected())
}
