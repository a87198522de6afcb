-- The same tables as on Postgres. Times are microseconds since 1970 (UTC), decimals are text: SQLite
-- has neither, and a REAL would not be exact.

CREATE TABLE bookmakers (
    id          INTEGER PRIMARY KEY,
    key         TEXT NOT NULL UNIQUE,
    name        TEXT NOT NULL,
    kind        TEXT NOT NULL,
    active      INTEGER NOT NULL DEFAULT 1,
    created_at  INTEGER NOT NULL
) STRICT;

CREATE TABLE events (
    id          INTEGER PRIMARY KEY,
    key         TEXT NOT NULL UNIQUE,
    source      TEXT NOT NULL,
    sport       TEXT NOT NULL,
    league      TEXT NOT NULL,
    venue       TEXT NOT NULL,
    name        TEXT NOT NULL,
    starts_at   INTEGER,
    day         TEXT,
    status      TEXT NOT NULL,
    in_play     INTEGER NOT NULL,
    listed      INTEGER NOT NULL,
    facts       TEXT NOT NULL,
    created_at  INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL
) STRICT;
CREATE INDEX events_starts_at ON events (starts_at);

CREATE TABLE checks (
    event_id    INTEGER PRIMARY KEY,
    checked_at  INTEGER NOT NULL
) STRICT;

CREATE TABLE selections (
    id          INTEGER PRIMARY KEY,
    event_id    INTEGER NOT NULL,
    key         TEXT NOT NULL,
    name        TEXT NOT NULL,
    status      TEXT NOT NULL,
    facts       TEXT NOT NULL,
    created_at  INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL,
    UNIQUE (event_id, key)
) STRICT;

CREATE TABLE prices (
    id            INTEGER PRIMARY KEY,
    event_id      INTEGER NOT NULL,
    selection_id  INTEGER NOT NULL,
    bookmaker_id  INTEGER NOT NULL,
    market        TEXT NOT NULL,
    decimal       TEXT NOT NULL,
    fractional    TEXT,
    point         TEXT,
    ew_places     INTEGER,
    ew_denom      INTEGER,
    status        TEXT NOT NULL,
    observed_at   INTEGER NOT NULL,
    updated_at    INTEGER NOT NULL,
    UNIQUE (event_id, selection_id, bookmaker_id, market)
) STRICT;

CREATE TABLE price_history (
    price_id     INTEGER NOT NULL,
    cycle_id     INTEGER NOT NULL,
    observed_at  INTEGER NOT NULL,
    decimal      TEXT NOT NULL,
    fractional   TEXT,
    point        TEXT,
    ew_places    INTEGER,
    ew_denom     INTEGER,
    status       TEXT NOT NULL
) STRICT;
CREATE INDEX price_history_price ON price_history (price_id, cycle_id);

CREATE TABLE cycles (
    id            INTEGER PRIMARY KEY,
    feed          TEXT NOT NULL,
    as_of         INTEGER NOT NULL,
    committed_at  INTEGER NOT NULL,
    races         INTEGER NOT NULL,
    horses        INTEGER NOT NULL,
    bookmakers    TEXT NOT NULL,
    seen          INTEGER NOT NULL,
    inserted      INTEGER NOT NULL,
    reopened      INTEGER NOT NULL,
    changed       INTEGER NOT NULL,
    withdrawn     INTEGER NOT NULL,
    unchanged     INTEGER NOT NULL,
    stale         INTEGER NOT NULL,
    rejected      INTEGER NOT NULL,
    no_price      INTEGER NOT NULL,
    fetch_ms      INTEGER NOT NULL,
    diff_ms       INTEGER NOT NULL,
    next_event      INTEGER NOT NULL,
    next_selection  INTEGER NOT NULL,
    next_bookmaker  INTEGER NOT NULL,
    next_price      INTEGER NOT NULL
) STRICT;

CREATE TABLE outbox (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    cycle_id    INTEGER,
    event_key   TEXT,
    kinds       TEXT NOT NULL,
    keys        TEXT,
    created_at  INTEGER NOT NULL,
    due_at      INTEGER NOT NULL,
    attempts    INTEGER NOT NULL DEFAULT 0,
    claimed_by  TEXT,
    last_error  TEXT
) STRICT;
CREATE INDEX outbox_due ON outbox (due_at);

CREATE TABLE removals (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    at          INTEGER NOT NULL,
    cycle_id    INTEGER,
    rule        TEXT NOT NULL,
    reason      TEXT NOT NULL,
    keys        TEXT NOT NULL,
    existed     INTEGER NOT NULL,
    backend     TEXT NOT NULL,
    attempts    INTEGER NOT NULL,
    took_ms     INTEGER NOT NULL
) STRICT;

CREATE TABLE leases (
    name        TEXT PRIMARY KEY,
    holder      TEXT NOT NULL,
    epoch       INTEGER NOT NULL,
    expires_at  INTEGER NOT NULL,
    state       TEXT NOT NULL DEFAULT '{}'
) STRICT;
