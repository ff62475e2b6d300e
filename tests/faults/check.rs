//! What a recovered store must hold, compared with what its children acknowledged.

use std::{
    collections::{BTreeMap, BTreeSet},
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use l0::query::Reader;

use super::{
    plan::{BURST, Kind, Role},
    process::Witness,
    support::{is_consistent, texts},
};

/// The result of a check.
#[derive(Debug, Default)]
pub struct Findings {
    pub acknowledged: u64,
    /// Records of the children in the store.
    pub stored: u64,
    pub shed: u64,
    /// Acknowledged records that are neither stored nor counted as shed.
    pub lost: u64,
    /// Rows beyond the first for one record.
    pub doubled: u64,
    /// What is wrong, one sentence each. Empty if all is well.
    pub faults: Vec<String>,
}

/// Numbers of stored records by child, kind and thread, in the order of their rows.
type Stored = BTreeMap<(u32, Kind, u32), Vec<u64>>;

/// Checks a directory that was recovered against all children that ever used it.
pub fn check(dir: &Path, children: &[Witness]) -> Findings {
    let mut findings = Findings::default();
    findings.faults.extend(children.iter().filter_map(Witness::wrong_end));
    if !dir.join("telemetry.db").exists() {
        let records =
            children.iter().flat_map(|child| child.acknowledged.keys()).any(|(kind, _)| Kind::RECORDS.contains(kind));
        findings.faults.extend(records.then(|| "records were acknowledged and there is no store".to_owned()));
        return findings;
    }
    let checked = catch_unwind(AssertUnwindSafe(|| {
        is_consistent(dir);
        state_is_consistent(dir);
        let store = Store { reader: Reader::open(dir).unwrap(), has_state: dir.join("state.db").exists() };
        store.check_records(children, &mut findings);
        store.check_runs(children, &mut findings);
        let left = l0::inspect(dir).unwrap();
        if !left.flight_files.is_empty() || !left.dead_runs.is_empty() {
            findings.faults.push(format!("the recovery left {:?}, {:?}", left.flight_files, left.dead_runs));
        }
    }));
    if let Err(panic) = checked {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        findings.faults.push(format!("the store is not consistent: {}", text.unwrap_or_default()));
    }
    findings
}

fn state_is_consistent(dir: &Path) {
    if dir.join("state.db").exists() {
        let state = rusqlite::Connection::open(dir.join("state.db")).unwrap();
        let verdict: String = state.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(verdict, "ok", "integrity of state.db");
    }
}

struct Store {
    reader: Reader,
    has_state: bool,
}

impl Store {
    fn ask(&self, sql: &str) -> Vec<Vec<String>> {
        texts(&self.reader.sql(sql, &[]).unwrap())
    }

    fn number(&self, sql: &str) -> i64 {
        self.ask(sql)[0][0].parse().unwrap()
    }

    fn stored(&self) -> Stored {
        let columns = "payload ->> 'child', payload ->> 'thread', payload ->> 'number'";
        let mut stored = Stored::new();
        for (kind, from) in [
            (Kind::Event, "telemetry_events WHERE message = 'recorded' ORDER BY id"),
            (Kind::Span, "spans WHERE name = 'fifty' ORDER BY id"),
            (Kind::Audit, "audit WHERE event_type = 'audited' ORDER BY at"),
            (Kind::Job, "jobs WHERE kind = 'pending' AND state = 'pending' ORDER BY number"),
        ] {
            // Without state.db there is no view `jobs`.
            if kind == Kind::Job && !self.has_state {
                continue;
            }
            for row in self.ask(&format!("SELECT {columns} FROM {from}")) {
                let key = (row[0].parse().unwrap(), kind, row[1].parse().unwrap());
                stored.entry(key).or_default().push(row[2].parse().unwrap());
            }
        }
        stored
    }

    fn check_records(&self, children: &[Witness], findings: &mut Findings) {
        let stored = self.stored();
        for (key @ (child, kind, thread), numbers) in &stored {
            let distinct = numbers.iter().collect::<BTreeSet<_>>().len();
            findings.stored += distinct as u64;
            let doubled = (numbers.len() - distinct) as u64;
            findings.doubled += doubled;
            if doubled > 0 {
                findings.faults.push(format!("{key:?}: {doubled} records are stored twice"));
            }
            if !numbers.is_sorted() {
                findings.faults.push(format!("{key:?}: the rows are not in the order of their numbers"));
            }
            if !children.iter().any(|witness| witness.plan.child == *child && *thread < witness.plan.threads) {
                findings.faults.push(format!("{kind:?} rows of an unknown child or thread: {child}, {thread}"));
            }
        }
        for child in children.iter().filter(|child| child.plan.role != Role::Recover) {
            self.check_child(child, &stored, findings);
        }
        // The rows of events are stored by time, so for them the order of the numbers is the order of times.
        let unsorted = "SELECT count(*) FROM (SELECT started_at < lag(started_at) OVER (
                PARTITION BY payload ->> 'child', payload ->> 'thread' ORDER BY id) AS is_before
            FROM spans WHERE name = 'fifty') WHERE is_before";
        if self.number(unsorted) > 0 {
            findings.faults.push("spans of one thread began out of order".to_owned());
        }
        let misplaced = "SELECT count(*) FROM telemetry_events AS e LEFT JOIN spans AS s ON s.id = e.span_id
            WHERE e.message = 'recorded' AND (s.id IS NULL OR s.payload ->> 'number' <> e.payload ->> 'begins_at'
               OR s.payload ->> 'thread' <> e.payload ->> 'thread' OR s.payload ->> 'child' <> e.payload ->> 'child')";
        let misplaced = self.number(misplaced);
        // An event whose span was shed is in no span.
        if misplaced > 0 && findings.shed == 0 {
            findings.faults.push(format!("{misplaced} events are not in their spans"));
        }
    }

    fn check_child(&self, child: &Witness, stored: &Stored, findings: &mut Findings) {
        let id = child.plan.child;
        let shed = self.number(&format!("SELECT coalesce(sum(shed), 0) FROM runs WHERE service = 'child-{id}'")) as u64;
        findings.shed += shed;
        if shed > 0 && child.plan.blocks {
            findings.faults.push(format!("child {id} shed {shed} records although its threads wait for room"));
        }
        let mut sheddable = shed;
        for thread in 0..child.plan.threads {
            let mut unacknowledged = 0;
            for kind in Kind::RECORDS {
                let acknowledged = child.acknowledged.get(&(kind, thread)).map_or(&[][..], Vec::as_slice);
                let numbers = stored.get(&(id, kind, thread)).map_or(&[][..], Vec::as_slice);
                findings.acknowledged += acknowledged.len() as u64;
                let stored: BTreeSet<_> = numbers.iter().collect();
                let mut missing = acknowledged.iter().filter(|number| !stored.contains(number)).count() as u64;
                unacknowledged += stored.len() as u64 + missing - acknowledged.len() as u64;
                if matches!(kind, Kind::Event | Kind::Span) {
                    let counted = missing.min(sheddable);
                    (missing, sheddable) = (missing - counted, sheddable - counted);
                }
                findings.lost += missing;
                if missing > 0 {
                    findings.faults.push(format!("{missing} records {kind:?} of child {id}, thread {thread} are lost"));
                }
            }
            // A thread dies between a record and its acknowledgement, or outside.
            if unacknowledged > if child.plan.blocks { 1 } else { BURST as u64 } {
                findings.faults.push(format!("child {id}, thread {thread}: {unacknowledged} rows nobody acknowledged"));
            }
            let refused = child.acknowledged.get(&(Kind::RefusedAudit, thread)).map_or(&[][..], Vec::as_slice);
            let audits = stored.get(&(id, Kind::Audit, thread)).map_or(&[][..], Vec::as_slice);
            if refused.iter().any(|number| audits.contains(number)) {
                findings.faults.push(format!("child {id}, thread {thread}: an audit that was refused is stored"));
            }
        }
    }

    fn check_runs(&self, children: &[Witness], findings: &mut Findings) {
        for child in children.iter().filter(|child| child.plan.role != Role::Recover) {
            let id = child.plan.child;
            let runs = self.ask(&format!("SELECT outcome FROM runs WHERE service = 'child-{id}'"));
            let outcomes: Vec<_> = runs.iter().map(|row| row[0].as_str()).collect();
            let is_right = match outcomes[..] {
                [outcome] => child.outcomes().contains(&outcome),
                // It died before its run began.
                [] => child.died() && !child.reported(Kind::Started),
                _ => false,
            };
            if !is_right {
                let expected = child.outcomes();
                findings.faults.push(format!("child {id} has runs with outcomes {outcomes:?}, expected {expected:?}"));
            }
            let interrupted = self.number(&format!(
                "SELECT count(*) FROM spans WHERE state = 'interrupted' AND payload ->> 'child' = {id}"
            ));
            // A thread has one span open; but the close of a span may be shed.
            let allowed = if child.died() { child.plan.threads.into() } else { 0 };
            if interrupted > allowed && child.plan.blocks {
                findings.faults.push(format!("{interrupted} spans of child {id} are interrupted"));
            }
        }
        let unended = self.number("SELECT count(*) FROM runs WHERE outcome = 'running' OR ended_at IS NULL");
        let running = self.number("SELECT count(*) FROM spans WHERE state = 'running'");
        if (unended, running) != (0, 0) {
            findings.faults.push(format!("{unended} runs and {running} spans of dead processes have not ended"));
        }
        let miscounted = self.ask(
            "SELECT service, stored, (SELECT count(*) FROM telemetry_events WHERE run_id = runs.id)
                    + (SELECT count(*) FROM spans WHERE run_id = runs.id) AS rows FROM runs WHERE stored <> rows",
        );
        if !miscounted.is_empty() {
            findings.faults.push(format!("runs whose count differs from their rows: {miscounted:?}"));
        }
    }
}
