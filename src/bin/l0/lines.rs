//! What is about single events: `logs`, `tail`, `export`, `errors`.

use std::{
    collections::BTreeSet,
    fs::OpenOptions,
    io,
    time::{Duration, Instant},
};

use l0::{
    Severity, Timestamp,
    query::{Cursor, EventRow, Events, Logs, Page, Total, harmless},
};

use crate::{
    args::{self, Common, Filters, Search},
    failure::{Failure, Outcome},
    json,
    place::Store,
    screen::{Screen, Text, Tone},
    when::Window,
};

/// Lines and groups unless said otherwise.
const LINES: u32 = 50;
const GROUPS: u32 = 20;
/// A page as large as the library makes them.
const PAGE: u32 = 10_000;
/// How far behind the newest line a late one may come: another process commits once a second.
const LATE: Duration = Duration::from_secs(2);
/// How far back the last words of a process that died may lie, and so many lines are remembered in any case.
const REMEMBERED: Duration = Duration::from_secs(600);
const TOLD_MAX: usize = 100_000;

impl Filters {
    /// The options and the search, as one search.
    fn text(&self) -> Result<String, Failure> {
        let quoted = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
        let mut terms = vec![self.search.text()];
        let options = [
            ("level", &self.level),
            ("target", &self.target),
            ("message", &self.message),
            ("trace", &self.trace),
            ("span", &self.span),
            ("tenant", &self.tenant),
            ("actor", &self.actor),
            ("category", &self.category),
            ("type", &self.event_type),
            ("status", &self.status),
        ];
        terms.extend(
            options.into_iter().filter_map(|(name, value)| Some(format!("{name}:{}", quoted(value.as_ref()?)))),
        );
        for field in &self.field {
            let (name, value) = field.split_once('=').ok_or_else(|| {
                Failure::Usage(format!("--field {field:?} has no value: write for instance --field order=9"))
            })?;
            terms.push(format!("@{name}:{}", quoted(value)));
        }
        Ok(terms.join(" "))
    }
}

fn cursor(text: &str) -> Result<Cursor, Failure> {
    Ok(text.parse::<Cursor>()?)
}

fn within_events(mut events: Events, window: &Window) -> Events {
    if let Some(since) = window.since {
        events = events.since(since);
    }
    if let Some(until) = window.until {
        events = events.until(until);
    }
    events
}

fn within_logs(mut logs: Logs, window: &Window) -> Logs {
    if let Some(since) = window.since {
        logs = logs.since(since);
    }
    if let Some(until) = window.until {
        logs = logs.until(until);
    }
    logs
}

pub(crate) fn logs(
    store: &Store,
    asked: &args::Logs,
    common: &Common,
    window: &Window,
    screen: &mut Screen,
) -> Result<Outcome, Failure> {
    let (search, limit) = (asked.filters.text()?, common.limit.unwrap_or(LINES));
    let after = asked.after.as_deref().map(cursor).transpose()?;
    let (rows, next, total) = pages(limit, after, screen, |after, limit| {
        if asked.all {
            let mut events = within_events(store.reader.events().search(&search)?.limit(limit), window);
            events = if asked.oldest_first { events.oldest_first() } else { events };
            after.map_or(events.clone(), |after| events.after(after)).fetch()
        } else {
            let mut logs = within_logs(store.reader.logs().search(&search)?.limit(limit), window);
            logs = if asked.oldest_first { logs.oldest_first() } else { logs };
            after.map_or(logs.clone(), |after| logs.after(after)).fetch()
        }
    })?;
    if screen.is_json {
        screen.json_array(&rows.iter().map(json::event).collect::<Vec<_>>())?;
    } else {
        for row in &rows {
            let line = line(row, window, screen);
            screen.line(&line)?;
        }
    }
    if let Some(next) = next {
        screen
            .note(&format!("{} of {total} lines; the next with --after {next}, more at once with --limit", rows.len()));
    } else if rows.is_empty() {
        screen.note("no line matches");
    }
    Ok(Outcome::of_count(rows.len()))
}

/// One event as a line: when, how serious, from where, what.
fn line(row: &EventRow, window: &Window, screen: &Screen) -> String {
    let (name, tone) = match row.severity {
        _ if row.is_audit() => ("AUDIT", Tone::Name),
        Severity::Trace => ("TRACE", Tone::Faint),
        Severity::Debug => ("DEBUG", Tone::Faint),
        Severity::Info => ("INFO ", Tone::Good),
        Severity::Warning => ("WARN ", Tone::Warning),
        Severity::Error => ("ERROR", Tone::Bad),
        Severity::Critical => ("CRIT ", Tone::Bad),
    };
    let mut parts = vec![
        screen.paint(&window.microsecond(row.at), Tone::Faint),
        screen.paint(name, tone),
        screen.paint(&format!("{}:", harmless(&row.source)), Tone::Faint),
    ];
    if row.event_type != "log" {
        parts.push(screen.paint(&format!("[{}]", harmless(&row.event_type)), Tone::Name));
    }
    if !row.message.is_empty() {
        parts.push(harmless(&row.message).into_owned());
    }
    if let Some(duration) = row.duration {
        parts.push(format!("({})", l0::query::human_duration(duration)));
    }
    if row.payload != "{}" {
        parts.push(screen.paint(&harmless(&row.payload), Tone::Faint));
    }
    if let Some(id) = &row.correlation_id {
        parts.push(screen.paint(&format!("<{}>", harmless(id)), Tone::Name));
    }
    parts.join(" ")
}

pub(crate) fn tail(
    store: &Store,
    asked: &args::Tail,
    common: &Common,
    window: &Window,
    screen: &mut Screen,
) -> Result<Outcome, Failure> {
    let search = asked.filters.text()?;
    let question = || -> Result<Logs, Failure> { Ok(store.reader.logs().search(&search)?) };
    let mut left = common.limit.unwrap_or(u32::MAX);
    let first = left.min(asked.lines);
    let (mut rows, ..) = if first == 0 {
        (Vec::new(), None, Total::Exactly(0))
    } else {
        pages(first, None, screen, |after, limit| {
            let logs = within_logs(store.reader.logs().search(&search)?.limit(limit), window);
            after.map_or(logs.clone(), |after| logs.after(after)).fetch()
        })?
    };
    rows.reverse();
    let show = |row: &EventRow, screen: &mut Screen| {
        if screen.is_json {
            return screen.json_line(&json::event(row));
        }
        let line = line(row, window, screen);
        screen.line(&line)
    };
    for row in &rows {
        show(row, screen)?;
    }
    screen.flush()?;
    left -= u32::try_from(rows.len()).unwrap_or(left);
    if !asked.follow {
        return Ok(Outcome::of_count(rows.len()));
    }
    // From a little before the last line on, but for what is known: lines of another process may come late.
    let now = Timestamp::now();
    let from = rows.last().map_or(now, |row| row.at.min(now)).saturating_sub(LATE);
    let before = question()?.since(from).limit(PAGE).fetch()?.items;
    let mut told = Told::default();
    for row in before.iter().chain(&rows) {
        told.is_new(row);
    }
    let mut following = question()?.since(from);
    if let Some(until) = window.until {
        following = following.until(until);
    }
    let mut tail = following.tail();
    let mut looked = Instant::now();
    while left > 0 {
        let mut rows: Vec<EventRow> = tail.next_within(LATE)?.into_iter().collect();
        if looked.elapsed() >= LATE {
            looked = Instant::now();
            screen.is_read()?;
            // A process may have died with its last words in its flight file: they are older than what others say since.
            if store.recover_again(screen)? {
                let since = from.max(Timestamp::now().saturating_sub(REMEMBERED));
                rows.extend(
                    pages(u32::MAX, None, screen, |after, limit| {
                        let logs = store.reader.logs().search(&search)?.since(since).oldest_first().limit(limit);
                        after.map_or(logs.clone(), |after| logs.after(after)).fetch()
                    })?
                    .0,
                );
            }
        }
        let is_over = window.until.is_some_and(|until| Timestamp::now().saturating_sub(LATE) > until);
        if rows.is_empty() && is_over {
            break;
        }
        for row in rows.iter().filter(|row| window.until.is_none_or(|until| row.at < until)) {
            if left > 0 && told.is_new(row) {
                show(row, screen)?;
                left -= 1;
            }
        }
        screen.flush()?;
    }
    Ok(Outcome::Answered)
}

/// Lines that were told, as long as one may come again.
#[derive(Debug, Default)]
struct Told(BTreeSet<(Timestamp, i64)>);

impl Told {
    /// Whether the line is told for the first time.
    fn is_new(&mut self, row: &EventRow) -> bool {
        if self.0.len() >= TOLD_MAX {
            self.0 = self.0.split_off(&(row.at.saturating_sub(REMEMBERED), i64::MIN));
        }
        self.0.insert((row.at, row.id))
    }
}

/// As many rows as are wanted: more than the library gives at once come in several pages.
fn pages(
    wanted: u32,
    mut after: Option<Cursor>,
    screen: &mut Screen,
    page: impl Fn(Option<&Cursor>, u32) -> l0::Result<Page<EventRow>>,
) -> Result<(Vec<EventRow>, Option<Cursor>, Total), Failure> {
    let (mut rows, mut left) = (Vec::new(), wanted);
    loop {
        let found = page(after.as_ref(), left.min(PAGE))?;
        left = left.saturating_sub(u32::try_from(found.items.len()).unwrap_or(u32::MAX));
        if after.is_none() {
            screen.incomplete(found.incomplete.as_deref());
        }
        rows.extend(found.items);
        match found.next {
            Some(next) if left > 0 => after = Some(next),
            next => return Ok((rows, next, found.total)),
        }
    }
}

pub(crate) fn export(
    store: &Store,
    asked: &args::Export,
    common: &Common,
    window: &Window,
    screen: &mut Screen,
) -> Result<Outcome, Failure> {
    let args::Format::Jsonl = asked.format;
    let events = within_events(store.reader.events().search(&asked.filters.text()?)?, window);
    let at_most = common.limit.map_or(u64::MAX, u64::from);
    // Counting reads everything once more: only for those who watch.
    let watched = asked.output.is_some() && screen.shows_progress();
    let progress =
        if watched { Some(screen.progress("exporting", events.clone().count()?.min(at_most))) } else { None };
    let tell = |done| {
        if let Some(progress) = &progress {
            progress.at(done);
        }
    };
    let count = match &asked.output {
        None => events.write_json_lines(screen.stream(), at_most, tell)?,
        Some(path) => {
            let failed = |error: io::Error| {
                Failure::Other(format!("cannot write {}: {error}; choose another file", path.display()))
            };
            let mut options = OpenOptions::new();
            options.write(true).create_new(true);
            // As private as the store.
            #[cfg(unix)]
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
            let file = options.open(path).map_err(failed)?;
            let mut file = io::BufWriter::new(file);
            let count = events.write_json_lines(&mut file, at_most, tell)?;
            file.into_inner().map_err(|error| failed(error.into_error()))?.sync_all().map_err(failed)?;
            count
        }
    };
    drop(progress);
    if let Some(path) = &asked.output {
        screen.note(&format!("{count} events written to {}", path.display()));
    }
    Ok(if count == 0 { Outcome::Nothing } else { Outcome::Answered })
}

pub(crate) fn errors(
    store: &Store,
    asked: &Search,
    common: &Common,
    window: &Window,
    screen: &mut Screen,
) -> Result<Outcome, Failure> {
    let mut errors = store.reader.errors().search(&asked.text())?.limit(common.limit.unwrap_or(GROUPS));
    if let Some(since) = window.since {
        errors = errors.since(since);
    }
    if let Some(until) = window.until {
        errors = errors.until(until);
    }
    let page = errors.fetch()?;
    screen.incomplete(page.incomplete.as_deref());
    if screen.is_json {
        screen.json_array(&page.items.iter().map(json::error).collect::<Vec<_>>())?;
        return Ok(Outcome::of_count(page.items.len()));
    }
    if page.items.is_empty() {
        screen.note("no errors");
        return Ok(Outcome::Nothing);
    }
    let rows = page.items.iter().map(|group| {
        vec![
            Text::number(group.count).toned(Tone::Bad),
            Text::time(window.second(group.first)).toned(Tone::Faint),
            Text::time(window.second(group.last)),
            Text::plain(&group.place).toned(Tone::Faint),
            Text::plain(&group.message),
            Text::plain(group.sample.correlation_id.clone().unwrap_or_default()).toned(Tone::Name),
        ]
    });
    screen.table(
        &["count", "first", "last", "place", "message", "trace"],
        &["first", "place", "trace"],
        rows.collect(),
    )?;
    if let Total::Exactly(total) = page.total
        && total > page.items.len() as u64
    {
        screen.note(&format!("{} of {total} groups; more with --limit", page.items.len()));
    }
    Ok(Outcome::Answered)
}
