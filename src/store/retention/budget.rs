//! What the cap leaves to each of the store's files.
//!
//! ```text
//! max_bytes = database + WAL + its index (-shm) + flight files + a small state.db + slack
//! ```
//! The WAL has an eighth, 32 MiB at most; flight files take what they take, up to a sixteenth each and a quarter together;
//! the database has the rest. All that grows does so under the database's write lock, the creation of a flight file
//! included: so whoever holds the lock knows what there is, and what may still be added.

use std::{fs, path::Path};

use crate::{
    config::{MAX_BYTES_MAX, MAX_BYTES_MIN},
    database::{PAGE_BYTES, beside},
    state::STATE,
};

/// For what is not counted by name, as `.gitignore`, and for a page here and there.
const SLACK_BYTES: u64 = 64 << 10;
const WAL_BYTES_MAX: u64 = 32 << 20;
const CACHE_BYTES_MAX: u64 = 8 << 20;
/// SQLite's own default; less where the WAL has less.
const CHECKPOINT_PAGES_MAX: u64 = 1_000;
/// Less is not worth a file: it must hold a lane.
const FLIGHT_BYTES_MIN: u64 = 256 << 10;

/// The shares of one cap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct Budget {
    pub(in crate::store) max_bytes: u64,
}

impl Budget {
    /// Of the cap a store says it has. Where no program has said any yet, 0, nothing is removed for it.
    pub(in crate::store) fn new(max_bytes: u64) -> Self {
        Self { max_bytes: if max_bytes == 0 { MAX_BYTES_MAX } else { max_bytes.max(MAX_BYTES_MIN) } }
    }

    /// What the WAL's file may take.
    pub(in crate::store) fn wal_bytes(self) -> u64 {
        (self.max_bytes / 8).min(WAL_BYTES_MAX)
    }

    /// With a WAL this long no transaction begins, and one that is under way takes no further record. What it has not
    /// written yet is at most the cache, a quarter of the WAL's share, and what it does at its end the last quarter.
    pub(in crate::store) fn wal_stop_bytes(self) -> u64 {
        self.wal_bytes() / 2
    }

    /// The pages a transaction may change before it must write them to the WAL.
    pub(in crate::store) fn cache_bytes(self) -> u64 {
        (self.wal_bytes() / 4).min(CACHE_BYTES_MAX)
    }

    pub(in crate::store) fn checkpoint_pages(self) -> u64 {
        (self.wal_bytes() / 4 / PAGE_BYTES).min(CHECKPOINT_PAGES_MAX)
    }

    /// A WAL that begins anew is cut down to this.
    pub(in crate::store) fn journal_size_limit(self) -> u64 {
        self.wal_bytes() / 4
    }

    /// What a transaction takes out of the lanes.
    pub(in crate::store) fn batch_bytes(self) -> u64 {
        self.wal_bytes() / 8
    }

    /// Pages here and there that a transaction changes before the next look at the WAL.
    pub(in crate::store) fn pages_between_looks(self) -> u64 {
        self.wal_bytes() / 16 / PAGE_BYTES
    }

    /// What a transaction may still have to write at its end, in spans and the like.
    pub(in crate::store) fn pending_bytes(self) -> u64 {
        self.wal_bytes() / 4
    }

    /// Rows to be removed between two looks at the WAL: in the worst case each changes some pages of its own.
    pub(in crate::store) fn rows_between_looks(self) -> i64 {
        (self.wal_bytes() / (16 << 10)).clamp(64, 512) as i64
    }

    /// The pages that a batch may come to: rows, their indexes, rollups. A transaction that needs more fails, and is tried
    /// again with more room and fewer records.
    pub(in crate::store) fn pages_of(self, batch_bytes: u64) -> i64 {
        ((batch_bytes * 2).min(self.wal_bytes()) / PAGE_BYTES) as i64 + 48
    }

    /// Pages for a transaction that ends open spans, and the bytes of the spans it takes.
    pub(in crate::store) fn of_ending_spans(self) -> (i64, u64) {
        let bytes = self.wal_bytes() / 8;
        (self.pages_of(bytes), bytes)
    }

    /// What a new flight file may take beside those that are there; `None` if there is no room for one.
    pub(in crate::store) fn flight_bytes(self, wanted: u64, present: u64) -> Option<u64> {
        let bytes = wanted.min(self.max_bytes / 16).min((self.max_bytes / 4).saturating_sub(present));
        (bytes >= FLIGHT_BYTES_MIN).then_some(bytes)
    }

    /// The pages that are the database's, beside the other files.
    pub(in crate::store) fn database_pages(self, flight_bytes: u64, state_bytes: u64) -> i64 {
        let wal = self.wal_bytes();
        let shm = wal / 100 + (32 << 10);
        // `state.db` has bounds of its own; while it is small, the sum over the directory stays below the cap.
        let others = wal + shm + flight_bytes + state_bytes.min(self.max_bytes / 16) + SLACK_BYTES;
        (self.max_bytes.saturating_sub(others).max(self.max_bytes / 4) / PAGE_BYTES) as i64
    }
}

/// What the files of a store take, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Files {
    pub(super) database: u64,
    pub(super) wal: u64,
    pub(super) shm: u64,
    pub(super) flight: u64,
    pub(super) state: u64,
}

impl Files {
    /// As the directory shows them now.
    pub(super) fn of(dir: &Path) -> Self {
        let telemetry = dir.join(super::super::TELEMETRY.file);
        let [database, wal, shm] = ["", "-wal", "-shm"].map(|suffix| length(&beside(&telemetry, suffix)));
        let state = dir.join(STATE.file);
        let state = length(&state) + length(&beside(&state, "-wal"));
        let flight = fs::read_dir(dir.join("flight")).into_iter().flatten().flatten();
        let flight = flight.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum();
        Self { database, wal, shm, flight, state }
    }
}

pub(super) fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_of_every_cap_add_up_to_less_than_it() {
        for mib in [8, 9, 16, 64, 256, 1 << 10, 64 << 10, 16 << 20] {
            let budget = Budget::new(mib << 20);
            for flights in 0..=8 {
                let mut present = 0;
                for _ in 0..flights {
                    present += budget.flight_bytes(16 << 20, present).unwrap_or(0);
                }
                let database = budget.database_pages(present, 0) as u64 * PAGE_BYTES;
                assert!(database + budget.wal_bytes() + present < budget.max_bytes, "{mib} MiB, {flights} flights");
                assert!(database >= budget.max_bytes / 2, "{mib} MiB: {database} bytes for the database");
            }
            assert!(budget.wal_stop_bytes() + budget.cache_bytes() <= budget.wal_bytes() * 3 / 4);
            assert!(budget.batch_bytes() >= 128 << 10);
        }
    }

    #[test]
    fn flight_files_share_a_quarter() {
        let budget = Budget::new(256 << 20);
        assert_eq!(budget.flight_bytes(64 << 20, 0), Some(16 << 20));
        assert_eq!(budget.flight_bytes(16 << 20, 60 << 20), Some(4 << 20));
        assert_eq!(budget.flight_bytes(16 << 20, 64 << 20), None);
    }
}
