//! `runs`: each time a program recorded, and how it ended. `status` shows the latest, too.

use std::time::Duration;

use l0::query::{Value, human_duration};
use serde::Serialize;

use crate::{
    args::Common,
    failure::{Failure, Outcome},
    place::Store,
    screen::{Screen, Text, Tone},
    when::Window,
};

const RUNS: u32 = 20;

/// A row of the view `runs`, newest first.
#[derive(Debug, Serialize)]
pub(crate) struct Run {
    pub(crate) id: i64,
    pub(crate) run_id: String,
    pub(crate) pid: i64,
    pub(crate) service: Option<String>,
    pub(crate) version: Option<String>,
    pub(crate) host: Option<String>,
    pub(crate) started_at: String,
    pub(crate) ended_at: Option<String>,
    pub(crate) outcome: String,
    pub(crate) stored: i64,
    pub(crate) shed: i64,
    /// It is noted as running, but its process is gone: what it left has not been recovered.
    pub(crate) is_dead: bool,
}

impl Run {
    /// The latest runs that recorded in the window.
    pub(crate) fn latest(store: &Store, window: &Window, limit: u32) -> Result<Vec<Self>, Failure> {
        let bound = |at: Option<l0::Timestamp>| at.map_or(Value::Null, |at| Value::from(at.to_string()));
        Self::of_store(
            store,
            "WHERE (?1 IS NULL OR ended_at IS NULL OR ended_at >= ?1) AND (?2 IS NULL OR started_at < ?2)
              ORDER BY id DESC LIMIT ?3",
            &[bound(window.since), bound(window.until), limit.into()],
        )
    }

    /// Those that have not ended, whatever has since begun.
    pub(crate) fn running(store: &Store) -> Result<Vec<Self>, Failure> {
        Self::of_store(store, "WHERE outcome = 'running' ORDER BY id DESC", &[])
    }

    fn of_store(store: &Store, which: &str, params: &[Value]) -> Result<Vec<Self>, Failure> {
        let columns = "id, run_id, pid, service, version, host, started_at, ended_at, outcome, stored, shed";
        let table = store.reader.sql(&format!("SELECT {columns} FROM runs {which}"), params)?;
        let runs = table.rows.into_iter().map(|row| {
            let mut cells = row.into_iter();
            let mut next = || cells.next().unwrap_or(Value::Null);
            let number = |cell: Value| if let Value::Integer(number) = cell { number } else { 0 };
            let text = |cell: Value| if let Value::Text(text) = cell { Some(text) } else { None };
            let id = number(next());
            Self {
                id,
                is_dead: store.inspection.dead_runs.contains(&id),
                run_id: text(next()).unwrap_or_default(),
                pid: number(next()),
                service: text(next()),
                version: text(next()),
                host: text(next()),
                started_at: text(next()).unwrap_or_default(),
                ended_at: text(next()),
                outcome: text(next()).unwrap_or_default(),
                stored: number(next()),
                shed: number(next()),
            }
        });
        Ok(runs.collect())
    }

    pub(crate) fn is_running(&self) -> bool {
        self.outcome == "running" && !self.is_dead
    }

    /// The program and its version.
    pub(crate) fn name(&self) -> String {
        let parts = [self.service.as_deref(), self.version.as_deref()];
        let name = parts.into_iter().flatten().collect::<Vec<_>>().join(" ");
        if name.is_empty() { format!("process {}", self.pid) } else { name }
    }

    /// How it ended, as far as is known.
    pub(crate) fn ending(&self) -> &str {
        if self.is_dead { "vanished" } else { &self.outcome }
    }

    /// How long it ran, or has been running.
    pub(crate) fn lasted(&self) -> Option<Duration> {
        let at = |text: &str| text.parse::<jiff::Timestamp>().ok();
        let end = match &self.ended_at {
            Some(ended_at) => at(ended_at)?,
            None if self.is_dead => return None,
            None => jiff::Timestamp::now(),
        };
        Duration::try_from(end.duration_since(at(&self.started_at)?)).ok()
    }

    pub(crate) fn started(&self, window: &Window) -> String {
        let at = self.started_at.parse::<jiff::Timestamp>().ok();
        let at = at.and_then(|at| i64::try_from(at.as_nanosecond()).ok()).map(l0::Timestamp::from_unix_ns);
        at.map_or_else(|| self.started_at.clone(), |at| window.second(at))
    }

    pub(crate) fn tone(&self) -> Tone {
        match self.ending() {
            "killed" | "panicked" | "vanished" => Tone::Bad,
            "running" => Tone::Good,
            _ => Tone::Plain,
        }
    }
}

pub(crate) fn runs(store: &Store, common: &Common, window: &Window, screen: &mut Screen) -> Result<Outcome, Failure> {
    let runs = Run::latest(store, window, common.limit.unwrap_or(RUNS))?;
    if screen.is_json {
        screen.json_array(&runs)?;
    } else if runs.is_empty() {
        screen.note("no program has recorded here, then");
    } else {
        table(&runs, window, screen)?;
    }
    Ok(Outcome::of_count(runs.len()))
}

pub(crate) fn table(runs: &[Run], window: &Window, screen: &mut Screen) -> Result<(), Failure> {
    let rows = runs.iter().map(|run| {
        vec![
            Text::number(run.id),
            Text::plain(run.name()).toned(Tone::Name),
            Text::number(run.pid),
            Text::time(run.started(window)),
            Text::number(run.lasted().map_or_else(|| "-".to_owned(), human_duration)),
            Text::time(run.ending()).toned(run.tone()),
            Text::number(run.stored),
            match run.shed {
                0 => Text::number(0),
                shed => Text::number(shed).toned(Tone::Bad),
            },
        ]
    });
    let headings = ["run", "program", "pid", "started", "lasted", "outcome", "stored", "shed"];
    Ok(screen.table(&headings, &["run", "lasted", "shed"], rows.collect())?)
}
