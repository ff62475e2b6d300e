//! `state.db`: what must not be lost or evicted, committed with `synchronous=FULL` before the call returns.
//!
//! A database of its own, so that a flood of telemetry delays nothing here and a damaged telemetry file costs nothing
//! here. It is opened with the first use; a program that only records never has one.

mod audit;
mod commit;
mod health;
mod limits;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

pub(crate) use audit::audit;
pub(crate) use commit::State;
pub(crate) use health::{
    HealthRow, Said, SignOfLife, complete_component, components, end_dead_runs, end_silent_runs, health, last_signs,
    latest_health, note_life, put_component, save_health, signs_of_life,
};
pub(crate) use limits::{SavedAccount, save_accounts, saved_accounts};

use crate::{
    database::{Database, beside, open_reader, open_writer},
    error::{Error, Result},
    redaction::{Redactor, random_key},
};

/// Precious: each commit is synced.
pub(crate) const STATE: Database = Database {
    file: "state.db",
    application_id: 0x6C30_7374, // "l0st"
    migrations: &[
        include_str!("schema/0001.sql"),
        include_str!("schema/0002.sql"),
        include_str!("schema/0003.sql"),
        include_str!("schema/0004.sql"),
        include_str!("schema/0005.sql"),
        include_str!("schema/0006.sql"),
    ],
    synchronous: ("FULL", "2"),
};

/// The file that every commit is written to first.
pub(crate) fn wal(dir: &Path) -> PathBuf {
    beside(&dir.join(STATE.file), "-wal")
}

/// How long a call waits for others to commit.
const COMMIT_WITHIN: Duration = Duration::from_secs(10);
/// The store's own key; those of `hash_with` have a dot and a number behind it.
const HASH_KEY: &str = "hash_key";

/// The key of this store's hashed ids, made with the first use. Where `state.db` cannot be written, one that dies with
/// the process: the ids stay hidden, but join only within it.
pub(crate) fn hash_key(dir: &Path) -> [u8; 32] {
    let known = |dir| known_hash_keys(dir).into_iter().find(|(name, _)| name == HASH_KEY).map(|(_, key)| key);
    // Of two processes at once, the first one's key is the store's.
    known(dir).or_else(|| keep(dir, HASH_KEY, &random_key()).ok().and_then(|()| known(dir))).unwrap_or_else(random_key)
}

/// Keeps a key that the program gave, so that other processes find what it hashed.
pub(crate) fn keep_hash_key(dir: &Path, key: &[u8; 32]) -> Result<()> {
    let known = known_hash_keys(dir);
    if known.iter().any(|(_, known)| known == key) {
        return Ok(());
    }
    keep(dir, &format!("{HASH_KEY}.{}", known.len()), key)
}

/// The keys by which ids of this store may be hashed, with their names.
pub(crate) fn known_hash_keys(dir: &Path) -> Vec<(String, [u8; 32])> {
    if !dir.join(STATE.file).is_file() {
        return Vec::new();
    }
    let read = || -> rusqlite::Result<Vec<(String, Vec<u8>)>> {
        let Ok(connection) = open_reader(&STATE, dir) else { return Ok(Vec::new()) };
        let mut statement = connection.prepare("SELECT name, value FROM secret WHERE name LIKE 'hash_key%'")?;
        statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
    };
    let keys = read().unwrap_or_default().into_iter();
    keys.filter_map(|(name, key)| Some((name, key.try_into().ok()?))).collect()
}

fn keep(dir: &Path, name: &str, key: &[u8; 32]) -> Result<()> {
    let connection = open_writer(&STATE, dir)?;
    connection
        .execute("INSERT OR IGNORE INTO secret (name, value) VALUES (?1, ?2)", (name, key))
        .map(drop)
        .map_err(|error| Error::sqlite("cannot keep the key of hashed ids in state.db", error))
}

/// The default rules with this store's key, for a store whose program is not there to say otherwise.
pub(crate) fn default_redactor(dir: &Path) -> Result<Arc<Redactor>> {
    let dir = dir.to_owned();
    crate::redaction::Redaction::default().compile(move || hash_key(&dir)).map(Arc::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_has_one_key() {
        let dir = tempfile::tempdir().unwrap();
        assert!(known_hash_keys(dir.path()).is_empty());
        let key = hash_key(dir.path());
        assert_eq!(hash_key(dir.path()), key);
        assert_ne!(key, [0; 32]);
        for _ in 0..2 {
            keep_hash_key(dir.path(), &[7; 32]).unwrap();
            assert_eq!(known_hash_keys(dir.path()).len(), 2);
        }
        assert_eq!(hash_key(dir.path()), key);
    }

    #[test]
    fn without_a_place_for_it_the_key_is_the_processs() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_ne!(hash_key(file.path()), hash_key(file.path()));
    }
}
