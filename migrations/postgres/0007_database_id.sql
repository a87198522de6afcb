-- Names this database in caches that several may reach. A dump or a copy has the same id; `Store::identity` tells it apart.
INSERT INTO oddsd.kept_settings (name, value) VALUES ('database_id', gen_random_uuid());
