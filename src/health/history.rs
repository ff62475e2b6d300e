//! What is kept of health: read by the program itself, and from outside.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use super::{Status, Transition};
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

/// A change as it is kept; to nothing if its process ended.
struct Kept {
    name: String,
    at: Timestamp,
    from: Option<Status>,
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

    /// The latest change of each check, by name; what it came to holds since. A check whose process has ended in an orderly way is
    /// not among them.
    ///
    /// # Errors
    /// `is_storage` if they cannot be read.
    pub fn latest(&self) -> Result<Vec<Transition>> {
        let rows = state::latest_health(&self.dir)?;
        Ok(rows.into_iter().filter_map(|row| Kept::read(row, None).transition()).collect())
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
        let ends = changes.iter().skip(1).map(|change| change.at).chain([now]);
        let (mut up, mut known) = (0.0, 0.0);
        for (change, end) in changes.iter().zip(ends) {
            let ns = end.as_unix_ns().saturating_sub(change.at.max(since).as_unix_ns()).max(0) as f64;
            let Some(status) = &change.to else { continue };
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
            kept.push(Kept::read(row, kept.last()));
        }
        Ok(kept)
    }
}

impl Kept {
    fn read((name, at, from, to): HealthRow, before: Option<&Self>) -> Self {
        let status = |json: Option<String>| json.and_then(|json| serde_json::from_str::<Status>(&json).ok());
        let since = before.filter(|before| before.to.is_some()).map(|before| before.at.as_unix_ns());
        let ns = since.and_then(|since| u64::try_from(at.saturating_sub(since)).ok());
        let from = status(from);
        let after = ns.filter(|_| from.is_some()).map(Duration::from_nanos);
        Self { name, at: Timestamp::from_unix_ns(at), from, to: status(to), after }
    }

    fn transition(self) -> Option<Transition> {
        let Self { name, at, from, to, after } = self;
        Some(Transition { name, at, from, to: to?, after })
    }
}
