//! Every event that the log can hold, with its level and fields. `docs/logs.md` is generated from this
//! list, and `tests/logs.rs` compares it with the events that the source emits.

/// One event of the log.
pub struct LogEventDoc {
    /// Its name, `area.event`.
    pub name: &'static str,
    /// Its level; several, separated by commas, if it depends on the cause.
    pub level: &'static str,
    /// Its fields. Those with `?` may be absent.
    pub fields: &'static [&'static str],
    pub meaning: &'static str,
    /// The name that other programs use for it. The line holds it in the field `alias`.
    pub alias: Option<&'static str>,
}

const fn doc(
    name: &'static str,
    level: &'static str,
    fields: &'static [&'static str],
    meaning: &'static str,
) -> LogEventDoc {
    LogEventDoc {
        name,
        level,
        fields,
        meaning,
        alias: None,
    }
}

impl LogEventDoc {
    const fn alias(mut self, alias: &'static str) -> Self {
        self.alias = Some(alias);
        self
    }
}

/// All events, in the order of their areas.
#[rustfmt::skip]
pub const LOG_EVENTS: &[LogEventDoc] = &[
    doc("daemon.started", "info", &["version", "feed", "store", "cache"],
        "The daemon is up: the feed that it polls, the database that it writes, the cache that it invalidates."),
    doc("settings.doubtful", "warn", &[],
        "A name in `.env` is set twice (the last one counts), or a variable of the process nearly has the name of a setting."),
    doc("daemon.stopped", "info", &["reason"],
        "Running work was finished and every connection closed."),
    doc("clock.skewed", "warn", &["skew_s"],
        "This machine's clock is ahead of the database's by more than 5 s, or behind if `skew_s` is negative: races are in the wrong stage. \
         Correct the clock that is wrong. Logged once until they agree."),
    doc("clock.agrees", "info", &["skew_s"],
        "This machine's clock and the database's agree again."),
    doc("daemon.panicked", "error", &["error", "at?", "thread?", "backtrace?"],
        "A defect of oddsd: part of it ended. `at` is the place in the source; `backtrace` is there with RUST_BACKTRACE=1."),
    doc("daemon.overdue", "error", &[],
        "The process ended with exit code 1, because it had not ended 24 s after the stop signal. Nothing is lost: what was committed is safe, \
         and its removals wait in the outbox."),
    doc("daemon.unfinished", "warn", &["tasks"],
        "At the stop these tasks did not end in their time, because the database or the cache does not answer. Nothing is lost: the next start loads \
         the stored rows, and removals wait in the outbox."),
    doc("systemd.notify_failed", "debug", &["error"],
        "systemd could not be notified. Expected if the daemon does not run under systemd."),

    doc("lease.leading", "info", &["holder", "fence"],
        "This daemon acquired the leader lease and writes; `fence` is the lease epoch."),
    doc("lease.standby", "info", &["holder"],
        "Another daemon holds the leader lease. This one waits until it is released or expires."),
    doc("lease.release_failed", "debug", &["error"],
        "The leader lease could not be released at the end. It expires after LEASE_SECONDS."),

    doc("feed.switched", "warn", &["from", "to"],
        "The daemon was started with SWITCH_FEED: the database now belongs to another feed. The first whole answer unlists what the old one \
         stored. Remove the setting again."),

    doc("cycle.complete", "info", &["cycle", "inserted", "updated", "withdrawn", "skipped", "rejected", "fetch_ms", "diff_ms", "write_ms", "next_s", "facts?"],
        "One polling cycle, also if nothing changed. updated = changed and reopened prices (the words count inserted ones too); skipped = unchanged, older than stored, or \
         without a price; facts = rows of events and runners written; next_s = seconds until the next poll."),
    doc("cycle.out_of_scope", "warn", &["cycle", "events"],
        "Listed events that have yet to start lie outside of what the feed is asked for: another region, league or feed. No poll would \
         ever check their prices, so they are unlisted and their prices withdrawn, once."),
    doc("cycle.fetch_failed", "warn, error", &["cycle", "feed", "failure", "attempt", "retry_ms", "error", "log_lines?"],
        "The feed gave no usable answer; nothing was changed, and the fetch is retried. An error if credentials or settings must be \
         corrected (`oddsd check`), a warning otherwise."),
    doc("cycle.store_failed", "warn", &["cycle", "attempt", "retry_ms", "error", "log_lines?"],
        "The database did not confirm the commit. The next cycle loads the stored rows again."),
    doc("cycle.removals_refused", "warn", &["cycle", "removals", "open"],
        "The answer left out so many open prices (MAX_REMOVED_FRACTION) that they stay open until a second answer agrees, \
         RECHECK_REMOVED_SECONDS later and without a failed fetch between."),
    doc("cycle.rows_rejected", "warn", &["cycle", "rows", "reasons"],
        "Rows of the answer were invalid and left out, by reason; the rest was stored."),
    doc("cycle.sport_failed", "warn", &["sport", "failure", "error"],
        "The Odds API did not answer for this sport key, but for others, which were stored. Logged once until it changes."),
    doc("cycle.day_without_card", "info", &["day"],
        "The Racing API answered 404 for this day: it has no races. Logged once for each day."),
    doc("price.moved", "debug", &["cycle", "race", "runner", "bookmaker", "from", "to", "percent?", "significant"],
        "One price changed; - stands for no price. significant: by more than a tenth, or to another state."),
    doc("status.changed", "info", &["cycle", "status", "by", "events"],
        "This many events got this status, from the feed, from the clock, or by a manual correction."),

    doc("cache.invalidated", "info", &["cycle?", "rule", "backend", "keys", "took_ms", "reason", "attempts?", "deleted"],
        "The cache confirmed the removal of this many keys, tags and patterns; deleted = cached answers that existed under them. attempts appears from the second on."),
    doc("cache.invalidate_failed", "warn", &["cycle?", "attempt", "retry_ms", "error", "backend", "keys", "log_lines?"],
        "A removal was not confirmed. It stays in the outbox and is retried."),
    doc("cache.invalidate_stuck", "error", &["backend", "host"],
        "Removals have failed for a long time. Check the cache server and its password; nothing is lost."),
    doc("cache.removal_rate_high", "warn", &["per_minute", "threshold"],
        "More removals in the last minute than REMOVALS_PER_MINUTE_WARNING. Logged once until the rate is normal again; `oddsd tail` shows \
         their causes."),
    doc("cache.removal_rate_normal", "info", &["per_minute", "threshold"],
        "The rate of removals is below the threshold again."),
    doc("cache.epoch_started", "info", &["backend", "host"],
        "The cache's memory was new, restarted or flushed. Entries from before are not served."),
    doc("cache.epoch_failed", "debug", &["error"],
        "A new cache epoch could not be started. Readers are answered from the database until it is."),
    doc("cache.foreign_database", "error", &["backend", "host"],
        "Another database uses this cache: its heartbeats were seen. Nothing is read from the cache or kept in it; unmanaged keys are removed \
         as before. Give each database a cache of its own, or a CACHE_NAMESPACE. Logged once until the cache is ours."),
    doc("cache.epoch_waiting", "info", &["backend", "host", "seconds"],
        "The cache was last used with another database, or before this one's server was restarted. Readers are answered from the database until \
         it has had no heartbeat for so long."),
    doc("cache.redis_connected", "info", &["host"],
        "The connection to Redis is up.").alias("cache_redis_connected"),
    doc("cache.redis_connection_failed", "warn", &["host", "error", "suppressed_log_lines"],
        "The connection to Redis is down. Removals wait in the outbox until it is back.").alias("cache_redis_connection_failed"),
    doc("cache.first_level_off", "warn", &["error"],
        "Redis refused client tracking, so the in-process cache (CACHE_FIRST_LEVEL_MB) is not used."),
    doc("cache.reads_paused", "warn", &["host", "error"],
        "The cache failed several reads. Readers are answered from the database until it works again."),
    doc("cache.reads_resumed", "info", &["host"],
        "The cache answers again, and readers use it."),
    doc("cache.read", "debug", &["key", "state", "took_ms"],
        "One read of the API through the cache."),
    doc("cache.hit", "debug", &["key"],
        "The cache had the entry.").alias("cache_hit"),
    doc("cache.miss_stored", "debug", &["key", "ttl_s"],
        "The answer was loaded and stored in the cache.").alias("cache_miss_stored"),
    doc("cache.bypass", "debug", &["key", "reason"],
        "The cache did not answer in time, so the answer was loaded without it.").alias("cache_bypass"),
    doc("cache.skip", "debug", &["key", "reason"],
        "The answer was served but not stored, because a removal may have made it wrong.").alias("cache_skip"),
    doc("cache.store_error", "debug", &["key", "error"],
        "The answer was served but could not be stored.").alias("cache_store_error"),
    doc("cache.load_failed", "debug", &["key", "error"],
        "The answer could not be loaded."),
    doc("cache.warmed", "debug", &["key", "status"],
        "A removed answer was loaded again, because a rule says `remove_and_warm`."),

    doc("relay.fast_path_failed", "debug", &["backend", "rows", "error"],
        "The removal right after a commit failed. The outbox repeats it."),
    doc("relay.store_failed", "debug", &["error"],
        "The outbox could not be read or updated. The relay tries again."),
    doc("relay.database_hangs", "warn", &["waited_s"],
        "A statement of the relay got no answer: its session hangs, or a lock holds it up. It is repeated in a new session. Removals right \
         after a commit do not wait for it; removals for other writers do. Logged once until the database answers."),
    doc("relay.database_answers", "info", &["waited_s"],
        "The database answers the relay again."),
    doc("rules.loaded", "info", &["version", "rules"],
        "A changed rules file was loaded and is in force."),
    doc("rules.kept", "warn", &["version", "error"],
        "At the start the rules file is missing or invalid. The last valid text, which the database keeps, is in force until the file is \
         repaired."),
    doc("rules.keep_failed", "debug", &["error"],
        "The text of the rules could not be stored in the database. It is tried again within a second."),
    doc("rules.refused", "error", &["version", "error"],
        "The rules file is invalid. The last valid rules stay in force; `oddsd rules check` shows every fault."),
    doc("rules.target_failed", "warn", &["version", "error", "log_lines?"],
        "A rule's key could not be formatted for a change, so it was not removed. Its other targets were."),

    doc("store.migrated", "info", &[],
        "A migration of the database was applied."),
    doc("store.pruned", "info", &["events", "history", "log"],
        "Retention removed finished events, price history and log rows."),
    doc("store.prune_failed", "warn", &["error"],
        "Retention failed. It is tried again in an hour."),
    doc("store.listen_lost", "debug", &["error"],
        "The database's notifications stopped. Other writers' changes are found by polling until they are back."),

    doc("store.file_lost", "error", &["error"],
        "The SQLite file was deleted, moved away or replaced while the daemon had it open. Nothing is read or written until the first file is \
         back; a restart uses what is there."),
    doc("store.file_back", "info", &["file"],
        "The SQLite file is where it was, and is used again."),

    doc("canary.missed", "warn", &["silent_s"],
        "The canary's change has not reached a reader for this long: the database or the cache does not answer, or readers get old answers. \
         See `oddsd status`."),
    doc("canary.recovered", "info", &[],
        "The canary's changes reach readers again."),

    doc("replay.no_prices", "warn", &["held"],
        "A recording of the exchange was read to its end and held no price; `held` counts what it held instead."),

    doc("http.listening", "info", &["address"],
        "The read API accepts connections."),
    doc("http.accept_failed", "warn", &["error", "log_lines?"],
        "A connection could not be accepted, e.g. because no file descriptor was free."),
    doc("http.store_failed", "warn", &["error", "log_lines?"],
        "A request could not be answered because the database failed."),
    doc("http.cut_off", "warn", &["open"],
        "Connections were still open at the end of the shutdown's grace and were closed."),
    doc("once.removals_pending", "warn", &["rows?", "error?"],
        "`oddsd once` ended before all removals were confirmed. They wait in the outbox for the next run."),
    doc("library.log", "error, warn, info, debug, trace", &["target"],
        "A line of a library, e.g. of the driver of the database; `target` is its module, and it may have other fields. At the levels above debug, oddsd \
         reports the same failure by an event of its own."),
    doc("log.dropped", "warn", &["log_lines"],
        "This many lines are missing before this one: the log was not read for so long that its queue (1 MiB) was full, or it could not be \
         written (nothing reads it, the disk is full). The daemon works on; `/metrics` has the total."),
    doc("log.collapsed", "info", &["of", "log_lines", "error"],
        "This many equal lines of the event `of` were held back while a failure lasted."),
];
