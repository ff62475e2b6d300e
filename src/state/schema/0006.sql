-- state.db, version 6: what a check is for, and signs of life. Tables are for l0, the view at the end is the contract.

-- Runs of processes that keep health, when they last said that they live, how their checks stood, as JSON, when, and the last
-- change of theirs that is in that.
DROP TABLE health_probe;
CREATE TABLE health_run (
    run       TEXT    PRIMARY KEY,
    at        INTEGER NOT NULL,
    checks    TEXT    NOT NULL DEFAULT '[]',
    checks_at INTEGER NOT NULL DEFAULT 0,
    change    INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

ALTER TABLE health_change ADD COLUMN is_optional INTEGER NOT NULL DEFAULT 0;
ALTER TABLE health_change ADD COLUMN kind TEXT NOT NULL DEFAULT 'readiness';
ALTER TABLE health_change ADD COLUMN tags TEXT NOT NULL DEFAULT '[]';

DROP VIEW health;
CREATE VIEW health AS
SELECT strftime('%Y-%m-%dT%H:%M:%S', (at - (at % 1000000000 + 1000000000) % 1000000000) / 1000000000, 'unixepoch')
           || printf('.%09dZ', (at % 1000000000 + 1000000000) % 1000000000) AS timestamp,
       name, before AS status_before, coalesce(after ->> '$.status', 'ended') AS status,
       after ->> '$.why' AS why, is_optional AS optional, kind, tags, run
  FROM health_change;
