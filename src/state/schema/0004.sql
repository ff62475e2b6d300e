-- state.db, version 4: schedules. Tables are for l0, the views at the end are the contract.

CREATE TABLE schedule (
    name     TEXT    PRIMARY KEY,
    revision INTEGER NOT NULL, -- another with each change; who changes it names the one it knows
    next_at  INTEGER,          -- NULL: paused, over, or waiting for a job of its own to end
    waits    INTEGER NOT NULL, -- something of it is due when its jobs have ended
    entry    TEXT    NOT NULL  -- what it is, its job and its history, as JSON
) STRICT;
CREATE INDEX schedule_next ON schedule (next_at) WHERE next_at IS NOT NULL;
CREATE INDEX schedule_waits ON schedule (name) WHERE waits = 1;

-- The schedule that a job is of, by name. Of one fire time there is one job.
ALTER TABLE job ADD COLUMN schedule TEXT;
CREATE UNIQUE INDEX job_fire ON job (schedule, scheduled_for) WHERE schedule IS NOT NULL;
CREATE INDEX job_of_schedule ON job (schedule) WHERE schedule IS NOT NULL;
CREATE INDEX job_of_schedule_open ON job (schedule) WHERE schedule IS NOT NULL AND state < 2;

CREATE VIEW schedules AS
SELECT name, entry ->> '$.job.kind' AS kind, entry ->> '$.job.queue' AS queue,
       coalesce(entry ->> '$.schedule.timing.Cron',
                'every ' || iif(entry ->> '$.schedule.timing.Every.nanos' = 0, entry ->> '$.schedule.timing.Every.secs',
                    (entry ->> '$.schedule.timing.Every.secs') + (entry ->> '$.schedule.timing.Every.nanos') / 1e9) || ' s',
                iif(entry ->> '$.schedule.timing.AfterEach.nanos' = 0, entry ->> '$.schedule.timing.AfterEach.secs',
                    (entry ->> '$.schedule.timing.AfterEach.secs') + (entry ->> '$.schedule.timing.AfterEach.nanos') / 1e9)
                    || ' s after each', 'once') AS schedule,
       entry ->> '$.schedule.zone' AS zone,
       strftime('%Y-%m-%dT%H:%M:%S', (next_at - (next_at % 1000000000 + 1000000000) % 1000000000) / 1000000000, 'unixepoch')
           || printf('.%09dZ', (next_at % 1000000000 + 1000000000) % 1000000000) AS next_at,
       entry ->> '$.is_paused' AS paused,
       strftime('%Y-%m-%dT%H:%M:%S', ((entry ->> '$.fired[0]') - ((entry ->> '$.fired[0]') % 1000000000 + 1000000000) % 1000000000) / 1000000000, 'unixepoch')
           || printf('.%09dZ', ((entry ->> '$.fired[0]') % 1000000000 + 1000000000) % 1000000000) AS last_at,
       strftime('%Y-%m-%dT%H:%M:%S', ((entry ->> '$.fired[1]') - ((entry ->> '$.fired[1]') % 1000000000 + 1000000000) % 1000000000) / 1000000000, 'unixepoch')
           || printf('.%09dZ', ((entry ->> '$.fired[1]') % 1000000000 + 1000000000) % 1000000000) AS last_fired_at,
       entry ->> '$.fires' AS fires, entry ->> '$.missed' AS missed, entry ->> '$.skipped' AS skipped,
       entry ->> '$.job.payload' AS payload
  FROM schedule;

DROP VIEW jobs;
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
       substr(unique_key, instr(unique_key, char(31)) + 1) AS unique_key, number, schedule,
       strftime('%Y-%m-%dT%H:%M:%S', (scheduled_for - (scheduled_for % 1000000000 + 1000000000) % 1000000000) / 1000000000, 'unixepoch')
           || printf('.%09dZ', (scheduled_for % 1000000000 + 1000000000) % 1000000000) AS scheduled_for
  FROM job JOIN job_lane AS l ON l.id = lane;
