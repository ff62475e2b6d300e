-- state.db, version 3: durable jobs. Tables are for l0, the view at the end is the contract.

-- A kind of jobs in a queue: what is claimed together has a small number.
CREATE TABLE job_lane (
    id    INTEGER PRIMARY KEY,
    queue TEXT NOT NULL,
    kind  TEXT NOT NULL,
    UNIQUE (queue, kind)
) STRICT;

-- Processes that claim jobs, from their start to their end. Numbers are never used again.
CREATE TABLE job_owner (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    process TEXT    NOT NULL, -- by which it is found out whether it lives
    kinds   TEXT    NOT NULL, -- that it has handlers for, as JSON
    beat    INTEGER NOT NULL  -- rises while it lives and has jobs
) STRICT;

CREATE TABLE job (
    number           INTEGER PRIMARY KEY, -- with enqueued_at, the job's id
    lane             INTEGER NOT NULL,
    state            INTEGER NOT NULL,    -- 0 pending, 1 claimed, 2 success, 3 failed, 4 cancelled
    reason           INTEGER NOT NULL DEFAULT 0,
    priority         INTEGER NOT NULL,
    run_at           INTEGER NOT NULL,
    since            INTEGER,             -- when that was said, unless the moment itself was
    enqueued_at      INTEGER NOT NULL,
    attempt          INTEGER NOT NULL DEFAULT 0,
    max_attempts     INTEGER NOT NULL,
    backoff_first_ns INTEGER NOT NULL,
    backoff_max_ns   INTEGER,             -- NULL: always the first
    timeout_ns       INTEGER,
    start_by         INTEGER,
    yields           INTEGER NOT NULL,
    payload          TEXT    NOT NULL,
    unique_key       TEXT,                -- the kind, character 31, the key
    correlation_id   TEXT,
    scheduled_for    INTEGER,
    owner            INTEGER,             -- while claimed
    claims           INTEGER NOT NULL DEFAULT 0, -- how often it was; tells a lease from an earlier one
    deaths           INTEGER NOT NULL DEFAULT 0, -- how often its process died
    is_interrupted   INTEGER NOT NULL DEFAULT 0, -- its process shuts down in an orderly way
    is_cancel_asked  INTEGER NOT NULL DEFAULT 0,
    started_at       INTEGER,             -- NULL while claimed: claimed ahead of its beginning
    finished_at      INTEGER,
    progress_done    INTEGER,
    progress_total   INTEGER,
    progress_message TEXT,
    checkpoint       TEXT,
    result           TEXT,
    error            TEXT
) STRICT;
CREATE INDEX job_pending ON job (lane, priority DESC, run_at) WHERE state = 0;
CREATE INDEX job_claimed ON job (owner) WHERE state = 1;
CREATE INDEX job_final ON job (lane, state, finished_at) WHERE state >= 2;
CREATE UNIQUE INDEX job_unique ON job (unique_key) WHERE unique_key IS NOT NULL AND state < 2;

CREATE VIEW jobs AS
SELECT printf('%08x-%04x-7%03x-%04x-%012x', enqueued_at / 1000000 >> 16, enqueued_at / 1000000 & 65535,
              enqueued_at % 1000000 >> 8, (number >> 28 & 16383) | 32768,
              (number & 268435455) << 20 | enqueued_at % 1000000) AS id,
       l.kind, l.queue,
       CASE WHEN state = 0 OR state = 1 AND started_at IS NULL THEN 'pending' WHEN state = 1 THEN 'running'
            WHEN state = 2 THEN 'success' WHEN state = 3 THEN 'failed' ELSE 'cancelled' END AS state,
       CASE reason WHEN 0 THEN '' WHEN 1 THEN 'error' WHEN 2 THEN 'panicked' WHEN 3 THEN 'timed_out'
                   WHEN 4 THEN 'abandoned' WHEN 5 THEN 'undecodable' WHEN 6 THEN 'missed_deadline'
                   WHEN 7 THEN 'cancelled' WHEN 8 THEN 'interrupted' ELSE 'snoozed' END AS reason,
       priority, attempt, max_attempts, payload, correlation_id,
       strftime('%Y-%m-%dT%H:%M:%S', (enqueued_at - (enqueued_at % 1000000000 + 1000000000) % 1000000000) / 1000000000, 'unixepoch')
           || printf('.%09dZ', (enqueued_at % 1000000000 + 1000000000) % 1000000000) AS enqueued_at,
       strftime('%Y-%m-%dT%H:%M:%S', (run_at - (run_at % 1000000000 + 1000000000) % 1000000000) / 1000000000, 'unixepoch')
           || printf('.%09dZ', (run_at % 1000000000 + 1000000000) % 1000000000) AS run_at,
       strftime('%Y-%m-%dT%H:%M:%S', (started_at - (started_at % 1000000000 + 1000000000) % 1000000000) / 1000000000, 'unixepoch')
           || printf('.%09dZ', (started_at % 1000000000 + 1000000000) % 1000000000) AS started_at,
       strftime('%Y-%m-%dT%H:%M:%S', (finished_at - (finished_at % 1000000000 + 1000000000) % 1000000000) / 1000000000, 'unixepoch')
           || printf('.%09dZ', (finished_at % 1000000000 + 1000000000) % 1000000000) AS finished_at,
       progress_done, progress_total, progress_message, checkpoint, result, error,
       substr(unique_key, instr(unique_key, char(31)) + 1) AS unique_key, number
  FROM job JOIN job_lane AS l ON l.id = lane;
