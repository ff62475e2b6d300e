//! `state.db`: what must not be lost or evicted, committed with `synchronous=FULL` before the call returns.
//!
//! A database of its own, so that a flood of telemetry delays nothing here and a damaged telemetry file costs nothing
//! here. It is opened with the first use; a program that only records never has one.

mod audit;
mod commit;

use std::{path::Path, sync::Arc, time::Duration};

pub(crate) use audit::audit;
pub(crate) use commit::State;

use crate::{
    database::{Database, open_reader, open_writer},
    error::{Error, Result},
    redaction::{Redactor, random_key},
};

/// Precious: each commit is synced.
pub(crate) const STATE: Database = Database {
    file: "state.db",
    application_id: 0x6C30_7374, // "l0st"
    migrations: &[include_str!("schema/0001.sql")],
    synchronous: ("FULL", "2"),
};

/// How long a call waits for others to commit.
const COMMIT_WITHIN: Duration = Duration::from_secs(10);
const HASH_KEY: &str = "hash_key";

/// The key of this store's hashed ids, made with the first use. Where `state.db` cannot be written, one that dies with
/// the process: the ids stay hidden, but join only within it.
pub(crate) fn hash_key(dir: &Path) -> [u8; 32] {
    make_hash_key(dir).unwrap_or_else(|_| random_key())
}

/// The key, if this store has one yet.
pub(crate) fn known_hash_key(dir: &Path) -> Option<[u8; 32]> {
    if !dir.join(STATE.file).is_file() {
        return None;
    }
    let connection = open_reader(&STATE, dir).ok()?;
    let find = "SELECT value FROM secret WHERE name = ?1";
    connection.query_row(find, [HASH_KEY], |row| row.get::<_, Vec<u8>>(0)).ok()?.try_into().ok()
}

fn make_hash_key(dir: &Path) -> Result<[u8; 32]> {
    if let Some(key) = known_hash_key(dir) {
        return Ok(key);
    }
    let connection = open_writer(&STATE, dir)?;
    // Of two processes at once, the first one's key is the store's.
    connection
        .execute("INSERT OR IGNORE INTO secret (name, value) VALUES (?1, ?2)", (HASH_KEY, random_key()))
        .map_err(|error| Error::sqlite("cannot keep the key of hashed ids in state.db", error))?;
    known_hash_key(dir).ok_or_else(|| Error::storage("state.db has lost the key of hashed ids"))
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
        assert_eq!(known_hash_key(dir.path()), None);
        let key = hash_key(dir.path());
        assert_eq!((hash_key(dir.path()), known_hash_key(dir.path())), (key, Some(key)));
        assert_ne!(key, [0; 32]);
    }

    #[test]
    fn without_a_place_for_it_the_key_is_the_processs() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_ne!(hash_key(file.path()), hash_key(file.path()));
    }
}
