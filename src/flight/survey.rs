//! Flight files seen from outside: for a diagnosis, and to copy those of dead processes. Nothing here locks where the system
//! tells who lives: a lock, however short, would hide an orphan from whoever recovers at that moment.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::{
    header::{self, Header},
    recover::{directories, directory, is_own},
};
use crate::error::{Error, Result};

/// A flight file, as it is found.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct FlightFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its length.
    pub bytes: u64,
    /// Its process; `None` if the file does not tell.
    pub pid: Option<u32>,
    /// What it is.
    pub state: FlightState,
}

/// What a flight file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FlightState {
    /// Of a process that lives.
    InUse,
    /// Of a dead process: what is in it may not be in the database yet.
    Orphaned,
    /// Set aside by a recovery that could not read it, or the database refused what is in it.
    SetAside,
    /// A later version of l0 wrote it, and can recover it.
    OfLaterVersion,
    /// Another user's, or no file that could be read.
    NotOurs,
}

/// All flight files of a store, the oldest first.
pub(crate) fn survey(store: &Path) -> Vec<FlightFile> {
    let entries = directories(store).filter_map(|dir| fs::read_dir(dir).ok()).flatten().flatten();
    let mut found: Vec<FlightFile> = entries.filter_map(|entry| look(entry.path())).collect();
    found.sort_by(|a, b| a.path.file_name().cmp(&b.path.file_name()));
    found
}

fn look(path: PathBuf) -> Option<FlightFile> {
    let state = match path.extension()?.to_str()? {
        "flight" => None,
        "unreadable" => Some(FlightState::SetAside),
        _ => return None,
    };
    let metadata = fs::symlink_metadata(&path).ok()?;
    let page = read_page(&path, &metadata);
    let owner = page.as_deref().and_then(Header::decode_head).map(|head| head.owner);
    let state = state.unwrap_or_else(|| match (&page, owner) {
        (None, _) => FlightState::NotOurs,
        (Some(page), _) if header::is_of_later_version(page) => FlightState::OfLaterVersion,
        (_, Some(owner)) if !owner.may_be_alive() => FlightState::Orphaned,
        (_, Some(owner)) if owner.is_alive() => FlightState::InUse,
        // The lock alone decides.
        _ if File::open(&path).is_ok_and(|file| file.try_lock_shared().is_ok()) => FlightState::Orphaned,
        _ => FlightState::InUse,
    });
    Some(FlightFile { bytes: metadata.len(), pid: owner.map(|owner| owner.pid), state, path })
}

/// The first page of a file to trust: a regular one of this user's.
fn read_page(path: &Path, metadata: &fs::Metadata) -> Option<Vec<u8>> {
    if !metadata.is_file() || !is_own(metadata) {
        return None;
    }
    let mut page = Vec::new();
    File::open(path).ok()?.take(header::BYTES as u64).read_to_end(&mut page).ok()?;
    Some(page)
}

/// Copies flight files into another store. Says whether all were still there.
pub(crate) fn copy_files(files: &[PathBuf], to: &Path) -> Result<bool> {
    let dir = directory(to);
    for from in files {
        let Some(name) = from.file_name() else { continue };
        let to = dir.join(name);
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut source = match File::open(from) {
            Ok(source) => source,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(Error::io("cannot read the flight file", from, error)),
        };
        fs::create_dir_all(&dir)
            .and_then(|()| io::copy(&mut source, &mut options.open(&to)?))
            .map_err(|error| Error::io("cannot copy a flight file to", &to, error))?;
    }
    Ok(true)
}
