-- state.db, version 1: what must not be lost or evicted. Tables are for l0, the view at the end is the contract.
-- Times are unix nanoseconds; severity is 0 trace, 1 debug, 2 info, 3 warning, 4 error, 5 critical.

-- What this store alone knows, as the key of its hashed ids.
CREATE TABLE secret (
    name  TEXT PRIMARY KEY,
    value BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE audit (
    at             INTEGER PRIMARY KEY, -- or the next free nanosecond
    severity       INTEGER NOT NULL,
    event_type     TEXT    NOT NULL,
    source         TEXT,
    category       TEXT,
    correlation_id TEXT,
    tenant_id      TEXT,
    actor_id       TEXT,
    message        TEXT,
    payload        TEXT,
    status         TEXT,
    duration_ns    INTEGER,
    run            BLOB,    -- whose process, and the span it was in: its own id within the run
    span           INTEGER
) STRICT;
CREATE INDEX audit_by_correlation_id ON audit (correlation_id) WHERE correlation_id IS NOT NULL;

CREATE TRIGGER audit_is_not_changed BEFORE UPDATE ON audit
BEGIN
    SELECT raise(ABORT, 'audit is append-only');
END;
CREATE TRIGGER audit_is_not_deleted BEFORE DELETE ON audit
BEGIN
    SELECT raise(ABORT, 'audit is append-only');
END;

CREATE VIEW audit_events AS
SELECT strftime('%Y-%m-%dT%H:%M:%S', (at - (at % 1000000000 + 1000000000) % 1000000000) / 1000000000, 'unixepoch')
           || printf('.%09dZ', (at % 1000000000 + 1000000000) % 1000000000) AS timestamp,
       event_type, coalesce(source, '') AS source,
       CASE severity WHEN 0 THEN 'trace' WHEN 1 THEN 'debug' WHEN 2 THEN 'info'
                     WHEN 3 THEN 'warning' WHEN 4 THEN 'error' ELSE 'critical' END AS severity,
       category, correlation_id, tenant_id, actor_id, coalesce(message, '') AS message,
       coalesce(payload, '{}') AS payload, status, duration_ns / 1e6 AS duration_ms, at AS at_unix_ns
  FROM audit;
