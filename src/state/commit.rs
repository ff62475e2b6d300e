//! Group commit: whoever gets the connection commits what everyone has queued, in one transaction.
//!
//! Each caller queues its operation and then waits for the connection. With it in hand it either finds its operation
//! done by the one before, or leads: takes the whole queue, runs each operation in a savepoint of its own, commits
//! once, and leaves every caller its outcome. So sixteen callers share a sync, a lone one pays for one, and no thread
//! exists for it.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use rusqlite::Connection;

use super::STATE;
use crate::{
    clock::deadline,
    database::{identity, open_writer},
    error::{Error, Result},
};

type Operation = Box<dyn FnOnce(&Connection) -> rusqlite::Result<()> + Send>;

/// The write connection of `state.db`, and who waits for it.
pub(crate) struct State {
    dir: PathBuf,
    open: Mutex<Open>,
    queue: Mutex<Vec<Arc<Pending>>>,
    /// Of the database's pages, as of the last commit; 0 before.
    bytes: AtomicU64,
}

#[derive(Default)]
struct Open {
    /// With the file it is to.
    connection: Option<(Option<(u64, u64)>, Connection)>,
    closed: bool,
}

struct Pending {
    what: &'static str,
    operation: Mutex<Option<Operation>>,
    outcome: Mutex<Option<Result<()>>>,
}

impl State {
    pub(crate) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), open: Mutex::default(), queue: Mutex::default(), bytes: AtomicU64::new(0) }
    }

    /// Runs `operation` in a transaction that is committed when this returns; `what` says in an error what failed.
    ///
    /// After a timeout the operation has not run and will not.
    pub(super) fn commit(
        &self,
        what: &'static str,
        within: Duration,
        operation: impl FnOnce(&Connection) -> rusqlite::Result<()> + Send + 'static,
    ) -> Result<()> {
        let pending =
            Arc::new(Pending { what, operation: Mutex::new(Some(Box::new(operation))), outcome: Mutex::new(None) });
        self.queue.lock().push(Arc::clone(&pending));
        let mut open = match self.open.try_lock_until(deadline(within)) {
            Some(open) => open,
            None if self.withdraw(&pending) => {
                return Err(Error::timeout(format!(
                    "{what}: state.db was not free within {within:?}; nothing was written"
                )));
            }
            // Its leader has it: that ends with the sync of the disk.
            None => self.open.lock(),
        };
        if let Some(outcome) = pending.outcome.lock().take() {
            return outcome;
        }
        let batch = std::mem::take(&mut *self.queue.lock());
        let outcome = open.connection(&self.dir).and_then(|connection| {
            lead(connection, &batch)?;
            let sql = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size";
            if let Ok(bytes) =
                connection.prepare_cached(sql).and_then(|mut sql| sql.query_row([], |row| row.get::<_, i64>(0)))
            {
                self.bytes.store(bytes.cast_unsigned(), Ordering::Relaxed);
            }
            Ok(())
        });
        if let Err(error) = outcome {
            for pending in &batch {
                pending.outcome.lock().get_or_insert_with(|| Err(error.clone()));
            }
        }
        drop(open);
        pending.outcome.lock().take().unwrap_or_else(|| Err(Error::storage(format!("{what}: it was not in the queue"))))
    }

    /// Bytes of the database's pages, wherever they are.
    pub(crate) fn bytes(&self) -> u64 {
        match self.bytes.load(Ordering::Relaxed) {
            0 => std::fs::metadata(self.dir.join(STATE.file)).map_or(0, |file| file.len()),
            bytes => bytes,
        }
    }

    /// Closes the database; what comes later is refused.
    pub(crate) fn close(&self, within: Duration) {
        if let Some(mut open) = self.open.try_lock_for(within) {
            *open = Open { connection: None, closed: true };
        }
    }

    /// Takes an operation back; not if a leader has it.
    fn withdraw(&self, pending: &Arc<Pending>) -> bool {
        let mut queue = self.queue.lock();
        let index = queue.iter().position(|queued| Arc::ptr_eq(queued, pending));
        index.map(|index| queue.remove(index)).is_some()
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl Open {
    /// The connection; to a new database if the old one's file is gone.
    fn connection(&mut self, dir: &Path) -> Result<&Connection> {
        if self.closed {
            return Err(Error::closed());
        }
        let current = identity(&STATE, dir);
        if self.connection.as_ref().is_some_and(|(of, _)| *of != current) {
            self.connection = None;
        }
        let (_, connection) = match self.connection.take() {
            Some(open) => self.connection.insert(open),
            None => {
                let connection = open_writer(&STATE, dir)?;
                self.connection.insert((identity(&STATE, dir), connection))
            }
        };
        Ok(connection)
    }
}

/// One transaction for all; each operation fails alone. A full disk or a broken one makes SQLite end the transaction in
/// the middle of it: what came before is not there then, and what comes behind gets a transaction of its own.
fn lead(connection: &Connection, batch: &[Arc<Pending>]) -> Result<()> {
    let failed = |error| Error::sqlite("cannot commit to state.db", error);
    let mut rest = batch;
    while !rest.is_empty() {
        connection.execute_batch("BEGIN IMMEDIATE").map_err(failed)?;
        let mut outcomes: Vec<Result<()>> = Vec::with_capacity(rest.len());
        for pending in rest {
            outcomes.push(pending.run(connection));
            if connection.is_autocommit() {
                break;
            }
        }
        let (done, behind) = rest.split_at(outcomes.len());
        let lost = match outcomes.last() {
            Some(Err(error)) if connection.is_autocommit() => Some(error.clone()),
            _ => connection.execute_batch("COMMIT").err().map(failed),
        };
        if lost.is_some() && !connection.is_autocommit() {
            let _ = connection.execute_batch("ROLLBACK");
        }
        for (pending, outcome) in done.iter().zip(outcomes) {
            let outcome = lost.clone().map_or(outcome, Err);
            *pending.outcome.lock() = Some(outcome);
        }
        rest = behind;
    }
    Ok(())
}

impl Pending {
    fn run(&self, connection: &Connection) -> Result<()> {
        let Some(operation) = self.operation.lock().take() else { return Ok(()) };
        let outcome = connection
            .execute_batch("SAVEPOINT one")
            .and_then(|()| operation(connection))
            .and_then(|()| connection.execute_batch("RELEASE one"));
        outcome.map_err(|error| {
            let _ = connection.execute_batch("ROLLBACK TO one; RELEASE one");
            Error::sqlite(self.what, error)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Barrier,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    fn insert(name: String) -> impl FnOnce(&Connection) -> rusqlite::Result<()> + Send + 'static {
        move |connection| connection.execute("INSERT INTO secret (name, value) VALUES (?1, x'00')", [name]).map(drop)
    }

    fn names(dir: &Path) -> i64 {
        let connection = crate::database::open_reader(&STATE, dir).unwrap();
        connection.query_row("SELECT count(*) FROM secret", [], |row| row.get(0)).unwrap()
    }

    #[test]
    fn callers_at_the_same_time_share_commits_and_fail_alone() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::new(dir.path());
        let start = Barrier::new(16);
        let failures = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for thread in 0..16 {
                let (state, start, failures) = (&state, &start, &failures);
                scope.spawn(move || {
                    start.wait();
                    for index in 0..20 {
                        // Every name is given by two threads: one of them is refused.
                        let outcome = state.commit(
                            "cannot name",
                            Duration::from_secs(10),
                            insert(format!("{}-{index}", thread / 2)),
                        );
                        failures.fetch_add(usize::from(outcome.is_err()), Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!((names(dir.path()), failures.into_inner()), (160, 160));
    }

    #[test]
    fn a_transaction_that_ends_in_the_middle_fails_what_was_in_it_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::new(dir.path());
        state.commit("cannot name", Duration::from_secs(1), insert("zero".into())).unwrap();
        let held = state.open.lock();
        std::thread::scope(|scope| {
            let queue = |count: usize, operation: Operation| {
                let state = &state;
                let caller = scope.spawn(move || state.commit("cannot name", Duration::from_secs(10), operation));
                while state.queue.lock().len() < count {
                    std::thread::yield_now();
                }
                caller
            };
            let before = queue(1, Box::new(insert("before".into())));
            // As SQLite does by itself when the disk is full.
            let breaks = queue(2, Box::new(|connection| connection.execute_batch("ROLLBACK; SELECT * FROM nowhere")));
            let behind = queue(3, Box::new(insert("behind".into())));
            drop(held);
            assert!(before.join().unwrap().unwrap_err().is_storage(), "it is not there");
            assert!(breaks.join().unwrap().is_err());
            behind.join().unwrap().unwrap();
        });
        assert_eq!(names(dir.path()), 2);
    }

    #[test]
    fn a_timeout_takes_the_operation_back() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::new(dir.path());
        let held = state.open.lock();
        let error = state.commit("cannot name", Duration::from_millis(5), insert("late".into())).unwrap_err();
        assert!(error.is_timeout() && error.to_string().contains("nothing was written"), "{error}");
        drop(held);
        state.commit("cannot name", Duration::from_secs(1), insert("next".into())).unwrap();
        assert_eq!(names(dir.path()), 1);
    }

    #[test]
    fn a_removed_database_begins_anew_and_a_closed_one_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::new(dir.path());
        state.commit("cannot name", Duration::from_secs(1), insert("a".into())).unwrap();
        for file in ["state.db", "state.db-wal", "state.db-shm"] {
            let _ = std::fs::remove_file(dir.path().join(file));
        }
        state.commit("cannot name", Duration::from_secs(1), insert("b".into())).unwrap();
        assert_eq!(names(dir.path()), 1);
        state.close(Duration::from_secs(1));
        assert!(state.commit("cannot name", Duration::from_secs(1), insert("c".into())).unwrap_err().is_closed());
    }
}
