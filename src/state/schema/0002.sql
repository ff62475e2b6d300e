-- state.db, version 2: what limits remember across restarts.

-- Buckets that will not be full for a while, and blocked keys; of processes that share a store, the last to save.
CREATE TABLE limit_account (
    scope         TEXT    NOT NULL,
    key           TEXT    NOT NULL, -- '' for a bucket that all share; hashed unless the scope's keys are public
    saved_at      INTEGER NOT NULL,
    debt          REAL    NOT NULL, -- tokens that were used and had not come back then
    full_at       INTEGER NOT NULL, -- when they will have
    blocked_until INTEGER,          -- 9223372036854775807 for ever
    PRIMARY KEY (scope, key)
) STRICT, WITHOUT ROWID;
