-- telemetry.db, version 6: the order of records, damage that is counted, maintenance without long scans.

-- How many counted records of the run the lane had taken up to the position.
ALTER TABLE lane ADD COLUMN recorded INTEGER NOT NULL DEFAULT 0;

-- The number of the last event of the run, and of each event: the order in which they were made, whatever clocks did. NULL
-- in rows of earlier versions.
ALTER TABLE run ADD COLUMN sequence INTEGER NOT NULL DEFAULT 0;
ALTER TABLE event ADD COLUMN seq INTEGER;
ALTER TABLE warning ADD COLUMN seq INTEGER;

-- When a running span was opened, by the monotonic clock of its run; NULL once it has ended.
ALTER TABLE span ADD COLUMN opened_mono_ns INTEGER;

-- Unix seconds: the end of the last hour that has a rollup of the series.
ALTER TABLE series ADD COLUMN last_until INTEGER NOT NULL DEFAULT 0;
UPDATE series SET last_until = CAST(strftime('%s', 'now') AS INTEGER) + 3600;

DROP VIEW logs;
DROP VIEW telemetry_events;
CREATE VIEW telemetry_events AS
SELECT e.at * 2 + e.is_warning AS id,
       strftime('%Y-%m-%dT%H:%M:%S', (e.at - (e.at % 1000000000 + 1000000000) % 1000000000) / 1000000000, 'unixepoch')
           || printf('.%09dZ', (e.at % 1000000000 + 1000000000) % 1000000000) AS timestamp,
       coalesce((SELECT text FROM name WHERE id = e.event_type), 'log') AS event_type,
       coalesce((SELECT text FROM name WHERE id = e.source), c.target, '') AS source,
       CASE e.severity WHEN 0 THEN 'trace' WHEN 1 THEN 'debug' WHEN 2 THEN 'info'
                       WHEN 3 THEN 'warning' WHEN 4 THEN 'error' ELSE 'critical' END AS severity,
       (SELECT text FROM name WHERE id = e.category) AS category,
       (SELECT coalesce(correlation_id,
               lower(substr(hex(trace_id), 1, 8) || '-' || substr(hex(trace_id), 9, 4) || '-'
                  || substr(hex(trace_id), 13, 4) || '-' || substr(hex(trace_id), 17, 4) || '-'
                  || substr(hex(trace_id), 21)))
          FROM trace WHERE id = e.trace) AS correlation_id,
       (SELECT text FROM name WHERE id = e.tenant) AS tenant_id,
       (SELECT text FROM name WHERE id = e.actor) AS actor_id,
       coalesce(e.message, '') AS message,
       coalesce(e.payload, '{}') AS payload,
       (SELECT text FROM name WHERE id = e.status) AS status,
       e.duration_ns / 1e6 AS duration_ms,
       e.at AS at_unix_ns,
       e.span AS span_id,
       e.run AS run_id,
       nullif(c.file, '') AS file,
       nullif(c.line, 0) AS line,
       e.callsite IS NOT NULL AS is_log,
       e.seq AS sequence
  FROM (SELECT 0 AS is_warning, * FROM event UNION ALL SELECT 1, * FROM warning) AS e
  LEFT JOIN callsite AS c ON c.id = e.callsite;

CREATE VIEW logs AS
SELECT e.id, e.timestamp, e.severity AS level, e.source AS target, e.message, e.payload AS fields,
       (SELECT coalesce((SELECT text FROM name WHERE id = s.name), c.name)
          FROM span AS s JOIN callsite AS c ON c.id = s.callsite WHERE s.id = e.span_id) AS span,
       e.category, e.correlation_id, e.tenant_id, e.actor_id, e.file, e.line, e.span_id, e.run_id, e.sequence
  FROM telemetry_events AS e
 WHERE e.is_log;
