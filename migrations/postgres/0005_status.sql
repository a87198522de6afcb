-- Where each event has stood, and who moved it. feed_time is the time of the look (an exchange's own time), or
-- of the clock that moved it; at, when it was stored. The rows leave with their event.
CREATE TABLE oddsd.transitions (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_id   bigint NOT NULL,
    at         timestamptz NOT NULL DEFAULT now(),
    feed_time  timestamptz NOT NULL,
    before     text,                         -- NULL: it was new
    after      text NOT NULL,
    source     text NOT NULL                 -- feed, clock, correction
);
CREATE INDEX transitions_event ON oddsd.transitions (event_id, id);

-- What a person says of an event, until the one who writes has carried it out.
CREATE TABLE oddsd.corrections (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_key   text NOT NULL,
    status      text NOT NULL,
    asked_at    timestamptz NOT NULL DEFAULT now(),
    applied_at  timestamptz
);
CREATE INDEX corrections_waiting ON oddsd.corrections (id) WHERE applied_at IS NULL;

-- cycles.feed has one more word: 'clock', where statuses were moved and nobody looked.
