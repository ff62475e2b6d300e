//! Finding the store, bringing it up to date as far as that is ours to do, and opening it.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

use l0::{FlightState, Inspection, Recovery, health::HealthReader, jobs::JobReader, query::Reader};
use tempfile::TempDir;

use crate::{failure::Failure, screen::Screen};

const DATABASE: &str = "telemetry.db";

/// Where a store is.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) dir: PathBuf,
}

/// A store that can be asked.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) reader: Reader,
    pub(crate) jobs: JobReader,
    pub(crate) health: HealthReader,
    /// Where its `state.db` is asked.
    pub(crate) state: PathBuf,
    /// Where the program records.
    pub(crate) dir: PathBuf,
    /// What it was before it was opened.
    pub(crate) inspection: Inspection,
    may_recover: bool,
    /// What is asked instead of the store, if that cannot be read where it is; removed at the end.
    _copy: Option<TempDir>,
}

impl Place {
    /// The directory that was given, by option or environment; else `.l0` here or above.
    pub(crate) fn find(given: Option<&Path>) -> Result<Self, Failure> {
        if let Some(given) = given {
            // A project's directory is as good as the store's in it.
            for dir in [given.to_owned(), given.join(".l0")] {
                if is_store(&dir)? {
                    return Ok(Self { dir });
                }
            }
            let why = match fs::metadata(given) {
                Err(error) => error.to_string(),
                Ok(metadata) if !metadata.is_dir() => "it is no directory".to_owned(),
                Ok(_) => format!("{DATABASE} is missing in it"),
            };
            return Err(Failure::Other(format!(
                "there is no l0 store in {}: {why}; give the directory a program records into, with --dir or $L0_DIR",
                given.display()
            )));
        }
        let here = env::current_dir().map_err(|error| {
            Failure::Other(format!("the current directory is unknown ({error}); give the store's with --dir"))
        })?;
        let above = here.ancestors().map(|dir| dir.join(".l0"));
        for dir in std::iter::once(here.clone()).chain(above) {
            if is_store(&dir)? {
                return Ok(Self { dir });
            }
        }
        Err(Failure::Other(format!(
            "there is no l0 store in {} or above: run a program that records with l0 here, or give its store with --dir or $L0_DIR",
            here.join(".l0").display()
        )))
    }

    /// Opens the store; recovers first what dead processes left, if that may be done and is ours to do.
    pub(crate) fn open(self, may_recover: bool, screen: &mut Screen) -> Result<Store, Failure> {
        let mut inspection = l0::inspect(&self.dir)?;
        let may_recover = may_recover && inspection.is_own;
        if inspection.needs_recovery() && may_recover && inspection.is_writable {
            match recover(&self.dir, screen) {
                Ok(_) => inspection = l0::inspect(&self.dir)?,
                Err(error) => screen.note(&format!("nothing was recovered: {error}")),
            }
        } else if !may_recover {
            tell_unrecovered(&inspection, screen);
        }
        let (reader, copy) = self.reader(&inspection, may_recover, screen)?;
        Ok(Store {
            jobs: JobReader::open(asked(&copy, &self.dir)),
            health: HealthReader::open(asked(&copy, &self.dir)),
            state: asked(&copy, &self.dir).to_owned(),
            reader,
            dir: self.dir,
            may_recover: may_recover && inspection.is_writable && copy.is_none(),
            inspection,
            _copy: copy,
        })
    }

    /// Who answers for the store: itself, or a copy that goes when it is dropped.
    pub(crate) fn reader(
        &self,
        inspection: &Inspection,
        may_recover: bool,
        screen: &Screen,
    ) -> Result<(Reader, Option<TempDir>), Failure> {
        if inspection.databases.first().is_some_and(|db| db.schema == Some(0) && db.problem.is_none()) {
            return Err(Failure::Other(format!(
                "nothing was ever recorded in {}: its program ended as it began",
                self.dir.display()
            )));
        }
        let lacks_some = !inspection.is_writable && inspection.needs_recovery() && may_recover;
        if !inspection.is_of_earlier_schema() && !lacks_some {
            match Reader::open(&self.dir) {
                // A WAL, and nowhere to make the file that SQLite needs beside it.
                Err(_) if !inspection.is_writable => {}
                opened => return Ok((opened?, None)),
            }
        }
        let copy = self.copy(may_recover, screen)?;
        Ok((Reader::open(copy.path())?, Some(copy)))
    }

    /// A private copy, of this l0's schema, with what dead processes left.
    fn copy(&self, may_recover: bool, screen: &Screen) -> Result<TempDir, Failure> {
        let mut builder = tempfile::Builder::new();
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700));
        let copy = builder.prefix("l0-copy-").tempdir().map_err(|error| {
            Failure::Other(format!("cannot make a directory for a copy of the store: {error}; set TMPDIR"))
        })?;
        let _busy = screen.busy("copying the store, which cannot be read in its place as it is");
        l0::copy(&self.dir, copy.path(), may_recover)?;
        Ok(copy)
    }
}

/// Where the answers come from.
fn asked<'d>(copy: &'d Option<TempDir>, dir: &'d Path) -> &'d Path {
    copy.as_ref().map_or(dir, |copy| copy.path())
}

impl Store {
    /// While a store is followed its process may die: brings in its last words. Says whether there were any.
    pub(crate) fn recover_again(&self, screen: &mut Screen) -> Result<bool, Failure> {
        if self.may_recover && l0::inspect(&self.dir)?.needs_recovery() {
            return Ok(recover(&self.dir, screen)?.records > 0);
        }
        Ok(false)
    }
}

fn recover(dir: &Path, screen: &mut Screen) -> Result<Recovery, Failure> {
    let found = {
        let _busy = screen.busy("recovering what a dead process left");
        l0::recover(dir)?
    };
    let counted = |count: u64, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    if found.runs > 0 {
        screen.note(&format!(
            "recovered {} of {}, {} cut short",
            counted(found.records, "record"),
            counted(found.runs.into(), "run"),
            counted(found.interrupted_spans, "span"),
        ));
    }
    if found.unreadable > 0 {
        screen.note(&format!(
            "{} could not be read and {} set aside in flight/; l0 doctor tells more",
            counted(found.unreadable.into(), "flight file"),
            if found.unreadable == 1 { "is" } else { "are" }
        ));
    }
    if found.postponed > 0 {
        screen.note(&format!(
            "{} left for later: there is no room for what is in it; free some space",
            counted(found.postponed.into(), "flight file")
        ));
    }
    Ok(found)
}

/// Whether there is a store in the directory, or a flight file of which one can be made; what cannot be looked into is no answer.
fn is_store(dir: &Path) -> Result<bool, Failure> {
    let flight = || fs::read_dir(dir.join("flight")).into_iter().flatten().flatten();
    match fs::metadata(dir.join(DATABASE)) {
        Ok(metadata) => Ok(metadata.is_file()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(Failure::Other(format!("cannot look into {}: {error}; ask as the user that records", dir.display())))
        }
        Err(_) => Ok(flight().any(|entry| entry.path().extension().is_some_and(|extension| extension == "flight"))),
    }
}

fn tell_unrecovered(inspection: &Inspection, screen: &mut Screen) {
    let is_unread = |state| state == FlightState::Orphaned || !inspection.is_own && state == FlightState::NotOurs;
    let count = inspection.flight_files.iter().filter(|file| is_unread(file.state)).count();
    if count == 0 && inspection.dead_runs.is_empty() {
        return;
    }
    let why = if inspection.is_own { "as --no-recover says" } else { "the store belongs to another user" };
    screen.note(&format!(
        "what is not in the database yet is not shown ({count} flight file{}), {why}",
        if count == 1 { "" } else { "s" }
    ));
}
