//! The text of a trigger's function, made for one table: plain statements, which the server plans once
//! a session. A general one would have to put a statement together at each call.
//!
//! It runs inside somebody else's write, so it must be cheap, and must not fail because of us. A column
//! that was dropped or renamed since is found missing by the name's own scope: inside the row first, and
//! else in a row of odd ones (`gone`) outside of it. Then the row is left out, which speaks for any row.

use crate::store::postgres::listen::CHANNEL;

pub struct Reporting<'a> {
    /// As changes name the table.
    pub table: &'a str,
    pub columns: &'a [String],
    pub bulk: u32,
    pub quiet: bool,
}

const OLD: &str = "oddsd_old";
const NEW: &str = "oddsd_new";
/// A type that no watched column has.
const ODD: &str = "pg_catalog.tid";

/// What a trigger is called, when it fires, and what it is handed.
pub fn triggers(columns: &[String]) -> Vec<(&'static str, &'static str, String)> {
    if columns.is_empty() {
        let each = "INSERT OR UPDATE OR DELETE OR TRUNCATE";
        return vec![("oddsd_watch", each, String::new())];
    }
    // One that is handed rows is for one kind of statement.
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

impl Reporting<'_> {
    /// With its owner's rights: the application's role needs none of ours.
    pub fn create(&self, function: &str) -> String {
        format!(
            "CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER \
             SET search_path = pg_catalog, pg_temp AS {}",
            literal(&self.body())
        )
    }

    fn body(&self) -> String {
        // As a condition it is an expression, which is called; PERFORM would run a statement.
        let ring = match self.quiet {
            true => String::new(),
            false => {
                format!("  IF pg_catalog.pg_notify('{CHANNEL}', '') IS NULL THEN\n  END IF;\n")
            }
        };
        let rows = match self.columns {
            [] => String::new(),
            _ => {
                let (insert, update, delete) = (
                    self.of_rows("insert", &[NEW]),
                    self.of_rows("update", &[OLD, NEW]),
                    self.of_rows("delete", &[OLD]),
                );
                format!(
                    "  IF TG_OP = 'INSERT' THEN\n{insert}  ELSIF TG_OP = 'UPDATE' THEN\n{update}  \
                     ELSIF TG_OP = 'DELETE' THEN\n{delete}  ELSE\n"
                )
            }
        };
        let end = if rows.is_empty() { "" } else { "  END IF;\n" };
        let table = literal(&format!("{{\"table\":{},\"op\":\"", json(self.table)));
        format!(
            "#variable_conflict use_column\nDECLARE\n  oddsd_told text[];\n  oddsd_looked bigint;\nBEGIN\n{rows}  \
             INSERT INTO oddsd.outbox (kinds, detail) VALUES ('row_changed', {table} || lower(TG_OP) || '\"}}');\n\
             {end}{ring}  RETURN NULL;\nEND"
        )
    }

    /// One row, by far the most common, costs one statement. Of many the first are looked at, which is
    /// mostly enough to know that they are too many to name.
    fn of_rows(&self, op: &str, tables: &[&str]) -> String {
        let head = literal(&format!("{{\"table\":{},\"op\":\"{op}\"", json(self.table)));
        let last = tables.last().expect("a table");
        let many = self.bulk;
        let enough = many + 1;
        let each = |limit: &str| {
            let parts = tables.iter().map(|table| self.told(table, limit));
            parts.collect::<Vec<_>>()
        };
        let (all, some) = (
            each("").join(" UNION ALL "),
            each(&format!(" LIMIT {enough}")).join(" UNION ALL "),
        );
        let single = each("").join(" UNION ");
        format!(
            "    INSERT INTO oddsd.outbox (kinds, detail)
      SELECT 'row_changed', {head} || told FROM ({single}) one
      WHERE NOT EXISTS (SELECT FROM {last} OFFSET 1);
    GET DIAGNOSTICS oddsd_looked = ROW_COUNT;
    IF oddsd_looked = 0 THEN
      SELECT array_agg(DISTINCT told), count(*) INTO oddsd_told, oddsd_looked FROM ({some}) several;
      IF oddsd_looked = 0 THEN
        RETURN NULL;
      END IF;
      IF oddsd_looked > {many} AND cardinality(oddsd_told) <= {many} THEN
        SELECT array_agg(told) INTO oddsd_told FROM (SELECT DISTINCT told FROM ({all}) each LIMIT {enough}) few;
      END IF;
      IF cardinality(oddsd_told) <= {many} THEN
        INSERT INTO oddsd.outbox (kinds, detail) SELECT 'row_changed', {head} || told FROM unnest(oddsd_told) told;
      ELSE
        INSERT INTO oddsd.outbox (kinds, detail)
          SELECT 'row_changed', {head} || ',\"rows\":' || count(*) || '}}' FROM {last};
      END IF;
    END IF;
"
        )
    }

    /// The rest of the report, of each row of a transition table. NULL is left out.
    fn told(&self, table: &str, limit: &str) -> String {
        let each = |of: fn(&str) -> String, between: &str| {
            let columns = self.columns.iter().map(|column| of(column));
            columns.collect::<Vec<_>>().join(between)
        };
        let odd = each(
            |column| format!("pg_typeof({}) = '{ODD}'::regtype", quoted(column)),
            " OR ",
        );
        let fields = each(
            |column| {
                let name = literal(&format!(",{}:", json(column)));
                format!("{name} || to_json({})::text", quoted(column))
            },
            ", ",
        );
        let gone = each(
            |column| format!("'(0,0)'::{ODD} AS {}", quoted(column)),
            ", ",
        );
        format!(
            "(SELECT (SELECT CASE WHEN {odd} THEN '}}' ELSE ',\"row\":{{' || substr(concat({fields}), 2) || '}}}}' END \
             FROM (SELECT changed.*) within) COLLATE \"C\" AS told FROM (SELECT {gone}) gone, {table} changed{limit})"
        )
    }
}

fn json(text: &str) -> String {
    serde_json::to_string(text).expect("text is JSON")
}

/// A name as SQL takes it, whatever is in it.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text as SQL takes it, whatever `standard_conforming_strings` says.
pub fn literal(text: &str) -> String {
    let text = text.replace('\'', "''");
    match text.contains('\\') {
        true => format!("E'{}'", text.replace('\\', "\\\\")),
        false => format!("'{text}'"),
    }
}
