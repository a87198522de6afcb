//! The four names that people already read, as views over our narrow tables.
//!
//! A view shows what is offered now: withdrawn prices, non-runners and races that left the card are
//! not in it (they are in the tables and their history).

use sqlx::{PgConnection, Row};

use super::explain;
use super::migrate::run;
use crate::store::Result;

/// How we know a view of ours: the comment on it starts with this.
pub const MARK: &str = "oddsd:";

pub struct View {
    pub name: &'static str,
    /// `(column, expression, type where nothing else is asked for)`.
    pub columns: &'static [(&'static str, &'static str, &'static str)],
    from: &'static str,
}

const LIVE: &str = "oddsd.prices p
    JOIN oddsd.events e ON e.id = p.event_id
    JOIN oddsd.selections s ON s.id = p.selection_id
    JOIN oddsd.bookmakers b ON b.id = p.bookmaker_id
    LEFT JOIN oddsd.checks c ON c.event_id = e.id
    WHERE p.status <> 'withdrawn' AND e.listed AND s.status NOT IN ('non_runner', 'removed')";

pub const ALL: &[View] = &[
    View {
        name: "ra_odds_live",
        columns: &[
            ("id", "p.id", "bigint"),
            ("race_id", "e.key", "text"),
            ("horse_id", "s.key", "text"),
            ("bookmaker_id", "b.key", "text"),
            ("race_date", "e.day", "date"),
            ("race_time", "e.facts->>'race_time'", "text"),
            ("off_dt", "e.starts_at", "timestamptz"),
            ("course", "e.venue", "text"),
            ("race_name", "e.name", "text"),
            ("race_class", "e.facts->>'race_class'", "text"),
            ("race_type", "e.facts->>'race_type'", "text"),
            ("distance", "e.facts->>'distance'", "text"),
            ("going", "e.facts->>'going'", "text"),
            ("runners", "e.facts->>'field_size'", "integer"),
            ("horse_name", "s.name", "text"),
            ("horse_number", "s.facts->>'number'", "text"),
            ("jockey", "s.facts->>'jockey'", "text"),
            ("trainer", "s.facts->>'trainer'", "text"),
            ("draw", "s.facts->>'draw'", "text"),
            ("weight", "s.facts->>'weight'", "text"),
            ("age", "s.facts->>'age'", "text"),
            ("form", "s.facts->>'form'", "text"),
            ("bookmaker_name", "b.name", "text"),
            ("bookmaker_type", "b.kind", "text"),
            ("market_type", "p.market", "text"),
            ("odds_decimal", "p.decimal", "numeric(10,3)"),
            ("odds_fractional", "p.fractional", "text"),
            (
                "market_status",
                "CASE WHEN e.status = 'scheduled' THEN p.status ELSE e.status END",
                "text",
            ),
            ("in_play", "e.in_play", "boolean"),
            ("odds_timestamp", "p.observed_at", "timestamptz"),
            (
                "fetched_at",
                "greatest(c.checked_at, p.updated_at)",
                "timestamptz",
            ),
            ("updated_at", "p.updated_at", "timestamptz"),
        ],
        from: LIVE,
    },
    View {
        name: "ra_odds_live_latest",
        columns: &[
            ("race_id", "e.key", "text"),
            ("race_date", "e.day", "date"),
            ("race_time", "e.facts->>'race_time'", "text"),
            ("off_dt", "e.starts_at", "timestamptz"),
            ("course", "e.venue", "text"),
            ("race_name", "e.name", "text"),
            ("runners", "e.facts->>'field_size'", "integer"),
            ("horse_name", "s.name", "text"),
            ("horse_number", "s.facts->>'number'", "text"),
            ("odds_decimal", "p.decimal", "numeric(10,3)"),
            ("odds_fractional", "p.fractional", "text"),
            ("bookmaker_name", "b.name", "text"),
            (
                "fetched_at",
                "greatest(c.checked_at, p.updated_at)",
                "timestamptz",
            ),
        ],
        from: LIVE,
    },
    View {
        name: "ra_odds_statistics",
        columns: &[
            ("fetch_timestamp", "k.as_of", "timestamptz"),
            ("race_id", "NULL", "text"),
            ("races_count", "k.races", "integer"),
            ("horses_count", "k.horses", "integer"),
            ("bookmakers_found", "cardinality(k.bookmakers)", "integer"),
            ("total_odds_fetched", "k.seen", "integer"),
            ("bookmaker_list", "k.bookmakers", "text[]"),
            ("fetch_duration_ms", "k.fetch_ms", "integer"),
            ("errors_count", "k.rejected", "integer"),
            ("created_at", "k.committed_at", "timestamptz"),
        ],
        from: "oddsd.cycles k",
    },
    View {
        name: "ra_bookmakers",
        columns: &[
            ("bookmaker_id", "b.key", "text"),
            ("bookmaker_name", "b.name", "text"),
            ("bookmaker_type", "b.kind", "text"),
            ("active", "b.active", "boolean"),
            ("created_at", "b.created_at", "timestamptz"),
        ],
        from: "oddsd.bookmakers b",
    },
];

/// Creates the view; `aside` is the relation whose place it takes: its column types and the
/// rights of its readers are kept.
pub async fn create(connection: &mut PgConnection, view: &View, aside: Option<&str>) -> Result<()> {
    let mut types = Vec::new();
    if let Some(aside) = aside {
        let rows = sqlx::query(
            "SELECT attname::text AS name, format_type(atttypid, atttypmod) AS type FROM pg_attribute
             WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped",
        )
        .bind(aside)
        .fetch_all(&mut *connection)
        .await
        .map_err(explain)?;
        types = rows
            .iter()
            .map(|row| (row.get::<String, _>("name"), row.get::<String, _>("type")))
            .collect();
    } else {
        // A view of ours from an earlier migration: replaced only when it would differ.
        let stamp: Option<String> =
            sqlx::query_scalar("SELECT obj_description(to_regclass($1), 'pg_class')")
                .bind(view.name)
                .fetch_one(&mut *connection)
                .await
                .map_err(explain)?;
        if stamp.is_some() {
            return Ok(());
        }
    }
    let columns: Vec<String> = view
        .columns
        .iter()
        .map(|(name, expression, default)| {
            let known = types.iter().find(|(column, _)| column == name);
            let wanted = known.map_or(*default, |(_, wanted)| wanted.as_str());
            format!("{} AS {name}", cast(expression, wanted))
        })
        .collect();
    run(
        connection,
        format!(
            "CREATE VIEW {} AS SELECT {} FROM {}",
            view.name,
            columns.join(", "),
            view.from
        ),
    )
    .await?;
    run(
        connection,
        format!(
            "COMMENT ON VIEW {} IS '{MARK} a view over schema oddsd; read only'",
            view.name
        ),
    )
    .await?;
    if let Some(aside) = aside {
        let grants: Vec<String> = sqlx::query_scalar(
            "SELECT CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(r.rolname) END
             FROM pg_class k, aclexplode(k.relacl) a LEFT JOIN pg_roles r ON r.oid = a.grantee
             WHERE k.oid = to_regclass($1) AND a.privilege_type = 'SELECT' AND a.grantee <> k.relowner",
        )
        .bind(aside)
        .fetch_all(&mut *connection)
        .await
        .map_err(explain)?;
        for reader in grants {
            run(
                connection,
                format!("GRANT SELECT ON {} TO {reader}", view.name),
            )
            .await?;
        }
    }
    Ok(())
}

/// A cast that can never fail at reading: a saddle-cloth "NR" in an integer column reads as NULL.
fn cast(expression: &str, wanted: &str) -> String {
    let text = format!("({expression})::text");
    match wanted {
        "integer" | "bigint" | "smallint" => {
            let digits = if wanted == "bigint" {
                18
            } else if wanted == "integer" {
                9
            } else {
                4
            };
            format!("CASE WHEN {text} ~ '^-?[0-9]{{1,{digits}}}$' THEN {text}::{wanted} END")
        }
        "uuid" => format!("md5({text})::uuid"),
        "time without time zone" => {
            format!("CASE WHEN {text} ~ '^[0-2]?[0-9]:[0-5][0-9]' THEN {text}::time END")
        }
        _ if wanted.starts_with("double") || wanted == "real" || wanted == "numeric" => {
            format!("CASE WHEN {text} ~ '^-?[0-9]+([.][0-9]+)?$' THEN {text}::{wanted} END")
        }
        _ => format!("({expression})::{wanted}"),
    }
}
