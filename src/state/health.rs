//! What is kept of health: changes of checks, and components.

use std::{collections::BTreeSet, path::Path, time::Duration};

use rusqlite::{Connection, Row, Transaction, TransactionBehavior, params};

use super::{STATE, State};
use crate::{
    config::Durability,
    database::{at_most, is_before, open_reader, open_writer},
    error::{Error, Result},
};

/// The version of `state.db` that has health.
const HEALTH_SINCE: i64 = 5;
/// And signs of life.
const SIGNS_SINCE: i64 = 6;
const WITHIN: Duration = Duration::from_secs(10);
/// Changes that are kept of each check, and of all; beside those that hold.
const KEPT_OF_EACH: i64 = 1_000;
const KEPT: i64 = 20_000;
const TRIM_EVERY: i64 = 1_000;
const TRIMMED_AT_ONCE: i64 = 10_000;
/// Signs of life of runs that have long ended are not kept.
const SIGNS_KEPT_NS: i64 = 366 * 24 * 3_600 * 1_000_000_000;

/// A change of a check, or its end.
#[derive(Clone, Debug, Default)]
pub(crate) struct HealthRow {
    /// In the order in which they were kept; of one that is to be, nothing.
    pub(crate) id: i64,
    pub(crate) name: String,
    /// Of the run of the process that said so.
    pub(crate) run: String,
    pub(crate) at: i64,
    /// The word of what it was; nothing if nothing was known.
    pub(crate) before: Option<String>,
    /// What it is, as JSON; nothing: it is not registered any more, or its process has ended.
    pub(crate) after: Option<String>,
    /// The program can do without the check.
    pub(crate) is_optional: bool,
    /// What it is for, in a word; its tags, as JSON.
    pub(crate) kind: String,
    pub(crate) tags: String,
}

/// What a run of a process says of itself.
#[derive(Clone, Debug)]
pub(crate) struct SignOfLife {
    pub(crate) run: String,
    pub(crate) at: i64,
    /// How its checks stood, as JSON, and when.
    pub(crate) checks: String,
    pub(crate) checks_at: i64,
    /// The last change that is in that; of one that is to be kept, nothing.
    pub(crate) change: i64,
}

/// What there is to keep at once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Said {
    pub(crate) rows: Vec<HealthRow>,
    /// How the checks stand after these.
    pub(crate) sign: Option<SignOfLife>,
    /// The run that has come to its end.
    pub(crate) ended: Option<String>,
}

/// A component's name, state, whether it is complete, its metadata as JSON, and when that was said.
pub(crate) type ComponentRow = (String, String, bool, String, i64);

pub(crate) fn save_health(state: &State, said: Said) -> Result<()> {
    state.write("cannot keep a change of health", at_most(WITHIN), Durability::Normal, move |connection| {
        let Said { rows, sign, ended } = &said;
        let mut insert = connection.prepare_cached(
            "INSERT INTO health_change (name, run, at, before, after, is_optional, kind, tags)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?;
        // What a run said last holds, unless that was its end.
        let mut trim = connection.prepare_cached(
            "DELETE FROM health_change WHERE name = ?1 AND id <= (
                SELECT id FROM health_change WHERE name = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)
                AND id NOT IN (SELECT iif(after IS NULL, 0, max(id)) FROM health_change WHERE name = ?1 GROUP BY run)",
        )?;
        let mut last = 0;
        for HealthRow { name, run, at, before, after, is_optional, kind, tags, .. } in rows {
            insert.execute(params![name, run, at, before, after, is_optional, kind, tags])?;
            last = connection.last_insert_rowid();
        }
        if let Some(SignOfLife { run, at, checks, checks_at, .. }) = sign {
            // Of this run nobody else keeps anything meanwhile.
            connection
                .prepare_cached(
                    "INSERT INTO health_run (run, at, checks, checks_at, change)
                     VALUES (?1, ?2, ?3, ?4, (SELECT coalesce(max(id), 0) FROM health_change))
                     ON CONFLICT (run) DO UPDATE SET at = excluded.at, checks = excluded.checks,
                                                     checks_at = excluded.checks_at, change = excluded.change",
                )?
                .execute(params![run, at, checks, checks_at])?;
        }
        if let Some(run) = ended {
            connection.prepare_cached("DELETE FROM health_run WHERE run = ?1")?.execute([run])?;
        }
        let names: BTreeSet<_> = rows.iter().map(|row| &row.name).collect();
        for name in names {
            trim.execute(params![name, KEPT_OF_EACH])?;
        }
        if last % TRIM_EVERY < rows.len() as i64 {
            connection.execute(
                "DELETE FROM health_change WHERE id IN (
                    SELECT id FROM health_change ORDER BY id
                     LIMIT min(?2, max(0, (SELECT count(*) FROM health_change) - ?1)))
                   AND id NOT IN (SELECT iif(after IS NULL, 0, max(id)) FROM health_change GROUP BY name, run)",
                [KEPT, TRIMMED_AT_ONCE],
            )?;
        }
        Ok(())
    })
}

fn row(row: &Row<'_>) -> rusqlite::Result<HealthRow> {
    let (name, run, at) = (row.get(0)?, row.get(1)?, row.get(2)?);
    let (before, after, is_optional) = (row.get(3)?, row.get(4)?, row.get(5)?);
    Ok(HealthRow { id: row.get(8)?, name, run, at, before, after, is_optional, kind: row.get(6)?, tags: row.get(7)? })
}

/// The changes of a check since then, and of each run the one before, in their order.
pub(crate) fn health(dir: &Path, name: &str, since: i64) -> Result<Vec<HealthRow>> {
    ask(dir, "cannot read the history of health", |connection| {
        let mut rows = connection.prepare(
            "SELECT name, run, at, before, after, is_optional, kind, tags, id FROM health_change WHERE name = ?1 AND (at > ?2 OR id IN (
                SELECT max(id) FROM health_change WHERE name = ?1 AND at <= ?2 GROUP BY run)) ORDER BY id",
        )?;
        rows.query_map(params![name, since], row)?.collect()
    })
}

/// The latest change of each check in each run, by name.
pub(crate) fn latest_health(dir: &Path) -> Result<Vec<HealthRow>> {
    ask(dir, "cannot read the history of health", |connection| {
        let mut rows = connection.prepare(
            "SELECT name, run, at, before, after, is_optional, kind, tags, id FROM health_change
              WHERE id IN (SELECT max(id) FROM health_change GROUP BY name, run) ORDER BY name, id",
        )?;
        rows.query_map([], row)?.collect()
    })
}

pub(crate) fn put_component(state: &State, row: ComponentRow) -> Result<()> {
    state.write("cannot keep a component", at_most(WITHIN), Durability::Normal, move |connection| {
        let (name, status, is_complete, metadata, at) = &row;
        connection
            .prepare_cached(
                "INSERT INTO component (name, state, is_complete, metadata, at) VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT (name) DO UPDATE SET state = excluded.state, is_complete = excluded.is_complete,
                                                  metadata = excluded.metadata, at = excluded.at",
            )?
            .execute(params![name, status, is_complete, metadata, at])
            .map(drop)
    })
}

pub(crate) fn complete_component(state: &State, name: String, at: i64) -> Result<()> {
    state.write("cannot keep a component", at_most(WITHIN), Durability::Normal, move |connection| {
        connection
            .prepare_cached(
                "INSERT INTO component (name, state, is_complete, metadata, at) VALUES (?1, 'complete', 1, 'null', ?2)
                 ON CONFLICT (name) DO UPDATE SET state = 'complete', is_complete = 1, at = excluded.at",
            )?
            .execute(params![name, at])
            .map(drop)
    })
}

/// All components, or the one of this name.
pub(crate) fn components(dir: &Path, name: Option<&str>) -> Result<Vec<ComponentRow>> {
    ask(dir, "cannot read components", |connection| {
        let mut rows = connection.prepare(
            "SELECT name, state, is_complete, metadata, at FROM component WHERE ?1 IS NULL OR name = ?1 ORDER BY name",
        )?;
        rows.query_map([name], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)))?.collect()
    })
}

/// Writes that a run lives; and sees so whether that is possible.
pub(crate) fn note_life(state: &State, run: String, at: i64, within: Duration) -> Result<()> {
    state.write("cannot write into state.db", at_most(within), Durability::Normal, move |connection| {
        let sql = "INSERT INTO health_run (run, at) VALUES (?1, ?2) ON CONFLICT (run) DO UPDATE SET at = excluded.at";
        connection.prepare_cached(sql)?.execute(params![run, at])?;
        connection
            .prepare_cached("DELETE FROM health_run WHERE at < ?1")?
            .execute([at.saturating_sub(SIGNS_KEPT_NS)])
            .map(drop)
    })
}

/// When each run gave its last.
pub(crate) fn last_signs(dir: &Path) -> Result<Vec<(String, i64)>> {
    ask(dir, "cannot read the history of health", |connection| {
        let mut rows = connection.prepare("SELECT run, at FROM health_run")?;
        rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
    })
}

/// The last of each run.
pub(crate) fn signs_of_life(dir: &Path) -> Result<Vec<SignOfLife>> {
    ask(dir, "cannot read the history of health", |connection| {
        let mut rows = connection.prepare("SELECT run, at, checks, checks_at, change FROM health_run")?;
        let sign = |row: &Row<'_>| {
            let (run, at, checks) = (row.get(0)?, row.get(1)?, row.get(2)?);
            Ok(SignOfLife { run, at, checks, checks_at: row.get(3)?, change: row.get(4)? })
        };
        rows.query_map([], sign)?.collect()
    })
}

/// What a dead run said holds until it was last heard of: by its last sign of life, or where it has given none, its last change.
/// One that has given another sign since lives.
fn end_run(connection: &Connection, run: &str, last: i64) -> rusqlite::Result<()> {
    connection.execute(
        "INSERT INTO health_change (name, run, at, is_optional, kind, tags)
         SELECT name, run, max(at, coalesce((SELECT at FROM health_run WHERE run = ?1),
                                            (SELECT max(at) FROM health_change WHERE run = ?1))), is_optional, kind, tags
           FROM health_change
          WHERE after IS NOT NULL AND id IN (SELECT max(id) FROM health_change WHERE run = ?1 GROUP BY name)
            AND NOT EXISTS (SELECT 1 FROM health_run WHERE run = ?1 AND at > ?2)",
        params![run, last],
    )?;
    connection.execute("DELETE FROM health_run WHERE run = ?1 AND at <= ?2", params![run, last]).map(drop)
}

/// Runs that are dead if they were last heard of then.
pub(crate) fn end_silent_runs(state: &State, runs: Vec<(String, i64)>) -> Result<()> {
    state.write("cannot end the checks of dead processes", at_most(WITHIN), Durability::Normal, move |connection| {
        runs.iter().try_for_each(|(run, last)| end_run(connection, run, *last))
    })
}

/// Runs whose processes are known to be dead, by who has no `state.db` open.
pub(crate) fn end_dead_runs(dir: &Path, runs: &[String]) -> Result<()> {
    if runs.is_empty() || !dir.join(STATE.file).exists() || is_before(&STATE, dir, SIGNS_SINCE)? {
        return Ok(());
    }
    let connection = open_writer(&STATE, dir)?;
    let end = || {
        let transaction = Transaction::new_unchecked(&connection, TransactionBehavior::Immediate)?;
        runs.iter().try_for_each(|run| end_run(&transaction, run, i64::MAX))?;
        transaction.commit()
    };
    end().map_err(|error| Error::sqlite("cannot end the checks of dead processes", error))
}

fn ask<T>(dir: &Path, what: &str, question: impl FnOnce(&Connection) -> rusqlite::Result<Vec<T>>) -> Result<Vec<T>> {
    if !dir.join(STATE.file).exists() || is_before(&STATE, dir, HEALTH_SINCE)? {
        return Ok(Vec::new());
    }
    let connection = open_reader(&STATE, dir)?;
    question(&connection).map_err(|error| Error::sqlite(what, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_said_more_since_has_not_ended() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::new(dir.path());
        let signs = || last_signs(dir.path()).unwrap();
        let after = Some(r#"{"status":"healthy"}"#.to_owned());
        for (run, at) in [("one", 5), ("two", 7)] {
            let row = HealthRow {
                name: "db".to_owned(),
                run: run.to_owned(),
                at: 1,
                after: after.clone(),
                ..HealthRow::default()
            };
            save_health(&state, Said { rows: vec![row], ..Said::default() }).unwrap();
            note_life(&state, run.to_owned(), at, WITHIN).unwrap();
        }
        end_silent_runs(&state, ["one", "two"].map(|run| (run.to_owned(), 6)).to_vec()).unwrap();
        assert_eq!(signs(), [("two".to_owned(), 7)]);
        let rows = latest_health(dir.path()).unwrap();
        let rows: Vec<_> = rows.iter().map(|row| (row.run.as_str(), row.at, row.after.is_some())).collect();
        assert_eq!(rows, [("two", 1, true), ("one", 5, false)]);
    }
}
