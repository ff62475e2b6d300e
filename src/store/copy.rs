//! A copy of a store: of what is committed, and of what dead processes left.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{TELEMETRY, inspection::has_records, recovery::recover as recover_store};
use crate::{
    database::{self, create_directory},
    error::{Error, Result},
    flight::{self, FlightState},
    state::STATE,
};

/// A copy is begun anew when something was recovered while it was made.
const COPY_ATTEMPTS: usize = 5;

/// Copies a store into another directory, while programs record into it or from where nothing can be written: what is
/// committed and, if `recover` says so, what dead processes left. To keep it, to send it, or to look at it with a `Reader`: the
/// copy has this l0's schema, whatever the store's is.
///
/// The directory is created, or must be empty. A program that records is noted in the copy as running, and where its process is
/// not known, as killed.
///
/// # Errors
/// `is_storage` if there is no store, it cannot be read, or the other directory cannot be written or is not empty.
///
/// ```no_run
/// l0::copy("/var/lib/shop/.l0", "/tmp/for-support", true)?;
/// # Ok::<(), l0::Error>(())
/// ```
pub fn copy(from: impl AsRef<Path>, to: impl AsRef<Path>, recover: bool) -> Result<()> {
    let (from, to) = (from.as_ref(), to.as_ref());
    has_records(from)?;
    if fs::read_dir(to).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(Error::storage(format!("{} is not empty: choose a new directory for the copy", to.display())));
    }
    let copied = try_copy(from, to, recover);
    if copied.is_err() {
        // Nothing was there before.
        let _ = fs::remove_dir_all(to);
    }
    copied
}

fn try_copy(from: &Path, to: &Path, recover: bool) -> Result<()> {
    for _ in 0..COPY_ATTEMPTS {
        create_directory(to)?;
        let orphans = if recover { orphaned(from) } else { Vec::new() };
        let mut is_whole = flight::copy_files(&orphans, to)?;
        for database in [&TELEMETRY, &STATE].into_iter().filter(|database| from.join(database.file).exists()) {
            database::copy(database, from, to)?;
        }
        // Nobody has recovered one meanwhile: each record is in the file or in the database, not in both or in none.
        is_whole &= !recover || orphaned(from) == orphans;
        if is_whole {
            return recover_store(to).map(drop);
        }
        fs::remove_dir_all(to).map_err(|error| Error::io("cannot begin the copy anew in", to, error))?;
    }
    Err(Error::storage(format!("cannot copy {}: its flight files are being recovered; try again", from.display())))
}

fn orphaned(dir: &Path) -> Vec<PathBuf> {
    let files = flight::survey(dir).into_iter().filter(|file| file.state == FlightState::Orphaned);
    files.map(|file| file.path).collect()
}
