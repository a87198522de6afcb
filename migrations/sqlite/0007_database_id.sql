-- Names this database in caches that several may reach. A copy of the file has the same id; `Store::identity` tells it apart.
INSERT INTO kept_settings (name, value, at)
VALUES ('database_id', lower(hex(randomblob(16))), CAST(strftime('%s', 'now') AS INTEGER) * 1000000);
