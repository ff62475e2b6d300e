//! Finding the store, bringing it up to date as far as that is ours to do, and opening it.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use l0::{FlightState, Inspection, query::Reader};
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
        let is_store = |dir: &Path| dir.join(DATABASE).is_file();
        if let Some(given) = given {
            // A project's directory is as good as the store's in it.
            let places = [given.to_owned(), given.join(".l0")];
            return places.into_iter().find(|dir| is_store(dir)).map(|dir| Self { dir }).ok_or_else(|| {
                let why = match fs::metadata(given) {
                    Err(error) => error.to_string(),
                    Ok(metadata) if !metadata.is_dir() => "it is no directory".to_owned(),
                    Ok(_) => format!("{DATABASE} is missing in it"),
                };
                Failure::Other(format!(
                    "there is no l0 store in {}: {why}; give the directory a program records into, with --dir or $L0_DIR",
                    given.display()
                ))
            });
        }
        let here = env::current_dir().map_err(|error| {
            Failure::Other(format!("the current directory is unknown ({error}); give the store's with --dir"))
        })?;
        let above = here.ancestors().map(|dir| dir.join(".l0"));
        std::iter::once(here.clone()).chain(above).find(|dir| is_store(dir)).map(|dir| Self { dir }).ok_or_else(|| {
            Failure::Other(format!(
                "there is no l0 store in {} or above: run a program that records with l0 here, or give its store with --dir or $L0_DIR",
                here.join(".l0").display()
            ))
        })
    }

    /// Opens the store; recovers first what dead processes left, if that may be done and is ours to do.
    pub(crate) fn open(self, may_recover: bool, screen: &mut Screen) -> Result<Store, Failure> {
        let mut inspection = l0::inspect(&self.dir)?;
        let may_recover = may_recover && inspection.is_own;
        if inspection.needs_recovery() {
            if may_recover && inspection.is_writable {
                match recover(&self.dir, screen) {
                    Ok(()) => inspection = l0::inspect(&self.dir)?,
                    Err(error) => screen.note(&format!("nothing was recovered: {error}")),
                }
            } else if !may_recover {
                tell_unrecovered(&inspection, screen);
            }
        }
        let (reader, copy) = self.reader(&inspection, may_recover, screen)?;
        Ok(Store {
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
        let copy = if self.is_readable(inspection, may_recover) { None } else { Some(self.copy(may_recover, screen)?) };
        Ok((Reader::open(copy.as_ref().map_or(self.dir.as_path(), TempDir::path))?, copy))
    }

    /// Whether it can be asked where it is, without changing it, and tells all.
    fn is_readable(&self, inspection: &Inspection, may_recover: bool) -> bool {
        if inspection.is_of_earlier_schema() {
            return false;
        }
        // SQLite would need to make files beside a WAL, and whoever may do everything would make them.
        let wal = fs::metadata(self.dir.join(format!("{DATABASE}-wal")));
        let has_wal = wal.is_ok_and(|wal| wal.len() > 0);
        inspection.is_writable || !(has_wal || inspection.needs_recovery() && may_recover)
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
        l0::copy(&self.dir, copy.path())?;
        if !may_recover {
            let _ = fs::remove_dir_all(copy.path().join("flight"));
        }
        l0::recover(copy.path())?;
        Ok(copy)
    }
}

impl Store {
    /// While a store is followed its process may die: brings in its last words. Says whether there were any.
    pub(crate) fn recover_again(&self, screen: &mut Screen) -> Result<(), Failure> {
        if self.may_recover && l0::inspect(&self.dir)?.needs_recovery() {
            recover(&self.dir, screen)?;
        }
        Ok(())
    }
}

fn recover(dir: &Path, screen: &mut Screen) -> Result<(), Failure> {
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
    Ok(())
}

fn tell_unrecovered(inspection: &Inspection, screen: &mut Screen) {
    let count = inspection.flight_files.iter().filter(|file| file.state == FlightState::Orphaned).count();
    let why = if inspection.is_own { "as --no-recover says" } else { "the store belongs to another user" };
    screen.note(&format!(
        "what dead processes left is not shown ({count} flight file{}), {why}",
        if count == 1 { "" } else { "s" }
    ));
}
