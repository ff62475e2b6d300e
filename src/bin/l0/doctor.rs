//! `doctor`: whether the store is well, and what to do if not. It changes nothing, and recovers nothing.

use indicatif::HumanBytes;
use l0::{
    FlightState, Inspection,
    query::{Check, Reader},
};
use serde::Serialize;
use serde_json::json;

use crate::{
    args::Common,
    failure::{Failure, Outcome},
    place::Place,
    screen::{Screen, Text, Tone},
    when::Window,
};

/// A WAL that is larger has waited long for a reader.
const WAL_BYTES: u64 = 64 << 20;
/// The part of the database that is free, from which on to give some back.
const FREE_SHARE: u64 = 2;
/// Smaller databases are not worth the while.
const FREE_BYTES: u64 = 16 << 20;
const DAMAGED: &str = "end the programs that use it; save what can be read with `l0 doctor --salvage FILE`; then move FILE and \
     its -wal away: the next start begins a new one";
/// Of the largest tables so many are shown.
const TABLES: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Grade {
    Ok,
    Warning,
    Problem,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    grade: Grade,
    what: &'static str,
    found: String,
    /// What to do about it.
    #[serde(rename = "do", skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

/// What was found so far.
#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn ok(&mut self, what: &'static str, found: impl Into<String>) {
        self.0.push(Finding { grade: Grade::Ok, what, found: found.into(), advice: None });
    }

    fn warning(&mut self, what: &'static str, found: impl Into<String>, advice: impl Into<String>) {
        self.0.push(Finding { grade: Grade::Warning, what, found: found.into(), advice: Some(advice.into()) });
    }

    fn problem(&mut self, what: &'static str, found: impl Into<String>, advice: impl Into<String>) {
        self.0.push(Finding { grade: Grade::Problem, what, found: found.into(), advice: Some(advice.into()) });
    }
}

pub(crate) fn doctor(place: &Place, common: &Common, window: &Window, screen: &mut Screen) -> Result<Outcome, Failure> {
    let inspection = l0::inspect(&place.dir)?;
    let mut findings = Findings::default();
    files(&inspection, &mut findings);
    databases(&inspection, &mut findings);
    for file in &inspection.set_aside {
        findings.warning(
            "damaged",
            format!("telemetry.db was damaged, and was set aside as {}", file.display()),
            format!(
                "l0 doctor --salvage '{}' brings what can be read into a new store; then move the file away",
                file.display()
            ),
        );
    }
    flight(&inspection, &mut findings);
    let mut check = None;
    match place.reader(&inspection, false, screen) {
        Ok((reader, copy)) => {
            check = content(&reader, &mut findings, screen);
            let sizes = if copy.is_none() { sizes(&reader, &mut findings) } else { Ok(()) };
            if let Err(error) = sizes.and_then(|()| shed(&reader, window, &mut findings)) {
                findings.problem("reading", error.to_string(), DAMAGED);
            }
        }
        Err(error) => findings.problem("reading", error.to_string(), DAMAGED),
    }
    let is_well = findings.0.iter().all(|finding| finding.grade < Grade::Problem);
    if screen.is_json {
        screen.json(&json!({
            "dir": inspection.dir,
            "is_well": is_well,
            "findings": findings.0,
            "files": inspection.files,
            "flight_files": inspection.flight_files,
            "databases": inspection.databases,
            "tables": check.map(|check| check.tables),
            "versions": {"l0": env!("CARGO_PKG_VERSION"), "sqlite": inspection.sqlite_version},
        }))?;
    } else {
        show(&inspection, &findings, check.as_ref(), common, screen)?;
    }
    Ok(if is_well { Outcome::Answered } else { Outcome::No })
}

fn files(inspection: &Inspection, findings: &mut Findings) {
    let dir = inspection.dir.display();
    match (inspection.is_own, inspection.is_writable) {
        (true, true) => findings.ok("owner", "this user's, and writable"),
        (true, false) => findings.warning(
            "owner",
            "this user's, and write-protected",
            "no program can record here; chmod u+w it if one should",
        ),
        (false, _) => findings.warning(
            "owner",
            "another user's",
            "nothing is recovered or changed here; ask as the user that records",
        ),
    }
    let open: Vec<&str> = inspection
        .files
        .iter()
        .filter(|file| file.is_private == Some(false) && file.name != ".gitignore")
        .map(|file| if file.name.is_empty() { "the directory" } else { file.name.as_str() })
        .collect();
    if open.is_empty() {
        findings.ok("permissions", "nobody else may read it");
    } else {
        findings.warning(
            "permissions",
            format!("others may read {}", open.join(", ")),
            format!("chmod -R go-rwx '{dir}'"),
        );
    }
}

fn databases(inspection: &Inspection, findings: &mut Findings) {
    for database in &inspection.databases {
        let (name, known) = (database.name, database.known_schema);
        match (database.schema, &database.problem) {
            (Some(schema), Some(problem)) if schema > known => {
                findings.problem("schema", problem, "use the l0 that wrote it, or a later one");
            }
            (Some(_), Some(problem)) if inspection.is_writable => findings.problem("schema", problem, DAMAGED),
            (Some(_), Some(problem)) => findings.warning(
                "schema",
                problem,
                "this command reads it from a copy; chmod u+w the directory and its files to use it in its place",
            ),
            (Some(schema), None) if schema < known => findings.warning(
                "schema",
                format!("{name} has schema {schema}, this l0 writes {known}"),
                "the next start of a program with this l0 brings it up to date; until then it is read from a copy",
            ),
            (Some(schema), None) => findings.ok("schema", format!("{name} has schema {schema}, which this l0 writes")),
            (None, problem) => {
                findings.problem(
                    "schema",
                    problem.clone().unwrap_or_else(|| format!("{name} cannot be read")),
                    DAMAGED,
                );
            }
        }
    }
    findings.ok("versions", format!("l0 {}, SQLite {}", env!("CARGO_PKG_VERSION"), inspection.sqlite_version));
}

fn flight(inspection: &Inspection, findings: &mut Findings) {
    if inspection.flight_files.is_empty() {
        findings.ok("flight files", "none: no program records into a file of its own at the moment");
    }
    for file in &inspection.flight_files {
        let pid = file.pid.map_or_else(|| "of an unknown process".to_owned(), |pid| format!("of process {pid}"));
        let found = format!("{} {pid}, {}", file.path.display(), HumanBytes(file.bytes));
        match file.state {
            FlightState::InUse => findings.ok("flight files", format!("{found}, which records")),
            FlightState::Orphaned => findings.warning(
                "flight files",
                format!("{found}, which is dead"),
                "what is in it is not in the database yet: the next start, or any other question of this command, brings it in",
            ),
            FlightState::SetAside => findings.warning(
                "flight files",
                format!("{found}, set aside by a recovery that could not read it"),
                "look at it, then delete it",
            ),
            FlightState::OfLaterVersion => findings.warning(
                "flight files",
                format!("{found}, of a later version of l0"),
                "recover it with the l0 that wrote it",
            ),
            _ => findings.warning(
                "flight files",
                format!("{found}, not this user's or not readable"),
                "recover it as the user that records",
            ),
        }
    }
    if inspection.has_vanished_runs {
        findings.warning(
            "runs",
            "a run is noted as running whose process is gone",
            "the next start, or any other question of this command, notes how it ended",
        );
    }
}

/// SQLite's own check, which reads everything.
fn content(reader: &Reader, findings: &mut Findings, screen: &Screen) -> Option<Check> {
    let checked = {
        let _busy = screen.busy("checking every page");
        reader.check()
    };
    match checked {
        Ok(check) => {
            if check.is_sound() {
                findings.ok("integrity", "SQLite finds nothing wrong");
            }
            for problem in &check.problems {
                findings.problem("integrity", problem, DAMAGED);
            }
            Some(check)
        }
        Err(error) if error.is_timeout() => {
            findings.warning("integrity", error.to_string(), "check a copy of the store instead");
            None
        }
        Err(error) => {
            findings.problem("integrity", error.to_string(), DAMAGED);
            None
        }
    }
}

fn sizes(reader: &Reader, findings: &mut Findings) -> Result<(), Failure> {
    let size = reader.size()?;
    let found = format!(
        "{}; database {} ({} free), WAL {}, flight recorders {}, state.db {}",
        HumanBytes(size.bytes()),
        HumanBytes(size.database_bytes),
        HumanBytes(size.free_bytes),
        HumanBytes(size.wal_bytes),
        HumanBytes(size.flight_bytes),
        HumanBytes(size.state_bytes),
    );
    match size.max_bytes {
        0 => findings.ok("size", found),
        cap if size.bytes() > cap => findings.warning(
            "size",
            format!("{found}: more than the cap of {}", HumanBytes(cap)),
            "a program that records brings it down by itself; without one, l0 prune --older-than 7d",
        ),
        cap => findings.ok("size", format!("{found}; the cap is {}", HumanBytes(cap))),
    }
    if size.wal_bytes > WAL_BYTES {
        findings.warning(
            "WAL",
            format!("{} wait to be written into the database", HumanBytes(size.wal_bytes)),
            "a reader keeps its snapshot for long: end it; a program that records then empties the WAL",
        );
    }
    if size.database_bytes > FREE_BYTES && size.free_bytes > size.database_bytes / FREE_SHARE {
        findings.warning(
            "free pages",
            format!("{} of the database are free for new rows", HumanBytes(size.free_bytes)),
            "if they will not be needed: l0 compact",
        );
    }
    Ok(())
}

/// What was not recorded for want of room, by reason.
fn shed(reader: &Reader, window: &Window, findings: &mut Findings) -> Result<(), Failure> {
    let summary = reader.summary_between(window.since, window.until)?;
    let day = reader.summary(std::time::Duration::from_secs(24 * 3_600))?;
    if summary.shed == 0 {
        findings.ok("shed", "no record that is known was shed");
        return Ok(());
    }
    let reasons: Vec<String> = summary.shed_by.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    let found =
        format!("{} records were shed, {} of them in the last day: {}", summary.shed, day.shed, reasons.join(", "));
    let advice = "give the program a larger buffer_bytes, or Overload::Block; for reader_pins_wal, end long reads; \
                  other_boot is what the machine's stop took";
    if day.shed > 0 {
        findings.warning("shed", found, advice);
    } else {
        findings.ok("shed", found);
    }
    Ok(())
}

fn show(
    inspection: &Inspection,
    findings: &Findings,
    check: Option<&Check>,
    common: &Common,
    screen: &mut Screen,
) -> Result<(), Failure> {
    let dir = inspection.dir.display().to_string();
    let title = screen.paint(&format!("store {}", l0::query::harmless(&dir)), Tone::Heading);
    screen.line(&title)?;
    for finding in &findings.0 {
        let (mark, tone) = match finding.grade {
            Grade::Ok => ("ok     ", Tone::Good),
            Grade::Warning => ("warning", Tone::Warning),
            Grade::Problem => ("PROBLEM", Tone::Bad),
        };
        let mark = screen.paint(mark, tone);
        screen.line(&format!("  {mark}  {}: {}", finding.what, l0::query::harmless(&finding.found)))?;
        if let Some(advice) = &finding.advice {
            screen.line(&format!("           -> {}", l0::query::harmless(advice)))?;
        }
    }
    let tables = check.map(|check| &check.tables[..]).unwrap_or_default();
    if tables.is_empty() {
        return Ok(());
    }
    let shown = common.limit.map_or(TABLES, |limit| limit as usize);
    let percent = |share: f64| Text::number(format!("{:.1} %", share * 100.0));
    let rows = tables.iter().take(shown).map(|table| {
        vec![
            Text::plain(&table.name),
            Text::number(HumanBytes(table.bytes)),
            percent(table.unused_bytes as f64 / table.bytes.max(1) as f64),
            percent(table.fragmentation),
        ]
    });
    screen.line("")?;
    screen.table(&["largest tables and indexes", "size", "unused", "fragmented"], &[], rows.collect())?;
    Ok(())
}
