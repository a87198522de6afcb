//! The compatibility views: four names of the former worker's tables, over the tables of the schema `oddsd`. `migrate`
//! creates them, and replaces one of an older definition; its columns, their types and its grants stay.
//!
//! Names, types and order of the columns are an interface (`docs/schema.md`, `tests/store/views.rs`). The two odds views
//! show current offers: withdrawn prices, non-runners and races that left the card are not in them (they are in the
//! tables and their history).

use sqlx::PgConnection;

use super::{execute, map_error};
use crate::Result;

/// The comment on each of these views begins with this; `migrate` and `check_schema` recognise them by it.
pub const MARK: &str = "oddsd:";

/// The comment on a view of the present definition. The number grows with each change of a column's expression.
pub const COMMENT: &str = "oddsd: a view over schema oddsd; read only (definition 2)";

/// The time of the start on the 24-hour clock of Britain, as the former worker stored it. The provider's own text is a
/// 12-hour clock without am or pm; without a start it is shown only where it cannot be one.
const RACE_TIME: &str = "coalesce(to_char(e.starts_at AT TIME ZONE 'Europe/London', 'HH24:MI'),
    CASE WHEN e.facts->>'race_time' ~ '^(0[0-9]|1[3-9]|2[0-3]):[0-5][0-9]' THEN e.facts->>'race_time' END)";

pub struct CompatibilityView {
    pub name: &'static str,
    /// Name, expression, and its type unless the table that the view replaces had another.
    pub columns: &'static [(&'static str, &'static str, &'static str)],
    from: &'static str,
}

const LIVE: &str = "oddsd.prices p
    JOIN oddsd.events e ON e.id = p.event_id
    JOIN oddsd.selections s ON s.id = p.selection_id
    JOIN oddsd.bookmakers b ON b.id = p.bookmaker_id
    LEFT JOIN oddsd.checks c ON c.event_id = e.id
    WHERE p.status <> 'withdrawn' AND e.listed AND s.status NOT IN ('non_runner', 'removed')";

pub const ALL: &[CompatibilityView] = &[
    CompatibilityView {
        name: "ra_odds_live",
        columns: &[
            ("id", "p.id", "bigint"),
            ("race_id", "e.key", "text"),
            ("horse_id", "s.key", "text"),
            ("bookmaker_id", "b.key", "text"),
            ("race_date", "e.day", "date"),
            ("race_time", RACE_TIME, "text"),
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
            ("market_type", "upper(p.market)", "text"),
            ("odds_decimal", "p.decimal", "numeric(10,3)"),
            ("odds_fractional", "p.fractional", "text"),
            (
                "market_status",
                "upper(CASE WHEN e.status IN ('scheduled', 'upcoming', 'live') THEN p.status ELSE e.status END)",
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
    CompatibilityView {
        name: "ra_odds_live_latest",
        columns: &[
            ("race_id", "e.key", "text"),
            ("race_date", "e.day", "date"),
            ("race_time", RACE_TIME, "text"),
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
    CompatibilityView {
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
        // Without status changes by the clock: no feed was polled for them.
        from: "oddsd.cycles k WHERE k.feed <> 'clock'",
    },
    CompatibilityView {
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

/// Creates the view, or replaces it; `backup` is the relation that had its place, or the view itself: its column types
/// are kept. Returns a line for the operator if that relation has columns that the view lacks.
pub async fn create(
    connection: &mut PgConnection,
    view: &CompatibilityView,
    backup: Option<&str>,
) -> Result<Vec<String>> {
    let types = match backup {
        Some(backup) => column_types(connection, backup).await?,
        None => Vec::new(),
    };
    let columns: Vec<String> = view
        .columns
        .iter()
        .map(|(name, expression, default)| {
            let known = types.iter().find(|(column, _)| column == name);
            let wanted = known.map_or(*default, |(_, wanted)| wanted.as_str());
            format!("{} AS {name}", cast(expression, default, wanted))
        })
        .collect();
    let (name, columns, from) = (view.name, columns.join(", "), view.from);
    if columns.contains(CAST_OR_NULL) {
        execute(connection, CREATE_CAST_OR_NULL.into()).await?;
    }
    execute(
        connection,
        format!("CREATE OR REPLACE VIEW {name} AS SELECT {columns} FROM {from}"),
    )
    .await?;
    execute(connection, format!("COMMENT ON VIEW {name} IS '{COMMENT}'")).await?;
    let lost: Vec<&str> = types
        .iter()
        .map(|(column, _)| column.as_str())
        .filter(|column| view.columns.iter().all(|(known, ..)| known != column))
        .collect();
    if lost.is_empty() {
        return Ok(Vec::new());
    }
    Ok(vec![format!(
        "{name} no longer has {}: no feed of ours fills it",
        lost.join(", ")
    )])
}

/// The names and types of a relation's columns; none if it does not exist.
pub async fn column_types(
    connection: &mut PgConnection,
    relation: &str,
) -> Result<Vec<(String, String)>> {
    let columns = sqlx::query_as(
        "SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute
         WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
    );
    let columns = columns.bind(relation).fetch_all(connection).await;
    columns.map_err(map_error)
}

/// A cast whose error reads as NULL, for types whose texts no pattern describes. It costs a subtransaction a value.
const CAST_OR_NULL: &str = "oddsd.cast_or_null";
const CREATE_CAST_OR_NULL: &str =
    "CREATE OR REPLACE FUNCTION oddsd.cast_or_null(value text, typed anyelement) RETURNS anyelement
    LANGUAGE plpgsql STABLE AS $$
    BEGIN
        EXECUTE format('SELECT %L::%s', value, pg_typeof(typed)) INTO typed;
        RETURN typed;
    EXCEPTION WHEN OTHERS THEN
        RETURN NULL;
    END $$";

/// Casts to the type of the replaced column. A value that does not fit reads as NULL (a saddle-cloth "NR" in an integer
/// column), never as an error, and a text that is no `uuid` reads as its MD5.
fn cast(expression: &str, own: &str, wanted: &str) -> String {
    let text = format!("({expression})::text");
    let direct = format!("({expression})::{wanted}");
    let when = |pattern: &str| format!("CASE WHEN {text} ~ '{pattern}' THEN {text}::{wanted} END");
    const NUMBER: &str = "^-?[0-9]{1,30}([.][0-9]{1,30})?$";
    let is_text = ["text", "character varying", "character("]
        .iter()
        .any(|name| wanted.starts_with(name));
    let is_time = own == "timestamptz" && wanted.starts_with("timestamp");
    match wanted {
        "smallint" => when("^-?[0-9]{1,4}$"),
        "integer" => when("^-?[0-9]{1,9}$"),
        "bigint" => when("^-?[0-9]{1,18}$"),
        "uuid" => format!(
            "CASE WHEN {text} ~ '^[0-9a-fA-F]{{8}}(-[0-9a-fA-F]{{4}}){{3}}-[0-9a-fA-F]{{12}}$' \
             THEN {text}::uuid ELSE md5({text})::uuid END"
        ),
        "time without time zone" => when("^([01]?[0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9])?$"),
        "double precision" | "real" | "numeric" => when(NUMBER),
        _ if is_text || is_time || (wanted == own && !wanted.starts_with("numeric(")) => direct,
        _ => match precision(wanted) {
            // The bound leaves room for rounding up; a CASE alone would forget the precision.
            Some((digits, scale)) => format!(
                "(CASE WHEN {text} ~ '{NUMBER}' AND abs({text}::numeric) < 1e{} - 1 THEN {text}::{wanted} END)::{wanted}",
                digits - scale
            ),
            // The outer cast keeps the precision of the type, as of time(0).
            None => format!("{CAST_OR_NULL}({text}, NULL::{wanted})::{wanted}"),
        },
    }
}

/// `numeric(10,3)` as (10, 3).
fn precision(wanted: &str) -> Option<(i32, i32)> {
    let (digits, scale) = wanted
        .strip_prefix("numeric(")?
        .strip_suffix(')')?
        .split_once(',')?;
    Some((digits.parse().ok()?, scale.parse().ok()?))
}
