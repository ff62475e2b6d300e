//! Counts, errors and duration histograms per series, by minute and by hour, gathered per transaction.
//!
//! They are added to what is stored, so that several processes may count into one row.

use rusqlite::Connection;
use rustc_hash::FxHashMap;

use super::{histogram::Histogram, retention::ROLLUP_BYTES, statements::Statements};

/// Seconds of the two periods.
pub(super) const PERIODS: [i64; 2] = [60, 3_600];
/// Further series are counted together: events by severity, and spans.
const SERIES_MAX: i64 = 2_000;
/// In the place of a callsite, for those.
const OTHER_EVENTS: i64 = -1;
const OTHER_SPANS: i64 = -2;
/// The slowest root spans of a period that are kept.
const SLOW_KEPT: i64 = 20;

/// What is counted together; 0 where there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct SeriesKey {
    pub(super) callsite: i64,
    pub(super) severity: i64,
    pub(super) event_type: i64,
    pub(super) source: i64,
}

impl SeriesKey {
    /// A span's key; its name, where it is not the callsite's, stands for the source.
    pub(super) fn of_span(callsite: i64, event_type: Option<i64>, name: Option<i64>) -> Self {
        Self { callsite, severity: SPAN, event_type: event_type.unwrap_or(0), source: name.unwrap_or(0) }
    }

    /// What it is counted as when there are too many.
    fn other(self) -> Self {
        let callsite = if self.severity == SPAN { OTHER_SPANS } else { OTHER_EVENTS };
        Self { callsite, severity: self.severity, event_type: 0, source: 0 }
    }
}

/// In the place of a severity.
const SPAN: i64 = -1;

#[derive(Clone, Debug)]
struct Tally {
    count: i64,
    errors: i64,
    timed: i64,
    total_ns: i64,
    /// `None` if what is stored does not tell.
    self_ns: Option<i64>,
    max_ns: i64,
    durations: Histogram,
}

/// The tallies of one transaction, and the numbers of known series.
#[derive(Debug, Default)]
pub(super) struct Rollups {
    tallies: FxHashMap<(SeriesKey, i64), Tally>,
    series: FxHashMap<SeriesKey, i64>,
    /// Until when rows of `series` are known to be in use.
    used_until: FxHashMap<i64, i64>,
    /// Closed root spans: minute, duration, row.
    roots: Vec<(i64, i64, i64)>,
}

impl Rollups {
    /// Counts one event of this moment.
    pub(super) fn count(&mut self, key: SeriesKey, at_unix_ns: i64, is_error: bool, duration_ns: Option<i64>) {
        self.tally(key, at_unix_ns, is_error, duration_ns);
    }

    /// Counts one span that is closed at this moment.
    pub(super) fn close(&mut self, key: SeriesKey, at_unix_ns: i64, is_error: bool, duration_ns: i64, self_ns: i64) {
        let tally = self.tally(key, at_unix_ns, is_error, Some(duration_ns));
        tally.self_ns = tally.self_ns.map(|sum| sum.saturating_add(self_ns));
    }

    fn tally(&mut self, key: SeriesKey, at_unix_ns: i64, is_error: bool, duration_ns: Option<i64>) -> &mut Tally {
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
        tally
    }

    /// Notes a closed root span.
    pub(super) fn root(&mut self, at_unix_ns: i64, duration_ns: i64, row: i64) {
        self.roots.push((at_unix_ns.div_euclid(60_000_000_000) * 60, duration_ns, row));
    }

    /// Keeps the slowest roots of each period.
    fn store_slow(&self, connection: &Connection) -> rusqlite::Result<()> {
        let mut slowest: FxHashMap<(i64, i64), Vec<(i64, i64)>> = FxHashMap::default();
        for (minute, duration_ns, row) in &self.roots {
            for period in PERIODS {
                slowest.entry((period, minute.div_euclid(period) * period)).or_default().push((*duration_ns, *row));
            }
        }
        let mut insert = connection
            .prepare_cached("INSERT OR IGNORE INTO slow (period, start, duration_ns, span) VALUES (?1, ?2, ?3, ?4)")?;
        let mut evict = connection.prepare_cached(
            "DELETE FROM slow WHERE (period, start) = (?1, ?2) AND (duration_ns, span) NOT IN
                (SELECT duration_ns, span FROM slow WHERE (period, start) = (?1, ?2) ORDER BY duration_ns DESC, span DESC LIMIT ?3)",
        )?;
        for ((period, start), mut roots) in slowest {
            roots.sort_unstable_by(|a, b| b.cmp(a));
            for (duration_ns, row) in roots.into_iter().take(SLOW_KEPT as usize) {
                insert.execute([period, start, duration_ns, row])?;
            }
            evict.execute([period, start, SLOW_KEPT])?;
        }
        Ok(())
    }

    /// How many there are to store.
    pub(super) fn tallies(&self) -> u64 {
        (self.tallies.len() + self.roots.len().min(SLOW_KEPT as usize)) as u64
    }

    /// Adds the tallies to the stored rows; they stay until `clear`. Says by how much the table grew.
    pub(super) fn store(&mut self, connection: &Connection, statements: &mut Statements<'_>) -> rusqlite::Result<i64> {
        self.store_slow(connection)?;
        let mut grown = 0;
        let mut rows: FxHashMap<(i64, i64, i64), Tally> = FxHashMap::default();
        for ((key, minute), tally) in &self.tallies {
            let series = series(&mut self.series, connection, *key)?;
            for period in PERIODS {
                rows.entry((period, minute.div_euclid(period) * period, series)).or_default().add(tally);
            }
        }
        let mut use_series =
            connection.prepare_cached("UPDATE series SET last_until = ?2 WHERE id = ?1 AND last_until < ?2")?;
        for (period, start, series) in rows.keys().filter(|(period, ..)| *period == PERIODS[1]) {
            let (until, known) = (start + period, self.used_until.entry(*series).or_insert(i64::MIN));
            if *known < until {
                use_series.execute([*series, until])?;
                *known = until;
            }
        }
        let mut rows: Vec<_> = rows.into_iter().collect();
        rows.sort_unstable_by_key(|(key, _)| *key);
        for ((period, start, series), tally) in rows {
            statements.add_rollup(period, start, series, |stored| {
                let mut sum = tally;
                grown += ROLLUP_BYTES;
                if let Some(stored) = stored {
                    let durations = stored.get::<_, Option<Vec<u8>>>(6)?;
                    grown -= ROLLUP_BYTES + durations.as_ref().map_or(0, |bytes| bytes.len() as i64);
                    sum.add(&Tally {
                        count: stored.get(0)?,
                        errors: stored.get(1)?,
                        timed: stored.get(2)?,
                        total_ns: stored.get(3)?,
                        self_ns: stored.get(4)?,
                        max_ns: stored.get(5)?,
                        durations: durations.map_or_else(Histogram::default, |bytes| Histogram::decode(&bytes)),
                    });
                }
                let durations = (!sum.durations.is_empty()).then(|| sum.durations.encode());
                grown += durations.as_ref().map_or(0, |bytes| bytes.len() as i64);
                Ok((sum.count, sum.errors, sum.timed, sum.total_ns, sum.self_ns, sum.max_ns, durations))
            })?;
        }
        Ok(grown)
    }

    /// Rows of `series` are gone.
    pub(super) fn forget_series(&mut self) {
        self.series.clear();
        self.used_until.clear();
    }

    /// After the commit.
    pub(super) fn clear(&mut self) {
        self.roots.clear();
        self.tallies.clear();
    }

    /// After a rollback, whose new series were not stored either.
    pub(super) fn forget(&mut self) {
        self.roots.clear();
        self.tallies.clear();
        self.forget_series();
    }
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            count: 0,
            errors: 0,
            timed: 0,
            total_ns: 0,
            self_ns: Some(0),
            max_ns: 0,
            durations: Histogram::default(),
        }
    }
}

impl Tally {
    fn add(&mut self, other: &Self) {
        self.count += other.count;
        self.errors += other.errors;
        self.timed += other.timed;
        self.total_ns = self.total_ns.saturating_add(other.total_ns);
        self.self_ns = self.self_ns.zip(other.self_ns).map(|(own, other)| own.saturating_add(other));
        self.max_ns = self.max_ns.max(other.max_ns);
        self.durations.merge(&other.durations);
    }
}

fn series(known: &mut FxHashMap<SeriesKey, i64>, connection: &Connection, key: SeriesKey) -> rusqlite::Result<i64> {
    if let Some(id) = known.get(&key) {
        return Ok(*id);
    }
    let is_full = || -> rusqlite::Result<bool> {
        connection.prepare_cached("SELECT count(*) >= ?1 FROM series")?.query_row([SERIES_MAX], |row| row.get(0))
    };
    let id = match find_series(connection, key)? {
        Some(id) => id,
        None if is_full()? => {
            let other = key.other();
            let found = find_series(connection, other)?;
            // Not remembered for this key: retention may make room.
            return found.map_or_else(|| insert_series(connection, other), Ok);
        }
        None => insert_series(connection, key)?,
    };
    known.insert(key, id);
    Ok(id)
}

fn find_series(connection: &Connection, key: SeriesKey) -> rusqlite::Result<Option<i64>> {
    connection
        .prepare_cached(
            "SELECT id FROM series WHERE callsite = ?1 AND severity = ?2 AND event_type = ?3 AND source = ?4",
        )?
        .query([key.callsite, key.severity, key.event_type, key.source])?
        .next()?
        .map(|row| row.get(0))
        .transpose()
}

fn insert_series(connection: &Connection, key: SeriesKey) -> rusqlite::Result<i64> {
    connection
        .prepare_cached("INSERT INTO series (callsite, severity, event_type, source) VALUES (?1, ?2, ?3, ?4)")?
        .insert([key.callsite, key.severity, key.event_type, key.source])
}
