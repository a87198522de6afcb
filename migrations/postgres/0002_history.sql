-- History in few bytes: one row an event and cycle, with the changed prices side by side in arrays,
-- in partitions by day. A row a price cost twice what the change itself costs: an index entry in a
-- random page each, and two megabytes of WAL where an array takes a tenth of that. Retention drops
-- whole days and leaves no dead rows behind.

-- A rewrite of nine tenths of the rows in one transaction stays in its pages (HOT).
ALTER TABLE oddsd.prices SET (fillfactor = 45, autovacuum_vacuum_scale_factor = 0.1,
                              autovacuum_vacuum_cost_delay = 0);

-- Where an event's history begins: days before it need not be looked at.
ALTER TABLE oddsd.events ADD COLUMN first_seen timestamptz NOT NULL DEFAULT '-infinity';

-- How many prices are open after the cycle: counted along, because a count reads them all.
ALTER TABLE oddsd.cycles ADD COLUMN open_prices bigint;

ALTER TABLE oddsd.price_history RENAME TO price_history_by_row;

CREATE TABLE oddsd.history (
    event_id      bigint NOT NULL,
    cycle_id      bigint NOT NULL,
    as_of         timestamptz NOT NULL,      -- of the cycle: our own time, which names the day
    price_ids     bigint[] NOT NULL,
    observed_ats  timestamptz[] NOT NULL,
    decimals      numeric[] NOT NULL,
    fractionals   text[],                    -- this and the next: NULL where no price of the row has one
    points        numeric[],
    ew_places     integer[],
    ew_denoms     integer[],
    statuses      text[]                     -- without one: open
) PARTITION BY RANGE (as_of);
CREATE INDEX history_event ON oddsd.history (event_id, cycle_id);

-- lz4 takes a third of the time; a server may have been built without it.
DO $$
DECLARE name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['price_ids', 'observed_ats', 'decimals', 'fractionals', 'points', 'ew_places',
                                'ew_denoms', 'statuses'] LOOP
        EXECUTE format('ALTER TABLE oddsd.history ALTER COLUMN %I SET COMPRESSION lz4', name);
    END LOOP;
EXCEPTION WHEN feature_not_supported THEN NULL;
END $$;

-- The partition of a day (UTC), if it is not there yet. Attaching does not wait for readers, which
-- CREATE TABLE … PARTITION OF would.
CREATE FUNCTION oddsd.make_history_day(day date) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    name text := 'history_' || to_char(day, 'YYYYMMDD');
BEGIN
    LOCK TABLE oddsd.history IN SHARE UPDATE EXCLUSIVE MODE;
    IF to_regclass('oddsd.' || name) IS NULL THEN
        EXECUTE format('CREATE TABLE oddsd.%I (LIKE oddsd.history INCLUDING STORAGE INCLUDING COMPRESSION)', name);
        EXECUTE format('ALTER TABLE oddsd.history ATTACH PARTITION oddsd.%I FOR VALUES FROM (%L) TO (%L)', name,
                       day::timestamp AT TIME ZONE 'UTC', (day + 1)::timestamp AT TIME ZONE 'UTC');
    END IF;
END $$;

-- What was adopted has no cycle: it is as old as the oldest one.
CREATE TEMP TABLE oddsd_kept ON COMMIT DROP AS
SELECT p.event_id, h.cycle_id,
       coalesce(c.as_of, (SELECT as_of FROM oddsd.cycles ORDER BY id LIMIT 1), now()) AS as_of,
       array_agg(h.price_id ORDER BY h.price_id) AS price_ids,
       array_agg(h.observed_at ORDER BY h.price_id) AS observed_ats,
       array_agg(h.decimal ORDER BY h.price_id) AS decimals,
       array_agg(h.fractional ORDER BY h.price_id) AS fractionals,
       array_agg(h.point ORDER BY h.price_id) AS points,
       array_agg(h.ew_places ORDER BY h.price_id) AS ew_places,
       array_agg(h.ew_denom ORDER BY h.price_id) AS ew_denoms,
       array_agg(h.status ORDER BY h.price_id) AS statuses
FROM oddsd.price_history_by_row h
LEFT JOIN oddsd.cycles c ON c.id = h.cycle_id
LEFT JOIN LATERAL (SELECT coalesce((SELECT event_id FROM oddsd.prices WHERE id = h.price_id), 0) AS event_id) p ON true
GROUP BY 1, 2, 3;
SELECT oddsd.make_history_day(day) FROM (SELECT DISTINCT (as_of AT TIME ZONE 'UTC')::date AS day FROM oddsd_kept) days;
INSERT INTO oddsd.history SELECT * FROM oddsd_kept ORDER BY cycle_id, event_id;
DROP TABLE oddsd_kept;
DROP TABLE oddsd.price_history_by_row;

-- A row a price, as people read it.
CREATE VIEW oddsd.price_history AS
SELECT q.price_id, h.cycle_id, q.observed_at, q.decimal, q.fractional, q.point, q.ew_places, q.ew_denom,
       coalesce(q.status, 'open') AS status, h.event_id, h.as_of
FROM oddsd.history h,
     unnest(h.price_ids, h.observed_ats, h.decimals, h.fractionals, h.points, h.ew_places, h.ew_denoms, h.statuses)
         AS q (price_id, observed_at, decimal, fractional, point, ew_places, ew_denom, status);
