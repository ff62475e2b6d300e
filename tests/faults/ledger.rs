//! What was acknowledged, and what a store has of it.

use std::{collections::BTreeSet, path::Path, time::Duration};

use l0::{
    Durability, L0,
    jobs::{Job, JobFilter, JobQueue as _, SqliteQueue},
    query::Reader,
};
use serde::{Deserialize, Serialize};

use super::roles::holds_within;

/// The type of recorded events.
pub const RECORDED: &str = "faults.recorded";
/// The type of audited events.
pub const AUDITED: &str = "faults.audited";

#[derive(Serialize, Deserialize)]
pub struct Numbered {
    pub number: u64,
}

impl Job for Numbered {
    const KIND: &'static str = "faults.numbered";
    type Output = ();
}

/// The numbers that calls acknowledged.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Ledger {
    pub events: BTreeSet<u64>,
    pub audits: BTreeSet<u64>,
    pub jobs: BTreeSet<u64>,
    /// Calls that failed; whether their numbers are stored is not known.
    pub errors: Vec<String>,
}

impl Ledger {
    pub fn add(&mut self, other: Self) {
        self.events.extend(other.events);
        self.audits.extend(other.audits);
        self.jobs.extend(other.jobs);
        self.errors.extend(other.errors);
    }

    /// What a recovered store lacks of it, and what it has twice.
    pub fn differences(&self, store: &Path) -> Vec<String> {
        let events = compare("events", &self.events, events_in(store, RECORDED));
        let audits = compare("audits", &self.audits, events_in(store, AUDITED));
        let jobs = compare("jobs", &self.jobs, jobs_in(store));
        [events, audits, jobs].into_iter().flatten().collect()
    }
}

/// The numbers of all events of a type.
pub fn events_in(store: &Path, event_type: &str) -> l0::Result<Vec<u64>> {
    let sql = "SELECT payload ->> 'number' FROM telemetry_events WHERE event_type = ?1
        UNION ALL SELECT payload ->> 'number' FROM audit WHERE event_type = ?1";
    let table = Reader::open(store)?.sql(sql, &[event_type.into()])?;
    Ok(table.rows.iter().map(|row| row[0].to_string().parse().unwrap()).collect())
}

/// The numbers of all jobs.
fn jobs_in(store: &Path) -> l0::Result<Vec<u64>> {
    let queue = SqliteQueue::open(store, Durability::Normal)?;
    let rows = queue.list(&JobFilter::latest(1_000_000))?.rows;
    Ok(rows.iter().map(|row| serde_json::from_str::<Numbered>(&row.payload).unwrap().number).collect())
}

/// Says how the counts of a run differ after a flush, unless they agree in time: l0 records events of its own meanwhile.
pub fn difference_of_counts(l0: &L0, within: Duration) -> Option<String> {
    let agree = || l0.flush().is_ok() && l0.stats().recorded == l0.stats().stored + l0.stats().shed;
    if holds_within(within, agree) {
        return None;
    }
    let stats = l0.stats();
    Some(format!("recorded {}, stored {}, shed {}", stats.recorded, stats.stored, stats.shed))
}

/// Says which of the expected numbers are missing and which are there more than once.
pub fn compare(what: &str, expected: &BTreeSet<u64>, found: l0::Result<Vec<u64>>) -> Option<String> {
    let mut found = match found {
        Ok(found) => found,
        Err(error) => return Some(format!("{what} cannot be read: {error}")),
    };
    found.sort_unstable();
    let doubled: Vec<u64> = found.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect();
    let found: BTreeSet<u64> = found.into_iter().collect();
    let missing: Vec<u64> = expected.difference(&found).copied().collect();
    let list = |numbers: &[u64]| match numbers {
        [] => "none".to_owned(),
        [first, .., last] if numbers.len() > 6 => format!("{} ({first} .. {last})", numbers.len()),
        _ => format!("{numbers:?}"),
    };
    (!missing.is_empty() || !doubled.is_empty()).then(|| {
        format!(
            "{what}: of {} expected, missing {}; more than once: {}",
            expected.len(),
            list(&missing),
            list(&doubled)
        )
    })
}
