//! Where a flight recorder's bytes live: the store's directory, shared memory, or plain memory as a last resort.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use uuid::Uuid;

use super::{
    file::{Mapping, Medium},
    header::Header,
    recover,
};
use crate::error::Result;

/// How to build a flight recorder.
#[derive(Clone, Debug)]
pub(crate) struct Shape<'a> {
    /// The store's directory.
    pub(crate) dir: &'a Path,
    pub(crate) medium: Medium,
    /// All of the file: header, definitions and lanes.
    pub(crate) bytes: usize,
    pub(crate) run: Uuid,
    /// How long a push may wait for room; `None` sheds at once.
    pub(crate) block: Option<Duration>,
}

/// Maps the file where it was asked for, or the next best place.
pub(super) fn map(shape: &Shape<'_>, header: &Header) -> Result<(Mapping, Medium, Option<String>)> {
    let bytes = header.file_bytes as usize;
    let name = recover::file_name(shape.run);
    let mut why = None;
    for medium in [Medium::Directory, Medium::SharedMemory] {
        if medium == Medium::Directory && shape.medium != Medium::Directory || shape.medium == Medium::Memory {
            continue;
        }
        match place(medium, shape.dir) {
            Ok(dir) => match Mapping::create(&dir.join(&name), bytes, &header.encode()) {
                Ok(mapping) => return Ok((mapping, medium, why)),
                Err(error) => why = Some(error.to_string()),
            },
            Err(reason) => why = Some(reason),
        }
    }
    Ok((Mapping::anonymous(bytes, &header.encode())?, Medium::Memory, why))
}

/// The directory for flight files on this medium, created private; or why it will not do.
fn place(medium: Medium, dir: &Path) -> Result<PathBuf, String> {
    let place = match medium {
        Medium::Directory => {
            if let Some(kind) = copies_on_write(dir) {
                return Err(format!("{} is on {kind}, where a store into a mapping may find no space", dir.display()));
            }
            recover::directory(dir)
        }
        Medium::SharedMemory => recover::shared_directory(dir).ok_or_else(|| "there is no /dev/shm here".to_owned())?,
        Medium::Memory => return Err("memory has no place".to_owned()),
    };
    create_private(&place).map_err(|error| format!("cannot create {}: {error}", place.display()))?;
    Ok(place)
}

fn create_private(dir: &Path) -> std::io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    match builder.create(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            // Not a link, and nobody else's: /dev/shm is open to all.
            let found = fs::symlink_metadata(dir)?;
            if found.is_dir() && recover::is_own(&found) {
                Ok(())
            } else {
                Err(std::io::Error::new(std::io::ErrorKind::PermissionDenied, "it belongs to someone else"))
            }
        }
        outcome => outcome,
    }
}

/// File systems where overwriting a block needs a new one, or where a mapping depends on another process or host.
#[cfg(target_os = "linux")]
fn copies_on_write(dir: &Path) -> Option<&'static str> {
    match rustix::fs::statfs(dir).ok()?.f_type as u32 {
        0x9123_683E => Some("btrfs"),
        0x2FC1_2FC1 => Some("zfs"),
        0xCA45_1A4E => Some("bcachefs"),
        0x6969 => Some("NFS"),
        0xFF53_4D42 | 0xFE53_4D42 | 0x517B => Some("SMB"),
        0x0102_1997 => Some("9p"),
        0x6573_5546 => Some("FUSE"),
        _ => None,
    }
}

#[cfg(not(target_os = "linux"))]
fn copies_on_write(_: &Path) -> Option<&'static str> {
    None
}
