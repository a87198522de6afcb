-- What a start has to know of the ones before it, by name: 'feed', which fills this database; 'rules', the last valid
-- text of the rules file.
CREATE TABLE oddsd.kept_settings (
    name   text PRIMARY KEY,
    value  text NOT NULL,
    at     timestamptz NOT NULL DEFAULT now()
);
