//! Takes over the tables of another worker: renames them and imports their rows.
//! `oddsd migrate --adopt` calls it.

use std::collections::HashSet;

use sqlx::PgConnection;

use super::views::column_types;
use super::{execute, map_error};
use crate::{Result, StoreError};
use oddsd_core::model::BOOKMAKER_ALIASES;

/// Appended to the name of a table that was taken over.
pub const BACKUP_SUFFIX: &str = "_before_oddsd";

pub async fn rename_to_backup(connection: &mut PgConnection, name: &str) -> Result<String> {
    let backup = format!("{name}{BACKUP_SUFFIX}");
    if !columns(connection, &backup).await?.is_empty() {
        return Err(StoreError::Schema(format!(
            "{backup} exists already, so {name} cannot be renamed to it; nothing was touched. Rename or drop {backup} first"
        )));
    }
    // ALTER TABLE renames views, too.
    execute(connection, format!("ALTER TABLE {name} RENAME TO {backup}")).await?;
    Ok(format!("renamed {name} to {backup}"))
}

/// Imports from the backups: bookmakers, races, runners and their current prices.
pub async fn import(connection: &mut PgConnection) -> Result<Vec<String>> {
    let mut report = Vec::new();
    let bookmakers = columns(connection, &format!("ra_bookmakers{BACKUP_SUFFIX}")).await?;
    if bookmakers.contains("bookmaker_id") {
        let rows = execute(connection, insert_bookmakers("ra_bookmakers", &bookmakers)).await?;
        report.push(format!("imported {rows} bookmakers from ra_bookmakers"));
    }
    let live = columns(connection, &format!("ra_odds_live{BACKUP_SUFFIX}")).await?;
    if live.is_empty() {
        return Ok(report);
    }
    for needed in ["race_id", "horse_id", "bookmaker_id", "odds_decimal"] {
        if !live.contains(needed) {
            return Err(StoreError::Schema(format!(
                "ra_odds_live has no column {needed}, so its rows cannot be imported; nothing was touched. \
                 Rename the table yourself and run `oddsd migrate` again"
            )));
        }
    }
    execute(connection, insert_bookmakers("ra_odds_live", &live)).await?;
    let races = execute(connection, insert_events(&live)).await?;
    let runners = execute(connection, insert_selections(&live)).await?;
    let prices = execute(connection, insert_prices(&live)).await?;
    // Adopted rows count as being as old as the oldest cycle.
    let began = "coalesce((SELECT as_of FROM oddsd.cycles ORDER BY id LIMIT 1), now())";
    execute(
        connection,
        format!("SELECT oddsd.make_history_day(({began} AT TIME ZONE 'UTC')::date)"),
    )
    .await?;
    execute(
        connection,
        format!(
            "INSERT INTO oddsd.history (event_id, cycle_id, as_of, price_ids, observed_ats, decimals, fractionals, statuses)
             SELECT event_id, 0, {began}, array_agg(id), array_agg(observed_at), array_agg(decimal),
                    array_agg(fractional), array_agg(status)
             FROM oddsd.prices p
             WHERE NOT EXISTS (SELECT FROM oddsd.history h WHERE h.event_id = p.event_id AND p.id = ANY (h.price_ids))
             GROUP BY event_id"
        ),
    )
    .await?;
    let count = format!("SELECT count(*) FROM ra_odds_live{BACKUP_SUFFIX}");
    let total: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(count))
        .fetch_one(&mut *connection)
        .await
        .map_err(map_error)?;
    report.push(format!(
        "imported {races} races, {runners} runners and {prices} prices from ra_odds_live ({} rows were set aside: \
         no usable decimal, or a second spelling of the same bookmaker)",
        total - prices as i64
    ));
    Ok(report)
}

async fn columns(connection: &mut PgConnection, table: &str) -> Result<HashSet<String>> {
    let columns = column_types(connection, table).await?.into_iter();
    Ok(columns.map(|(name, _)| name).collect())
}

/// A column as text, or NULL where the old table has none of that name.
fn text(columns: &HashSet<String>, name: &str) -> String {
    if columns.contains(name) {
        format!("nullif(o.{name}::text, '')")
    } else {
        "NULL::text".into()
    }
}

/// A column as another type; `infinity` is no time that a program could read.
fn typed(columns: &HashSet<String>, name: &str, kind: &str) -> String {
    if columns.contains(name) {
        let value = format!("nullif(o.{name}::text, '')::{kind}");
        format!("CASE WHEN isfinite({value}) THEN {value} END")
    } else {
        format!("NULL::{kind}")
    }
}

/// The newest of two rows that come to one key.
fn newest_first(columns: &HashSet<String>) -> String {
    let times = ["updated_at", "fetched_at", "odds_timestamp"];
    let known: Vec<String> = times
        .iter()
        .map(|name| typed(columns, name, "timestamptz"))
        .collect();
    format!(
        "coalesce({}) DESC NULLS LAST, o.ctid DESC",
        known.join(", ")
    )
}

/// The bookmaker's id by our rule: lower case, no spaces, through the alias table.
fn bookmaker_key() -> String {
    let plain = "lower(regexp_replace(o.bookmaker_id::text, '\\s', '', 'g'))";
    let arms: String = BOOKMAKER_ALIASES
        .iter()
        .map(|(alias, stored)| format!(" WHEN '{alias}' THEN '{stored}'"))
        .collect();
    format!("(CASE {plain}{arms} ELSE {plain} END)")
}

fn facts(columns: &HashSet<String>, names: &[(&str, &str)]) -> String {
    let pairs: Vec<String> = names
        .iter()
        .map(|(ours, theirs)| format!("'{ours}', {}", text(columns, theirs)))
        .collect();
    format!(
        "jsonb_strip_nulls(jsonb_build_object({}))",
        pairs.join(", ")
    )
}

fn insert_bookmakers(table: &str, columns: &HashSet<String>) -> String {
    let key = bookmaker_key();
    let name = text(columns, "bookmaker_name");
    let kind = text(columns, "bookmaker_type");
    format!(
        "INSERT INTO oddsd.bookmakers (id, key, name, kind)
         SELECT (SELECT coalesce(max(id), 0) FROM oddsd.bookmakers) + row_number() OVER (ORDER BY key), key, name, kind
         FROM (SELECT DISTINCT ON (key) {key} AS key, coalesce({name}, o.bookmaker_id::text) AS name,
                      CASE WHEN {kind} = 'exchange' THEN 'exchange' ELSE 'fixed' END AS kind
               FROM {table}{BACKUP_SUFFIX} o WHERE o.bookmaker_id::text <> '' ORDER BY key) found
         ON CONFLICT (key) DO NOTHING"
    )
}

fn insert_events(columns: &HashSet<String>) -> String {
    let facts = facts(
        columns,
        &[
            ("race_date", "race_date"),
            ("race_time", "race_time"),
            ("race_class", "race_class"),
            ("race_type", "race_type"),
            ("distance", "distance"),
            ("going", "going"),
            ("field_size", "runners"),
        ],
    );
    let (course, name) = (text(columns, "course"), text(columns, "race_name"));
    let (off, day) = (
        typed(columns, "off_dt", "timestamptz"),
        typed(columns, "race_date", "date"),
    );
    let newest = newest_first(columns);
    format!(
        "INSERT INTO oddsd.events (id, key, source, sport, league, venue, name, starts_at, day, status, in_play, listed, facts)
         SELECT (SELECT coalesce(max(id), 0) FROM oddsd.events) + row_number() OVER (ORDER BY key), key, 'racing_api',
                'horse_racing', '', venue, name, starts_at, day, 'scheduled', false, true, facts
         FROM (SELECT DISTINCT ON (o.race_id) o.race_id::text AS key, coalesce({course}, '') AS venue,
                      coalesce({name}, '') AS name, {off} AS starts_at, {day} AS day, {facts} AS facts
               FROM ra_odds_live{BACKUP_SUFFIX} o ORDER BY o.race_id, {newest}) found
         ON CONFLICT (key) DO NOTHING"
    )
}

fn insert_selections(columns: &HashSet<String>) -> String {
    let names = ["jockey", "trainer", "draw", "weight", "age", "form"].map(|name| (name, name));
    let mut pairs = vec![("number", "horse_number")];
    pairs.extend(names);
    let facts = facts(columns, &pairs);
    let name = text(columns, "horse_name");
    let newest = newest_first(columns);
    format!(
        "INSERT INTO oddsd.selections (id, event_id, key, name, status, facts)
         SELECT (SELECT coalesce(max(id), 0) FROM oddsd.selections) + row_number() OVER (ORDER BY event_id, key),
                event_id, key, name, 'active', facts
         FROM (SELECT DISTINCT ON (e.id, o.horse_id) e.id AS event_id, o.horse_id::text AS key,
                      coalesce({name}, '') AS name, {facts} AS facts
               FROM ra_odds_live{BACKUP_SUFFIX} o JOIN oddsd.events e ON e.key = o.race_id::text
               ORDER BY e.id, o.horse_id, {newest}) found
         ON CONFLICT (event_id, key) DO NOTHING"
    )
}

fn insert_prices(columns: &HashSet<String>) -> String {
    // A price without a time of its own gets 1970, so that any price of the feed is newer.
    let fractional = text(columns, "odds_fractional");
    let times = ["odds_timestamp", "fetched_at", "updated_at"]
        .map(|name| typed(columns, name, "timestamptz"));
    let newest = newest_first(columns);
    format!(
        "INSERT INTO oddsd.prices (id, event_id, selection_id, bookmaker_id, market, decimal, fractional, status, observed_at)
         SELECT (SELECT coalesce(max(id), 0) FROM oddsd.prices) + row_number() OVER (ORDER BY event_id, selection_id, bookmaker_id),
                event_id, selection_id, bookmaker_id, 'win', decimal, fractional, 'open', observed_at
         FROM (SELECT DISTINCT ON (e.id, s.id, b.id) e.id AS event_id, s.id AS selection_id, b.id AS bookmaker_id,
                      trim_scale(round(o.odds_decimal::text::numeric, 9)) AS decimal,
                      CASE WHEN {fractional} LIKE '%/%' THEN {fractional} END AS fractional,
                      coalesce({}, 'epoch') AS observed_at
               FROM ra_odds_live{BACKUP_SUFFIX} o
               JOIN oddsd.events e ON e.key = o.race_id::text
               JOIN oddsd.selections s ON s.event_id = e.id AND s.key = o.horse_id::text
               JOIN oddsd.bookmakers b ON b.key = {}
               WHERE o.odds_decimal::text ~ '^[0-9]{{1,9}}([.][0-9]+)?$' AND o.odds_decimal::text::numeric > 1
               ORDER BY e.id, s.id, b.id, {newest}) found
         ON CONFLICT (event_id, selection_id, bookmaker_id, market) DO NOTHING",
        times.join(", "),
        bookmaker_key(),
    )
}
