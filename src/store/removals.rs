//! What was removed from the tables, as of a moment: who has names or rows of them in memory asks at a transaction's beginning.

use rusqlite::Connection;

/// Counters of the table `retention`: each rises when rows go that somebody may have in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Removals {
    pub(super) traces: i64,
    pub(super) names: i64,
    pub(super) running: i64,
}

impl Removals {
    /// With the generations in which names of rows and of warnings are marked.
    pub(super) fn read(connection: &Connection) -> rusqlite::Result<(Self, [i64; 2])> {
        connection
            .prepare_cached(
                "SELECT traces_removed, names_removed, running_removed, row_generation, warning_generation FROM retention",
            )?
            .query_row([], |row| {
                let removed = Self { traces: row.get(0)?, names: row.get(1)?, running: row.get(2)? };
                Ok((removed, [row.get(3)?, row.get(4)?]))
            })
    }
}
