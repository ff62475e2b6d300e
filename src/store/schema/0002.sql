-- telemetry.db, version 2: traces that are named late, lists of traces, summaries.

ALTER TABLE run ADD COLUMN span_key INTEGER NOT NULL DEFAULT 0; -- mixed with a span's own id, its W3C id

-- Traces that were named late may share a text.
CREATE TABLE new_trace (
    id             INTEGER PRIMARY KEY,
    trace_id       BLOB NOT NULL UNIQUE,
    correlation_id TEXT
) STRICT;
INSERT INTO new_trace SELECT id, trace_id, correlation_id FROM trace;
DROP TABLE trace;
PRAGMA legacy_alter_table = ON; -- views name the table that is renamed
ALTER TABLE new_trace RENAME TO trace;
PRAGMA legacy_alter_table = OFF;
CREATE INDEX trace_by_correlation_id ON trace (correlation_id) WHERE correlation_id IS NOT NULL;

CREATE INDEX warning_of_errors ON warning (at) WHERE severity >= 4;

-- It has no parent, or one of another trace.
ALTER TABLE span ADD COLUMN is_root INTEGER NOT NULL DEFAULT 0;
-- It has errors, or its status says so.
ALTER TABLE span ADD COLUMN is_failed INTEGER NOT NULL DEFAULT 0;
UPDATE span SET
    is_root = parent IS NULL OR trace IS NOT (SELECT p.trace FROM span AS p WHERE p.id = span.parent),
    is_failed = errors > 0 OR ifnull(status = (SELECT id FROM name WHERE text = 'error'), 0);
CREATE INDEX span_of_roots ON span (started_at, duration_ns) WHERE is_root;
CREATE INDEX span_of_failed ON span (started_at) WHERE is_failed;

-- Spans have severity -1 in `series`, and their name for a source where it is not the callsite's. Callsite -1 takes the
-- events, and -2 the spans, that come when there are too many series.
UPDATE series SET severity = -1 WHERE callsite IN (SELECT id FROM callsite WHERE kind = 2);

-- The slowest root spans of each period.
CREATE TABLE slow (
    period      INTEGER NOT NULL,
    start       INTEGER NOT NULL,
    duration_ns INTEGER NOT NULL,
    span        INTEGER NOT NULL,
    PRIMARY KEY (period, start, duration_ns, span)
) STRICT, WITHOUT ROWID;

DROP VIEW spans;
CREATE VIEW spans AS
SELECT s.id,
       strftime('%Y-%m-%dT%H:%M:%S', (s.started_at - (s.started_at % 1000000000 + 1000000000) % 1000000000) / 1000000000, 'unixepoch')
           || printf('.%09dZ', (s.started_at % 1000000000 + 1000000000) % 1000000000) AS started_at,
       s.duration_ns / 1e6 AS duration_ms,
       CASE s.state WHEN 0 THEN 'closed' WHEN 1 THEN 'running' ELSE 'interrupted' END AS state,
       coalesce((SELECT text FROM name WHERE id = s.name), c.name) AS name,
       c.target,
       CASE c.severity WHEN 0 THEN 'trace' WHEN 1 THEN 'debug' WHEN 2 THEN 'info'
                       WHEN 3 THEN 'warning' ELSE 'error' END AS severity,
       s.parent AS parent_id,
       (SELECT coalesce(correlation_id,
               lower(substr(hex(trace_id), 1, 8) || '-' || substr(hex(trace_id), 9, 4) || '-'
                  || substr(hex(trace_id), 13, 4) || '-' || substr(hex(trace_id), 17, 4) || '-'
                  || substr(hex(trace_id), 21)))
          FROM trace WHERE id = s.trace) AS correlation_id,
       (SELECT lower(hex(trace_id)) FROM trace WHERE id = s.trace) AS trace_id,
       printf('%016x', (s.own | r.span_key) - (s.own & r.span_key)) AS w3c_span_id,
       (SELECT text FROM name WHERE id = s.event_type) AS event_type,
       (SELECT text FROM name WHERE id = s.category) AS category,
       (SELECT text FROM name WHERE id = s.tenant) AS tenant_id,
       (SELECT text FROM name WHERE id = s.actor) AS actor_id,
       (SELECT text FROM name WHERE id = s.status) AS status,
       s.errors,
       coalesce(s.payload, '{}') AS payload,
       (SELECT json_group_array(follows) FROM link WHERE span = s.id) AS follows_from,
       nullif(c.file, '') AS file,
       nullif(c.line, 0) AS line,
       s.run AS run_id
  FROM span AS s JOIN callsite AS c ON c.id = s.callsite JOIN run AS r ON r.id = s.run;
