//! Watches tables of other programs by triggers that write into the outbox, in the writer's own transaction.
//! `Store::watch` calls it. The settings of a watch are an argument of its triggers, so that they are dropped
//! with them.

mod table;
mod trigger;

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, Row};

use super::{Postgres, connect, map_error};
use crate::{Result, StoreError, TableWatch, WatchPlan, WatchRequest};
use table::{Table, find_columns, find_table, qualified};
use trigger::{WatchSettings, create_triggers, quoted};

/// While the installation waits for the table's lock, all writers wait behind it.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);
/// Concurrent installations take turns.
const INSTALL_LOCK: &str = "SELECT pg_advisory_xact_lock(hashtext('oddsd.watch'))";
/// Finds our triggers by the name prefix of their function. The rest of that name is random, since tables
/// are renamed.
const WATCHED: &str = "
WITH ours AS (
    SELECT t.tgfoid, t.tgrelid, min(t.tgname::text) AS first, bool_or(t.tgenabled = 'D') AS disabled,
           min(convert_from(substring(t.tgargs FOR position('\\x00'::bytea IN t.tgargs) - 1), getdatabaseencoding())) AS settings
    FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_namespace n ON n.oid = p.pronamespace
    WHERE n.nspname = 'oddsd' AND p.proname LIKE 'watch\\_%' AND NOT t.tgisinternal AND octet_length(t.tgargs) > 0
    GROUP BY t.tgfoid, t.tgrelid)
SELECT o.tgfoid::bigint AS function, p.proname::text AS named, o.tgrelid::bigint AS id, n.nspname::text AS schema,
       c.relname::text AS name, o.disabled, o.settings,
       array(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns,
       EXISTS (SELECT FROM pg_event_trigger e JOIN pg_proc d ON d.oid = e.evtfoid JOIN pg_namespace m ON m.oid = d.pronamespace
               WHERE m.nspname = 'oddsd' AND d.proname = p.proname || '_ddl' AND e.evtenabled <> 'D') AS reports_ddl,
       EXISTS (SELECT FROM pg_inherits i JOIN ours above ON above.tgrelid = i.inhparent AND above.tgfoid = o.tgfoid
               WHERE i.inhrelid = o.tgrelid) AS below
FROM ours o JOIN pg_class c ON c.oid = o.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
     JOIN pg_proc p ON p.oid = o.tgfoid
ORDER BY below, schema, name";

/// One table with an installed watch.
struct WatchedTable {
    id: i64,
    table: String,
    /// The object id of the trigger function, and its name.
    function: i64,
    function_name: String,
    settings: WatchSettings,
    disabled: bool,
    columns: Vec<String>,
    /// True for a partition of another table with the same watch.
    below: bool,
    reports_ddl: bool,
}

impl Postgres {
    pub async fn watch(&self, request: &WatchRequest, dry_run: bool) -> Result<WatchPlan> {
        let (db, request) = (self.clone(), request.clone());
        self.run_detached(async move {
            let mut connection = db.connection().await?;
            let mut tx = connection.begin().await.map_err(map_error)?;
            tx.execute(INSTALL_LOCK).await.map_err(map_error)?;
            let table = find_table(&mut tx, &request.table).await?;
            let columns = find_columns(&mut tx, &table, &request.columns).await?;
            let (partitions, not_covered) = table.partitions(&mut tx).await?;
            let before = watches_of(&mut tx, &table, &partitions).await?;

            let mut statements = drop_statements(&mut tx, &before).await?;
            // PREPARE TRANSACTION fails in a transaction that has notified.
            let two_phase = "SELECT current_setting('max_prepared_transactions')::int > 0";
            let two_phase = sqlx::query_scalar(two_phase).fetch_one(&mut *tx).await;
            let two_phase: bool = two_phase.map_err(map_error)?;
            let settings = WatchSettings {
                table: table.qualified(),
                columns: columns.iter().map(|column| column.name.clone()).collect(),
                bulk: request.bulk,
                quiet: request.quiet || two_phase,
            };
            let id = format!("{:016x}", fastrand::u64(..));
            statements.extend(settings.create_function(&id, &columns));
            statements.extend(create_triggers(&settings, &id, &table, false));
            for partition in &partitions {
                statements.extend(create_triggers(&settings, &id, partition, true));
            }
            let event_triggers = settings.create_event_triggers(&id);
            let reports_ddl = permits(&mut tx, &event_triggers).await?;
            if reports_ddl {
                statements.extend(event_triggers);
            }
            if !dry_run {
                db.install(&mut tx, &table, &statements).await?;
                tx.commit().await.map_err(map_error)?;
            }
            Ok(WatchPlan {
                table: settings.table,
                columns: settings.columns,
                quiet_for_two_phase: two_phase && !request.quiet,
                replaced: !before.is_empty(),
                partitions: partitions.len(),
                not_covered,
                reports_ddl,
                statements,
            })
        })
        .await
    }

    pub async fn unwatch(&self, name: &str, dry_run: bool) -> Result<Vec<String>> {
        let (db, name) = (self.clone(), name.to_owned());
        self.run_detached(async move {
            let mut connection = db.connection().await?;
            let mut tx = connection.begin().await.map_err(map_error)?;
            tx.execute(INSTALL_LOCK).await.map_err(map_error)?;
            let all = installed(&mut tx).await?;
            // Also by its name when the watch was added.
            let (told_as, id) = match find_table(&mut tx, &name).await {
                Ok(table) => (table.qualified(), Some(table.id)),
                Err(StoreError::Misconfigured(_)) => (name.clone(), None),
                Err(why) => return Err(why),
            };
            let found = all.iter().find(|watch| Some(watch.id) == id);
            let found = found.or_else(|| all.iter().find(|watch| watch.settings.table == told_as));
            let Some(found) = found else {
                let mut names: Vec<&str> = all
                    .iter()
                    .filter(|watch| !watch.below)
                    .map(|watch| watch.table.as_str())
                    .collect();
                names.dedup();
                let watched = match names.as_slice() {
                    [] => "no table is".to_owned(),
                    names => names.join(", "),
                };
                return Err(StoreError::Misconfigured(format!(
                    "{name} is not watched (watched: {watched})"
                )));
            };
            let function = found.function;
            let here = Table::for_messages(found.id, &found.table);
            let these: Vec<WatchedTable> = all
                .into_iter()
                .filter(|watch| watch.function == function)
                .collect();
            let statements = drop_statements(&mut tx, &these).await?;
            if !dry_run {
                db.install(&mut tx, &here, &statements).await?;
                tx.commit().await.map_err(map_error)?;
            }
            Ok(statements)
        })
        .await
    }

    pub async fn watched(&self) -> Result<Vec<TableWatch>> {
        let mut connection = self.connection().await?;
        let all = installed(&mut connection).await?;
        let mut watched = Vec::new();
        for root in all.iter().filter(|watch| !watch.below) {
            let is_covered = |watch: &&WatchedTable| watch.below && watch.function == root.function;
            let covered: Vec<i64> = all
                .iter()
                .filter(is_covered)
                .map(|watch| watch.id)
                .collect();
            let (partitions, mut not_covered) = Table::for_messages(root.id, &root.table)
                .partitions(&mut connection)
                .await?;
            let later = partitions.iter().filter(|part| !covered.contains(&part.id));
            not_covered.extend(later.map(Table::qualified));
            let settings = &root.settings;
            let missing = settings.columns.iter();
            let missing = missing.filter(|column| !root.columns.contains(column));
            watched.push(TableWatch {
                table: root.table.clone(),
                told_as: settings.table.clone(),
                missing: missing.cloned().collect(),
                columns: settings.columns.clone(),
                bulk: settings.bulk,
                quiet: settings.quiet,
                disabled: root.disabled,
                partitions: covered.len(),
                not_covered,
                reports_ddl: root.reports_ddl,
            });
        }
        Ok(watched)
    }

    /// Runs the statements in the caller's transaction. Gives up early when a lock is held, so that writers
    /// do not wait.
    async fn install(
        &self,
        tx: &mut PgConnection,
        table: &Table,
        statements: &[String],
    ) -> Result<()> {
        let limit = format!("SET LOCAL lock_timeout = {}", LOCK_TIMEOUT.as_millis());
        tx.execute(AssertSqlSafe(limit)).await.map_err(map_error)?;
        for statement in statements {
            let Err(refused) = tx.execute(AssertSqlSafe(statement.clone())).await else {
                continue;
            };
            let code = refused.as_database_error().and_then(|why| why.code());
            return Err(match code.as_deref() {
                Some("55P03") => self.lock_holders(table).await,
                Some("42501") => StoreError::Misconfigured(format!(
                    "{}; nothing was changed. To add a watch the user of DATABASE_URL needs the right TRIGGER on {} \
                     (GRANT TRIGGER ON … TO …)",
                    refused.as_database_error().map_or("", |why| why.message()),
                    table.qualified()
                )),
                _ => map_error(refused),
            });
        }
        Ok(())
    }

    /// The error that names the processes which hold the table's lock.
    async fn lock_holders(&self, table: &Table) -> StoreError {
        let query = async {
            let mut other = connect(&self.options).await?;
            let rows = sqlx::query_scalar::<_, String>(
                "SELECT format('process %s (%s, %s, for %s s)', pid, coalesce(nullif(application_name, ''), 'unnamed'),
                               coalesce(state, '?'), extract(epoch FROM now() - xact_start)::int)
                 FROM pg_locks JOIN pg_stat_activity USING (pid)
                 WHERE relation::bigint = $1 AND granted AND mode <> 'AccessShareLock' ORDER BY xact_start LIMIT 3",
            )
            .bind(table.id)
            .fetch_all(&mut other)
            .await
            .map_err(map_error)?;
            other.close().await.ok();
            Ok::<_, StoreError>(rows)
        };
        let who = match query.await.unwrap_or_default().as_slice() {
            [] => "an open transaction".to_owned(),
            who => who.join(", "),
        };
        StoreError::Failed(format!(
            "{} could not be locked within {} s, since nobody else is made to wait for longer: {who} has it. Nothing \
             was changed; try again when that transaction has ended",
            table.qualified(),
            LOCK_TIMEOUT.as_secs()
        ))
    }
}

async fn installed(connection: &mut PgConnection) -> Result<Vec<WatchedTable>> {
    let rows = sqlx::query(WATCHED).fetch_all(connection).await;
    let rows = rows.map_err(map_error)?;
    let read = |row: &sqlx::postgres::PgRow| {
        // A foreign trigger with one of our functions has other arguments.
        let settings = serde_json::from_str(row.get("settings")).ok()?;
        Some(WatchedTable {
            id: row.get("id"),
            table: qualified(row.get("schema"), row.get("name")),
            function: row.get("function"),
            function_name: row.get("named"),
            settings,
            disabled: row.get("disabled"),
            columns: row.get("columns"),
            below: row.get("below"),
            reports_ddl: row.get("reports_ddl"),
        })
    };
    Ok(rows.iter().filter_map(read).collect())
}

/// The watches that a new one on these tables replaces.
async fn watches_of(
    tx: &mut PgConnection,
    table: &Table,
    partitions: &[Table],
) -> Result<Vec<WatchedTable>> {
    let all = installed(tx).await?;
    let same = |watch: &WatchedTable| {
        watch.id == table.id || partitions.iter().any(|part| part.id == watch.id)
    };
    let functions: Vec<i64> = all
        .iter()
        .filter(|watch| same(watch))
        .map(|watch| watch.function)
        .collect();
    Ok(all
        .into_iter()
        .filter(|watch| functions.contains(&watch.function))
        .collect())
}

/// True if this role may run the statements, which are rolled back.
async fn permits(tx: &mut PgConnection, statements: &[String]) -> Result<bool> {
    let mut attempt = tx.begin().await.map_err(map_error)?;
    let mut done = Ok(true);
    for statement in statements {
        if let Err(why) = attempt.execute(AssertSqlSafe(statement.clone())).await {
            let code = why.as_database_error().and_then(|why| why.code());
            done = match code.as_deref() {
                Some("42501") => Ok(false),
                _ => Err(map_error(why)),
            };
            break;
        }
    }
    attempt.rollback().await.map_err(map_error)?;
    done
}

/// The statements that remove these watches, and those of tables that were dropped. Dropping a function drops its
/// triggers, so the tables' names are not needed.
async fn drop_statements(tx: &mut PgConnection, watches: &[WatchedTable]) -> Result<Vec<String>> {
    let unused = sqlx::query_scalar::<_, String>(
        "SELECT proname::text FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
         WHERE n.nspname = 'oddsd' AND proname ~ '^watch_[0-9a-f]{16}$' AND NOT EXISTS (SELECT FROM pg_trigger WHERE tgfoid = p.oid)",
    );
    let mut functions = unused.fetch_all(tx).await.map_err(map_error)?;
    functions.extend(watches.iter().map(|watch| watch.function_name.clone()));
    functions.sort_unstable();
    functions.dedup();
    let drop = |function: &String| {
        let name = |suffix: &str| quoted(&format!("{function}{suffix}"));
        [
            format!("DROP FUNCTION IF EXISTS oddsd.{}() CASCADE", name("_ddl")),
            format!("DROP FUNCTION oddsd.{}() CASCADE", name("")),
        ]
    };
    Ok(functions.iter().flat_map(drop).collect())
}
