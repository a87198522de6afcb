-- Each kind of fact is stored once. Row ids are given by the one leader that writes (see
-- src/diff/book.rs), so a cycle is a single statement. Tables that only the leader fills carry no
-- foreign keys from prices: the check would cost a look-up a row, and the leader knows.

CREATE TABLE oddsd.bookmakers (
    id          bigint PRIMARY KEY,
    key         text NOT NULL UNIQUE,
    name        text NOT NULL,
    kind        text NOT NULL,               -- fixed, exchange
    active      boolean NOT NULL DEFAULT true,
    created_at  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE oddsd.events (
    id          bigint PRIMARY KEY,
    key         text NOT NULL UNIQUE,        -- the provider's id
    source      text NOT NULL,
    sport       text NOT NULL,
    league      text NOT NULL,
    venue       text NOT NULL,
    name        text NOT NULL,
    starts_at   timestamptz,
    day         date,                        -- the card's local date
    status      text NOT NULL,
    in_play     boolean NOT NULL,
    listed      boolean NOT NULL,            -- false once it has left the feed's answer
    facts       jsonb NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 80);
CREATE INDEX events_starts_at ON oddsd.events (starts_at);

-- "Last checked" moves without a change: apart from the facts, in rows of a few bytes.
CREATE TABLE oddsd.checks (
    event_id    bigint PRIMARY KEY,
    checked_at  timestamptz NOT NULL
) WITH (fillfactor = 50);

CREATE TABLE oddsd.selections (
    id          bigint PRIMARY KEY,
    event_id    bigint NOT NULL,
    key         text NOT NULL,
    name        text NOT NULL,
    status      text NOT NULL,
    facts       jsonb NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    UNIQUE (event_id, key)
) WITH (fillfactor = 80);

-- The hot table: narrow, found by its id, and no index on anything that changes, so that an
-- update stays in its page (HOT) and touches no index.
CREATE TABLE oddsd.prices (
    id            bigint PRIMARY KEY,
    event_id      bigint NOT NULL,
    selection_id  bigint NOT NULL,
    bookmaker_id  bigint NOT NULL,
    market        text NOT NULL,
    decimal       numeric NOT NULL,
    fractional    text,
    point         numeric,
    ew_places     integer,
    ew_denom      integer,
    status        text NOT NULL,             -- open, suspended, withdrawn
    observed_at   timestamptz NOT NULL,      -- feed time of the last change
    updated_at    timestamptz NOT NULL DEFAULT now(),
    UNIQUE (event_id, selection_id, bookmaker_id, market)
) WITH (fillfactor = 60);

CREATE TABLE oddsd.price_history (
    price_id     bigint NOT NULL,
    cycle_id     bigint NOT NULL,
    observed_at  timestamptz NOT NULL,
    decimal      numeric NOT NULL,
    fractional   text,
    point        numeric,
    ew_places    integer,
    ew_denom     integer,
    status       text NOT NULL
);
CREATE INDEX price_history_price ON oddsd.price_history (price_id, cycle_id);
CREATE INDEX price_history_cycle ON oddsd.price_history USING brin (cycle_id);

-- One row a cycle that changed something.
CREATE TABLE oddsd.cycles (
    id              bigint PRIMARY KEY,
    feed            text NOT NULL,
    as_of           timestamptz NOT NULL,
    committed_at    timestamptz NOT NULL DEFAULT now(),
    xid             xid8 NOT NULL DEFAULT pg_current_xact_id(),
    races           integer NOT NULL,
    horses          integer NOT NULL,
    bookmakers      text[] NOT NULL,
    seen            bigint NOT NULL,
    inserted        bigint NOT NULL,
    reopened        bigint NOT NULL,
    changed         bigint NOT NULL,
    withdrawn       bigint NOT NULL,
    unchanged       bigint NOT NULL,
    stale           bigint NOT NULL,
    rejected        bigint NOT NULL,
    no_price        bigint NOT NULL,
    fetch_ms        bigint NOT NULL,
    diff_ms         bigint NOT NULL,
    -- The next free row of each table after this cycle. Retention takes rows out, and a number
    -- that came back would find the price history of another row.
    next_event      bigint NOT NULL,
    next_selection  bigint NOT NULL,
    next_bookmaker  bigint NOT NULL,
    next_price      bigint NOT NULL
);
CREATE INDEX cycles_committed_at ON oddsd.cycles (committed_at);

-- What readers still have to be told. A row leaves only when every answer it made wrong is
-- confirmed gone. due_at is also the lease: claiming a row moves it into the future.
CREATE TABLE oddsd.outbox (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    cycle_id    bigint,
    event_key   text,
    kinds       text NOT NULL,               -- comma-separated change kinds
    keys        text,                        -- manual: cache keys, one a line
    xid         xid8 NOT NULL DEFAULT pg_current_xact_id(),
    created_at  timestamptz NOT NULL DEFAULT now(),
    due_at      timestamptz NOT NULL DEFAULT now(),
    attempts    integer NOT NULL DEFAULT 0,
    claimed_by  text,
    last_error  text
);
CREATE INDEX outbox_due ON oddsd.outbox (due_at);

CREATE TABLE oddsd.removals (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at          timestamptz NOT NULL DEFAULT now(),
    cycle_id    bigint,
    rule        text NOT NULL,
    reason      text NOT NULL,
    keys        text NOT NULL,               -- one a line
    existed     bigint NOT NULL,
    backend     text NOT NULL,
    attempts    integer NOT NULL,
    took_ms     bigint NOT NULL
);
CREATE INDEX removals_at ON oddsd.removals (at);

-- The one writer, its fencing number, and what it says of itself.
CREATE TABLE oddsd.leases (
    name        text PRIMARY KEY,
    holder      text NOT NULL,
    epoch       bigint NOT NULL,
    expires_at  timestamptz NOT NULL,
    state       jsonb NOT NULL DEFAULT '{}'
) WITH (fillfactor = 10);
