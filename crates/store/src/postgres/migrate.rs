//! Migrates the tables to this version and creates the compatibility views over them, for `oddsd migrate`.
//! All of it is one transaction.
//!
//! Where a foreign table or view has the name of such a view, nothing is dropped: `migrate` stops and reports
//! it. With `adopt` its rows are imported, it is renamed, and the view takes its name with its column types and
//! its readers' grants.

use sqlx::migrate::Migrate;
use sqlx::{Connection, Executor, PgConnection};

use super::connect::connect;
use super::{Postgres, adopt, execute, grants, map_error, views};
use crate::{Migrations, Result, StoreError, TxEnd, migrations, run_detached};

const MIGRATIONS: Migrations = migrations!("postgres": 1 "tables", 2 "history", 3 "canary", 4 "rules", 5 "status", 6 "kept_settings", 7 "database_id");
/// In our own schema: other programs use sqlx's default name, too.
const TABLE: &str = "oddsd.migrations";

impl Postgres {
    /// A rollback makes it a dry run.
    pub(crate) async fn migrate(&self, adopt: bool, end: TxEnd) -> Result<Vec<String>> {
        let options = self.options.clone();
        run_detached(async move {
            // A connection of its own, without the pool's statement timeout: adopting takes its time.
            let mut connection = connect(&options).await?;
            let mut tx = connection.begin().await.map_err(map_error)?;
            tx.execute(
                "SET LOCAL client_min_messages = warning; SELECT pg_advisory_xact_lock(7238190275)",
            )
            .await
            .map_err(map_error)?;
            set_view_schema(&mut tx).await?;
            let foreign = foreign(&mut tx).await?;
            if !foreign.is_empty() && !adopt {
                return Err(refuse_foreign(&foreign));
            }
            let mut report = migrate_tables(&mut tx).await?;
            report.extend(create_views(&mut tx, &foreign).await?);
            end.apply(tx).await.map_err(map_error)?;
            connection.close().await.ok();
            Ok(report)
        })
        .await
    }

    pub async fn check_schema(&self) -> Result<()> {
        let mut connection = self.connection().await?;
        MIGRATIONS.check(&applied(&mut connection).await?)?;
        for view in views::ALL {
            if existing(&mut connection, view.name).await? != ExistingRelation::Ours {
                return Err(StoreError::Schema(format!(
                    "{} is not the view that oddsd made; run `oddsd migrate`",
                    view.name
                )));
            }
        }
        Ok(())
    }
}

/// Puts the views into the first schema of the search path other than our own, which comes first for a
/// user called `oddsd`.
async fn set_view_schema(connection: &mut PgConnection) -> Result<()> {
    let path: String = sqlx::query_scalar(
        "SELECT coalesce(string_agg(quote_ident(name), ', ' ORDER BY place), '')
         FROM unnest(current_schemas(false)) WITH ORDINALITY AS path (name, place) WHERE name <> 'oddsd'",
    )
    .fetch_one(&mut *connection)
    .await
    .map_err(map_error)?;
    if path.is_empty() {
        return Err(StoreError::Misconfigured(
            "the user of DATABASE_URL sees no schema for the views that people read; grant it USAGE and CREATE on \
             schema public, or set its search_path"
                .into(),
        ));
    }
    execute(connection, format!("SET LOCAL search_path = {path}")).await?;
    Ok(())
}

async fn migrate_tables(connection: &mut PgConnection) -> Result<Vec<String>> {
    let before = applied(connection).await?;
    MIGRATIONS.refuse_newer(&before)?;
    if before.is_empty() {
        connection
            .execute("CREATE SCHEMA IF NOT EXISTS oddsd")
            .await
            .map_err(map_error)?;
    }
    let mut migrator = MIGRATIONS.migrator(TABLE);
    // The lock of `migrate` covers the schema and the views as well, and ends with the transaction.
    migrator.set_locking(false);
    let done = migrator.run_direct(None, connection, false).await;
    done.map_err(|error| match error {
        sqlx::migrate::MigrateError::Execute(error)
        | sqlx::migrate::MigrateError::ExecuteMigration(error, _) => map_error(error),
        error => StoreError::Schema(format!(
            "the tables cannot be brought to this version: {error}; nothing was touched"
        )),
    })?;
    Ok(MIGRATIONS.report_new(&before))
}

async fn applied(connection: &mut PgConnection) -> Result<Vec<i64>> {
    let known: bool = sqlx::query_scalar("SELECT to_regclass('oddsd.migrations') IS NOT NULL")
        .fetch_one(&mut *connection)
        .await
        .map_err(map_error)?;
    if !known {
        return Ok(Vec::new());
    }
    let applied = connection.list_applied_migrations(TABLE).await;
    let applied =
        applied.map_err(|error| StoreError::Schema(format!("{TABLE} cannot be read: {error}")))?;
    Ok(applied.iter().map(|migration| migration.version).collect())
}

/// The relation that has the name of a view of ours.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ExistingRelation {
    None,
    Ours,
    /// Of an older definition.
    OursOlder,
    Foreign(&'static str),
}

type Foreign = (&'static views::CompatibilityView, &'static str);

async fn foreign(connection: &mut PgConnection) -> Result<Vec<Foreign>> {
    let mut foreign = Vec::new();
    for view in views::ALL {
        if let ExistingRelation::Foreign(kind) = existing(connection, view.name).await? {
            foreign.push((view, kind));
        }
    }
    Ok(foreign)
}

fn refuse_foreign(foreign: &[Foreign]) -> StoreError {
    let names: Vec<String> = foreign
        .iter()
        .map(|(view, kind)| format!("{kind} {}", view.name))
        .collect();
    StoreError::Schema(format!(
        "this database already has {}; nothing was touched. `oddsd migrate --adopt` imports the rows, renames \
         what stands there to *{} and puts a view with the same columns in its place, in one transaction",
        names.join(", "),
        adopt::BACKUP_SUFFIX
    ))
}

/// Creates the views, in place of the foreign relations.
async fn create_views(connection: &mut PgConnection, foreign: &[Foreign]) -> Result<Vec<String>> {
    let mut report = Vec::new();
    for (view, _) in foreign {
        report.push(adopt::rename_to_backup(connection, view.name).await?);
    }
    if foreign.iter().any(|(_, kind)| *kind == "table") {
        report.extend(adopt::import(connection).await?);
    }
    for view in views::ALL {
        if foreign.iter().any(|(one, _)| one.name == view.name) {
            let backup = format!("{}{}", view.name, adopt::BACKUP_SUFFIX);
            report.extend(views::create(connection, view, Some(&backup)).await?);
            report.extend(grants::copy_from_backup(connection, view.name, &backup).await?);
            continue;
        }
        match existing(connection, view.name).await? {
            ExistingRelation::None => {
                views::create(connection, view, None).await?;
                grants::revoke_writes(connection, view.name).await?;
            }
            ExistingRelation::OursOlder => {
                views::create(connection, view, Some(view.name)).await?;
                report.push(format!("replaced the definition of the view {}", view.name));
            }
            ExistingRelation::Ours | ExistingRelation::Foreign(_) => {}
        }
    }
    Ok(report)
}

async fn existing(connection: &mut PgConnection, name: &str) -> Result<ExistingRelation> {
    let found = sqlx::query_as(
        "SELECT relkind::text, coalesce(obj_description(oid, 'pg_class'), '')
         FROM pg_class WHERE oid = to_regclass($1)",
    );
    let found = found.bind(name).fetch_optional(connection).await;
    let found: Option<(String, String)> = found.map_err(map_error)?;
    let Some((kind, comment)) = found else {
        return Ok(ExistingRelation::None);
    };
    Ok(match &*kind {
        "v" if comment == views::COMMENT => ExistingRelation::Ours,
        "v" if comment.starts_with(views::MARK) => ExistingRelation::OursOlder,
        "v" => ExistingRelation::Foreign("view"),
        "m" => ExistingRelation::Foreign("materialized view"),
        _ => ExistingRelation::Foreign("table"),
    })
}
