-- telemetry.db, version 1. Tables are for l0, the views at the end are the contract.
-- Times are unix nanoseconds; severity is 0 trace, 1 debug, 2 info, 3 warning, 4 error, 5 critical.

CREATE TABLE run (
    id         INTEGER PRIMARY KEY,
    uuid       BLOB    NOT NULL UNIQUE,
    boot       BLOB    NOT NULL, -- which start of the machine
    pid        INTEGER NOT NULL,
    process_started INTEGER NOT NULL, -- tells a process from a later one of the same pid
    service    TEXT,
    version    TEXT,
    host       TEXT,
    started_at INTEGER NOT NULL,
    ended_at   INTEGER,
    outcome    TEXT    NOT NULL CHECK (outcome IN ('running', 'clean', 'panicked', 'killed')),
    stored     INTEGER NOT NULL DEFAULT 0
) STRICT;

-- How far each lane of a run's flight file is stored.
CREATE TABLE lane (
    run      INTEGER NOT NULL,
    lane     INTEGER NOT NULL,
    position INTEGER NOT NULL,
    PRIMARY KEY (run, lane)
) STRICT, WITHOUT ROWID;

CREATE TABLE shed (
    run      INTEGER NOT NULL,
    minute   INTEGER NOT NULL, -- unix seconds
    reason   TEXT    NOT NULL,
    severity INTEGER NOT NULL,
    count    INTEGER NOT NULL,
    PRIMARY KEY (run, minute, reason, severity)
) STRICT, WITHOUT ROWID;

CREATE TABLE name (
    id   INTEGER PRIMARY KEY,
    text TEXT NOT NULL UNIQUE
) STRICT;

CREATE TABLE callsite (
    id          INTEGER PRIMARY KEY,
    kind        INTEGER NOT NULL, -- 1 event, 2 span, 3 log
    severity    INTEGER NOT NULL,
    target      TEXT    NOT NULL,
    name        TEXT    NOT NULL,
    module_path TEXT    NOT NULL,
    file        TEXT    NOT NULL,
    line        INTEGER NOT NULL,
    UNIQUE (target, line, file, name, module_path, kind, severity)
) STRICT;

-- correlation_id is the caller's text; NULL where nobody named the trace, which then goes by its trace_id.
CREATE TABLE trace (
    id             INTEGER PRIMARY KEY,
    trace_id       BLOB NOT NULL UNIQUE,
    correlation_id TEXT UNIQUE
) STRICT;

CREATE TABLE event (
    at          INTEGER PRIMARY KEY, -- or the next free nanosecond
    run         INTEGER NOT NULL,
    severity    INTEGER NOT NULL,
    callsite    INTEGER,
    span        INTEGER,
    trace       INTEGER,
    message     TEXT,
    payload     TEXT,
    event_type  INTEGER,
    source      INTEGER,
    category    INTEGER,
    tenant      INTEGER,
    actor       INTEGER,
    status      INTEGER,
    duration_ns INTEGER
) STRICT;
CREATE INDEX event_by_trace ON event (trace) WHERE trace IS NOT NULL;

-- Events of severity warning and above, so that they can be kept longer.
CREATE TABLE warning (
    at          INTEGER PRIMARY KEY,
    run         INTEGER NOT NULL,
    severity    INTEGER NOT NULL,
    callsite    INTEGER,
    span        INTEGER,
    trace       INTEGER,
    message     TEXT,
    payload     TEXT,
    event_type  INTEGER,
    source      INTEGER,
    category    INTEGER,
    tenant      INTEGER,
    actor       INTEGER,
    status      INTEGER,
    duration_ns INTEGER
) STRICT;
CREATE INDEX warning_by_trace ON warning (trace) WHERE trace IS NOT NULL;

CREATE TABLE span (
    id          INTEGER PRIMARY KEY,
    run         INTEGER NOT NULL,
    own         INTEGER NOT NULL, -- its id within the run
    state       INTEGER NOT NULL, -- 0 closed, 1 running, 2 interrupted
    callsite    INTEGER NOT NULL,
    parent      INTEGER,
    trace       INTEGER NOT NULL,
    started_at  INTEGER NOT NULL,
    duration_ns INTEGER,
    errors      INTEGER NOT NULL,
    payload     TEXT,
    name        INTEGER,
    event_type  INTEGER,
    category    INTEGER,
    tenant      INTEGER,
    actor       INTEGER,
    status      INTEGER
) STRICT;
CREATE INDEX span_by_trace ON span (trace);
CREATE INDEX span_running ON span (run) WHERE state = 1;

CREATE TABLE link (
    span    INTEGER NOT NULL,
    follows INTEGER NOT NULL,
    PRIMARY KEY (span, follows)
) STRICT, WITHOUT ROWID;

-- What is counted together; 0 where there is none. Series 1 takes what comes when there are too many.
CREATE TABLE series (
    id         INTEGER PRIMARY KEY,
    callsite   INTEGER NOT NULL,
    severity   INTEGER NOT NULL,
    event_type INTEGER NOT NULL,
    source     INTEGER NOT NULL,
    UNIQUE (callsite, severity, event_type, source)
) STRICT;
INSERT INTO series (id, callsite, severity, event_type, source) VALUES (1, -1, 0, 0, 0);

CREATE TABLE rollup (
    period    INTEGER NOT NULL, -- 60 or 3600 seconds
    start     INTEGER NOT NULL, -- unix seconds
    series    INTEGER NOT NULL,
    count     INTEGER NOT NULL,
    errors    INTEGER NOT NULL,
    timed     INTEGER NOT NULL, -- how many had a duration
    total_ns  INTEGER NOT NULL,
    max_ns    INTEGER NOT NULL,
    durations BLOB,             -- bucket and count, alternately, as LEB128
    PRIMARY KEY (period, start, series)
) STRICT, WITHOUT ROWID;

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
       e.callsite IS NOT NULL AS is_log
  FROM (SELECT 0 AS is_warning, * FROM event UNION ALL SELECT 1, * FROM warning) AS e
  LEFT JOIN callsite AS c ON c.id = e.callsite;

CREATE VIEW logs AS
SELECT e.id, e.timestamp, e.severity AS level, e.source AS target, e.message, e.payload AS fields,
       (SELECT coalesce((SELECT text FROM name WHERE id = s.name), c.name)
          FROM span AS s JOIN callsite AS c ON c.id = s.callsite WHERE s.id = e.span_id) AS span,
       e.category, e.correlation_id, e.tenant_id, e.actor_id, e.file, e.line, e.span_id, e.run_id
  FROM telemetry_events AS e
 WHERE e.is_log;

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
  FROM span AS s JOIN callsite AS c ON c.id = s.callsite;

CREATE VIEW runs AS
SELECT r.id,
       lower(substr(hex(r.uuid), 1, 8) || '-' || substr(hex(r.uuid), 9, 4) || '-' || substr(hex(r.uuid), 13, 4)
          || '-' || substr(hex(r.uuid), 17, 4) || '-' || substr(hex(r.uuid), 21)) AS run_id,
       r.pid, r.service, r.version, r.host,
       strftime('%Y-%m-%dT%H:%M:%S', r.started_at / 1000000000, 'unixepoch') || printf('.%09dZ', r.started_at % 1000000000) AS started_at,
       strftime('%Y-%m-%dT%H:%M:%S', r.ended_at / 1000000000, 'unixepoch') || printf('.%09dZ', r.ended_at % 1000000000) AS ended_at,
       r.outcome, r.stored,
       (SELECT coalesce(sum(count), 0) FROM shed WHERE run = r.id) AS shed
  FROM run AS r;
