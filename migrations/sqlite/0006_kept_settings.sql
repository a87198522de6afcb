-- What a start has to know of the ones before it, by name: 'feed', which fills this database; 'rules', the last valid
-- text of the rules file.
CREATE TABLE kept_settings (
    name   TEXT PRIMARY KEY,
    value  TEXT NOT NULL,
    at     INTEGER NOT NULL
) STRICT;
