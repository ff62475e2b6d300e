-- state.db, version 5: health and components. Tables are for l0, the views at the end are the contract.

-- A check is reported otherwise than before; to nothing: it is not registered any more, or its process has ended.
CREATE TABLE health_change (
    id     INTEGER PRIMARY KEY AUTOINCREMENT,
    name   TEXT    NOT NULL,
    run    TEXT    NOT NULL, -- of the process that said so
    at     INTEGER NOT NULL,
    before TEXT,
    after  TEXT              -- JSON
) STRICT;
CREATE INDEX health_change_of ON health_change (name, id);

CREATE TABLE component (
    name        TEXT    PRIMARY KEY,
    state       TEXT    NOT NULL,
    is_complete INTEGER NOT NULL,
    metadata    TEXT    NOT NULL, -- JSON
    at          INTEGER NOT NULL
) STRICT;

-- Written to see whether that is possible.
CREATE TABLE health_probe (at INTEGER NOT NULL) STRICT;
INSERT INTO health_probe (at) VALUES (0);

CREATE VIEW health AS
SELECT strftime('%Y-%m-%dT%H:%M:%S', (at - (at % 1000000000 + 1000000000) % 1000000000) / 1000000000, 'unixepoch')
           || printf('.%09dZ', (at % 1000000000 + 1000000000) % 1000000000) AS timestamp,
       name, before AS status_before, coalesce(after ->> '$.status', 'ended') AS status,
       after ->> '$.why' AS why, run
  FROM health_change;

CREATE VIEW components AS
SELECT name, state, is_complete AS complete, metadata,
       strftime('%Y-%m-%dT%H:%M:%S', (at - (at % 1000000000 + 1000000000) % 1000000000) / 1000000000, 'unixepoch')
           || printf('.%09dZ', (at % 1000000000 + 1000000000) % 1000000000) AS changed_at
  FROM component;
