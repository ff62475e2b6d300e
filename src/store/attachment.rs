//! The writer's connection to `telemetry.db`: opened, checked, left and opened again.
//!
//! The database may be moved, removed, replaced or damaged while it is in use. A step asks for the connection with
//! [`Attachment::connection`]; what it finds wrong there, or what a transaction fails with, makes it leave the files.
//! The next step opens what is at the path then. Nothing here loses records: they stay in the lanes until a transaction
//! has committed to files that were checked afterwards.

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    TELEMETRY,
    damage::{self, Condition, SetAside},
    shared::Shared,
};
use crate::{
    database::{Displaced, FileId, Left, WriteConnection, create_directory, needs_reopening, open_writer, remove_wal},
    error::{Error, Result},
};

/// A database that was moved may come back for this long before another is begun in its place. Records wait in the lanes.
const MOVED_WITHIN: Duration = Duration::from_secs(10);
/// As many failures in a row that SQLite takes for damage are damage, even where a short look at the file finds none.
const SUSPICIONS_MAX: u32 = 3;

/// A connection that comes and goes.
#[derive(Debug)]
pub(super) struct Attachment {
    dir: PathBuf,
    /// Whose readers keep files open that are being left.
    shared: Arc<Shared>,
    connection: Option<WriteConnection>,
    /// One whose log is still to be copied into its database.
    leaving: Option<Box<WriteConnection>>,
    /// The file that was left, since when, and why.
    left: Option<LeftFile>,
    /// Failures in a row that SQLite took for damage.
    suspicions: u32,
    /// Readers that met damage, since the file was last found sound from its beginning to its end.
    reports: u32,
    set_aside: Option<SetAside>,
}

#[derive(Debug)]
struct LeftFile {
    id: FileId,
    file: Arc<File>,
    since: Instant,
    why: String,
}

/// What [`Attachment::open`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opened {
    /// The connection was open, and its files are in place.
    Before,
    /// It was opened just now.
    Anew,
}

impl Attachment {
    pub(super) fn new(dir: &Path, connection: WriteConnection, shared: Arc<Shared>) -> Self {
        shared.set_files(Some(connection.identity()));
        Self {
            dir: dir.to_owned(),
            shared,
            connection: Some(connection),
            leaving: None,
            left: None,
            suspicions: 0,
            reports: 0,
            set_aside: None,
        }
    }

    /// The connection, if there is one.
    pub(super) fn get(&self) -> Option<&WriteConnection> {
        self.connection.as_ref()
    }

    /// The connection.
    ///
    /// # Errors
    /// If there is none at the moment.
    pub(super) fn connection(&self) -> Result<&WriteConnection> {
        self.connection.as_ref().ok_or_else(|| self.unavailable())
    }

    /// Makes sure of a connection whose files are at their paths. `is_pressed` says that records cannot wait much longer.
    pub(super) fn open(&mut self, is_pressed: bool) -> Result<Opened> {
        if let Some(connection) = &self.connection
            && let Err(why) = connection.check()
        {
            self.suspicions += u32::from(why == Displaced::Shorter);
            self.leave(why, why.to_string());
        }
        self.go_on_leaving()?;
        if self.connection.is_some() {
            return Ok(Opened::Before);
        }
        let connection = self.open_again(is_pressed)?;
        self.shared.set_files(Some(connection.identity()));
        self.connection = Some(connection);
        self.left = None;
        Ok(Opened::Anew)
    }

    /// After a commit: whether it went to the files at the paths. If not, the next step opens what is there, and finds out
    /// what was kept.
    pub(super) fn check_commit(&mut self) -> Result<()> {
        let Some(connection) = &self.connection else { return Err(self.unavailable()) };
        match connection.check_files() {
            Ok(()) => {
                self.suspicions = 0;
                Ok(())
            }
            Err(why) => {
                self.leave(why, why.to_string());
                Err(self.unavailable())
            }
        }
    }

    /// A transaction failed with this. What another attempt on the same connection cannot mend makes it leave.
    pub(super) fn failed(&mut self, error: &Error) {
        if needs_reopening(error) {
            self.suspicions += u32::from(error.is_damage());
            self.leave(Displaced::Failing, error.to_string());
        }
    }

    /// A reader found damage: the next step looks at the file.
    pub(super) fn suspect(&mut self) {
        self.reports += 1;
        self.leave(Displaced::Failing, "was found damaged by a reader".to_owned());
    }

    /// The file that was set aside by the latest attempts to open, once.
    pub(super) fn take_set_aside(&mut self) -> Option<SetAside> {
        self.set_aside.take()
    }

    /// Leaves the files: the next step opens what is at the path then.
    pub(super) fn leave(&mut self, why: Displaced, text: String) {
        if let Some(connection) = self.connection.take() {
            self.left =
                Some(LeftFile { id: connection.id(), file: connection.file(), since: Instant::now(), why: text });
            self.shared.set_files(None);
            self.shared.close_readers();
            if let Left::Waiting(connection) = connection.leave(why) {
                self.leaving = Some(connection);
            }
        }
    }

    /// Copies the log of files that were left, if a reader has kept it from that so far.
    fn go_on_leaving(&mut self) -> Result<()> {
        let Some(connection) = self.leaving.take() else { return Ok(()) };
        self.shared.close_readers();
        if let Left::Waiting(connection) = connection.leave(Displaced::Log) {
            self.leaving = Some(connection);
            return Err(Error::storage(format!(
                "{}: a reader keeps the removed write-ahead log from being copied into the database; end its transaction",
                self.unavailable()
            )));
        }
        Ok(())
    }

    fn unavailable(&self) -> Error {
        let why = self.left.as_ref().map_or("cannot be opened", |left| &left.why);
        Error::storage(format!(
            "{} {why}; what is recorded waits in the flight recorder until it is back",
            self.dir.join(TELEMETRY.file).display()
        ))
    }

    fn open_again(&mut self, is_pressed: bool) -> Result<WriteConnection> {
        let path = self.dir.join(TELEMETRY.file);
        if self.suspicions + self.reports > 0 {
            self.examine()?;
        }
        // Whoever moved it may bring it back; what was begun in its place meanwhile would be overwritten.
        let may_come_back = self.left.as_ref().is_some_and(|left| {
            FileId::at(&path) != Some(left.id)
                && !is_pressed
                && left.since.elapsed() < MOVED_WITHIN
                && WriteConnection::was_moved(&left.file)
        });
        if may_come_back && !path.is_file() {
            return Err(self.unavailable());
        }
        create_directory(&self.dir)?;
        if !path.exists() {
            // SQLite would take it for the new database's.
            remove_wal(&TELEMETRY, &self.dir)?;
        }
        let id = FileId::at(&path);
        match open_writer(&TELEMETRY, &self.dir) {
            Err(error) if error.is_damage() && !may_come_back => {
                self.set_aside = Some(damage::set_aside(&TELEMETRY, &self.dir, id, &error.to_string())?);
                open_writer(&TELEMETRY, &self.dir)
            }
            outcome => outcome,
        }
    }

    /// Looks at a file that SQLite, or its length, says is damaged; one that is, is set aside.
    fn examine(&mut self) -> Result<()> {
        let id = FileId::at(&self.dir.join(TELEMETRY.file));
        let is_the_one_left = self.left.as_ref().is_none_or(|left| Some(left.id) == id);
        let what = match damage::examine(&TELEMETRY, &self.dir) {
            Condition::Damaged(what) => what,
            Condition::Sound => {
                self.reports = 0;
                if self.suspicions <= SUSPICIONS_MAX || !is_the_one_left {
                    return Ok(());
                }
                self.left.as_ref().map_or_else(String::new, |left| left.why.clone())
            }
            Condition::SoundSoFar if self.suspicions + self.reports > SUSPICIONS_MAX && is_the_one_left => {
                self.left.as_ref().map_or_else(String::new, |left| left.why.clone())
            }
            Condition::SoundSoFar => return Ok(()),
            Condition::Unknown(error) => return Err(error),
        };
        if is_the_one_left {
            self.set_aside = Some(damage::set_aside(&TELEMETRY, &self.dir, id, &what)?);
            // It is not to come back.
            self.left = None;
        }
        (self.suspicions, self.reports) = (0, 0);
        Ok(())
    }
}
