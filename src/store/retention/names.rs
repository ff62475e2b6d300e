//! Which names and callsites are still referred to, without looking at the rows.
//!
//! Time is divided into generations, for events and spans and for warnings. Whoever writes a row that refers to a name
//! marks the name with the current generation, once. A generation ends when all rows that were there at its beginning are
//! gone: then whatever bears the mark of one before that is referred to by none, and goes. So a name goes at the latest
//! with the second generation after its last use, no row is ever searched for it, and a million tenants do not fill a store.

use rusqlite::{Connection, params};
use rustc_hash::FxHashSet;

/// What is marked as used by this process, in the current generation.
#[derive(Debug, Default)]
pub(in crate::store) struct Marks {
    generations: [i64; 2],
    /// Of names and of callsites; by [rows, warnings].
    names: [FxHashSet<i64>; 2],
    callsites: [FxHashSet<i64>; 2],
    /// To be written with the transaction.
    new: Vec<(bool, usize, i64)>,
}

/// Past this a set begins anew; the next use costs an update.
const MARKED_MAX: usize = 65_536;
const COLUMNS: [&str; 2] = ["row_generation", "warning_generation"];

impl Marks {
    /// Begins a transaction in these generations.
    pub(in crate::store) fn begin(&mut self, generations: [i64; 2]) {
        if self.generations != generations {
            *self = Self { generations, ..Self::default() };
        }
    }

    /// A row that is written refers to this name.
    #[inline]
    pub(in crate::store) fn name(&mut self, is_warning: bool, id: i64) {
        let kind = usize::from(is_warning);
        if self.names[kind].insert(id) {
            self.new.push((false, kind, id));
        }
    }

    /// A row that is written is of this callsite.
    #[inline]
    pub(in crate::store) fn callsite(&mut self, is_warning: bool, id: i64) {
        let kind = usize::from(is_warning);
        if self.callsites[kind].insert(id) {
            self.new.push((true, kind, id));
        }
    }

    /// How many are to be written.
    pub(in crate::store) fn new_marks(&self) -> u64 {
        self.new.len() as u64
    }

    /// Writes the new marks.
    pub(in crate::store) fn store(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        for (is_callsite, kind, id) in self.new.drain(..) {
            let (table, column) = (if is_callsite { "callsite" } else { "name" }, COLUMNS[kind]);
            connection
                .prepare_cached(&format!("UPDATE {table} SET {column} = ?2 WHERE id = ?1 AND {column} < ?2"))?
                .execute([id, self.generations[kind]])?;
        }
        for set in self.names.iter_mut().chain(&mut self.callsites) {
            if set.len() > MARKED_MAX {
                set.clear();
            }
        }
        Ok(())
    }

    /// After a rollback: nothing was written.
    pub(in crate::store) fn forget(&mut self) {
        *self = Self { generations: self.generations, ..Self::default() };
    }
}

/// Ends the generations whose first rows are gone. Says whether one ended.
///
/// `spans_from` is where the spans begin that are not open, as far as is known.
pub(super) fn turn(connection: &Connection, spans_from: i64) -> rusqlite::Result<bool> {
    let has_first_spans = connection
        .prepare_cached(
            "SELECT 1 FROM span WHERE id BETWEEN ?1 AND (SELECT last_span FROM retention) AND state <> 1
                AND id < (SELECT max(id) FROM span)",
        )?
        .exists([spans_from])?;
    // Without rows there is nothing that a new generation could tell apart.
    let rows = if has_first_spans { 0 } else { turn_rows(connection)? };
    let warnings = connection
        .prepare_cached(
            "UPDATE retention SET warning_generation = warning_generation + 1, names_removed = names_removed + 1,
                last_warning = (SELECT max(at) FROM warning)
              WHERE (SELECT min(at) FROM warning) > last_warning",
        )?
        .execute([])?;
    // A last row of the far future is no end that will come: once rows like that are gone, the newest are the end.
    connection
        .prepare_cached(
            "UPDATE retention SET last_event = min(last_event, ifnull((SELECT max(at) FROM event), last_event)),
                last_warning = min(last_warning, ifnull((SELECT max(at) FROM warning), last_warning))
              WHERE last_event > (SELECT max(at) FROM event) OR last_warning > (SELECT max(at) FROM warning)",
        )?
        .execute([])?;
    if rows + warnings > 0 {
        // What is referred to, and not written again: by open spans, by the last one, which stays for its number, and by what
        // is counted.
        mark(connection, "state = 1", &[])?;
        let counted = [
            ("name", "SELECT event_type FROM series"),
            ("name", "SELECT source FROM series"),
            ("callsite", "SELECT callsite FROM series"),
        ];
        mark(connection, "id = (SELECT max(id) FROM span)", &counted)?;
    }
    Ok(rows + warnings > 0)
}

fn turn_rows(connection: &Connection) -> rusqlite::Result<usize> {
    connection
        .prepare_cached(
            "UPDATE retention SET row_generation = row_generation + 1, names_removed = names_removed + 1,
                last_event = ifnull((SELECT max(at) FROM event), last_event), last_span = ifnull((SELECT max(id) FROM span), 0)
              WHERE (EXISTS (SELECT 1 FROM event) OR EXISTS (SELECT 1 FROM span WHERE id > last_span))
                AND ifnull((SELECT min(at) FROM event), 9223372036854775807) > last_event
                AND ifnull((SELECT min(id) FROM span WHERE state <> 1 AND id < (SELECT max(id) FROM span)), 9223372036854775807) > last_span",
        )?
        .execute([])
}

/// Marks what the open spans of a run refer to, which are about to be ended without being written.
pub(in crate::store) fn mark_running(connection: &Connection, run: i64) -> rusqlite::Result<()> {
    mark(connection, &format!("run = {run} AND state = 1"), &[])
}

/// Marks what these spans refer to, and what `others` name: columns of names and of callsites.
fn mark(connection: &Connection, spans: &str, others: &[(&str, &str)]) -> rusqlite::Result<()> {
    for (table, columns) in [
        ("name", &["name", "event_type", "category", "tenant", "actor", "status"][..]),
        ("callsite", &["callsite"][..]),
    ] {
        let of_spans = columns.iter().map(|column| format!("SELECT {column} FROM span WHERE {spans}"));
        let of_others = others.iter().filter(|(of, _)| *of == table).map(|(_, select)| (*select).to_owned());
        let ids: Vec<_> = of_spans.chain(of_others).collect();
        let sql = format!(
            "UPDATE {table} SET row_generation = (SELECT row_generation FROM retention)
              WHERE row_generation < (SELECT row_generation FROM retention) AND id IN ({})",
            ids.join(" UNION ")
        );
        connection.prepare_cached(&sql)?.execute([])?;
    }
    Ok(())
}

/// Where a sweep for what nothing refers to stands: the last number looked at in `name`, then in `callsite`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sweep {
    name: i64,
    callsite: i64,
    series: bool,
}

/// Series that no rollup can belong to: the oldest of either period began after their last hour. Looking at the rollups
/// themselves would read a tenth of the store.
const REMOVE_SERIES: &str = "DELETE FROM series WHERE callsite >= 0
    AND last_until <= ifnull((SELECT min(start) FROM rollup WHERE period = 60), 9223372036854775807)
    AND last_until <= ifnull((SELECT min(start) FROM rollup WHERE period = 3600), 9223372036854775807)";

/// Removes some of what nothing refers to; says when it is through.
pub(super) fn sweep(connection: &Connection, at: &mut Sweep, count: i64) -> rusqlite::Result<bool> {
    let mut removed = 0;
    if !at.series {
        // Callsites below 0 stand for all that came when there were too many.
        removed += connection.prepare_cached(REMOVE_SERIES)?.execute([])?;
        at.series = true;
    }
    let mut step = |table: &str, from: &mut i64| -> rusqlite::Result<bool> {
        let sql = format!("SELECT max(id) FROM (SELECT id FROM {table} WHERE id > ?1 ORDER BY id LIMIT ?2)");
        let last: Option<i64> = connection.prepare_cached(&sql)?.query_row([*from, count], |row| row.get(0))?;
        let Some(last) = last else { return Ok(true) };
        let sql = format!(
            "DELETE FROM {table} WHERE id > ?1 AND id <= ?2
                AND row_generation < (SELECT row_generation - 1 FROM retention)
                AND warning_generation < (SELECT warning_generation - 1 FROM retention)"
        );
        removed += connection.prepare_cached(&sql)?.execute([*from, last])?;
        *from = last;
        Ok(false)
    };
    let is_done = step("name", &mut at.name)? && step("callsite", &mut at.callsite)?;
    if removed > 0 {
        connection
            .prepare_cached("UPDATE retention SET names_removed = names_removed + ?1")?
            .execute(params![removed as i64])?;
    }
    Ok(is_done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{database::open_writer, store::TELEMETRY};

    #[test]
    fn a_series_goes_when_its_last_rollup_is_gone_and_no_rollup_is_scanned_for_that() {
        let dir = tempfile::tempdir().unwrap();
        let connection = open_writer(&TELEMETRY, dir.path()).unwrap();
        let plan: Vec<String> = connection
            .prepare(&format!("EXPLAIN QUERY PLAN {REMOVE_SERIES}"))
            .unwrap()
            .query_map([], |row| row.get("detail"))
            .unwrap()
            .collect::<rusqlite::Result<_>>()
            .unwrap();
        assert!(plan.iter().all(|step| !step.starts_with("SCAN rollup")), "{plan:?}");
        connection
            .execute_batch(
                "INSERT INTO series (id, callsite, severity, event_type, source, last_until)
                    VALUES (2, 1, 2, 0, 0, 7200), (3, 2, 2, 0, 0, 10800), (4, 3, 2, 0, 0, 14400);
                 INSERT INTO rollup (period, start, series, count, errors, timed, total_ns, max_ns)
                    VALUES (60, 7260, 3, 1, 0, 0, 0, 0), (3600, 7200, 3, 1, 0, 0, 0, 0), (3600, 10800, 4, 1, 0, 0, 0, 0)",
            )
            .unwrap();
        let left = || -> Vec<i64> {
            sweep(&connection, &mut Sweep::default(), 100).unwrap();
            let mut left = connection.prepare("SELECT id FROM series ORDER BY id").unwrap();
            left.query_map([], |row| row.get(0)).unwrap().collect::<rusqlite::Result<_>>().unwrap()
        };
        assert_eq!(left(), [1, 3, 4], "what is counted under 2 began and ended before all rollups");
        connection.execute_batch("DELETE FROM rollup WHERE start < 10800").unwrap();
        assert_eq!(left(), [1, 4]);
        connection.execute_batch("DELETE FROM rollup").unwrap();
        assert_eq!(left(), [1], "that of all others stays");
    }
}
