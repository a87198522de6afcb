-- What an outbox row is about, where it is not (only) an event: the fields of a reported change or of a
-- changed row of somebody else's table, as JSON; for an event that moved, where it was before.
-- keys: one target a line; a line that begins with a tab is a tag.
ALTER TABLE oddsd.outbox
    ADD COLUMN detail  text,
    ADD COLUMN before  text,                     -- price or status, as the log shows it
    ADD COLUMN after   text;

-- The log has a row for each thing that changed, with what was removed for it.
ALTER TABLE oddsd.removals
    ADD COLUMN change  text NOT NULL DEFAULT '', -- comma-separated change kinds
    ADD COLUMN entity  text,                     -- event, table or task
    ADD COLUMN rules   text NOT NULL DEFAULT '', -- the version of the rules that were in force
    ADD COLUMN before  text,
    ADD COLUMN after   text;
CREATE INDEX removals_entity ON oddsd.removals (entity, id) WHERE entity IS NOT NULL;

-- Counted along, across all daemons: the log itself is kept for a while only. Old ones are put together
-- under '-infinity'.
CREATE TABLE oddsd.removal_counts (
    since     timestamptz NOT NULL,             -- the beginning of five seconds
    reason    text NOT NULL,
    removals  bigint NOT NULL,
    keys      bigint NOT NULL,
    PRIMARY KEY (since, reason)
) WITH (fillfactor = 50);

-- What somebody has been warned of already, and not yet that it is over.
CREATE TABLE oddsd.alarms (
    name   text PRIMARY KEY,
    since  timestamptz NOT NULL DEFAULT now()
);

-- How old the answer under a target may be, for rules that leave small movements: no older than this cycle.
CREATE TABLE oddsd.marks (
    target    text PRIMARY KEY,
    cycle_id  bigint NOT NULL
);
