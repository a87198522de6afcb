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

use super::table::WatchedColumn;
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

/// Name, events and REFERENCING clause of each trigger.
pub fn triggers(columns: &[String]) -> Vec<(&'static str, &'static str, String)> {
    if columns.is_empty() {
        let each = "INSERT OR UPDATE OR DELETE OR TRUNCATE";
        return vec![("oddsd_watch", each, String::new())];
    }
    // A trigger with transition tables may have one event.
    vec![
        (
            "oddsd_watch_insert",
            "INSERT",
            format!(" REFERENCING NEW TABLE AS {NEW}"),
        ),
        (
            "oddsd_watch_update",
            "UPDATE",
            format!(" REFERENCING OLD TABLE AS {OLD} NEW TABLE AS {NEW}"),
        ),
        (
            "oddsd_watch_delete",
            "DELETE",
            format!(" REFERENCING OLD TABLE AS {OLD}"),
        ),
        ("oddsd_watch_truncate", "TRUNCATE", String::new()),
    ]
}

impl WatchSettings {
    /// SECURITY DEFINER: the application's role needs no rights on our tables.
    /// `columns` are those of the settings, with their types.
    pub fn create_function(&self, function: &str, columns: &[WatchedColumn]) -> String {
        let mut settings: Vec<&str> = SESSION_TEXTS
            .iter()
            .filter(|(base, _)| columns.iter().any(|column| column.base == *base))
            .map(|(_, setting)| *setting)
            .collect();
        settings.dedup();
        let settings: String = settings.iter().map(|s| format!(" SET {s}")).collect();
        format!(
            "CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER \
             SET search_path = pg_catalog, pg_temp{settings} AS {}",
            literal(&self.body(columns))
        )
    }

    fn body(&self, columns: &[WatchedColumn]) -> String {
        // A condition is evaluated as an expression, which is cheaper than the statement of PERFORM.
        let notify = match self.quiet {
            true => String::new(),
            false => {
                format!("  IF pg_catalog.pg_notify('{CHANNEL}', '') IS NULL THEN\n  END IF;\n")
            }
        };
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
