//! What is about single events: `logs`, `export`, `errors`; and the lines that `tail` shows, too.

use std::{fs::OpenOptions, io};

use l0::{
    Severity,
    query::{Errors, EventRow, Events, Logs, Total, harmless},
};

use crate::{
    args::{self, Common, Filters, Search},
    failure::{Failure, Outcome},
    json,
    pages::pages,
    place::Store,
    screen::{Screen, Text, Tone},
    when::Window,
};

/// Lines and groups unless said otherwise.
const LINES: u32 = 50;
const GROUPS: u32 = 20;
impl Filters {
    /// The options and the search, as one search.
    pub(crate) fn text(&self) -> Result<String, Failure> {
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

pub(crate) fn logs(
    store: &Store,
    asked: &args::Logs,
    common: &Common,
    window: &Window,
    screen: &mut Screen,
) -> Result<Outcome, Failure> {
    let (search, limit) = (asked.filters.text()?, common.limit.unwrap_or(LINES));
    let after = asked.after.as_deref().map(str::parse).transpose()?;
    let (rows, next, total) = pages(limit, after, screen, |after, limit| {
        if asked.all {
            let mut events =
                window.within(store.reader.events().search(&search)?.limit(limit), Events::since, Events::until);
            events = if asked.oldest_first { events.oldest_first() } else { events };
            after.map_or(events.clone(), |after| events.after(after)).fetch()
        } else {
            let mut logs = window.within(store.reader.logs().search(&search)?.limit(limit), Logs::since, Logs::until);
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
        screen.more(rows.len(), total, "lines", next.as_str());
    } else if rows.is_empty() {
        screen.note("no line matches");
    }
    Ok(Outcome::of_count(rows.len()))
}

/// One event as a line: when, how serious, from where, what.
pub(crate) fn line(row: &EventRow, window: &Window, screen: &Screen) -> String {
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

pub(crate) fn export(
    store: &Store,
    asked: &args::Export,
    common: &Common,
    window: &Window,
    screen: &mut Screen,
) -> Result<Outcome, Failure> {
    let args::Format::Jsonl = asked.format;
    let events = window.within(store.reader.events().search(&asked.filters.text()?)?, Events::since, Events::until);
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
    let errors = store.reader.errors().search(&asked.text())?.limit(common.limit.unwrap_or(GROUPS));
    let page = window.within(errors, Errors::since, Errors::until).fetch()?;
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
