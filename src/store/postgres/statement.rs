//! The statement that is a cycle: a chain of CTEs, one transaction and one round trip. Most cycles
//! only move prices that are known; their shape sends and plans nothing else.

use std::sync::LazyLock;

/// What a cycle holds, and where its prices lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Known prices of a few events, in arrays.
    MovesInRuns,
    /// Known prices of many events, in arrays.
    Moves,
    /// Anything, in arrays.
    Anything,
    /// Anything; the prices lie in the staging table.
    Staged,
}

impl Shape {
    pub fn sql(self) -> &'static str {
        static RUNS: LazyLock<String> = LazyLock::new(|| {
            let parts = [CYCLE, OUTBOX, MOVES_IN_RUNS, UPDATED, CUT, ANSWER];
            numbered(&parts)
        });
        static MOVED: LazyLock<String> = LazyLock::new(|| {
            let parts = [CYCLE, OUTBOX, MOVES, UPDATED, GROUPED, ANSWER];
            numbered(&parts)
        });
        static ALL: LazyLock<String> = LazyLock::new(|| {
            let prices = [PRICES, INSERTED, UPDATED, KNOWN, GROUPED];
            let parts = [&[CYCLE, OUTBOX, CARD], &prices[..], &[ANSWER, CARD_ANSWER]];
            numbered(&parts.concat())
        });
        static STAGED: LazyLock<String> = LazyLock::new(|| {
            let prices = [STAGE, INSERTED, UPDATED, KNOWN, GROUPED];
            let parts = [&[CYCLE, OUTBOX, CARD], &prices[..], &[ANSWER, CARD_ANSWER]];
            numbered(&parts.concat())
        });
        match self {
            Self::MovesInRuns => &RUNS,
            Self::Moves => &MOVED,
            Self::Anything => &ALL,
            Self::Staged => &STAGED,
        }
    }

    pub fn only_moves(self) -> bool {
        matches!(self, Self::MovesInRuns | Self::Moves)
    }
}

/// Parameters that every shape has: $1 to $10.
const FIXED: usize = 10;

/// Each `?` becomes the next parameter after those that are fixed.
fn numbered(parts: &[&str]) -> String {
    let text = parts.concat();
    let mut pieces = text.split('?');
    let mut sql = pieces.next().unwrap_or_default().to_owned();
    for (n, piece) in pieces.enumerate() {
        sql += &format!("${}{piece}", FIXED + 1 + n);
    }
    sql
}

/// The fence guards all the rest: when the lease is no longer ours, the answer divides by zero,
/// which ends the statement, and nothing is written. FOR SHARE makes a takeover wait for us.
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

const CARD: &str = ", bookmaker AS (
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
    ON CONFLICT (event_id) DO UPDATE SET checked_at = excluded.checked_at WHERE checks.checked_at < excluded.checked_at
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

/// Unpacked in the select list, row by row: in FROM each array would be unpacked whole and kept
/// beside the others first. A status that is not sent is 'open', which nearly all of them are.
/// Named by number: the history is cut from the same arrays.
const MOVES_IN_RUNS: &str = ", price AS (
    SELECT unnest($16::bigint[]) AS id, unnest($17::numeric[]) AS decimal, unnest($18::text[]) AS fractional,
           unnest($19::numeric[]) AS point, unnest($20::integer[]) AS ew_places, unnest($21::integer[]) AS ew_denom,
           unnest($22::text[]) AS status, unnest($23::timestamptz[]) AS observed_at
)";
const MOVES: &str = ", price AS MATERIALIZED (
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
const STAGE: &str = ", price AS NOT MATERIALIZED (SELECT * FROM pg_temp.oddsd_stage)";
/// The columns as the staging table has them, and as they are copied into it.
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
const KNOWN: &str = " AND NOT price.is_new";

macro_rules! history {
    () => {
        "
    RETURNING 1
), history AS (
    INSERT INTO oddsd.history (event_id, cycle_id, as_of, price_ids, decimals, fractionals, points, ew_places, ew_denoms,
                               statuses, observed_ats)"
    };
}
/// Prices of one event lie together, so their row of history is cut out of what was sent: a third
/// of what grouping costs, as long as the events are few. Each cut walks from the start.
const CUT: &str = concat!(
    history!(),
    "
    SELECT event_id, $4, $6, ($16::bigint[])[low:high], ($17::numeric[])[low:high], ($18::text[])[low:high],
           ($19::numeric[])[low:high], ($20::integer[])[low:high], ($21::integer[])[low:high], ($22::text[])[low:high],
           ($23::timestamptz[])[low:high]
    FROM unnest($24::bigint[], $25::integer[], $26::integer[]) AS run (event_id, low, high)
)"
);
/// A column that no price of the row has is not stored.
const GROUPED: &str = concat!(
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
/// Its own five come first among the arrays, so that any may follow.
const OUTBOX: &str = ", outbox AS (
    INSERT INTO oddsd.outbox (cycle_id, event_key, kinds, before, after, detail)
    SELECT $4, * FROM unnest(?::text[], ?::text[], ?::text[], ?::text[], ?::text[])
    RETURNING id
)";
const ANSWER: &str = "
SELECT (1 / (SELECT count(*) FROM fence))::bigint, (SELECT count(*) FROM outbox), (SELECT count(*) FROM updated),
    pg_current_snapshot()::text AS view, pg_current_xact_id()::text::bigint AS xid, now() AS at,
    coalesce((SELECT array_agg(id) FROM outbox), '{}') AS told";
const CARD_ANSWER: &str = ",
    (SELECT count(*) FROM inserted), (SELECT count(*) FROM event), (SELECT count(*) FROM selection)";
