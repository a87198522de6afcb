-- What an outbox row is about, where it is not (only) an event: the fields of a reported change or of a
-- changed row of somebody else's table, as JSON; for an event that moved, where it was before.
-- keys: one target a line; a line that begins with a tab is a tag.
ALTER TABLE outbox ADD COLUMN detail TEXT;
ALTER TABLE outbox ADD COLUMN before TEXT;
ALTER TABLE outbox ADD COLUMN after TEXT;

-- The log has a row for each thing that changed, with what was removed for it.
ALTER TABLE removals ADD COLUMN change TEXT NOT NULL DEFAULT '';
ALTER TABLE removals ADD COLUMN entity TEXT;
ALTER TABLE removals ADD COLUMN rules TEXT NOT NULL DEFAULT '';
ALTER TABLE removals ADD COLUMN before TEXT;
ALTER TABLE removals ADD COLUMN after TEXT;
CREATE INDEX removals_entity ON removals (entity, id) WHERE entity IS NOT NULL;

-- Counted along, across all daemons: the log itself is kept for a while only. Old ones are put together
-- under 0.
CREATE TABLE removal_counts (
    since     INTEGER NOT NULL,                 -- the beginning of five seconds
    reason    TEXT NOT NULL,
    removals  INTEGER NOT NULL,
    keys      INTEGER NOT NULL,
    PRIMARY KEY (since, reason)
) STRICT;

-- What somebody has been warned of already, and not yet that it is over.
CREATE TABLE alarms (
    name   TEXT PRIMARY KEY,
    since  INTEGER NOT NULL
) STRICT;

-- How old the answer under a target may be, for rules that leave small movements: no older than this cycle.
CREATE TABLE marks (
    target    TEXT PRIMARY KEY,
    cycle_id  INTEGER NOT NULL
) STRICT;
