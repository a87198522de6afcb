-- Where each event has stood, and who moved it. feed_time is the time of the look (an exchange's own time), or
-- of the clock that moved it; at, when it was stored. The rows leave with their event.
CREATE TABLE transitions (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    event_id   INTEGER NOT NULL,
    at         INTEGER NOT NULL,
    feed_time  INTEGER NOT NULL,
    before     TEXT,
    after      TEXT NOT NULL,
    source     TEXT NOT NULL
) STRICT;
CREATE INDEX transitions_event ON transitions (event_id, id);

-- What a person says of an event, until the one who writes has carried it out.
CREATE TABLE corrections (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    event_key   TEXT NOT NULL,
    status      TEXT NOT NULL,
    asked_at    INTEGER NOT NULL,
    applied_at  INTEGER
) STRICT;
CREATE INDEX corrections_waiting ON corrections (id) WHERE applied_at IS NULL;

-- cycles.feed has one more word: 'clock', where statuses were moved and nobody looked.
