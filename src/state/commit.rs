//! Group commit: one caller writes for all that are waiting.
//!
//! Each caller queues its operation. A caller that finds no leader becomes the leader: it takes the whole queue, runs each
//! operation in a savepoint, commits once, and hands every caller its outcome. Then the first caller that queued meanwhile
//! becomes the leader. So sixteen callers share one sync, a lone caller pays for one, and no thread is needed.
//!
//! An outcome is handed out only after the files of the commit were found at their paths.

use std::{
    fmt,
    fs::File,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};
use rusqlite::Connection;

use super::STATE;
use crate::{
    clock::deadline,
    config::Durability,
    database::{Displaced, Left, WriteConnection, needs_reopening, open_writer, set_synchronous},
    error::{Error, Result},
    fail_point,
};

/// How often a leader looks whether those who were told just now are back.
const GATHER_YIELDS: usize = 20;

type Operation = Box<dyn FnOnce(&Connection) -> rusqlite::Result<()> + Send>;

/// The write connection of `state.db`, and who waits for it.
pub(crate) struct State {
    dir: PathBuf,
    open: Mutex<Open>,
    line: Mutex<Line>,
    /// Of the database's pages, as of the last commit; 0 before.
    bytes: AtomicU64,
    /// How this process's read connections are closed when the files under them are gone.
    readers: Readers,
}

/// Closures that close idle read connections. SQLite shares the memory of a write-ahead log among all connections of a
/// process, so one that stays open would keep a removed one in use.
type Readers = Mutex<Vec<Box<dyn Fn() + Send + Sync>>>;

/// A database that was moved may come back for this long before another is begun in its place.
const MOVED_WITHIN: Duration = Duration::from_secs(10);

#[derive(Default)]
struct Open {
    connection: Option<WriteConnection>,
    /// One whose log is still to be copied into its database.
    leaving: Option<Box<WriteConnection>>,
    /// The file that was left, and when.
    left: Option<(Arc<File>, Instant)>,
    /// As the connection has it now.
    durability: Durability,
    closed: bool,
}

#[derive(Default)]
struct Line {
    waiting: Vec<Arc<Pending>>,
    has_leader: bool,
    /// How many the last leader wrote for.
    last: usize,
}

struct Pending {
    what: &'static str,
    durability: Durability,
    operation: Mutex<Option<Operation>>,
    told: Mutex<Told>,
    is_told: Condvar,
}

enum Told {
    Nothing,
    /// To write for all who wait.
    Leads,
    Outcome(Result<()>),
}

impl State {
    pub(crate) fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            open: Mutex::default(),
            line: Mutex::default(),
            bytes: AtomicU64::new(0),
            readers: Mutex::default(),
        }
    }

    /// Registers how read connections of this process are closed.
    pub(crate) fn add_readers(&self, close: impl Fn() + Send + Sync + 'static) {
        self.readers.lock().push(Box::new(close));
    }

    /// The directory it is in.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Runs `operation` in a transaction that is committed, and synced, when this returns; `what` says in an error what
    /// failed.
    ///
    /// After a timeout the operation has not run and will not.
    pub(super) fn commit(
        &self,
        what: &'static str,
        within: Duration,
        operation: impl FnOnce(&Connection) -> rusqlite::Result<()> + Send + 'static,
    ) -> Result<()> {
        self.write(what, within, Durability::Full, operation)
    }

    /// As [`commit`](Self::commit), with an answer, and as durable as asked for.
    pub(crate) fn write<R: Send + 'static>(
        &self,
        what: &'static str,
        within: Duration,
        durability: Durability,
        operation: impl FnOnce(&Connection) -> rusqlite::Result<R> + Send + 'static,
    ) -> Result<R> {
        let answer = Arc::new(Mutex::new(None));
        let place = Arc::clone(&answer);
        let operation = Box::new(move |connection: &Connection| {
            *place.lock() = Some(operation(connection)?);
            Ok(())
        });
        self.run(what, within, durability, operation)?;
        let answer = answer.lock().take();
        answer.ok_or_else(|| Error::storage(format!("{what}: it was not run")))
    }

    fn run(&self, what: &'static str, within: Duration, durability: Durability, operation: Operation) -> Result<()> {
        let until = deadline(within);
        let pending = Arc::new(Pending {
            what,
            durability,
            operation: Mutex::new(Some(operation)),
            told: Mutex::new(Told::Nothing),
            is_told: Condvar::new(),
        });
        let leads = {
            let mut line = self.line.lock();
            line.waiting.push(Arc::clone(&pending));
            !std::mem::replace(&mut line.has_leader, true)
        };
        let mut is_in_time = !leads || self.lead(&pending, until);
        if !leads {
            pending.wait(Some(until));
        }
        while is_in_time {
            let told = std::mem::replace(&mut *pending.told.lock(), Told::Nothing);
            match told {
                Told::Outcome(outcome) => return outcome,
                Told::Leads => is_in_time = self.lead(&pending, until),
                Told::Nothing if self.withdraw(&pending) => is_in_time = false,
                // Its leader has it: that ends with the sync of the disk.
                Told::Nothing => pending.wait(None),
            }
        }
        Err(Error::timeout(format!("{what}: state.db was not free within {within:?}; nothing was written")))
    }

    /// Writes for all who wait, `own` among them. If the connection is not free in time, `own` is taken back and the next
    /// may try.
    fn lead(&self, own: &Arc<Pending>, until: Instant) -> bool {
        let open = self.open.try_lock_until(until);
        let has_led = open.is_some();
        if let Some(mut open) = open {
            let batch = self.gather();
            // Should an operation panic, those who wait for this thread are told all the same.
            let outcome = catch_unwind(AssertUnwindSafe(|| open.write(self, &batch))).unwrap_or_else(|_| {
                open.connection = None;
                Err(Error::storage("a write to state.db panicked; nothing of its transaction was written"))
            });
            self.note_size(&open);
            drop(open);
            for pending in &batch {
                pending.tell_outcome(outcome.as_ref().err());
            }
        }
        let mut line = self.line.lock();
        if !has_led {
            line.waiting.retain(|waiting| !Arc::ptr_eq(waiting, own));
        }
        match line.waiting.first() {
            Some(next) => next.tell(Told::Leads),
            None => line.has_leader = false,
        }
        has_led
    }

    /// Those who wait. Who was told its outcome just now may be back in a moment: it is waited for that long, for a sync
    /// takes far longer.
    fn gather(&self) -> Vec<Arc<Pending>> {
        for _ in 0..GATHER_YIELDS {
            let mut line = self.line.lock();
            if line.waiting.len() >= line.last {
                line.last = line.waiting.len();
                return std::mem::take(&mut line.waiting);
            }
            drop(line);
            std::thread::yield_now();
        }
        let mut line = self.line.lock();
        line.last = line.waiting.len();
        std::mem::take(&mut line.waiting)
    }

    fn note_size(&self, open: &Open) {
        let sql = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size";
        let Some(connection) = &open.connection else { return };
        if let Ok(bytes) =
            connection.prepare_cached(sql).and_then(|mut sql| sql.query_row([], |row| row.get::<_, i64>(0)))
        {
            self.bytes.store(bytes.cast_unsigned(), Ordering::Relaxed);
        }
    }

    /// Whether the database's files are where they were opened, as far as that can be seen without waiting.
    pub(crate) fn is_in_place(&self) -> bool {
        let Some(open) = self.open.try_lock() else { return true };
        open.left.is_none() && open.connection.as_ref().is_none_or(|connection| connection.check().is_ok())
    }

    /// Changes with each commit of others than this connection; `None` while it is not open, or at work.
    pub(crate) fn foreign_version(&self) -> Option<i64> {
        let open = self.open.try_lock_for(Duration::from_secs(1))?;
        open.connection.as_ref()?.pragma_query_value(None, "data_version", |row| row.get(0)).ok()
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
            *open = Open { closed: true, ..Open::default() };
        }
    }

    /// Takes an operation back; not if a leader has it, or it is to lead.
    fn withdraw(&self, pending: &Arc<Pending>) -> bool {
        let mut line = self.line.lock();
        if !matches!(*pending.told.lock(), Told::Nothing) {
            return false;
        }
        let index = line.waiting.iter().position(|queued| Arc::ptr_eq(queued, pending));
        index.map(|index| line.waiting.remove(index)).is_some()
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl Open {
    /// Writes for all of a batch; an error is everybody's who has no outcome of their own.
    ///
    /// Each operation fails alone. A full disk or a broken one makes SQLite end the transaction in the middle of it: what came
    /// before is not there then, and what comes behind gets a transaction of its own.
    fn write(&mut self, state: &State, batch: &[Arc<Pending>]) -> Result<()> {
        let durability = batch.iter().map(|pending| pending.durability).max().unwrap_or_default();
        let mut rest = batch;
        while !rest.is_empty() {
            let transacted = transact(self.connection(state, durability)?, rest);
            let (outcomes, lost) = transacted.inspect_err(|error| self.failed(state, error))?;
            let lost = match lost {
                Some(error) => {
                    self.failed(state, &error);
                    Some(error)
                }
                None => self.check_commit(state),
            };
            outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).for_each(|error| self.failed(state, error));
            let (done, behind) = rest.split_at(outcomes.len());
            for (pending, outcome) in done.iter().zip(outcomes) {
                let outcome = lost.clone().map_or(outcome, Err);
                *pending.told.lock() = Told::Outcome(outcome);
            }
            rest = behind;
        }
        Ok(())
    }

    /// A connection whose files are at their paths.
    fn connection(&mut self, state: &State, durability: Durability) -> Result<&WriteConnection> {
        if self.closed {
            return Err(Error::closed());
        }
        if let Some(connection) = &self.connection
            && let Err(why) = connection.check()
        {
            self.leave(state, why);
        }
        self.go_on_leaving(state)?;
        let connection = match self.connection.take() {
            Some(open) => self.connection.insert(open),
            None => {
                self.wait_for_moved(&state.dir)?;
                let connection = open_writer(&STATE, &state.dir)?;
                (self.durability, self.left) = (Durability::Full, None);
                self.connection.insert(connection)
            }
        };
        if self.durability != durability {
            set_synchronous(connection, durability == Durability::Full)?;
            self.durability = durability;
        }
        Ok(connection)
    }

    /// Whoever moved the database may bring it back. What was acknowledged in one begun in its place would be overwritten
    /// then, so nothing is for a while.
    fn wait_for_moved(&self, dir: &Path) -> Result<()> {
        let path = dir.join(STATE.file);
        let Some((file, since)) = self.left.as_ref().filter(|(_, since)| since.elapsed() < MOVED_WITHIN) else {
            return Ok(());
        };
        if path.exists() || !WriteConnection::was_moved(file) {
            return Ok(());
        }
        let left = MOVED_WITHIN.saturating_sub(since.elapsed()).as_secs() + 1;
        Err(Error::storage(format!(
            "{} was moved away: put it back; otherwise a new one is begun in {left} s",
            path.display()
        )))
    }

    /// After a commit: an error if it went to files that nobody will find, and could not be saved from there.
    fn check_commit(&mut self, state: &State) -> Option<Error> {
        let why = self.connection.as_ref()?.check_files().err()?;
        let is_saved = self.leave(state, why);
        (!is_saved).then(|| {
            Error::storage(format!(
                "cannot commit to {}: it {why} while this was written; whether it is kept depends on where the file is now",
                state.dir.join(STATE.file).display()
            ))
        })
    }

    /// What another attempt on the same connection cannot mend makes the next one open the database again.
    fn failed(&mut self, state: &State, error: &Error) {
        if needs_reopening(error) {
            self.leave(state, Displaced::Failing);
        }
    }

    /// Leaves the files. Says whether everything committed is found at the path.
    fn leave(&mut self, state: &State, why: Displaced) -> bool {
        let Some(connection) = self.connection.take() else { return false };
        self.left = Some((connection.file(), Instant::now()));
        state.readers.lock().iter().for_each(|close| close());
        self.leave_connection(connection, why)
    }

    fn leave_connection(&mut self, connection: WriteConnection, why: Displaced) -> bool {
        match connection.leave(why) {
            Left::Saved => true,
            Left::Elsewhere | Left::Abandoned => false,
            Left::Waiting(connection) => {
                self.leaving = Some(connection);
                false
            }
        }
    }

    /// Copies the log of files that were left, if a reader has kept it from that so far.
    fn go_on_leaving(&mut self, state: &State) -> Result<()> {
        let Some(connection) = self.leaving.take() else { return Ok(()) };
        state.readers.lock().iter().for_each(|close| close());
        self.leave_connection(*connection, Displaced::Log);
        if self.leaving.is_none() {
            return Ok(());
        }
        Err(Error::storage(format!(
            "{} has lost its write-ahead log, and a reader keeps what was in it from being copied into the database: end its \
             transaction",
            state.dir.join(STATE.file).display()
        )))
    }
}

/// One transaction for as many as it lasts for. Returns their outcomes, and why the transaction was lost, if it was.
fn transact(connection: &WriteConnection, batch: &[Arc<Pending>]) -> Result<(Vec<Result<()>>, Option<Error>)> {
    let failed = |error| Error::sqlite("cannot commit to state.db", error);
    statement(connection, "BEGIN IMMEDIATE").map_err(failed)?;
    let mut outcomes: Vec<Result<()>> = Vec::with_capacity(batch.len());
    for pending in batch {
        outcomes.push(pending.run(connection, batch.len() == 1));
        if connection.is_autocommit() {
            break;
        }
    }
    let lost = match outcomes.last() {
        Some(Err(error)) if connection.is_autocommit() => Some(error.clone()),
        _ if !connection.check_lock() => Some(Error::storage(
            "cannot commit to state.db: this process has lost its lock on it, because something in it has opened and closed \
             one of the database's files; nothing was written, try again",
        )),
        _ => {
            fail_point::hit("state.before_commit");
            let lost = statement(connection, "COMMIT").err().map(failed);
            fail_point::hit("state.after_commit");
            lost
        }
    };
    if lost.is_some() && !connection.is_autocommit() {
        let _ = connection.execute_batch("ROLLBACK");
    }
    Ok((outcomes, lost))
}

/// Runs a statement that has nothing to say.
fn statement(connection: &Connection, sql: &str) -> rusqlite::Result<()> {
    connection.prepare_cached(sql)?.execute([]).map(drop)
}

impl Pending {
    /// Runs it; alone in its transaction it needs no savepoint, for the transaction goes with it.
    fn run(&self, connection: &Connection, is_alone: bool) -> Result<()> {
        let Some(operation) = self.operation.lock().take() else { return Ok(()) };
        let outcome = if is_alone {
            operation(connection)
        } else {
            statement(connection, "SAVEPOINT one")
                .and_then(|()| operation(connection))
                .and_then(|()| statement(connection, "RELEASE one"))
        };
        outcome.map_err(|error| {
            let undo = if is_alone { "ROLLBACK" } else { "ROLLBACK TO one; RELEASE one" };
            let _ = connection.execute_batch(undo);
            Error::sqlite(self.what, error)
        })
    }

    /// Waits until it is told something, or this moment.
    fn wait(&self, until: Option<Instant>) {
        let mut told = self.told.lock();
        while matches!(*told, Told::Nothing) {
            match until {
                Some(until) if self.is_told.wait_until(&mut told, until).timed_out() => return,
                Some(_) => {}
                None => self.is_told.wait(&mut told),
            }
        }
    }

    fn tell(&self, told: Told) {
        *self.told.lock() = told;
        self.is_told.notify_one();
    }

    /// Its outcome is there, or else this error is.
    fn tell_outcome(&self, error: Option<&Error>) {
        let mut told = self.told.lock();
        if let (Told::Nothing, Some(error)) = (&*told, error) {
            *told = Told::Outcome(Err(error.clone()));
        }
        drop(told);
        self.is_told.notify_one();
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
                while state.line.lock().waiting.len() < count {
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
    fn a_leader_that_comes_too_late_leaves_the_lead_to_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::new(dir.path());
        let held = state.open.lock();
        std::thread::scope(|scope| {
            let hasty = scope.spawn(|| state.commit("cannot name", Duration::from_millis(50), insert("hasty".into())));
            while !state.line.lock().has_leader {
                std::thread::yield_now();
            }
            let patient = scope.spawn(|| state.commit("cannot name", Duration::from_secs(10), insert("late".into())));
            assert!(hasty.join().unwrap().unwrap_err().is_timeout());
            drop(held);
            patient.join().unwrap().unwrap();
        });
        assert!(!state.line.lock().has_leader, "and nobody leads for ever");
        assert_eq!(names(dir.path()), 1);
    }

    #[test]
    fn a_transaction_is_synced_if_anybody_in_it_asks_for_that() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::new(dir.path());
        let synchronous =
            |connection: &Connection| connection.pragma_query_value(None, "synchronous", |row| row.get(0));
        let ask = |durability| state.write("cannot ask", Duration::from_secs(1), durability, synchronous).unwrap();
        let levels: Vec<i64> = [Durability::Full, Durability::Normal, Durability::Full].map(ask).to_vec();
        assert_eq!(levels, [2, 1, 2]);
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
