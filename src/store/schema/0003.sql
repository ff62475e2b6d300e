-- telemetry.db, version 3: retention.

-- What the run's commits added to `warning` and `rollup`, less what it deleted there. The sums over all runs are the
-- sizes: the row is written with every commit anyway, and a counter of its own would cost a page each time.
ALTER TABLE run ADD COLUMN warning_bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE run ADD COLUMN rollup_bytes INTEGER NOT NULL DEFAULT 0;
UPDATE run SET
    warning_bytes = (SELECT coalesce(sum(96 + 160 * (trace IS NOT NULL) + ifnull(octet_length(message), 0) + ifnull(octet_length(payload), 0)), 0) FROM warning),
    rollup_bytes = (SELECT coalesce(sum(48 + ifnull(octet_length(durations), 0)), 0) FROM rollup)
 WHERE id = (SELECT max(id) FROM run);

-- The generation in which an event or span, and in which a warning, last referred to it; 0 if none did.
ALTER TABLE name ADD COLUMN row_generation INTEGER NOT NULL DEFAULT 0;
ALTER TABLE name ADD COLUMN warning_generation INTEGER NOT NULL DEFAULT 0;
UPDATE name SET row_generation = 2, warning_generation = 2;
ALTER TABLE callsite ADD COLUMN row_generation INTEGER NOT NULL DEFAULT 0;
ALTER TABLE callsite ADD COLUMN warning_generation INTEGER NOT NULL DEFAULT 0;
UPDATE callsite SET row_generation = 2, warning_generation = 2;

-- The second version's migration took spans without a status for failed where nothing was named `error`.
UPDATE span SET is_failed = errors > 0 OR ifnull(status = (SELECT id FROM name WHERE text = 'error'), 0) WHERE is_failed;

-- What all processes of the directory must know before they write; one row. A generation of events and spans began when
-- the newest were these; once they are gone, names of earlier generations are referred to by none.
CREATE TABLE retention (
    id                 INTEGER PRIMARY KEY CHECK (id = 1),
    max_bytes          INTEGER NOT NULL, -- as the last start said; 0 if none has yet
    traces_removed     INTEGER NOT NULL, -- rises when rows of `trace` go
    names_removed      INTEGER NOT NULL, -- rises when rows of `name`, `callsite` or `series` go, and with each generation
    running_removed    INTEGER NOT NULL, -- rises when spans that were still open had to go
    row_generation     INTEGER NOT NULL,
    last_event         INTEGER NOT NULL,
    last_span          INTEGER NOT NULL,
    warning_generation INTEGER NOT NULL,
    last_warning       INTEGER NOT NULL
) STRICT;
INSERT INTO retention VALUES (1, 0, 0, 0, 0, 2,
    (SELECT ifnull(max(at), 0) FROM event), (SELECT ifnull(max(id), 0) FROM span), 2, (SELECT ifnull(max(at), 0) FROM warning));

-- What was removed, by minute and reason.
CREATE TABLE maintenance_run (
    minute      INTEGER NOT NULL, -- unix seconds
    reason      TEXT    NOT NULL,
    run         INTEGER NOT NULL,
    rows        INTEGER NOT NULL,
    freed       INTEGER NOT NULL, -- bytes, for new rows
    returned    INTEGER NOT NULL, -- bytes, to the file system
    from_at     INTEGER,
    until_at    INTEGER,
    duration_ns INTEGER NOT NULL,
    PRIMARY KEY (minute, reason, run)
) STRICT, WITHOUT ROWID;

CREATE VIEW maintenance AS
SELECT strftime('%Y-%m-%dT%H:%M:%SZ', minute, 'unixepoch') AS minute, reason, rows,
       freed AS freed_bytes, returned AS returned_bytes,
       strftime('%Y-%m-%dT%H:%M:%S', (from_at - (from_at % 1000000000 + 1000000000) % 1000000000) / 1000000000, 'unixepoch')
           || printf('.%09dZ', (from_at % 1000000000 + 1000000000) % 1000000000) AS removed_from,
       strftime('%Y-%m-%dT%H:%M:%S', (until_at - (until_at % 1000000000 + 1000000000) % 1000000000) / 1000000000, 'unixepoch')
           || printf('.%09dZ', (until_at % 1000000000 + 1000000000) % 1000000000) AS removed_until,
       duration_ns / 1e6 AS duration_ms, nullif(run, 0) AS run_id
  FROM maintenance_run;

-- Times before 1970, too.
DROP VIEW runs;
CREATE VIEW runs AS
SELECT r.id,
       lower(substr(hex(r.uuid), 1, 8) || '-' || substr(hex(r.uuid), 9, 4) || '-' || substr(hex(r.uuid), 13, 4)
          || '-' || substr(hex(r.uuid), 17, 4) || '-' || substr(hex(r.uuid), 21)) AS run_id,
       r.pid, r.service, r.version, r.host,
       strftime('%Y-%m-%dT%H:%M:%S', (started_at - (started_at % 1000000000 + 1000000000) % 1000000000) / 1000000000, 'unixepoch')
           || printf('.%09dZ', (started_at % 1000000000 + 1000000000) % 1000000000) AS started_at,
       strftime('%Y-%m-%dT%H:%M:%S', (ended_at - (ended_at % 1000000000 + 1000000000) % 1000000000) / 1000000000, 'unixepoch')
           || printf('.%09dZ', (ended_at % 1000000000 + 1000000000) % 1000000000) AS ended_at,
       r.outcome, r.stored,
       (SELECT coalesce(sum(count), 0) FROM shed WHERE run = r.id) AS shed
  FROM run AS r;
