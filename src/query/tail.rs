//! Following what is recorded.
//!
//! Rows are keyed by time, and time is not quite the order of arrival: another process commits up to its commit interval
//! later, and clocks step. So each look goes back a little behind the newest line and leaves out what has been told.

use std::{
    collections::{BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use rusqlite::{Connection, params_from_iter};

use super::{
    EventRow, Events,
    events::{Condition, read},
    filter::Leg,
};
use crate::{
    clock::Timestamp,
    error::{Error, Result},
};

/// How far behind the newest line a late one is still noticed.
const LATE_NS: i64 = 2_000_000_000;
/// Between two looks at a store that another process writes, and at whether this one has recorded anything.
const PAUSE: Duration = Duration::from_millis(200);
/// Between two looks in any case: a look flushes.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// Lines taken at one look.
const PAGE: usize = 1_000;
/// Lines remembered as told, however old.
const TOLD_KEPT: usize = 10_000;
/// Of so many pauses one is followed by a look whatever the store's files show.
const LOOK_ANYWAY: u32 = 5;

/// Lines as they are recorded: an iterator that waits for the next one. See [`Logs::tail`](super::Logs::tail).
///
/// In the process that records, a line is seen within a fifth of a second; from another process when it is committed. While
/// nothing is recorded a look costs a counter, or the size of a file. A line that is committed more than two seconds after a later
/// one, as when a dead process's are recovered, is not seen.
///
/// The iterator ends when this process's l0 is shut down. [`next_within`](Self::next_within) waits no longer than you say.
#[derive(Debug)]
pub struct Tail {
    question: Events,
    waiting: VecDeque<EventRow>,
    /// Lines told, not older than the horizon.
    told: BTreeSet<(i64, Leg)>,
    from: i64,
    newest: i64,
    /// The last look left some for the next, which need not go back.
    is_catching_up: bool,
    /// What the store showed of itself at the last look.
    seen: Option<u64>,
    pauses: u32,
    looked_at: Option<Instant>,
    /// A window that makes no sense: told once.
    refused: Option<Error>,
    is_over: bool,
}

impl Tail {
    pub(super) fn new(question: Events) -> Self {
        let now = question.source.now();
        let (begins_at, refused) = match question.window.bounds(now) {
            Ok((since, _)) => (since, None),
            Err(error) => (None, Some(error)),
        };
        Self {
            question,
            waiting: VecDeque::new(),
            told: BTreeSet::new(),
            from: begins_at.unwrap_or(now.as_unix_ns()),
            newest: i64::MIN,
            is_catching_up: false,
            seen: None,
            pauses: 0,
            looked_at: None,
            refused,
            is_over: false,
        }
    }

    /// The next line, or `None` if there is none within this time.
    ///
    /// # Errors
    /// As [`Events::fetch`](super::Events::fetch).
    pub fn next_within(&mut self, within: Duration) -> Result<Option<EventRow>> {
        if let Some(error) = self.refused.take() {
            self.is_over = true;
            return Err(error);
        }
        let until = Instant::now() + within.min(Duration::from_secs(365 * 24 * 3600));
        loop {
            if let Some(row) = self.waiting.pop_front() {
                return Ok(Some(row));
            }
            // What was recorded before the end is told after it.
            let is_last_look = self.is_ended();
            let rest = PAUSE_MIN.saturating_sub(self.looked_at.map_or(PAUSE_MIN, |at| at.elapsed()));
            if rest.is_zero() && self.has_news() || is_last_look {
                self.looked_at = Some(Instant::now());
                self.look().inspect_err(|error| {
                    // What was not seen is looked for again; a closed l0 has nothing more to tell.
                    self.seen = None;
                    self.is_over |= error.is_closed();
                })?;
            }
            if !self.waiting.is_empty() {
                continue;
            }
            self.is_over = is_last_look || self.is_behind_its_window();
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || self.is_over {
                return Ok(None);
            }
            self.pause(if rest.is_zero() { left.min(PAUSE) } else { left.min(rest) });
        }
    }

    /// A window that ends ends the tail, when nothing late is to be expected any more.
    fn is_behind_its_window(&self) -> bool {
        let now = self.question.source.now().as_unix_ns();
        self.question.window.until.is_some_and(|until| now > until.as_unix_ns().saturating_add(LATE_NS))
    }

    fn is_ended(&self) -> bool {
        self.question.source.writer().is_some_and(|writer| writer.has_ended())
    }

    /// Whether anything was recorded, or in another process committed, since the last look.
    fn has_news(&mut self) -> bool {
        let (seen, is_certain) = match self.question.source.writer() {
            Some(writer) => (writer.flight.recorded_in_lanes() + writer.commits(), true),
            // Two commits may leave files of one size and time.
            None => (self.question.source.fingerprint(), !self.pauses.is_multiple_of(LOOK_ANYWAY)),
        };
        self.pauses += 1;
        self.seen.replace(seen) != Some(seen) || !is_certain
    }

    /// Takes what has not been told yet.
    fn look(&mut self) -> Result<()> {
        let now = self.question.source.now().as_unix_ns();
        // The clock was set back: what is recorded now is earlier than what has been told.
        self.from = self.from.min(now);
        self.newest = self.newest.min(now);
        let behind_ns = if self.is_catching_up { 0 } else { LATE_NS };
        let horizon = self.newest.saturating_sub(behind_ns).max(self.from);
        let mut question = self.question.clone().since(Timestamp::from_unix_ns(horizon));
        question.window.last = None;
        let legs = question.legs()?;
        let told = &self.told;
        let (mut rows, newest) = question.source.ask(question.asking, "cannot follow", |asked| {
            let mut rows = Vec::new();
            // Of all rows, not only of those that match: the next look need not go farther back.
            let newest: Option<i64> = asked.connection.query_row(
                "SELECT max(coalesce((SELECT max(at) FROM event), 0), coalesce((SELECT max(at) FROM warning), 0))",
                [],
                |row| row.get(0),
            )?;
            for leg in &legs {
                let Some(first) = first_untold(asked.connection, leg, told)? else { continue };
                // Those told since then are few: what comes late is rare.
                let known = told.range((first, leg.leg)..).filter(|(_, of)| *of == leg.leg).count();
                let (sql, values) = leg.page(Some((first - 1, leg.leg)), None, true, known + PAGE);
                let found = read(asked.connection, &sql, &values, |row| EventRow::from_row(row, leg.leg))?;
                rows.extend(found.into_iter().filter(|row| !told.contains(&row.key())).take(PAGE));
            }
            Ok((rows, newest.unwrap_or(i64::MIN)))
        })?;
        rows.sort_unstable_by_key(EventRow::key);
        self.is_catching_up = rows.len() >= PAGE;
        if self.is_catching_up {
            // There may be more between the tables' pages: these first, and then another look.
            rows.truncate(PAGE);
            self.seen = None;
            self.looked_at = None;
            self.newest = rows.last().map_or(self.newest, |row| row.key().0.max(self.newest));
        } else {
            self.newest = newest.max(self.newest).min(now);
        }
        self.told.extend(rows.iter().map(EventRow::key));
        // What is not needed any more serves should the clock be set back.
        if self.told.len() > TOLD_KEPT {
            self.told = self.told.split_off(&(self.newest.saturating_sub(LATE_NS), Leg::Event));
        }
        self.waiting.extend(rows);
        Ok(())
    }

    /// Until something is committed here, or for a while.
    fn pause(&self, at_most: Duration) {
        match self.question.source.writer() {
            Some(writer) => writer.wait_for_commit(at_most),
            None => std::thread::sleep(at_most),
        }
    }
}

/// The time of the first row that has not been told, by its keys alone.
fn first_untold(
    connection: &Connection,
    leg: &Condition,
    told: &BTreeSet<(i64, Leg)>,
) -> rusqlite::Result<Option<i64>> {
    let mut keys = connection.prepare_cached(&format!("SELECT e.at {} ORDER BY e.at", leg.condition))?;
    let mut rows = keys.query(params_from_iter(&leg.values))?;
    while let Some(row) = rows.next()? {
        let at = row.get(0)?;
        if !told.contains(&(at, leg.leg)) {
            return Ok(Some(at));
        }
    }
    Ok(None)
}

impl Iterator for Tail {
    type Item = Result<EventRow>;

    /// Waits for the next line.
    fn next(&mut self) -> Option<Self::Item> {
        while !self.is_over {
            match self.next_within(Duration::from_secs(3600)) {
                Ok(Some(row)) => return Some(Ok(row)),
                Ok(None) => {}
                Err(error) => {
                    // Whoever goes on asking a sick store does not spin.
                    self.pause(PAUSE);
                    return Some(Err(error));
                }
            }
        }
        None
    }
}
