//! Jobs in `state.db`. Each step is one operation of its group commit, so callers at the same time share a sync.

mod claim;
mod read;
mod schedule;
mod write;

use std::{path::Path, sync::Arc, time::Duration};

use parking_lot::Mutex;
use rusqlite::Connection;

use super::{
    super::{
        id::JobId,
        row::{JobFilter, JobRow, KindCounts},
    },
    Cancel, Claim, Enqueued, Exchanged, JobQueue, Listed, NewJob, Note, Owner, OwnerId, Rescued, ScheduleChange,
    Settle, StoredSchedule, WhichSchedules,
};
use crate::{
    clock::Timestamp,
    config::Durability,
    database::{FileId, at_most, bring_up_to_date, create_directory, identity, is_before, open_reader},
    error::{Error, Result},
    state::{STATE, State},
};

/// The first version of `state.db`, and that which has jobs.
const FIRST: i64 = 1;
const JOBS_SINCE: i64 = 3;
/// How long a step waits for others to commit.
const WITHIN: Duration = Duration::from_secs(10);

/// The queue that l0 uses unless it is given another, in the store's own directory.
///
/// To be opened where jobs are to be kept elsewhere, or to be wrapped by a queue of your own.
///
/// ```
/// # let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
/// use l0::{Durability, jobs::SqliteQueue};
/// let queue = SqliteQueue::open(elsewhere.path(), Durability::Normal)?;
/// let l0 = l0::builder().dir(dir.path()).job_queue(queue).start()?;
/// # Ok::<(), l0::Error>(())
/// ```
#[derive(Debug)]
pub struct SqliteQueue {
    state: Arc<State>,
    durability: Durability,
    reader: Arc<Mutex<Option<Open>>>,
}

/// A read connection.
#[derive(Debug)]
struct Open {
    /// The database, its log, and the log's shared memory.
    files: [Option<FileId>; 3],
    connection: Connection,
}

impl SqliteQueue {
    /// The jobs of `state.db` in this directory, which is made if it is missing.
    ///
    /// # Errors
    /// `is_storage` if the directory cannot be made.
    pub fn open(dir: impl AsRef<Path>, durability: Durability) -> Result<Self> {
        create_directory(dir.as_ref())?;
        Ok(Self::new(Arc::new(State::new(dir.as_ref())), durability))
    }

    pub(crate) fn new(state: Arc<State>, durability: Durability) -> Self {
        let reader: Arc<Mutex<Option<Open>>> = Arc::default();
        let idle = Arc::downgrade(&reader);
        state.add_readers(move || {
            // One that is answering closes by itself, when the next question finds its files gone.
            if let Some(reader) = idle.upgrade()
                && let Some(mut reader) = reader.try_lock()
            {
                *reader = None;
            }
        });
        Self { state, durability, reader }
    }

    /// One step.
    fn step<R: Send + 'static>(
        &self,
        what: &'static str,
        durability: Durability,
        operation: impl FnOnce(&Connection) -> rusqlite::Result<R> + Send + 'static,
    ) -> Result<R> {
        self.state.write(what, at_most(WITHIN), durability, operation)
    }

    /// A question, in one read transaction; the default where there is no database yet.
    fn read<R: Default>(&self, what: &str, question: impl FnOnce(&Connection) -> rusqlite::Result<R>) -> Result<R> {
        let dir = self.state.dir();
        if !dir.join(STATE.file).is_file() {
            return Ok(R::default());
        }
        let mut reader = self.reader.lock();
        if reader.as_ref().is_none_or(|open| open.files != identity(&STATE, dir)) {
            // SQLite shares the old files' memory with what is opened beside them.
            *reader = None;
            if is_before(&STATE, dir, FIRST)? {
                // Somebody is making it, in one transaction.
                return Ok(R::default());
            }
            let connection = open_reader(&STATE, dir)?;
            *reader = Some(Open { files: identity(&STATE, dir), connection });
        }
        let Some(Open { connection, .. }) = &*reader else { return Ok(R::default()) };
        let asked = connection.unchecked_transaction().and_then(|_transaction| question(connection));
        asked.map_err(|error| Error::sqlite(what, error))
    }

    /// Whether the database is of an l0 that had no jobs.
    pub(crate) fn has_none(&self) -> Result<bool> {
        if self.reader.lock().is_some() { Ok(false) } else { is_before(&STATE, self.state.dir(), JOBS_SINCE) }
    }

    /// Brings a database of an earlier l0 up to date, which only who writes does.
    pub(crate) fn prepare(&self) -> Result<()> {
        if self.reader.lock().is_some() { Ok(()) } else { bring_up_to_date(&STATE, self.state.dir()) }
    }
}

impl JobQueue for SqliteQueue {
    fn enqueue(&self, jobs: Vec<NewJob>) -> Result<Vec<Enqueued>> {
        self.step("cannot enqueue", self.durability, move |connection| write::enqueue(connection, &jobs))
    }

    fn exchange(&self, settle: Vec<Settle>, claim: Option<Claim>) -> Result<Exchanged> {
        // A claim that a power loss takes back is a job that is pending again.
        let durability = if settle.is_empty() { Durability::Normal } else { self.durability };
        self.step("cannot settle and claim jobs", durability, move |connection| {
            let settled = write::settle(connection, &settle)?;
            let exchanged = claim.map_or(Ok(Exchanged::default()), |claim| claim::claim(connection, &claim))?;
            Ok(Exchanged { settled, ..exchanged })
        })
    }

    fn note(&self, notes: Vec<Note>) -> Result<Vec<bool>> {
        let is_precious = notes.iter().any(|note| note.checkpoint.is_some());
        let durability = if is_precious { self.durability } else { Durability::Normal };
        self.step("cannot note what a job says", durability, move |connection| write::note(connection, &notes))
    }

    fn register(&self, process: &str, kinds: &[String]) -> Result<OwnerId> {
        let (process, kinds) = (process.to_owned(), serde_json::json!(kinds).to_string());
        self.step("cannot register as an owner of jobs", Durability::Normal, move |connection| {
            let sql = "INSERT INTO job_owner (process, kinds, beat) VALUES (?1, ?2, 0)";
            connection.prepare_cached(sql)?.execute([process, kinds])?;
            Ok(OwnerId(connection.last_insert_rowid()))
        })
    }

    fn beat(&self, owner: OwnerId) -> Result<Option<Vec<JobId>>> {
        self.step("cannot renew the leases of jobs", Durability::Normal, move |connection| {
            write::beat(connection, owner)
        })
    }

    fn owners(&self) -> Result<Vec<Owner>> {
        self.read("cannot read the owners of jobs", read::owners)
    }

    fn rescue(&self, owner: &Owner, now: Timestamp) -> Result<Vec<Rescued>> {
        let (id, beat) = (owner.id, owner.beat);
        self.step("cannot rescue jobs", self.durability, move |connection| write::rescue(connection, id, beat, now))
    }

    fn cancel(&self, id: JobId, now: Timestamp) -> Result<Cancel> {
        self.step("cannot cancel a job", self.durability, move |connection| write::cancel(connection, id, now))
    }

    fn retry(&self, id: JobId, now: Timestamp) -> Result<bool> {
        self.step("cannot retry a job", self.durability, move |connection| write::retry(connection, id, now))
    }

    fn rebase(&self, now: Timestamp) -> Result<u64> {
        self.step("cannot follow a clock that was set back", self.durability, move |connection| {
            write::rebase(connection, now)
        })
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn get(&self, id: JobId) -> Result<Option<JobRow>> {
        self.read("cannot read a job", |connection| read::get(connection, id))
    }

    fn list(&self, filter: &JobFilter) -> Result<Listed> {
        self.read("cannot list jobs", |connection| read::list(connection, filter))
    }

    fn counts(&self) -> Result<Vec<KindCounts>> {
        self.read("cannot count jobs", read::counts)
    }

    fn schedules(&self, which: &WhichSchedules) -> Result<Vec<StoredSchedule>> {
        self.read("cannot read schedules", |connection| schedule::schedules(connection, which))
    }

    fn next_schedule_at(&self, after: Timestamp) -> Result<Option<Timestamp>> {
        self.read("cannot read schedules", |connection| schedule::next_at(connection, after))
    }

    fn change_schedules(&self, changes: Vec<ScheduleChange>) -> Result<Vec<Option<Vec<Enqueued>>>> {
        self.step("cannot change a schedule", self.durability, move |connection| schedule::change(connection, &changes))
    }

    fn prune(&self, before: Timestamp, keep: u64, limit: u64) -> Result<u64> {
        self.step("cannot prune jobs", Durability::Normal, move |connection| {
            write::prune(connection, before, keep, limit)
        })
    }
}

/// A unique key, in its kind.
fn unique_key(kind: &str, key: &str) -> String {
    format!("{kind}\u{1f}{key}")
}

/// The number of an id's row; 0, of which there is none, for another kind of id.
fn number(id: JobId) -> i64 {
    id.row().map_or(0, |(number, _)| number.cast_signed())
}

/// The id of a row.
fn id(number: i64, enqueued_at: i64) -> JobId {
    JobId::of_row(number.unsigned_abs(), Timestamp::from_unix_ns(enqueued_at))
}
