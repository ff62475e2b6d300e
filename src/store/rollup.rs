//! Counts, errors and duration histograms per series, by minute and by hour, gathered per transaction.
//!
//! They are added to what is stored, so that several processes may count into one row.

use rusqlite::Connection;
use rustc_hash::FxHashMap;

use super::{histogram::Histogram, statements::Statements};

/// Seconds of the two periods.
const PERIODS: [i64; 2] = [60, 3_600];
/// Further series are counted together, as series 1.
const SERIES_MAX: i64 = 2_000;
const OTHER: i64 = 1;

/// What is counted together; 0 where there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct SeriesKey {
    pub(super) callsite: i64,
    pub(super) severity: i64,
    pub(super) event_type: i64,
    pub(super) source: i64,
}

#[derive(Clone, Debug, Default)]
struct Tally {
    count: i64,
    errors: i64,
    timed: i64,
    total_ns: i64,
    max_ns: i64,
    durations: Histogram,
}

/// The tallies of one transaction, and the numbers of known series.
#[derive(Debug, Default)]
pub(super) struct Rollups {
    tallies: FxHashMap<(SeriesKey, i64), Tally>,
    series: FxHashMap<SeriesKey, i64>,
}

impl Rollups {
    /// Counts one event or closed span of this moment.
    pub(super) fn count(&mut self, key: SeriesKey, at_unix_ns: i64, is_error: bool, duration_ns: Option<i64>) {
        let minute = at_unix_ns.div_euclid(60_000_000_000) * 60;
        let tally = self.tallies.entry((key, minute)).or_default();
        tally.count += 1;
        tally.errors += i64::from(is_error);
        if let Some(duration_ns) = duration_ns {
            tally.timed += 1;
            tally.total_ns = tally.total_ns.saturating_add(duration_ns);
            tally.max_ns = tally.max_ns.max(duration_ns);
            tally.durations.add(u64::try_from(duration_ns).unwrap_or(0));
        }
    }

    /// Adds the tallies to the stored rows; they stay until `clear`.
    pub(super) fn store(&mut self, connection: &Connection, statements: &mut Statements<'_>) -> rusqlite::Result<()> {
        let mut rows: FxHashMap<(i64, i64, i64), Tally> = FxHashMap::default();
        for ((key, minute), tally) in &self.tallies {
            let series = series(&mut self.series, connection, *key)?;
            for period in PERIODS {
                rows.entry((period, minute.div_euclid(period) * period, series)).or_default().add(tally);
            }
        }
        let mut rows: Vec<_> = rows.into_iter().collect();
        rows.sort_unstable_by_key(|(key, _)| *key);
        for ((period, start, series), tally) in rows {
            statements.add_rollup(period, start, series, |stored| {
                let mut sum = tally;
                if let Some(stored) = stored {
                    sum.add(&Tally {
                        count: stored.get(0)?,
                        errors: stored.get(1)?,
                        timed: stored.get(2)?,
                        total_ns: stored.get(3)?,
                        max_ns: stored.get(4)?,
                        durations: stored
                            .get::<_, Option<Vec<u8>>>(5)?
                            .map_or_else(Histogram::default, |b| Histogram::decode(&b)),
                    });
                }
                let durations = (!sum.durations.is_empty()).then(|| sum.durations.encode());
                Ok((sum.count, sum.errors, sum.timed, sum.total_ns, sum.max_ns, durations))
            })?;
        }
        Ok(())
    }

    /// After the commit.
    pub(super) fn clear(&mut self) {
        self.tallies.clear();
    }

    /// After a rollback, whose new series were not stored either.
    pub(super) fn forget(&mut self) {
        self.tallies.clear();
        self.series.clear();
    }
}

impl Tally {
    fn add(&mut self, other: &Self) {
        self.count += other.count;
        self.errors += other.errors;
        self.timed += other.timed;
        self.total_ns = self.total_ns.saturating_add(other.total_ns);
        self.max_ns = self.max_ns.max(other.max_ns);
        self.durations.merge(&other.durations);
    }
}

fn series(known: &mut FxHashMap<SeriesKey, i64>, connection: &Connection, key: SeriesKey) -> rusqlite::Result<i64> {
    if let Some(id) = known.get(&key) {
        return Ok(*id);
    }
    let values = [key.callsite, key.severity, key.event_type, key.source];
    let mut find = connection.prepare_cached(
        "SELECT id FROM series WHERE callsite = ?1 AND severity = ?2 AND event_type = ?3 AND source = ?4",
    )?;
    let found = find.query(values)?.next()?.map(|row| row.get(0)).transpose()?;
    let id = match found {
        Some(id) => id,
        None => {
            let full: bool = connection
                .prepare_cached("SELECT count(*) >= ?1 FROM series")?
                .query_row([SERIES_MAX], |row| row.get(0))?;
            if full {
                // Not remembered: retention may make room.
                return Ok(OTHER);
            }
            connection
                .prepare_cached("INSERT INTO series (callsite, severity, event_type, source) VALUES (?1, ?2, ?3, ?4)")?
                .insert(values)?
        }
    };
    known.insert(key, id);
    Ok(id)
}
