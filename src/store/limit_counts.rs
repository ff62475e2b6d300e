//! What limits let pass and refused, by minute and by hour: gathered per transaction, added to what is stored.

use rusqlite::{Connection, params};
use rustc_hash::FxHashMap;

use super::{retention::LIMIT_COUNT_BYTES, rollup::PERIODS};
use crate::record::LimitTally;

/// Minute, scope and key.
type Of = (i64, String, String);

/// The tallies of one transaction.
#[derive(Debug, Default)]
pub(super) struct LimitCounts(FxHashMap<Of, [i64; 4]>);

impl LimitCounts {
    pub(super) fn add(&mut self, tally: &LimitTally<'_>) {
        let of = (tally.minute_s, tally.scope.to_owned(), tally.key.to_owned());
        add(self.0.entry(of).or_default(), &tally.counts);
    }

    /// How many there are to store.
    pub(super) fn len(&self) -> u64 {
        self.0.len() as u64
    }

    /// Adds them to the stored rows; they stay until `clear`. Says by how much the table grew.
    pub(super) fn store(&self, connection: &Connection) -> rusqlite::Result<i64> {
        let mut rows: FxHashMap<(i64, i64, &str, &str), [i64; 4]> = FxHashMap::default();
        for ((minute, scope, key), counts) in &self.0 {
            for period in PERIODS {
                let start = minute.div_euclid(period) * period;
                add(rows.entry((period, start, scope, key)).or_default(), counts);
            }
        }
        let mut rows: Vec<_> = rows.into_iter().collect();
        rows.sort_unstable();
        let mut insert = connection.prepare_cached(
            "INSERT OR IGNORE INTO limit_count (period, start, scope, key, allowed, denied, dry_run_denied, used)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?;
        let mut update = connection.prepare_cached(
            "UPDATE limit_count SET allowed = allowed + ?5, denied = denied + ?6, dry_run_denied = dry_run_denied + ?7,
                used = used + ?8 WHERE period = ?1 AND start = ?2 AND scope = ?3 AND key = ?4",
        )?;
        let mut grown = 0;
        for ((period, start, scope, key), [allowed, denied, dry_run_denied, used]) in rows {
            let row = params![period, start, scope, key, allowed, denied, dry_run_denied, used];
            if insert.execute(row)? == 0 {
                update.execute(row)?;
            } else {
                grown += LIMIT_COUNT_BYTES + (scope.len() + key.len()) as i64;
            }
        }
        Ok(grown)
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

fn add(sum: &mut [i64; 4], counts: &[i64; 4]) {
    for (sum, count) in sum.iter_mut().zip(counts) {
        *sum = sum.saturating_add(*count);
    }
}
