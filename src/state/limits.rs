//! What limits remember across restarts: rows of `limit_account`.

use std::{path::Path, time::Duration};

use rusqlite::{Connection, params};

use super::{STATE, State};
use crate::{database::open_reader, error::Result};

/// One bucket, as of a moment; times are unix nanoseconds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SavedAccount {
    pub(crate) scope: String,
    pub(crate) key: String,
    pub(crate) saved_at: i64,
    /// Tokens.
    pub(crate) debt: f64,
    pub(crate) full_at: i64,
    /// `i64::MAX` for ever.
    pub(crate) blocked_until: Option<i64>,
}

/// Replaces the rows of these accounts, removes those of the others that are named, and what is over by now.
pub(crate) fn save_accounts(
    state: &State,
    now: i64,
    within: Duration,
    saved: Vec<SavedAccount>,
    gone: Vec<(String, String)>,
) -> Result<()> {
    state.commit("cannot save what limits remember", within, move |connection| {
        let mut insert = connection.prepare_cached(
            "INSERT OR REPLACE INTO limit_account (scope, key, saved_at, debt, full_at, blocked_until)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?;
        for account in saved {
            let SavedAccount { scope, key, saved_at, debt, full_at, blocked_until } = account;
            insert.execute(params![scope, key, saved_at, debt, full_at, blocked_until])?;
        }
        let mut delete = connection.prepare_cached("DELETE FROM limit_account WHERE scope = ?1 AND key = ?2")?;
        for (scope, key) in gone {
            delete.execute([scope, key])?;
        }
        connection
            .prepare_cached("DELETE FROM limit_account WHERE full_at <= ?1 AND ifnull(blocked_until, 0) <= ?1")?
            .execute([now])
            .map(drop)
    })
}

/// What is remembered; nothing if it cannot be read, or is of an earlier version.
pub(crate) fn saved_accounts(dir: &Path) -> Vec<SavedAccount> {
    if !dir.join(STATE.file).is_file() {
        return Vec::new();
    }
    let read = |connection: &Connection| -> rusqlite::Result<Vec<SavedAccount>> {
        let sql = "SELECT scope, key, saved_at, debt, full_at, blocked_until FROM limit_account";
        let mut statement = connection.prepare(sql)?;
        let rows = statement.query_map([], |row| {
            Ok(SavedAccount {
                scope: row.get(0)?,
                key: row.get(1)?,
                saved_at: row.get(2)?,
                debt: row.get(3)?,
                full_at: row.get(4)?,
                blocked_until: row.get(5)?,
            })
        })?;
        rows.collect()
    };
    open_reader(&STATE, dir).ok().and_then(|connection| read(&connection).ok()).unwrap_or_default()
}
