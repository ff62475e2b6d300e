//! What limits let pass and refused, by minute and by hour: gathered per transaction, added to what is stored.

use rusqlite::{Connection, params};
use rustc_hash::FxHashMap;

use super::{retention::LIMIT_COUNT_BYTES, rollup::PERIODS};
use crate::record::LimitTally;

/// Keys of a scope that have rows of their own in a minute and in an hour; further ones are counted together.
const MINUTE_KEYS_MAX: i64 = 256;
const HOUR_KEYS_MAX: i64 = 1_024;
/// Stands for those.
const OTHER: &str = "(other)";

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
        // Of many keys those that were refused or used the most come first.
        let weight = |counts: &[i64; 4]| counts[1].max(counts[3]);
        rows.sort_unstable_by(|(a, x), (b, y)| {
            (a.0, a.1, a.2, !a.3.is_empty(), weight(y), a.3).cmp(&(b.0, b.1, b.2, !b.3.is_empty(), weight(x), b.3))
        });
        let mut kept = KeptKeys::default();
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
            let known = params![period, start, scope, key, allowed, denied, dry_run_denied, used];
            if update.execute(known)? > 0 {
                continue;
            }
            let key = if kept.has_room(connection, period, start, scope, key)? { key } else { OTHER };
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

/// How many keys of a scope and period have rows; of the latest that was asked about.
#[derive(Debug, Default)]
struct KeptKeys {
    of: Option<(i64, i64, String)>,
    count: i64,
}

impl KeptKeys {
    /// Whether there is room for one key more, and takes it.
    fn has_room(
        &mut self,
        connection: &Connection,
        period: i64,
        start: i64,
        scope: &str,
        key: &str,
    ) -> rusqlite::Result<bool> {
        if key.is_empty() || key == OTHER {
            return Ok(true);
        }
        if self.of.as_ref().is_none_or(|(p, s, name)| (*p, *s, name.as_str()) != (period, start, scope)) {
            let mut count = connection
                .prepare_cached("SELECT count(*) FROM limit_count WHERE period = ?1 AND start = ?2 AND scope = ?3")?;
            self.count = count.query_row(params![period, start, scope], |row| row.get(0))?;
            self.of = Some((period, start, scope.to_owned()));
        }
        let max = if period == PERIODS[0] { MINUTE_KEYS_MAX } else { HOUR_KEYS_MAX };
        self.count += 1;
        Ok(self.count <= max)
    }
}

fn add(sum: &mut [i64; 4], counts: &[i64; 4]) {
    for (sum, count) in sum.iter_mut().zip(counts) {
        *sum = sum.saturating_add(*count);
    }
}
