//! As whom this process claims jobs, and which others are dead.
//!
//! A process is dead if the system says so (and nobody holds its lock, for it may live where this one cannot see it), or if
//! it has not made itself heard for so long, by the monotonic clock of who watches: steps of the wall clock, and sleep of
//! the machine, neither free leases nor keep them.

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions, TryLockError},
    path::{Path, PathBuf},
    time::Duration,
};

use super::super::queue::{Owner, OwnerId};
use crate::{
    error::{Error, Result},
    flight,
};

/// A process that was not heard for so long is taken for dead.
pub(super) const LEASE: Duration = Duration::from_secs(30);

/// This process among those that claim jobs.
#[derive(Debug, Default)]
pub(super) struct Ownership {
    /// Who it is, and when it last made itself heard.
    pub(super) current: Option<(OwnerId, u64)>,
    lock: Option<(PathBuf, File)>,
    /// Others: the beat they were last heard with, and when it was first seen.
    heard: HashMap<OwnerId, (u64, u64)>,
}

impl Ownership {
    /// Holds the lock that says that this owner lives. Where there can be none, its process alone says so.
    pub(super) fn hold_lock(&mut self, dir: &Path, id: OwnerId) -> Result<()> {
        let path = lock_path(dir, id);
        let failed = |error| Error::io("cannot make the lock of this process", &path, error);
        if let Some(parent) = path.parent() {
            crate::database::create_directory(parent)?;
        }
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
        file.try_lock().map_err(|error| match error {
            TryLockError::Error(error) => failed(error),
            TryLockError::WouldBlock => failed(std::io::ErrorKind::WouldBlock.into()),
        })?;
        self.lock = Some((path, file));
        Ok(())
    }

    /// Is nobody any more.
    pub(super) fn leave(&mut self) {
        self.current = None;
        if let Some((path, _file)) = self.lock.take() {
            let _ = fs::remove_file(path);
        }
    }

    /// Which of all owners are dead; asked again and again.
    pub(super) fn dead(&mut self, owners: Vec<Owner>, dir: Option<&Path>, now_ns: u64) -> Vec<Owner> {
        let own = self.current.map(|(id, _)| id);
        let mut heard = HashMap::with_capacity(owners.len());
        let dead = owners.into_iter().filter(|owner| Some(owner.id) != own).filter(|owner| {
            let since = match self.heard.get(&owner.id) {
                Some((beat, since)) if *beat == owner.beat => *since,
                _ => now_ns,
            };
            heard.insert(owner.id, (owner.beat, since));
            is_dead(owner, dir) || now_ns.saturating_sub(since) >= LEASE.as_nanos() as u64
        });
        let dead: Vec<_> = dead.collect();
        self.heard = heard;
        dead
    }

    /// Whether there were others when last asked.
    pub(super) fn has_others(&self) -> bool {
        !self.heard.is_empty()
    }
}

/// How this process can be found out to live.
pub(super) fn process() -> String {
    let flight::Owner { boot, pid, started } = flight::Owner::current();
    format!("{}:{pid}:{started}", uuid::Uuid::from_bytes(boot).simple())
}

/// Whether an owner is known to be dead.
fn is_dead(owner: &Owner, dir: Option<&Path>) -> bool {
    let Some(process) = parse(&owner.process) else { return false };
    if process.may_be_alive() {
        return false;
    }
    let Some(dir) = dir else { return true };
    let path = lock_path(dir, owner.id);
    match OpenOptions::new().write(true).open(&path) {
        // It may live in another container.
        Ok(file) if file.try_lock().is_err() => false,
        Ok(_) => {
            let _ = fs::remove_file(path);
            true
        }
        Err(_) => true,
    }
}

fn parse(process: &str) -> Option<flight::Owner> {
    let mut parts = process.split(':');
    let boot = uuid::Uuid::try_parse(parts.next()?).ok()?.into_bytes();
    Some(flight::Owner { boot, pid: parts.next()?.parse().ok()?, started: parts.next()?.parse().ok()? })
}

fn lock_path(dir: &Path, id: OwnerId) -> PathBuf {
    dir.join("jobs").join(format!("{}.lock", id.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    fn owner(id: i64, process: String, beat: u64) -> Owner {
        Owner { id: OwnerId(id), process, kinds: Vec::new(), beat }
    }

    #[test]
    fn who_is_not_heard_for_a_lease_is_dead_by_the_watchers_clock() {
        let mut watcher = Ownership::default();
        let mut look = |beat, now_s: u64| watcher.dead(vec![owner(7, process(), beat)], None, now_s * S).len();
        assert_eq!([look(1, 100), look(1, 129), look(2, 131), look(2, 160), look(2, 161)], [0, 0, 0, 0, 1]);
        watcher.current = Some((OwnerId(7), 0));
        assert!(watcher.dead(vec![owner(7, process(), 2)], None, 999 * S).is_empty(), "itself");
    }

    #[test]
    fn a_dead_process_is_dead_at_once_unless_its_lock_is_held() {
        let dir = tempfile::tempdir().unwrap();
        let gone = format!("{}:{}:{}", uuid::Uuid::nil().simple(), 1, 1);
        let mut living = Ownership::default();
        living.hold_lock(dir.path(), OwnerId(7)).unwrap();
        let mut watcher = Ownership::default();
        let mut look = || watcher.dead(vec![owner(7, gone.clone(), 0)], Some(dir.path()), 0).len();
        // Where the system does not say who lives, only the beat tells.
        let expected = usize::from(cfg!(target_os = "linux"));
        assert_eq!(look(), 0);
        living.leave();
        assert_eq!(look(), expected);
        assert!(parse("nonsense").is_none());
    }
}
