-- telemetry.db, version 5: what limits let pass and refused.

-- Sums over whole periods, added to by every process; a part of the rollups' share of the cap.
CREATE TABLE limit_count (
    period         INTEGER NOT NULL, -- 60 or 3600 seconds
    start          INTEGER NOT NULL, -- unix seconds
    scope          TEXT    NOT NULL,
    key            TEXT    NOT NULL, -- '' for the whole scope, '(other)' for keys that were too many in their period
    allowed        INTEGER NOT NULL, -- charges that passed
    denied         INTEGER NOT NULL, -- charges that were refused
    dry_run_denied INTEGER NOT NULL, -- charges that passed only because the scope was in dry run
    used           INTEGER NOT NULL, -- tokens of those that passed, as settled
    PRIMARY KEY (period, start, scope, key)
) STRICT, WITHOUT ROWID;

CREATE VIEW limits AS
SELECT strftime('%Y-%m-%dT%H:%M:%SZ', start, 'unixepoch') AS timestamp, period AS period_s, scope,
       nullif(key, '') AS key, allowed, denied, dry_run_denied, used, start AS start_unix_s
  FROM limit_count;
