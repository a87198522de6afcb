//! Generates the function and the triggers that watch one table; `watch` installs them.
//!
//! The function has plain statements, which the server plans once a session; a general function would build
//! its statements at each call. It runs inside another program's write, so it must be cheap and must not fail.
//! A watched column that was dropped or renamed since resolves to the outer row `gone`, whose columns have a
//! type that no watched column has. Then the report names no row, which means any row.
//!
//! For table `tlog` and column `id`, an insert of one row runs
//! `INSERT INTO oddsd.outbox (kinds, detail) SELECT 'row_changed', '{"table":"tlog","op":"insert"' || report FROM (…) one`
//! with `,"row":{"id":7}}` as `report`.

use serde::{Deserialize, Serialize};

use super::table::{Table, WatchedColumn};
use crate::postgres::listen::CHANNEL;

/// The settings of a watch, stored as the argument of its triggers.
#[derive(Serialize, Deserialize)]
pub struct WatchSettings {
    /// The table's name in its changes.
    pub table: String,
    pub columns: Vec<String>,
    pub bulk: u32,
    pub quiet: bool,
}

/// Types that JSON would show as a number, which readers of JSON round, and `char(n)`, which it would pad.
const SHOWN_AS_TEXT: [&str; 4] = ["numeric", "float4", "float8", "bpchar"];
/// Types whose text depends on a setting of the session, and the setting that the function runs with.
const SESSION_TEXTS: [(&str, &str); 5] = [
    ("timestamptz", "timezone = 'UTC'"),
    ("timetz", "timezone = 'UTC'"),
    ("float4", "extra_float_digits = 1"),
    ("float8", "extra_float_digits = 1"),
    ("interval", "intervalstyle = 'postgres'"),
];

const OLD: &str = "oddsd_old";
const NEW: &str = "oddsd_new";
/// A type that no watched column has.
const MISSING_TYPE: &str = "pg_catalog.tid";

/// The triggers of one watch, each as its SQL before and after the table's name. The argument `partition` marks
/// those of a partition, which are dropped when it leaves the table.
fn triggers(settings: &WatchSettings, id: &str, on_partition: bool) -> Vec<[String; 2]> {
    let argument = literal(&serde_json::to_string(settings).expect("texts are JSON"));
    let mark = if on_partition { ", 'partition'" } else { "" };
    let trigger = |name: &str, events: &str, referencing: &str| {
        [
            format!("CREATE TRIGGER oddsd_watch{name}_{id} AFTER {events} ON "),
            format!(
                "{referencing} FOR EACH STATEMENT EXECUTE FUNCTION {}({argument}{mark})",
                function(id)
            ),
        ]
    };
    if settings.columns.is_empty() {
        return vec![trigger("", "INSERT OR UPDATE OR DELETE OR TRUNCATE", "")];
    }
    let (old, new) = (format!("OLD TABLE AS {OLD}"), format!("NEW TABLE AS {NEW}"));
    // A trigger with transition tables may have one event.
    vec![
        trigger("_insert", "INSERT", &format!(" REFERENCING {new}")),
        trigger("_update", "UPDATE", &format!(" REFERENCING {old} {new}")),
        trigger("_delete", "DELETE", &format!(" REFERENCING {old}")),
        trigger("_truncate", "TRUNCATE", ""),
    ]
}

/// The statements that put the triggers of a watch on one table.
pub fn create_triggers(
    settings: &WatchSettings,
    id: &str,
    table: &Table,
    on_partition: bool,
) -> Vec<String> {
    triggers(settings, id, on_partition)
        .iter()
        .map(|[before, after]| format!("{before}{}{after}", table.quoted()))
        .collect()
}

/// The function of a watch's triggers. Its id is random, since tables are renamed.
fn function(id: &str) -> String {
    format!("oddsd.watch_{id}")
}

impl WatchSettings {
    /// The statements that create the function. SECURITY DEFINER: the application's role needs no rights on our
    /// tables. `columns` are those of the settings, with their types.
    pub fn create_function(&self, id: &str, columns: &[WatchedColumn]) -> [String; 2] {
        let mut settings: Vec<&str> = SESSION_TEXTS
            .iter()
            .filter(|(base, _)| columns.iter().any(|column| column.base == *base))
            .map(|(_, setting)| *setting)
            .collect();
        settings.dedup();
        let settings: String = settings.iter().map(|s| format!(" SET {s}")).collect();
        create_function(&function(id), "trigger", &settings, &self.body(columns))
    }

    /// The statements that report DDL on the table or its partitions as a change of any row: `ALTER TABLE`, which
    /// can change every row, attach a partition with rows or detach one, and a dropped partition or table. They
    /// also put the watch on a new partition and take it off one that is detached. PostgreSQL keeps event
    /// triggers to superusers, some hosts to roles of their own.
    ///
    /// An event trigger runs at every such command in the database: it looks at catalogs only, unless the
    /// command concerns this table.
    pub fn create_event_triggers(&self, id: &str) -> Vec<String> {
        let watch = literal(&function(id));
        let function = format!("{}_ddl", function(id));
        let create: String = triggers(self, id, true)
            .iter()
            .map(|[before, after]| {
                let (before, after) = (literal(before), literal(after));
                format!("        EXECUTE {before} || oddsd_part || {after};\n")
            })
            .collect();
        let table = literal(&format!("{{\"table\":{},\"op\":\"", json(&self.table)));
        let notify = self.notify();
        let body = format!(
            "DECLARE
  oddsd_watch oid := to_regproc({watch});
  oddsd_touched boolean;
  oddsd_added regclass[];
  oddsd_gone regclass[];
  oddsd_part regclass;
  oddsd_drop text;
BEGIN
  IF TG_EVENT = 'sql_drop' THEN
    -- The watch's own removal has dropped its function too.
    oddsd_touched := oddsd_watch IS NOT NULL AND EXISTS (
      SELECT FROM pg_event_trigger_dropped_objects()
      WHERE object_type = 'trigger' AND NOT original AND right(address_names[3], 17) = '_{id}');
  ELSE
    WITH RECURSIVE watched AS (SELECT DISTINCT tgrelid AS id, tgnargs = 1 AS is_root FROM pg_trigger WHERE tgfoid = oddsd_watch),
      tree AS (SELECT id FROM watched WHERE is_root UNION SELECT inhrelid FROM pg_inherits JOIN tree ON inhparent = tree.id)
    SELECT EXISTS (SELECT FROM pg_event_trigger_ddl_commands()
                   WHERE classid = 'pg_class'::regclass AND objid IN (SELECT id FROM tree UNION SELECT id FROM watched)),
      array(SELECT c.oid::regclass FROM tree JOIN pg_class c ON c.oid = tree.id
            WHERE relkind IN ('r', 'p') AND tree.id NOT IN (SELECT id FROM watched)),
      array(SELECT id::regclass FROM watched WHERE id NOT IN (SELECT id FROM tree))
    INTO oddsd_touched, oddsd_added, oddsd_gone;
    -- No lock is taken for a command that concerns another table.
    IF NOT oddsd_touched THEN
      RETURN;
    END IF;
    BEGIN
      FOREACH oddsd_part IN ARRAY oddsd_added LOOP
{create}      END LOOP;
      FOR oddsd_drop IN SELECT format('DROP TRIGGER %I ON %s', tgname, tgrelid::regclass) FROM pg_trigger
                        WHERE tgfoid = oddsd_watch AND tgrelid = ANY (oddsd_gone) LOOP
        EXECUTE oddsd_drop;
      END LOOP;
    EXCEPTION WHEN insufficient_privilege THEN
      -- `watch list` names the partitions without a trigger.
      NULL;
    END;
    -- A new partition is empty, unless it is a foreign table.
    oddsd_touched := TG_TAG <> 'CREATE TABLE';
  END IF;
  IF oddsd_touched THEN
    INSERT INTO oddsd.outbox (kinds, detail)
      VALUES ('row_changed', {table} || CASE TG_EVENT WHEN 'sql_drop' THEN 'drop' ELSE 'alter' END || '\"}}');
  {notify}  END IF;
END"
        );
        let [create, revoke] = create_function(&function, "event_trigger", "", &body);
        let ddl = "ddl_command_end WHEN TAG IN ('ALTER TABLE', 'CREATE TABLE', 'ALTER FOREIGN TABLE', 'CREATE FOREIGN TABLE')";
        let on = |event: &str, name: &str| {
            format!(
                "CREATE EVENT TRIGGER oddsd_watch_{name}_{id} ON {event} EXECUTE FUNCTION {function}()"
            )
        };
        vec![create, revoke, on(ddl, "ddl"), on("sql_drop", "drop")]
    }

    /// A condition is evaluated as an expression, which is cheaper than the statement of PERFORM.
    fn notify(&self) -> String {
        match self.quiet {
            true => String::new(),
            false => {
                format!("  IF pg_catalog.pg_notify('{CHANNEL}', '') IS NULL THEN\n  END IF;\n")
            }
        }
    }

    fn body(&self, columns: &[WatchedColumn]) -> String {
        let notify = self.notify();
        let rows = match columns {
            [] => String::new(),
            _ => {
                let (insert, update, delete) = (
                    self.report_rows("insert", &[NEW], columns),
                    self.report_rows("update", &[OLD, NEW], columns),
                    self.report_rows("delete", &[OLD], columns),
                );
                format!(
                    "  IF TG_OP = 'INSERT' THEN\n{insert}  ELSIF TG_OP = 'UPDATE' THEN\n{update}  \
                     ELSIF TG_OP = 'DELETE' THEN\n{delete}  ELSE\n"
                )
            }
        };
        let end = if rows.is_empty() { "" } else { "  END IF;\n" };
        let table = literal(&format!("{{\"table\":{},\"op\":\"", json(&self.table)));
        format!(
            "#variable_conflict use_column\nDECLARE\n  oddsd_reports text[];\n  oddsd_count bigint;\nBEGIN\n{rows}  \
             INSERT INTO oddsd.outbox (kinds, detail) VALUES ('row_changed', {table} || lower(TG_OP) || '\"}}');\n\
             {end}{notify}  RETURN NULL;\nEND"
        )
    }

    /// One row, by far the most common, costs one statement. Of many, the first few mostly show that they are
    /// too many to name.
    fn report_rows(&self, op: &str, tables: &[&str], columns: &[WatchedColumn]) -> String {
        let head = literal(&format!(
            "{{\"table\":{},\"op\":\"{op}\"",
            json(&self.table)
        ));
        let last = tables.last().expect("a table");
        let many = self.bulk;
        let enough = many + 1;
        let each = |limit: &str| {
            let parts = tables
                .iter()
                .map(|table| select_reports(table, limit, columns));
            parts.collect::<Vec<_>>()
        };
        let (all, some) = (
            each("").join(" UNION ALL "),
            each(&format!(" LIMIT {enough}")).join(" UNION ALL "),
        );
        let single = each("").join(" UNION ");
        format!(
            "    INSERT INTO oddsd.outbox (kinds, detail)
      SELECT 'row_changed', {head} || report FROM ({single}) one
      WHERE NOT EXISTS (SELECT FROM {last} OFFSET 1);
    GET DIAGNOSTICS oddsd_count = ROW_COUNT;
    IF oddsd_count = 0 THEN
      SELECT array_agg(DISTINCT report), count(*) INTO oddsd_reports, oddsd_count FROM ({some}) several;
      IF oddsd_count = 0 THEN
        RETURN NULL;
      END IF;
      IF oddsd_count > {many} AND cardinality(oddsd_reports) <= {many} THEN
        SELECT array_agg(report) INTO oddsd_reports FROM (SELECT DISTINCT report FROM ({all}) each LIMIT {enough}) few;
      END IF;
      IF cardinality(oddsd_reports) <= {many} THEN
        INSERT INTO oddsd.outbox (kinds, detail) SELECT 'row_changed', {head} || report FROM unnest(oddsd_reports) report;
      ELSE
        INSERT INTO oddsd.outbox (kinds, detail)
          SELECT 'row_changed', {head} || ',\"rows\":' || count(*) || '}}' FROM {last};
      END IF;
    END IF;
"
        )
    }
}

/// Selects the end of the report of each row of a transition table. NULL is left out. A value is reported as the text
/// that the database has for it, so that a key that holds it is spelt as programs spell it.
fn select_reports(table: &str, limit: &str, columns: &[WatchedColumn]) -> String {
    let each = |of: fn(&WatchedColumn) -> String, between: &str| {
        let columns = columns.iter().map(of);
        columns.collect::<Vec<_>>().join(between)
    };
    let missing = each(
        |column| {
            let name = quoted(&column.name);
            format!("pg_typeof({name}) = '{MISSING_TYPE}'::regtype")
        },
        " OR ",
    );
    let fields = each(
        |column| {
            let name = literal(&format!(",{}:", json(&column.name)));
            let as_text = match SHOWN_AS_TEXT.contains(&column.base.as_str()) {
                true => "::text",
                false => "",
            };
            format!("{name} || to_json({}{as_text})::text", quoted(&column.name))
        },
        ", ",
    );
    let gone = each(
        |column| format!("'(0,0)'::{MISSING_TYPE} AS {}", quoted(&column.name)),
        ", ",
    );
    format!(
        "(SELECT (SELECT CASE WHEN {missing} THEN '}}' ELSE ',\"row\":{{' || substr(concat({fields}), 2) || '}}}}' END \
         FROM (SELECT changed.*) within) COLLATE \"C\" AS report FROM (SELECT {gone}) gone, {table} changed{limit})"
    )
}

/// `settings` are SET clauses.
fn create_function(function: &str, returns: &str, settings: &str, body: &str) -> [String; 2] {
    [
        format!(
            "CREATE FUNCTION {function}() RETURNS {returns} LANGUAGE plpgsql SECURITY DEFINER \
             SET search_path = pg_catalog, pg_temp{settings} AS {}",
            literal(body)
        ),
        format!("REVOKE ALL ON FUNCTION {function}() FROM PUBLIC"),
    ]
}

fn json(text: &str) -> String {
    serde_json::to_string(text).expect("text is JSON")
}

/// Quotes a name for SQL.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Quotes a text for SQL, under either setting of `standard_conforming_strings`.
pub fn literal(text: &str) -> String {
    let text = text.replace('\'', "''");
    match text.contains('\\') {
        true => format!("E'{}'", text.replace('\\', "\\\\")),
        false => format!("'{text}'"),
    }
}
