//! `tail`: the last lines, and with `-f` those to come, to the last words of a process that dies.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use l0::{
    Timestamp,
    query::{EventRow, Logs},
};

use crate::{
    args::{self, Common},
    failure::{Failure, Outcome},
    json,
    lines::line,
    pages::pages,
    place::Store,
    screen::Screen,
    when::Window,
};

/// How far behind the newest line a late one may come: another process commits once a second. So often it is looked whether
/// a process has died, and whether anybody reads.
const LATE: Duration = Duration::from_secs(2);
/// How far back the last words of a process that died may lie, and so many lines are remembered at most.
const REMEMBERED: Duration = Duration::from_secs(600);
const TOLD_MAX: usize = 100_000;
/// While a process dies, or another recovers it, a store may be busy: a look that fails is repeated, for so long.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(200);

pub(crate) fn tail(
    store: &Store,
    asked: &args::Tail,
    common: &Common,
    window: &Window,
    screen: &mut Screen,
) -> Result<Outcome, Failure> {
    let search = asked.filters.text()?;
    let question = || store.reader.logs().search(&search);
    let mut left = common.limit.unwrap_or(u32::MAX);
    let first = left.min(asked.lines);
    let mut rows = Vec::new();
    if first > 0 {
        (rows, ..) = pages(first, None, screen, |after, limit| {
            let logs = window.within(question()?.limit(limit), Logs::since, Logs::until);
            after.map_or(logs.clone(), |after| logs.after(after)).fetch()
        })?;
        rows.reverse();
    }
    for row in &rows {
        show(row, window, screen)?;
    }
    screen.flush()?;
    left -= u32::try_from(rows.len()).unwrap_or(left);
    if !asked.follow {
        return Ok(Outcome::of_count(rows.len()));
    }
    // From a little before the last line on, but for what is known.
    let now = Timestamp::now();
    let from = rows.last().map_or(now, |row| row.at.min(now)).saturating_sub(LATE);
    let mut told = Told { rows: BTreeSet::new(), since: from };
    for row in question()?.since(from).limit(10_000).fetch()?.items.iter().chain(&rows) {
        told.is_new(row);
    }
    let mut tail = until(question()?.since(from), window).tail();
    let mut looked = Instant::now();
    let mut trouble: Option<Instant> = None;
    // Last words that were recovered are older than what others have said since: the tail does not go back so far.
    let mut goes_back = false;
    let mut asked_for = Instant::now();
    while left > 0 {
        if asked_for.elapsed() >= LATE {
            asked_for = Instant::now();
            screen.is_read()?;
        }
        let mut rows: Vec<EventRow> = Vec::new();
        let mut look = || {
            rows.extend(tail.next_within(LATE)?);
            if looked.elapsed() >= LATE {
                looked = Instant::now();
                goes_back |= store.recover_again(screen)?;
            }
            if goes_back {
                let since = told.since.max(Timestamp::now().saturating_sub(REMEMBERED));
                let (again, ..) = pages(u32::MAX, None, screen, |after, limit| {
                    let logs = until(question()?.since(since).oldest_first().limit(limit), window);
                    after.map_or(logs.clone(), |after| logs.after(after)).fetch()
                })?;
                goes_back = false;
                rows.extend(again);
            }
            Ok::<_, Failure>(())
        };
        match (look(), trouble) {
            (Ok(()), _) => trouble = None,
            (Err(Failure::Store(error)), None) => {
                screen.note(&format!("the store does not answer now, and is asked again: {error}"));
                trouble = Some(Instant::now());
            }
            (Err(Failure::Store(_)), Some(since)) if since.elapsed() < PATIENCE => std::thread::sleep(PAUSE),
            (Err(failure), _) => return Err(failure),
        }
        if rows.is_empty() && window.until.is_some_and(|until| Timestamp::now().saturating_sub(LATE) > until) {
            break;
        }
        for row in &rows {
            if left > 0 && told.is_new(row) {
                show(row, window, screen)?;
                left -= 1;
            }
        }
        screen.flush()?;
    }
    Ok(Outcome::Answered)
}

fn until(logs: Logs, window: &Window) -> Logs {
    window.until.map_or(logs.clone(), |until| logs.until(until))
}

fn show(row: &EventRow, window: &Window, screen: &mut Screen) -> Result<(), Failure> {
    if screen.is_json {
        return Ok(screen.json_line(&json::event(row))?);
    }
    let line = line(row, window, screen);
    Ok(screen.line(&line)?)
}

/// Lines that were told, all of them since some time.
#[derive(Debug)]
struct Told {
    rows: BTreeSet<(Timestamp, i64)>,
    since: Timestamp,
}

impl Told {
    /// Whether the line is told for the first time, as far as is known.
    fn is_new(&mut self, row: &EventRow) -> bool {
        if self.rows.len() >= TOLD_MAX
            && let Some(middle) = self.rows.iter().nth(TOLD_MAX / 2).copied()
        {
            self.rows = self.rows.split_off(&middle);
            self.since = middle.0;
        }
        self.rows.insert((row.at, row.id))
    }
}
