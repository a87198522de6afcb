//! Tables of other programs that are watched: triggers that write into the outbox, in the writer's own
//! transaction. Nothing else of those tables is touched, and what a watch is like stands in the
//! triggers themselves, so that it goes with them.

mod function;
mod names;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, Row};

use super::{Postgres, connect, explain};
use crate::store::{Asked, Installed, Result, StoreError, Watched};
use function::{Reporting, literal, quoted, triggers};
use names::{Table, columns, table};

/// While a trigger waits for its table's lock, all that write to the table wait behind it.
const LOCK_FOR: Duration = Duration::from_secs(2);
/// Two that install at once take turns.
const TURN: &str = "SELECT pg_advisory_xact_lock(hashtext('oddsd.watch'))";
/// Their names tell ours from others; the function's is of no meaning, since tables are renamed.
const WATCHED: &str = "
WITH ours AS (
    SELECT t.tgfoid, t.tgrelid, min(t.tgname::text) AS first, bool_or(t.tgenabled = 'D') AS disabled,
           min(convert_from(substring(t.tgargs FOR octet_length(t.tgargs) - 1), getdatabaseencoding())) AS said
    FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_namespace n ON n.oid = p.pronamespace
    WHERE n.nspname = 'oddsd' AND p.proname LIKE 'watch\\_%' AND NOT t.tgisinternal AND octet_length(t.tgargs) > 0
    GROUP BY t.tgfoid, t.tgrelid)
SELECT o.tgfoid::bigint AS function, p.proname::text AS named, o.tgrelid::bigint AS id, n.nspname::text AS schema,
       c.relname::text AS name, o.disabled, o.said,
       array(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns,
       EXISTS (SELECT FROM pg_inherits i JOIN ours above ON above.tgrelid = i.inhparent AND above.tgfoid = o.tgfoid
               WHERE i.inhrelid = o.tgrelid) AS below
FROM ours o JOIN pg_class c ON c.oid = o.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
     JOIN pg_proc p ON p.oid = o.tgfoid
ORDER BY below, schema, name";

/// What a trigger is handed and never reads: its watch, for whoever lists it.
#[derive(Serialize, Deserialize)]
struct Said {
    table: String,
    columns: Vec<String>,
    bulk: u32,
    quiet: bool,
}

/// A table, and a watch that is on it.
struct On {
    id: i64,
    table: String,
    /// By its number, and as SQL takes its name.
    function: i64,
    named: String,
    said: Said,
    disabled: bool,
    columns: Vec<String>,
    /// A partition of another one that the same watch is on.
    below: bool,
}

impl Postgres {
    pub async fn watch(&self, asked: &Asked, rehearse: bool) -> Result<Installed> {
        let (db, asked) = (self.clone(), asked.clone());
        self.to_the_end(async move {
            let mut connection = db.connection().await?;
            let mut tx = connection.begin().await.map_err(explain)?;
            tx.execute(TURN).await.map_err(explain)?;
            let table = table(&mut tx, &asked.table).await?;
            let columns = columns(&mut tx, &table, &asked.columns).await?;
            let (with, not_covered) = table.partitions(&mut tx).await?;
            let before = on_these(&mut tx, &table, &with).await?;

            let mut statements = without(&before);
            let function = format!("oddsd.watch_{:016x}", fastrand::u64(..));
            let reporting = Reporting {
                table: &table.told_as(),
                columns: &columns,
                bulk: asked.bulk,
                quiet: asked.quiet,
            };
            statements.push(reporting.create(&function));
            statements.push(format!("REVOKE ALL ON FUNCTION {function}() FROM PUBLIC"));
            let said = Said {
                table: table.told_as(),
                columns: columns.clone(),
                bulk: asked.bulk,
                quiet: asked.quiet,
            };
            let said = literal(&serde_json::to_string(&said).expect("texts are JSON"));
            for on in std::iter::once(&table).chain(&with) {
                for (trigger, events, handed) in triggers(&columns) {
                    statements.push(format!(
                        "CREATE TRIGGER {trigger} AFTER {events} ON {}{handed} FOR EACH STATEMENT EXECUTE FUNCTION {function}({said})",
                        on.quoted()
                    ));
                }
            }
            if !rehearse {
                db.install(&mut tx, &table, &statements).await?;
                tx.commit().await.map_err(explain)?;
            }
            Ok(Installed {
                table: table.told_as(),
                columns,
                replaced: !before.is_empty(),
                partitions: with.len(),
                not_covered,
                statements,
            })
        })
        .await
    }

    pub async fn unwatch(&self, name: &str, rehearse: bool) -> Result<Vec<String>> {
        let (db, name) = (self.clone(), name.to_owned());
        self.to_the_end(async move {
            let mut connection = db.connection().await?;
            let mut tx = connection.begin().await.map_err(explain)?;
            tx.execute(TURN).await.map_err(explain)?;
            let all = on(&mut tx).await?;
            // By the name that it had then, if it has gone by another one since.
            let (told_as, id) = match table(&mut tx, &name).await {
                Ok(table) => (table.told_as(), Some(table.id)),
                Err(StoreError::Misconfigured(_)) => (name.clone(), None),
                Err(why) => return Err(why),
            };
            let found = all.iter().find(|on| Some(on.id) == id);
            let found = found.or_else(|| all.iter().find(|on| on.said.table == told_as));
            let Some(found) = found else {
                let mut names: Vec<&str> = all
                    .iter()
                    .filter(|on| !on.below)
                    .map(|on| on.table.as_str())
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
            let here = Table::bare(found.id, &found.table);
            let these: Vec<On> = all
                .into_iter()
                .filter(|on| on.function == function)
                .collect();
            let statements = without(&these);
            if !rehearse {
                db.install(&mut tx, &here, &statements).await?;
                tx.commit().await.map_err(explain)?;
            }
            Ok(statements)
        })
        .await
    }

    pub async fn watched(&self) -> Result<Vec<Watched>> {
        let mut connection = self.connection().await?;
        let all = on(&mut connection).await?;
        let mut watched = Vec::new();
        for root in all.iter().filter(|on| !on.below) {
            let with = |on: &&On| on.below && on.function == root.function;
            let covered: Vec<i64> = all.iter().filter(with).map(|on| on.id).collect();
            let (partitions, mut not_covered) = Table::bare(root.id, &root.table)
                .partitions(&mut connection)
                .await?;
            let later = partitions.iter().filter(|part| !covered.contains(&part.id));
            not_covered.extend(later.map(Table::told_as));
            let missing = root.said.columns.iter();
            let missing = missing.filter(|column| !root.columns.contains(column));
            watched.push(Watched {
                table: root.table.clone(),
                told_as: root.said.table.clone(),
                missing: missing.cloned().collect(),
                columns: root.said.columns.clone(),
                bulk: root.said.bulk,
                quiet: root.said.quiet,
                disabled: root.disabled,
                partitions: covered.len(),
                not_covered,
            });
        }
        Ok(watched)
    }

    /// All of it or nothing, and not at the price of whoever writes meanwhile.
    async fn install(
        &self,
        tx: &mut PgConnection,
        table: &Table,
        statements: &[String],
    ) -> Result<()> {
        let limit = format!("SET LOCAL lock_timeout = {}", LOCK_FOR.as_millis());
        tx.execute(AssertSqlSafe(limit)).await.map_err(explain)?;
        for statement in statements {
            let Err(refused) = tx.execute(AssertSqlSafe(statement.clone())).await else {
                continue;
            };
            let code = refused.as_database_error().and_then(|why| why.code());
            return Err(match code.as_deref() {
                Some("55P03") => self.held(table).await,
                Some("42501") => StoreError::Misconfigured(format!(
                    "{}; nothing was changed. To add a watch the user of DATABASE_URL needs the right TRIGGER on {} \
                     (GRANT TRIGGER ON … TO …)",
                    refused
                        .as_database_error()
                        .map(|why| why.message())
                        .unwrap_or_default(),
                    table.told_as()
                )),
                _ => explain(refused),
            });
        }
        Ok(())
    }

    /// Who has the table, so that a person can decide.
    async fn held(&self, table: &Table) -> StoreError {
        let asked = async {
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
            .map_err(explain)?;
            other.close().await.ok();
            Ok::<_, StoreError>(rows)
        };
        let who = match asked.await.unwrap_or_default().as_slice() {
            [] => "an open transaction".to_owned(),
            who => who.join(", "),
        };
        StoreError::Failed(format!(
            "{} could not be locked within {} s, since nobody else is made to wait for longer: {who} has it. Nothing \
             was changed; try again when that transaction has ended",
            table.told_as(),
            LOCK_FOR.as_secs()
        ))
    }
}

async fn on(connection: &mut PgConnection) -> Result<Vec<On>> {
    let rows = sqlx::query(WATCHED).fetch_all(connection).await;
    let rows = rows.map_err(explain)?;
    let read = |row: &sqlx::postgres::PgRow| {
        // Somebody's own trigger with one of our functions says nothing that we know.
        let said: Said = serde_json::from_str(row.get("said")).ok()?;
        Some(On {
            id: row.get("id"),
            table: names::told_as(row.get("schema"), row.get("name")),
            function: row.get("function"),
            named: format!("oddsd.{}", quoted(row.get("named"))),
            said,
            disabled: row.get("disabled"),
            columns: row.get("columns"),
            below: row.get("below"),
        })
    };
    Ok(rows.iter().filter_map(read).collect())
}

/// Watches that the new one takes the place of.
async fn on_these(tx: &mut PgConnection, table: &Table, with: &[Table]) -> Result<Vec<On>> {
    let all = on(tx).await?;
    let theirs = |on: &On| on.id == table.id || with.iter().any(|part| part.id == on.id);
    let functions: Vec<i64> = all
        .iter()
        .filter(|on| theirs(on))
        .map(|on| on.function)
        .collect();
    Ok(all
        .into_iter()
        .filter(|on| functions.contains(&on.function))
        .collect())
}

/// What takes these watches away. The function goes last, and its triggers with it: they are named by
/// their table, whose name the server knows better.
fn without(watches: &[On]) -> Vec<String> {
    let mut functions: Vec<&str> = watches.iter().map(|on| on.named.as_str()).collect();
    functions.sort_unstable();
    functions.dedup();
    let drop = |function: &&str| format!("DROP FUNCTION {function}() CASCADE");
    functions.iter().map(drop).collect()
}
