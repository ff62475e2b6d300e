//! What is kept of health: read by the program itself, and from outside.

use std::{
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
    dir: PathBuf,
    clock: Clock,
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
}

impl HealthReader {
    /// Of the store in this directory, which may know of no checks.
    pub fn open(dir: impl AsRef<Path>) -> Self {
        Self::of(dir.as_ref(), Clock::system())
    }

    pub(super) fn of(dir: &Path, clock: Clock) -> Self {
        Self { dir: dir.to_owned(), clock }
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

    /// What a check last said, whatever has ended since.
    pub(super) fn last_said(&self, name: &str) -> Result<Option<Status>> {
        let changes = self.changes(name, Timestamp::from_unix_ns(i64::MIN))?;
        Ok(changes.into_iter().rev().find_map(|change| change.to))
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
        let now = self.clock.now_by_hand();
        let since = now.saturating_sub(last);
        let changes = self.changes(name, since)?;
        let (mut up, mut known) = (0.0, 0.0);
        for (index, change) in changes.iter().enumerate() {
            let Some(status) = &change.to else { continue };
            // Until its run says otherwise; of a run that says nothing more, until another begins.
            let later = &changes[index + 1..];
            let next = later.iter().find(|next| next.run == change.run).or_else(|| later.first());
            let end = next.map_or(now, |next| next.at);
            let ns = end.as_unix_ns().saturating_sub(change.at.max(since).as_unix_ns()).max(0) as f64;
            known += ns;
            up += if matches!(status, Status::Unhealthy(_)) { 0.0 } else { ns };
        }
        if known > 0.0 {
            return Ok(up / known);
        }
        match changes.last().and_then(|change| change.to.as_ref()) {
            // It has only just said so.
            Some(status) => Ok(f64::from(u8::from(!matches!(status, Status::Unhealthy(_))))),
            None => Err(Error::invalid_input(format!("nothing is known of a check {name:?} in this time"))),
        }
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

impl Kept {
    fn read(row: HealthRow, before: Option<&Self>) -> Self {
        let HealthRow { name, run, at, before: from, after: to } = row;
        let since = before.filter(|before| before.to.is_some()).map(|before| before.at.as_unix_ns());
        let ns = since.and_then(|since| u64::try_from(at.saturating_sub(since)).ok());
        let after = ns.filter(|_| from.is_some()).map(Duration::from_nanos);
        let to = to.and_then(|json| serde_json::from_str(&json).ok());
        Self { name, run, at: Timestamp::from_unix_ns(at), from, to, after }
    }

    fn transition(self) -> Option<Transition> {
        let Self { name, at, from, to, after, .. } = self;
        let from = from.map(|word| match word.as_str() {
            "healthy" => Status::Healthy,
            "degraded" => Status::Degraded(String::new()),
            _ => Status::Unhealthy(String::new()),
        });
        Some(Transition { name, at, from, to: to?, after })
    }
}
