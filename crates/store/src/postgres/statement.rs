//! Builds the text of the statement that commits a cycle: a chain of CTEs, one transaction and one round trip.
//! `commit` sends it. Most cycles only change known prices; for them the statement has no other part.
//!
//! Shortened, the statement for known prices is
//! `WITH fence AS (SELECT 1 FROM oddsd.leases WHERE … FOR SHARE), cycle AS (INSERT INTO oddsd.cycles …),
//! outbox AS (INSERT INTO oddsd.outbox … RETURNING id, event_key), price AS (SELECT unnest($16::bigint[]) AS id, …),
//! updated AS (UPDATE oddsd.prices … RETURNING 1), history AS (INSERT INTO oddsd.history …)
//! SELECT (1 / (SELECT count(*) FROM fence))::bigint, (SELECT count(*) FROM outbox), …`.

use std::sync::LazyLock;

/// The parts that the statement of a cycle needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatementKind {
    /// Known prices of a few events, in arrays.
    MovesInSlices,
    /// Known prices of many events, in arrays.
    Moves,
    /// Anything, in arrays.
    Anything,
    /// Anything; the prices are in the staging table.
    Staged,
}

impl StatementKind {
    pub fn sql(self) -> &'static str {
        static SLICES: LazyLock<String> =
            LazyLock::new(|| moves(&[MOVES_IN_SLICES, UPDATED, HISTORY_BY_SLICE]));
        static MOVES: LazyLock<String> =
            LazyLock::new(|| moves(&[KNOWN_PRICES, UPDATED, HISTORY_BY_GROUP]));
        static ANYTHING: LazyLock<String> = LazyLock::new(|| anything(PRICES));
        static STAGED: LazyLock<String> = LazyLock::new(|| anything(STAGED_PRICES));
        match self {
            Self::MovesInSlices => &SLICES,
            Self::Moves => &MOVES,
            Self::Anything => &ANYTHING,
            Self::Staged => &STAGED,
        }
    }

    pub fn only_moves(self) -> bool {
        matches!(self, Self::MovesInSlices | Self::Moves)
    }
}

fn moves(prices: &[&str]) -> String {
    numbered(&[&[CYCLE, OUTBOX], prices, &[RESULT]].concat())
}

fn anything(prices: &str) -> String {
    let prices = [prices, INSERTED, UPDATED, ONLY_KNOWN, HISTORY_BY_GROUP];
    let (first, last) = ([CYCLE, OUTBOX, CATALOGUE], [RESULT, CATALOGUE_RESULT]);
    numbered(&[&first[..], &prices, &last].concat())
}

/// Parameters that every kind has: $1 to $10.
const FIXED: usize = 10;

/// Replaces each `?` by the next parameter after the fixed ones.
fn numbered(parts: &[&str]) -> String {
    let text = parts.concat();
    let mut pieces = text.split('?');
    let mut sql = pieces.next().unwrap_or_default().to_owned();
    for (n, piece) in pieces.enumerate() {
        sql += &format!("${}{piece}", FIXED + 1 + n);
    }
    sql
}

/// Fails the statement unless the lease is still this daemon's: the result divides by the number of such
/// leases, and nothing is written. FOR SHARE makes a takeover wait for the commit.
const CYCLE: &str = "
WITH fence AS (
    SELECT 1 FROM oddsd.leases WHERE name = $1 AND holder = $2 AND epoch = $3 FOR SHARE
), cycle AS (
    INSERT INTO oddsd.cycles (id, feed, as_of, races, horses, bookmakers, seen, inserted, reopened, changed,
                              withdrawn, unchanged, stale, rejected, no_price, fetch_ms, diff_ms,
                              next_event, next_selection, next_bookmaker, next_price, open_prices)
    SELECT $4, $5, $6, $7, $8, $9, c[1], c[2], c[3], c[4], c[5], c[6], c[7], c[8], c[9], c[10], c[11],
           c[12], c[13], c[14], c[15],
           coalesce((SELECT open_prices FROM oddsd.cycles ORDER BY id DESC LIMIT 1),
                    (SELECT count(*) FROM oddsd.prices WHERE status <> 'withdrawn')) + c[2] + c[3] - c[5]
    FROM (SELECT $10::bigint[] AS c) counts
)";

const CATALOGUE: &str = ", bookmaker AS (
    INSERT INTO oddsd.bookmakers (id, key, name, kind) SELECT * FROM unnest(?::bigint[], ?::text[], ?::text[], ?::text[])
), event AS (
    INSERT INTO oddsd.events (id, key, source, sport, league, venue, name, starts_at, day, status, in_play, listed,
                              facts, first_seen)
    SELECT id, key, source, sport, league, venue, name, starts_at, day, status, in_play, listed, facts::jsonb, $6
    FROM unnest(?::bigint[], ?::text[], ?::text[], ?::text[], ?::text[], ?::text[], ?::text[], ?::timestamptz[],
                ?::date[], ?::text[], ?::boolean[], ?::boolean[], ?::text[])
         AS e (id, key, source, sport, league, venue, name, starts_at, day, status, in_play, listed, facts)
    ON CONFLICT (id) DO UPDATE SET source = excluded.source, sport = excluded.sport, league = excluded.league,
        venue = excluded.venue, name = excluded.name, starts_at = excluded.starts_at, day = excluded.day,
        status = excluded.status, in_play = excluded.in_play, listed = excluded.listed, facts = excluded.facts,
        updated_at = now()
    RETURNING id
), checked AS (
    INSERT INTO oddsd.checks (event_id, checked_at) SELECT id, $6 FROM event WHERE NOT ?::boolean
    ON CONFLICT (event_id) DO UPDATE SET checked_at = excluded.checked_at
    WHERE checks.checked_at < excluded.checked_at OR checks.checked_at > now()
), selection AS (
    INSERT INTO oddsd.selections (id, event_id, key, name, status, facts)
    SELECT id, event_id, key, name, status, facts::jsonb
    FROM unnest(?::bigint[], ?::bigint[], ?::text[], ?::text[], ?::text[], ?::text[])
         AS s (id, event_id, key, name, status, facts)
    ON CONFLICT (id) DO UPDATE SET name = excluded.name, status = excluded.status, facts = excluded.facts,
        updated_at = now()
    RETURNING 1
), transition AS (
    INSERT INTO oddsd.transitions (event_id, feed_time, before, after, source)
    SELECT event_id, $6, before, after, source
    FROM unnest(?::bigint[], ?::text[], ?::text[], ?::text[]) AS t (event_id, before, after, source)
), corrected AS (
    UPDATE oddsd.corrections SET applied_at = now() WHERE id = ANY (?::bigint[]) AND applied_at IS NULL
)";

/// Arrays are unpacked in the select list, row by row: in FROM each would be unpacked whole first. A status
/// that is not sent is 'open', as nearly all are. The parameters are numbered: the history is cut from the
/// same arrays.
const MOVES_IN_SLICES: &str = ", price AS (
    SELECT unnest($16::bigint[]) AS id, unnest($17::numeric[]) AS decimal, unnest($18::text[]) AS fractional,
           unnest($19::numeric[]) AS point, unnest($20::integer[]) AS ew_places, unnest($21::integer[]) AS ew_denom,
           unnest($22::text[]) AS status, unnest($23::timestamptz[]) AS observed_at
)";
const KNOWN_PRICES: &str = ", price AS MATERIALIZED (
    SELECT unnest(?::bigint[]) AS id, unnest(?::numeric[]) AS decimal, unnest(?::text[]) AS fractional,
           unnest(?::numeric[]) AS point, unnest(?::integer[]) AS ew_places, unnest(?::integer[]) AS ew_denom,
           unnest(?::text[]) AS status, unnest(?::timestamptz[]) AS observed_at, unnest(?::bigint[]) AS event_id
)";
const PRICES: &str = ", price AS MATERIALIZED (
    SELECT unnest(?::bigint[]) AS id, unnest(?::numeric[]) AS decimal, unnest(?::text[]) AS fractional,
           unnest(?::numeric[]) AS point, unnest(?::integer[]) AS ew_places, unnest(?::integer[]) AS ew_denom,
           unnest(?::text[]) AS status, unnest(?::timestamptz[]) AS observed_at, unnest(?::bigint[]) AS event_id,
           unnest(?::bigint[]) AS selection_id, unnest(?::bigint[]) AS bookmaker_id, unnest(?::text[]) AS market,
           unnest(?::boolean[]) AS is_new
)";
const STAGED_PRICES: &str = ", price AS NOT MATERIALIZED (SELECT * FROM pg_temp.oddsd_stage)";
/// The columns in the order in which they are copied.
pub const STAGING_TABLE: &str = "CREATE TEMP TABLE oddsd_stage (
    id bigint, decimal numeric, fractional text, point numeric, ew_places integer, ew_denom integer, status text,
    observed_at timestamptz, event_id bigint, selection_id bigint, bookmaker_id bigint, market text, is_new boolean
) ON COMMIT DROP";

const INSERTED: &str = ", inserted AS (
    INSERT INTO oddsd.prices (id, event_id, selection_id, bookmaker_id, market, decimal, fractional, point,
                              ew_places, ew_denom, status, observed_at)
    SELECT id, event_id, selection_id, bookmaker_id, market, decimal, fractional, point, ew_places, ew_denom,
           coalesce(status, 'open'), observed_at
    FROM price WHERE is_new
    RETURNING 1
)";
const UPDATED: &str = ", updated AS (
    UPDATE oddsd.prices AS stored SET decimal = price.decimal, fractional = price.fractional, point = price.point,
        ew_places = price.ew_places, ew_denom = price.ew_denom, status = coalesce(price.status, 'open'),
        observed_at = price.observed_at, updated_at = now()
    FROM price WHERE stored.id = price.id";
const ONLY_KNOWN: &str = " AND NOT price.is_new";

macro_rules! history {
    () => {
        "
    RETURNING 1
), history AS (
    INSERT INTO oddsd.history (event_id, cycle_id, as_of, price_ids, decimals, fractionals, points, ew_places, ew_denoms,
                               statuses, observed_ats)"
    };
}
/// The prices of one event are adjacent, so their row of history is a slice of the arrays that were sent. That
/// costs a third of grouping, as long as the events are few: each slice is searched from the start.
const HISTORY_BY_SLICE: &str = concat!(
    history!(),
    "
    SELECT event_id, $4, $6, ($16::bigint[])[low:high], ($17::numeric[])[low:high], ($18::text[])[low:high],
           ($19::numeric[])[low:high], ($20::integer[])[low:high], ($21::integer[])[low:high], ($22::text[])[low:high],
           ($23::timestamptz[])[low:high]
    FROM unnest($24::bigint[], $25::integer[], $26::integer[]) AS slice (event_id, low, high)
)"
);
/// A column that no price of the row has is not stored.
const HISTORY_BY_GROUP: &str = concat!(
    history!(),
    "
    SELECT event_id, $4, $6, array_agg(id), array_agg(decimal),
           CASE WHEN count(fractional) > 0 THEN array_agg(fractional) END,
           CASE WHEN count(point) > 0 THEN array_agg(point) END,
           CASE WHEN count(ew_places) > 0 THEN array_agg(ew_places) END,
           CASE WHEN count(ew_denom) > 0 THEN array_agg(ew_denom) END,
           CASE WHEN count(status) > 0 THEN array_agg(status) END, array_agg(observed_at)
    FROM price GROUP BY event_id
)"
);
/// Its five parameters come first among the arrays, so that any may follow.
const OUTBOX: &str = ", outbox AS (
    INSERT INTO oddsd.outbox (cycle_id, event_key, kinds, before, after, detail)
    SELECT $4, * FROM unnest(?::text[], ?::text[], ?::text[], ?::text[], ?::text[])
    RETURNING id, event_key
)";
const RESULT: &str = "
SELECT (1 / (SELECT count(*) FROM fence))::bigint, (SELECT count(*) FROM outbox) AS outbox,
    (SELECT count(*) FROM updated) AS updated, pg_current_snapshot()::text AS snapshot,
    pg_current_xact_id()::text::bigint AS xid, now() AS at,
    coalesce((SELECT json_object_agg(event_key, id) FROM outbox), '{}')::text AS outbox_ids";
const CATALOGUE_RESULT: &str = ",
    (SELECT count(*) FROM inserted) AS inserted, (SELECT count(*) FROM event) AS events,
    (SELECT count(*) FROM selection) AS selections";
