-- telemetry.db, version 4: where the time goes.

-- The part of total_ns in which none of a span's children was open; NULL where rows of earlier versions are among it.
ALTER TABLE rollup ADD COLUMN self_ns INTEGER;
