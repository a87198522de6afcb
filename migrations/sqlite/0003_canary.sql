-- A change that nobody waits for, made again and again: it goes the way of every other, so that a
-- silence on that way is noticed without traffic.
CREATE TABLE canary (
    id    INTEGER PRIMARY KEY,
    beat  INTEGER NOT NULL,
    at    INTEGER NOT NULL
) STRICT;
INSERT INTO canary (id, beat, at) VALUES (1, 0, 0);

-- outbox.kinds has two more words: 'again' for a second removal of keys after a while, and 'canary'.
