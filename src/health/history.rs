//! What is kept of health: read by the program itself, and from outside.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{Status, Transition, standing::level};
use crate::{
    clock::{Clock, Timestamp},
    error::{Error, Result},
    state::{self, HealthRow},
};

/// Reads what is kept of a store's health from outside, of a program that lives or is dead, without writing to it.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// let health = l0::health::HealthReader::open(dir.path());
/// for last in health.latest()? {
///     println!("{last}");
/// }
/// # Ok::<(), l0::Error>(())
/// ```
#[derive(Debug)]
pub struct HealthReader {
    pub(super) dir: PathBuf,
    pub(super) clock: Clock,
    /// The run that asks, which lives.
    pub(super) own: Option<String>,
}

/// A change as it is kept; to nothing if it was unregistered, or its process ended.
struct Kept {
    name: String,
    run: String,
    at: Timestamp,
    /// In a word.
    from: Option<String>,
    to: Option<Status>,
    after: Option<Duration>,
    is_optional: bool,
}

impl HealthReader {
    /// Of the store in this directory, which may know of no checks.
    pub fn open(dir: impl AsRef<Path>) -> Self {
        Self { dir: dir.as_ref().to_owned(), clock: Clock::system(), own: None }
    }

    /// The latest change of each check, by name; what it came to holds since. One that was unregistered, or whose process has ended,
    /// is not among them; of one that several processes have, it is the worst.
    ///
    /// # Errors
    /// `is_storage` if they cannot be read.
    pub fn latest(&self) -> Result<Vec<Transition>> {
        let rows = state::latest_health(&self.dir)?.into_iter();
        let mut latest: Vec<Transition> = Vec::new();
        for last in rows.filter_map(|row| Kept::read(row, None).transition()) {
            match latest.last_mut().filter(|other| other.name == last.name) {
                Some(other) if level(&other.to) > level(&last.to) => {}
                Some(other) => *other = last,
                None => latest.push(last),
            }
        }
        Ok(latest)
    }

    /// As [`Health::history`](super::Health::history).
    ///
    /// # Errors
    /// `is_storage` if they cannot be read.
    pub fn history(&self, name: &str, last: Duration) -> Result<Vec<Transition>> {
        let since = self.clock.now_by_hand().saturating_sub(last);
        let changes = self.changes(name, since)?.into_iter().filter(|change| change.at >= since);
        Ok(changes.filter_map(Kept::transition).collect())
    }

    /// As [`Health::uptime`](super::Health::uptime).
    ///
    /// # Errors
    /// `is_storage` if the history cannot be read, `is_invalid_input` if nothing is known of such a check in this time.
    pub fn uptime(&self, name: &str, last: Duration) -> Result<f64> {
        self.observed_uptime(name, last).map(|(share, _)| share)
    }

    /// The same, and how much of this time it is of: that in which something was known.
    ///
    /// # Errors
    /// As [`uptime`](Self::uptime).
    pub fn observed_uptime(&self, name: &str, last: Duration) -> Result<(f64, Duration)> {
        let now = self.clock.now_by_hand();
        let since = now.saturating_sub(last);
        let mut changes = self.changes(name, since)?;
        // What a process said that has been silent for too long holds until it was last heard of.
        for (run, at) in self.silent_since(now)? {
            if let Some(last) = changes.iter().rfind(|change| change.run == run && change.to.is_some()) {
                let at = last.at.max(Timestamp::from_unix_ns(at));
                changes.push(Kept {
                    name: name.to_owned(),
                    run,
                    at,
                    from: None,
                    to: None,
                    after: None,
                    is_optional: false,
                });
            }
        }
        share(changes, since, now)
            .ok_or_else(|| Error::invalid_input(format!("nothing is known of a check {name:?} in this time")))
    }

    /// The changes since then, and the one before.
    fn changes(&self, name: &str, since: Timestamp) -> Result<Vec<Kept>> {
        let mut kept: Vec<Kept> = Vec::new();
        for row in state::health(&self.dir, name, since.as_unix_ns())? {
            let before = kept.iter().rev().find(|before| before.run == row.run);
            let change = Kept::read(row, before);
            kept.push(change);
        }
        Ok(kept)
    }
}

/// The share of a time in which nobody said unhealthy, of that in which somebody said something; and how much that is.
fn share(changes: Vec<Kept>, since: Timestamp, now: Timestamp) -> Option<(f64, Duration)> {
    let (mut up_ns, mut known_ns, mut last) = (0_i64, 0_i64, since);
    // What each run says, whether it is well.
    let mut said: BTreeMap<String, bool> = BTreeMap::new();
    let is_up = |said: &BTreeMap<String, bool>| said.values().all(|is_up| *is_up);
    let mut until = |at: Timestamp, said: &BTreeMap<String, bool>| {
        let at = at.clamp(last, now.max(last));
        let ns = if said.is_empty() { 0 } else { at.as_unix_ns().saturating_sub(last.as_unix_ns()) };
        last = at;
        known_ns += ns;
        up_ns += if is_up(said) { ns } else { 0 };
    };
    for Kept { run, at, to, .. } in in_time(changes) {
        until(at, &said);
        match to {
            Some(status) => _ = said.insert(run, level(&status) < 2),
            None => _ = said.remove(&run),
        }
    }
    until(now, &said);
    match known_ns {
        1.. => Some((up_ns as f64 / known_ns as f64, Duration::from_nanos(known_ns.unsigned_abs()))),
        // It has only just said so.
        _ => (!said.is_empty()).then(|| (f64::from(u8::from(is_up(&said))), Duration::ZERO)),
    }
}

/// Changes of several runs in the order of their times. Those of one run keep theirs: where its clock was set back, what it said
/// before counts until what it said after that, by the later clock.
fn in_time(mut changes: Vec<Kept>) -> Vec<Kept> {
    let mut next: BTreeMap<String, Timestamp> = BTreeMap::new();
    for change in changes.iter_mut().rev() {
        let at = next.get(&change.run).map_or(change.at, |next| change.at.min(*next));
        change.at = at;
        next.insert(change.run.clone(), at);
    }
    changes.sort_by_key(|change| change.at);
    changes
}

impl Kept {
    fn read(row: HealthRow, before: Option<&Self>) -> Self {
        let HealthRow { name, run, at, before: from, after: to, is_optional, .. } = row;
        let since = before.filter(|before| before.to.is_some()).map(|before| before.at.as_unix_ns());
        let ns = since.and_then(|since| u64::try_from(at.saturating_sub(since)).ok());
        let after = ns.filter(|_| from.is_some()).map(Duration::from_nanos);
        let to = to.and_then(|json| serde_json::from_str(&json).ok());
        Self { name, run, at: Timestamp::from_unix_ns(at), from, to, after, is_optional }
    }

    fn transition(self) -> Option<Transition> {
        let Self { name, at, from, to, after, is_optional, .. } = self;
        let from = from.map(|word| match word.as_str() {
            "healthy" => Status::Healthy,
            "degraded" => Status::Degraded(String::new()),
            _ => Status::Unhealthy(String::new()),
        });
        Some(Transition { name, at, from, to: to?, after, is_optional })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn change(run: u8, at: i64, to: Option<bool>) -> Kept {
        let to = to.map(|is_up| if is_up { Status::Healthy } else { Status::Unhealthy(String::new()) });
        let at = Timestamp::from_unix_ns(at);
        Kept { name: String::new(), run: run.to_string(), at, from: None, to, after: None, is_optional: false }
    }

    fn share_of(changes: &[(u8, i64, Option<bool>)], since: i64, now: i64) -> Option<f64> {
        let changes = changes.iter().map(|(run, at, to)| change(*run, *at, *to)).collect();
        share(changes, Timestamp::from_unix_ns(since), Timestamp::from_unix_ns(now)).map(|(share, _)| share)
    }

    proptest! {
        /// The model asks at each nanosecond what each run last said.
        #[test]
        fn the_share_is_that_of_all_moments(
            mut changes in proptest::collection::vec((0_u8..3, 0_i64..40, proptest::option::of(any::<bool>())), 0..12),
            since in 0_i64..40, length in 1_i64..20,
        ) {
            let now = since + length;
            // In the order of their times, as one clock has them; ends that were noted later stand where they belong.
            changes.sort_by_key(|(run, at, to)| (*run, *at, to.is_some()));
            changes.retain(|(_, at, _)| *at <= now);
            let at = |run: u8, at: i64| changes.iter().rfind(|(of, when, _)| *of == run && *when <= at).and_then(|(.., to)| *to);
            let moments: Vec<_> = (since..now).map(|ns| (0..3).filter_map(|run| at(run, ns)).collect::<Vec<_>>()).collect();
            let known = moments.iter().filter(|said| !said.is_empty()).count();
            let up = moments.iter().filter(|said| !said.is_empty() && said.iter().all(|is_up| *is_up)).count();
            let found = share_of(&changes, since, now);
            if known > 0 {
                prop_assert_eq!(found, Some(up as f64 / known as f64));
            } else {
                let said: Vec<_> = (0..3).filter_map(|run| at(run, now)).collect();
                let expected = (!said.is_empty()).then(|| f64::from(u8::from(said.iter().all(|is_up| *is_up))));
                prop_assert_eq!(found, expected);
            }
        }
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_undo_what_was_said_last() {
        let set_back = [(0, 100, Some(true)), (0, 50, Some(false))];
        assert_eq!(share_of(&set_back, 0, 110), Some(0.0), "unhealthy since 50");
        assert_eq!(share_of(&[(0, 100, Some(true))], 0, 50), Some(1.0), "it says so, from a time to come");
        assert_eq!(share_of(&[(0, 5, Some(true)), (0, 9, None)], 10, 20), None);
    }
}
