//! Finds the table and the columns that an operator names, or the reason why they cannot be watched.
//! `watch` and `unwatch` call it.

use sqlx::{PgConnection, Row};

use super::super::map_error;
use super::trigger::quoted;
use crate::{Result, StoreError};
use oddsd_core::model::{sanitize_text, suggest};

const MAX_COLUMNS: usize = 16;
/// Categories of types without a single value: arrays, rows, shapes, ranges, pseudo-types.
const NONSCALAR_CATEGORIES: [&str; 5] = ["A", "C", "G", "R", "P"];
const NONSCALAR_TYPES: [&str; 6] = ["json", "jsonb", "xml", "bytea", "tsvector", "tid"];

pub struct Table {
    pub id: i64,
    schema: String,
    name: String,
}

/// `schema.name`; tables of `public` by their name alone.
pub fn qualified(schema: &str, name: &str) -> String {
    match schema {
        "public" => name.to_owned(),
        schema => format!("{schema}.{name}"),
    }
}

impl Table {
    /// A table whose name only goes into messages, not into SQL.
    pub fn for_messages(id: i64, name: &str) -> Self {
        Self {
            id,
            schema: "public".into(),
            name: name.into(),
        }
    }

    pub fn qualified(&self) -> String {
        qualified(&self.schema, &self.name)
    }

    pub fn quoted(&self) -> String {
        format!("{}.{}", quoted(&self.schema), quoted(&self.name))
    }

    /// Its partitions, which can be written to directly; and the names of those that cannot have a trigger.
    pub async fn partitions(
        &self,
        connection: &mut PgConnection,
    ) -> Result<(Vec<Table>, Vec<String>)> {
        let rows = sqlx::query(
            "WITH RECURSIVE below AS (
                 SELECT inhrelid FROM pg_inherits WHERE inhparent::bigint = $1
                 UNION SELECT i.inhrelid FROM pg_inherits i JOIN below ON i.inhparent = below.inhrelid)
             SELECT c.oid::bigint AS id, n.nspname::text AS schema, c.relname::text AS name, c.relkind::text AS kind
             FROM below JOIN pg_class c ON c.oid = below.inhrelid JOIN pg_namespace n ON n.oid = c.relnamespace
             ORDER BY schema, name",
        )
        .bind(self.id)
        .fetch_all(connection)
        .await
        .map_err(map_error)?;
        let (mut tables, mut others) = (Vec::new(), Vec::new());
        for row in &rows {
            let table = Table {
                id: row.get("id"),
                schema: row.get("schema"),
                name: row.get("name"),
            };
            match row.get("kind") {
                "r" | "p" => tables.push(table),
                _ => others.push(table.qualified()),
            }
        }
        Ok((tables, others))
    }
}

/// The table that `text` names: as written, or else in lower case, as SQL folds names.
pub async fn find_table(connection: &mut PgConnection, text: &str) -> Result<Table> {
    let bad = |why: String| Err(StoreError::Misconfigured(why));
    let shown = sanitize_text(text, 140);
    let parts = match parts(text) {
        Some(parts) if parts.len() <= 2 => parts,
        _ => {
            return bad(format!(
                "{shown} names no table; write name or schema.name, in double quotes where SQL asks for them"
            ));
        }
    };
    let folded: Vec<String> = parts.iter().map(Part::folded).collect();
    let exact: Vec<String> = parts.into_iter().map(|part| part.text).collect();
    for names in [&exact, &folded] {
        let (schema, name) = match names.as_slice() {
            [schema, name] => (Some(schema), name),
            names => (None, &names[0]),
        };
        let found = sqlx::query(
            "SELECT c.oid::bigint AS id, n.nspname::text AS schema, c.relname::text AS name, c.relkind::text AS kind,
                    c.relispartition AS is_partition, c.relpersistence = 't' AS is_temporary
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE c.relname = $2 AND CASE WHEN $1::text IS NULL THEN pg_table_is_visible(c.oid) ELSE n.nspname = $1 END",
        )
        .bind(schema)
        .bind(name)
        .fetch_optional(&mut *connection)
        .await
        .map_err(map_error)?;
        let Some(found) = found else { continue };
        let table = Table {
            id: found.get("id"),
            schema: found.get("schema"),
            name: found.get("name"),
        };
        let qualified = table.qualified();
        let why = match found.get::<&str, _>("kind") {
            _ if table.schema == "oddsd" => {
                "is a table of oddsd itself, which knows what it writes"
            }
            _ if table.schema == "pg_catalog" || table.schema == "information_schema" => {
                "is the server's own"
            }
            "v" => "is a view, and nobody writes into one: watch the tables that it reads",
            "m" => {
                "is a materialized view, which no trigger can stand on: watch the tables that it reads"
            }
            "f" => {
                "is a foreign table, whose rows can change without this server: watch it where it is"
            }
            "r" | "p" if found.get("is_temporary") => "is temporary: only one session knows it",
            "r" | "p" if found.get("is_partition") => {
                "is a partition: watch the table that it belongs to, and all of its partitions are watched"
            }
            "r" | "p" => return Ok(table),
            _ => "is no table",
        };
        return bad(format!("{qualified} {why}"));
    }
    let known: Vec<(String, String)> = sqlx::query_as(
        "SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND n.nspname NOT IN ('oddsd', 'pg_catalog', 'information_schema')
         AND n.nspname NOT LIKE 'pg\\_%' LIMIT 10000",
    )
    .fetch_all(&mut *connection)
    .await
    .map_err(map_error)?;
    let known: Vec<String> = known
        .iter()
        .map(|(schema, name)| qualified(schema, name))
        .collect();
    let meant = suggest(&exact.join("."), known.iter().map(String::as_str));
    bad(format!("there is no table {shown}{}", did_you_mean(meant)))
}

/// A column, and the base type of its values.
pub struct WatchedColumn {
    pub name: String,
    pub base: String,
}

/// The columns that `texts` name, each once.
pub async fn find_columns(
    connection: &mut PgConnection,
    table: &Table,
    texts: &[String],
) -> Result<Vec<WatchedColumn>> {
    let bad = |why: String| Err(StoreError::Misconfigured(why));
    let qualified = table.qualified();
    let known = sqlx::query(
        "SELECT a.attname::text AS name, format_type(a.atttypid, a.atttypmod) AS type, b.typcategory::text AS category,
                b.typname::text AS base, a.attgenerated::text = 'v' AS is_virtual
         FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
              -- A domain may be of a domain.
              CROSS JOIN LATERAL (
                  WITH RECURSIVE below AS (
                      SELECT t.oid, t.typtype, t.typbasetype
                      UNION ALL
                      SELECT n.oid, n.typtype, n.typbasetype FROM below JOIN pg_type n ON n.oid = below.typbasetype
                      WHERE below.typtype = 'd')
                  SELECT oid FROM below WHERE typtype <> 'd') base
              JOIN pg_type b ON b.oid = base.oid
         WHERE a.attrelid::bigint = $1 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
    )
    .bind(table.id)
    .fetch_all(connection)
    .await
    .map_err(map_error)?;
    let names = || known.iter().map(|row| row.get::<&str, _>("name"));
    let mut found: Vec<WatchedColumn> = Vec::new();
    for text in texts {
        let shown = sanitize_text(text, 80);
        let part = match parts(text).as_deref() {
            Some([part]) => part.clone(),
            // A dot may stand in a column's name.
            _ => Part {
                text: text.trim().to_owned(),
                quoted: true,
            },
        };
        let is = |name: &str| known.iter().find(|row| row.get::<&str, _>("name") == name);
        let Some(column) = is(&part.text).or_else(|| is(&part.folded())) else {
            return bad(format!(
                "{qualified} has no column {shown}{}; it has {}",
                did_you_mean(suggest(&part.text, names())),
                sanitize_text(&names().collect::<Vec<_>>().join(", "), 400)
            ));
        };
        let name: &str = column.get("name");
        let (category, base): (&str, &str) = (column.get("category"), column.get("base"));
        if NONSCALAR_CATEGORIES.contains(&category) || NONSCALAR_TYPES.contains(&base) {
            return bad(format!(
                "{qualified}.{name} is of type {}, which is no single value; name columns of numbers, texts, dates or ids",
                column.get::<&str, _>("type")
            ));
        }
        if column.get("is_virtual") {
            return bad(format!(
                "{qualified}.{name} is made up when it is read, so no trigger sees it; name the columns that it is made of"
            ));
        }
        if !found.iter().any(|known| known.name == name) {
            found.push(WatchedColumn {
                name: name.to_owned(),
                base: base.to_owned(),
            });
        }
    }
    if found.len() > MAX_COLUMNS {
        return bad(format!(
            "{} columns are more than {MAX_COLUMNS}; name those that are part of a cache key",
            found.len()
        ));
    }
    Ok(found)
}

fn did_you_mean(meant: Option<&str>) -> String {
    meant.map_or(String::new(), |meant| format!(" (did you mean {meant}?)"))
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    text: String,
    quoted: bool,
}

impl Part {
    fn folded(&self) -> String {
        match self.quoted {
            true => self.text.clone(),
            false => self.text.to_lowercase(),
        }
    }
}

/// The names between the dots; `None` for quotes that do not fit or an empty name.
fn parts(text: &str) -> Option<Vec<Part>> {
    let (mut found, mut rest) = (Vec::new(), text.trim());
    loop {
        let part;
        (part, rest) = match rest.strip_prefix('"') {
            Some(inside) => quoted_part(inside)?,
            None => {
                let end = rest.find('.').unwrap_or(rest.len());
                let (name, rest) = rest.split_at(end);
                let text = name.trim().to_owned();
                (
                    Part {
                        text,
                        quoted: false,
                    },
                    rest,
                )
            }
        };
        if part.text.is_empty() || !part.quoted && part.text.contains('"') {
            return None;
        }
        found.push(part);
        match rest.strip_prefix('.') {
            Some(more) => rest = more,
            None => return rest.is_empty().then_some(found),
        }
    }
}

fn quoted_part(inside: &str) -> Option<(Part, &str)> {
    let mut text = String::new();
    let mut letters = inside.char_indices().peekable();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' if letters.next_if(|(_, next)| *next == '"').is_some() => text.push('"'),
            '"' => return Some((Part { text, quoted: true }, &inside[at + 1..])),
            letter => text.push(letter),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(text: &str) -> Option<Vec<String>> {
        Some(parts(text)?.iter().map(Part::folded).collect())
    }

    #[test]
    fn names_are_read_as_sql_reads_them() {
        let is = |text: &str, names: &[&str]| assert_eq!(named(text).expect(text), names, "{text}");
        is("tlog", &["tlog"]);
        is("Tlog", &["tlog"]);
        is("app.tlog", &["app", "tlog"]);
        is("app.\"T.Log\"", &["app", "T.Log"]);
        is("\"a\"\"b\".\"c d\"", &["a\"b", "c d"]);
        for malformed in ["", ".", "a.", ".a", "\"a", "a\"b", "\"a\"b", "\"\""] {
            assert_eq!(named(malformed), None, "{malformed}");
        }
    }
}
