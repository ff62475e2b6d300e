//! Read connections: opened when needed, kept, read-only; and the bound on every question.

use std::{
    hash::{Hash as _, Hasher as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rusqlite::{
    Connection, ErrorCode, Statement,
    hooks::{AuthAction, AuthContext, Authorization},
};

use super::{StoreSize, TELEMETRY, retention::size, shared::Shared};
use crate::{
    clock::{Clock, Timestamp, deadline},
    database::{Database, FileId, has_wal, identity, is_empty, is_known_version, open_reader, uri},
    error::{Error, Result},
    redaction::{Redactor, hashed},
    state::{STATE, known_hash_keys},
};

/// Idle connections that are kept.
const CONNECTIONS_KEPT: usize = 4;
/// How long a question waits for what was just recorded, before it answers from what is committed.
const FRESH_WITHIN: Duration = Duration::from_secs(2);
/// How long a question may take, unless it says otherwise.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Steps of SQLite's machine between two looks at the clock: about a tenth of a millisecond.
const STEPS_BETWEEN_LOOKS: i32 = 5_000;
/// Where there is no `state.db`, or none this l0 knows, nothing was audited.
const NO_AUDIT: &str = "CREATE TEMP TABLE audit (at, severity, event_type, source, category, correlation_id, tenant_id,
    actor_id, message, payload, status, duration_ns, run, span)";

/// Where questions are answered from.
#[derive(Clone, Debug)]
pub(crate) struct Source(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    recording: Option<Recording>,
    idle: Mutex<Vec<Open>>,
    /// The keys by which ids may be hashed, as of this fingerprint of `state.db`.
    keys: Mutex<(u64, Vec<[u8; 32]>)>,
    /// Rises with every interruption.
    interruptions: Arc<AtomicU64>,
}

/// What a question uses in the process that records.
#[derive(Debug)]
pub(crate) struct Recording {
    /// To be flushed first.
    pub(crate) writer: Arc<Shared>,
    /// The rules in force.
    pub(crate) redactor: Arc<Redactor>,
    pub(crate) clock: Clock,
}

/// A connection, with the files it is to.
#[derive(Debug)]
struct Open {
    identity: Identity,
    /// All there is is attached: it answers further questions.
    is_whole: bool,
    connection: Connection,
    alarm: Alarm,
    /// Set while a statement of the caller's own is prepared: it may read, and nothing else.
    guard: Arc<AtomicBool>,
    /// Why what was audited cannot be read.
    audit_missing: Option<String>,
}

/// The files of both databases.
type Identity = [[Option<FileId>; 3]; 2];

/// When SQLite is to stop; its progress handler looks.
#[derive(Clone, Debug)]
struct Alarm(Arc<Mutex<(Instant, u64)>>);

/// How a question is to be asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asking {
    /// Flush first.
    pub(crate) fresh: bool,
    pub(crate) within: Duration,
}

impl Default for Asking {
    fn default() -> Self {
        Self { fresh: true, within: ANSWER_WITHIN }
    }
}

/// A connection on which one question is answered, in one read transaction.
pub(crate) struct Asked<'a> {
    pub(crate) connection: &'a Connection,
    alarm: &'a Alarm,
    guard: &'a AtomicBool,
    /// Why the answer may lack something, if so.
    pub(crate) incomplete: Option<String>,
}

impl Asked<'_> {
    /// Prepares a statement of the caller's own.
    pub(crate) fn prepare_guarded(&self, sql: &str) -> rusqlite::Result<Statement<'_>> {
        self.guard.store(true, Ordering::Relaxed);
        let statement = self.connection.prepare(sql);
        self.guard.store(false, Ordering::Relaxed);
        statement
    }

    /// Runs `work`, but no longer than `within`: `None` if that was too short.
    pub(crate) fn briefly<R>(
        &self,
        within: Duration,
        work: impl FnOnce(&Connection) -> rusqlite::Result<R>,
    ) -> rusqlite::Result<Option<R>> {
        let (until, interruptions) = *self.alarm.0.lock();
        *self.alarm.0.lock() = (until.min(Instant::now() + within), interruptions);
        let outcome = work(self.connection);
        self.alarm.0.lock().0 = until;
        match outcome {
            Ok(answer) => Ok(Some(answer)),
            Err(error) if is_interrupted(&error) && Instant::now() < until => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Source {
    pub(crate) fn new(dir: &Path, recording: Option<Recording>) -> Self {
        Self(Arc::new(Inner {
            dir: dir.to_owned(),
            recording,
            idle: Mutex::new(Vec::new()),
            keys: Mutex::default(),
            interruptions: Arc::default(),
        }))
    }

    /// Closes the connections that wait for questions; the next question opens one.
    pub(crate) fn close_idle(&self) {
        self.0.idle.lock().clear();
    }

    /// As [`close_idle`](Self::close_idle), for somebody whom this may outlive, or not.
    pub(crate) fn closer(&self) -> impl Fn() + Send + Sync + 'static + use<> {
        let of = Arc::downgrade(&self.0);
        move || {
            if let Some(inner) = of.upgrade() {
                Self(inner).close_idle();
            }
        }
    }

    /// Stops the questions that are being answered now.
    pub(crate) fn interrupt(&self) {
        self.0.interruptions.fetch_add(1, Ordering::Release);
    }

    /// The writer of this process, if it records.
    pub(crate) fn writer(&self) -> Option<&Arc<Shared>> {
        self.0.recording.as_ref().map(|recording| &recording.writer)
    }

    /// Now, by the clock that stamps the records.
    pub(crate) fn now(&self) -> Timestamp {
        self.0.recording.as_ref().map_or_else(Timestamp::now, |recording| recording.clock.now())
    }

    /// How large the store is.
    pub(crate) fn size(&self) -> Result<StoreSize> {
        self.ask(Asking { fresh: false, ..Asking::default() }, "cannot measure the store", |asked| {
            Ok(size(&self.0.dir, asked.connection))
        })
    }

    /// A number that changes, nearly always, when another process commits: the sizes and times of the files.
    pub(crate) fn fingerprint(&self) -> u64 {
        self.fingerprint_of(&TELEMETRY)
    }

    fn fingerprint_of(&self, database: &Database) -> u64 {
        let mut hasher = rustc_hash::FxHasher::default();
        for suffix in ["", "-wal"] {
            let file = self.0.dir.join(format!("{}{suffix}", database.file));
            if let Ok(metadata) = std::fs::metadata(file) {
                (metadata.len(), metadata.modified().ok()).hash(&mut hasher);
            }
        }
        hasher.finish()
    }

    /// An id as it may be stored, besides as itself: hashed, by each key of the store, if it looks like a secret.
    pub(crate) fn hashed(&self, id: &str) -> Vec<String> {
        let own = self.0.recording.as_ref().map(|recording| &recording.redactor);
        if own.is_some_and(|redactor| matches!(redactor.id(id), std::borrow::Cow::Borrowed(_))) {
            return Vec::new();
        }
        let mut keys = self.hash_keys();
        if let Some(own) = own.map(|redactor| *redactor.key())
            && !keys.contains(&own)
        {
            keys.push(own);
        }
        keys.iter().map(|key| hashed(id, key)).collect()
    }

    /// The keys in `state.db`, read again when it has changed.
    fn hash_keys(&self) -> Vec<[u8; 32]> {
        let fingerprint = self.fingerprint_of(&STATE);
        let mut known = self.0.keys.lock();
        if known.0 != fingerprint {
            let keys = known_hash_keys(&self.0.dir).into_iter().map(|(_, key)| key).collect();
            *known = (fingerprint, keys);
        }
        known.1.clone()
    }

    /// Runs `question` on a read connection, in one read transaction, after a bounded flush if it is to be fresh.
    ///
    /// A sick store does not stop a question: it is answered from what is committed.
    pub(crate) fn ask<R>(
        &self,
        asking: Asking,
        what: &str,
        question: impl FnOnce(&Asked<'_>) -> rusqlite::Result<R>,
    ) -> Result<R> {
        let mut incomplete = None;
        if let Some(writer) = self.writer() {
            if writer.flight.is_forked() {
                return Err(Error::closed());
            }
            if asking.fresh
                && let Ok(ticket) = writer.ask()
                && let Err(error) = writer.wait(ticket, FRESH_WITHIN)
            {
                let at = Timestamp::from_unix_ns(writer.committed_at_unix_ns());
                incomplete = Some(format!("as of {at}, for the store does not take records at the moment: {error}"));
            }
        }
        let idle = self.0.idle.lock().pop().filter(|open| open.identity == self.identity());
        let open = idle.map_or_else(|| self.open(), Ok).inspect_err(|error| self.report_damage(error))?;
        *open.alarm.0.lock() = (deadline(asking.within), self.0.interruptions.load(Ordering::Acquire));
        let incomplete = incomplete.or_else(|| open.audit_missing.clone());
        let asked = Asked { connection: &open.connection, alarm: &open.alarm, guard: &open.guard, incomplete };
        let answer = answer(&asked, question).map_err(|error| {
            if !is_interrupted(&error) {
                let error = Error::sqlite(what, error);
                self.report_damage(&error);
                return error;
            }
            let within = asking.within;
            Error::timeout(format!(
                "{what}: it was interrupted, or took longer than {within:?}; narrow its window or filters, or allow it more with within(..)"
            ))
        });
        let mut idle = self.0.idle.lock();
        if open.is_whole && idle.len() < CONNECTIONS_KEPT && open.connection.is_autocommit() {
            idle.push(open);
        }
        answer
    }

    fn identity(&self) -> Identity {
        [identity(&TELEMETRY, &self.0.dir), identity(&STATE, &self.0.dir)]
    }

    /// Has the writer of this process look at a file that a reader found damaged.
    fn report_damage(&self, error: &Error) {
        if let Some(writer) = self.writer().filter(|_| error.is_damage()) {
            writer.suspect();
        }
    }

    fn open(&self) -> Result<Open> {
        let [[telemetry, ..], [state, ..]] = self.identity();
        let mut connection = open_reader(&TELEMETRY, &self.0.dir)?;
        let failed = |error| Error::sqlite("cannot prepare to read the store", error);
        connection.pragma_update(None, "query_only", false).map_err(failed)?;
        connection.pragma_update(None, "temp_store", "MEMORY").map_err(failed)?;
        let attached = self.attach_state(&connection);
        if attached != Ok(true) {
            connection.execute_batch(NO_AUDIT).map_err(failed)?;
        }
        // One that is being made, or cannot be read now, is looked for again by the next question.
        let is_whole = attached == Ok(true) || state.is_none();
        connection.pragma_update(None, "query_only", true).map_err(failed)?;
        let alarm = Alarm(Arc::new(Mutex::new((Instant::now(), 0))));
        let (seen, interruptions) = (alarm.clone(), Arc::clone(&self.0.interruptions));
        let look = move || {
            let (until, at_start) = *seen.0.lock();
            Instant::now() >= until || interruptions.load(Ordering::Acquire) != at_start
        };
        connection.progress_handler(STEPS_BETWEEN_LOOKS, Some(look)).map_err(failed)?;
        let guard = Arc::new(AtomicBool::new(false));
        let guarded = Arc::clone(&guard);
        let allow = move |asked: AuthContext<'_>| {
            if !guarded.load(Ordering::Relaxed) || only_reads(&asked.action) {
                Authorization::Allow
            } else {
                Authorization::Deny
            }
        };
        connection.authorizer(Some(allow)).map_err(failed)?;
        // Opening has made the logs and their shared memory, if they were not there. A database that was replaced meanwhile is opened
        // again by the next question.
        let mut identity = self.identity();
        (identity[0][0], identity[1][0]) = (telemetry, state);
        Ok(Open { identity, is_whole, connection, alarm, guard, audit_missing: attached.err() })
    }

    /// Attaches `state.db`, if there is one. A damaged one does not stop questions about telemetry: what is missing then is
    /// said with the answer.
    fn attach_state(&self, connection: &Connection) -> Result<bool, String> {
        let Ok(path) = std::path::absolute(self.0.dir.join(STATE.file)) else { return Ok(false) };
        if !path.exists() {
            return Ok(false);
        }
        let missing = |why: &dyn std::fmt::Display| {
            format!("what was audited is missing: {} cannot be read: {why}; move it away to do without", path.display())
        };
        let attach = |mode: &str| {
            let sql = "ATTACH DATABASE ?1 AS state";
            connection.execute(sql, [format!("{}?{mode}", uri(&path))])?;
            connection.query_row("SELECT count(*) FROM state.sqlite_schema", [], |_| Ok(()))
        };
        let detach = || {
            let _ = connection.execute_batch("DETACH DATABASE state");
        };
        let attached = attach("mode=ro").or_else(|error| {
            detach();
            // A copy on a read-only medium, unless part of it is in a WAL that cannot be read there.
            if has_wal(&path) { Err(error) } else { attach("immutable=1") }
        });
        match attached {
            Ok(()) if is_known_version(&STATE, connection, "state") => Ok(true),
            Ok(()) => {
                let is_being_made = is_empty(connection, "state");
                detach();
                if is_being_made { Ok(false) } else { Err(missing(&"it is another program's, or of a later l0")) }
            }
            Err(error) => {
                detach();
                Err(missing(&error))
            }
        }
    }
}

fn answer<R>(asked: &Asked<'_>, question: impl FnOnce(&Asked<'_>) -> rusqlite::Result<R>) -> rusqlite::Result<R> {
    asked.connection.execute_batch("BEGIN")?;
    let outcome = question(asked);
    // Nothing was written: whether it is committed or rolled back is the same.
    let _ = asked.connection.execute_batch("ROLLBACK");
    outcome
}

/// What a statement of the caller's own may do.
fn only_reads(action: &AuthAction<'_>) -> bool {
    const PRAGMAS: [&str; 7] =
        ["table_info", "table_xinfo", "table_list", "index_list", "index_info", "function_list", "compile_options"];
    match action {
        AuthAction::Select | AuthAction::Recursive => true,
        AuthAction::Read { table_name, .. } => *table_name != "secret",
        AuthAction::Function { function_name } => *function_name != "load_extension",
        AuthAction::Pragma { pragma_name, .. } => PRAGMAS.contains(pragma_name),
        _ => false,
    }
}

fn is_interrupted(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted)
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Closing a connection that a forked child inherited would release the parent's locks.
        if self.recording.as_ref().is_some_and(|recording| recording.writer.flight.is_forked()) {
            std::mem::forget(std::mem::take(&mut *self.idle.lock()));
        }
    }
}
