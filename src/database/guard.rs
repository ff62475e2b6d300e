//! Locks on a database's files that nothing else in this process can cancel.
//!
//! SQLite locks its files with POSIX record locks. The system drops all of a process's record locks on a file as soon as
//! the process closes *any* descriptor of that file: a backup that reads `telemetry.db`, or a second SQLite library, is
//! enough. Another program then takes itself for the only user, deletes the write-ahead log when it closes, and commits
//! that SQLite acknowledged are gone. So a writing connection is accompanied by a guard: a descriptor of its own with
//! *open file description* locks, which belong to the descriptor and not to the process.
//!
//! The guard holds shared locks where SQLite's own connections do: on the shared range of the database, and on the
//! dead-man switch of the `-shm` file. Other connections are compatible with both. Only the last one to close needs the
//! ranges exclusively, to delete the log, and the guard is released before l0's own last connection closes.
//!
//! Closing a guard's descriptor would itself cancel SQLite's locks. Every descriptor l0 opens on a database file is
//! therefore kept in [`Descriptors`], one for each file, until the file has no name any more.

use std::{
    fs::{File, Metadata, OpenOptions},
    io,
    path::Path,
    sync::{Arc, LazyLock},
};

use parking_lot::{Mutex, MutexGuard};

/// Tells a file from every other one that exists at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    #[cfg(unix)]
    pub(crate) fn of(metadata: &Metadata) -> Option<Self> {
        use std::os::unix::fs::MetadataExt as _;
        metadata.is_file().then(|| Self { device: metadata.dev(), inode: metadata.ino() })
    }

    /// Elsewhere a file that is open can be neither removed nor replaced, so all files at one path are the same.
    #[cfg(not(unix))]
    pub(crate) fn of(metadata: &Metadata) -> Option<Self> {
        metadata.is_file().then_some(Self { device: 0, inode: 0 })
    }

    /// The file at a path; `None` if there is none, or it is not a regular file.
    pub(crate) fn at(path: &Path) -> Option<Self> {
        Self::of(&std::fs::metadata(path).ok()?)
    }
}

/// The descriptors of database files that this process has opened itself, and how many guards use each.
#[derive(Debug, Default)]
struct Descriptors {
    open: Vec<Descriptor>,
    /// Whose they are: a forked child shares its parent's locks and must neither release nor rely on them.
    pid: u32,
}

/// Descriptors that no guard uses are kept open, up to this number.
const IDLE_MAX: usize = 64;

#[derive(Debug)]
struct Descriptor {
    id: FileId,
    file: Arc<File>,
    guards: usize,
}

static DESCRIPTORS: LazyLock<Mutex<Descriptors>> = LazyLock::new(Mutex::default);

/// This process's descriptors.
fn descriptors() -> MutexGuard<'static, Descriptors> {
    let mut descriptors = DESCRIPTORS.lock();
    let pid = std::process::id();
    if descriptors.pid != pid {
        // Not closed: the parent's are the same open files.
        std::mem::forget(std::mem::take(&mut descriptors.open));
        descriptors.pid = pid;
    }
    descriptors
}

impl Descriptors {
    /// The descriptor of the file at `path`, opened if there is none yet.
    fn open(&mut self, path: &Path, options: &OpenOptions) -> io::Result<&mut Descriptor> {
        let known = FileId::at(path);
        if let Some(index) = self.open.iter().position(|descriptor| Some(descriptor.id) == known) {
            return Ok(&mut self.open[index]);
        }
        self.close_unneeded();
        let file = options.open(path)?;
        let Some(id) = FileId::of(&file.metadata()?) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
        };
        // The file may have been replaced since its identity was read, by one that is known.
        if let Some(index) = self.open.iter().position(|descriptor| descriptor.id == id) {
            // Closing it would cancel locks.
            std::mem::forget(file);
            return Ok(&mut self.open[index]);
        }
        self.open.push(Descriptor { id, file: Arc::new(file), guards: 0 });
        let last = self.open.len() - 1;
        Ok(&mut self.open[last])
    }

    /// Closes files that no guard uses and that have no name any more, because nothing can open them again. Of the other
    /// unused ones the oldest are closed where there are very many: a process that opens a thousand stores must not run out
    /// of descriptors.
    fn close_unneeded(&mut self) {
        self.open.retain(|descriptor| descriptor.guards > 0 || links(&descriptor.file) > 0);
        let mut too_many =
            self.open.iter().filter(|descriptor| descriptor.guards == 0).count().saturating_sub(IDLE_MAX);
        self.open.retain(|descriptor| {
            let closes = too_many > 0 && descriptor.guards == 0;
            too_many -= usize::from(closes);
            !closes
        });
    }

    fn find(&mut self, id: FileId) -> Option<&mut Descriptor> {
        self.open.iter_mut().find(|descriptor| descriptor.id == id)
    }
}

/// How many names a file has.
#[cfg(unix)]
fn links(file: &File) -> u64 {
    file.metadata().map_or(1, |metadata| std::os::unix::fs::MetadataExt::nlink(&metadata))
}

#[cfg(not(unix))]
fn links(_: &File) -> u64 {
    1
}

/// Creates a private file for a database. The descriptor stays open: see the module's page.
pub(super) fn create_private(path: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut open = descriptors();
    // One that is there already needs no descriptor.
    if path.exists() {
        return Ok(());
    }
    match open.open(path, &options) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// A descriptor for reading a database file without SQLite. It must not be closed, so it is shared.
pub(crate) fn open_for_reading(path: &Path) -> io::Result<Arc<File>> {
    let mut options = OpenOptions::new();
    options.read(true);
    Ok(Arc::clone(&descriptors().open(path, &options)?.file))
}

/// Reads bytes of a database file without SQLite.
#[cfg(unix)]
pub(super) fn read_at(path: &Path, at: u64, bytes: &mut [u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(&*open_for_reading(path)?, bytes, at)
}

/// Elsewhere locks keep others from reading, and files that are open from being changed by hand.
#[cfg(not(unix))]
pub(super) fn read_at(_: &Path, _: u64, _: &mut [u8]) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Whether a file has a name somewhere: it was moved, or what it was on was unmounted. A file that was removed has none.
pub(super) fn is_linked(file: &File) -> bool {
    links(file) > 0
}

/// A range of bytes in a file that SQLite's connections lock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    from: i64,
    bytes: i64,
}

/// What every connection to a database holds a shared lock on (`SHARED_FIRST` in SQLite's `os.h`).
pub(super) const SHARED: Range = Range { from: 0x4000_0002, bytes: 510 };
/// What every connection to the shared memory of a write-ahead log holds a shared lock on (`UNIX_SHM_DMS` in `os_unix.c`).
pub(super) const DEAD_MAN_SWITCH: Range = Range { from: 128, bytes: 1 };
/// What the one connection that writes holds an exclusive lock on, in the `-shm` file (`WAL_WRITE_LOCK`).
const WRITE: Range = Range { from: 120, bytes: 1 };

/// A shared lock on one file. Dropping it releases the lock, unless another guard of this process needs it.
#[derive(Debug)]
pub(super) struct Guard {
    id: FileId,
    file: Arc<File>,
    range: Range,
    /// A forked child shares the lock with its parent and must not release it.
    pid: u32,
}

impl Guard {
    /// Locks a range of the file at `path`. `None` where the system or the file system has no such locks.
    ///
    /// # Errors
    /// If the file cannot be opened, or another connection is just about to close as the last one.
    pub(super) fn lock(path: &Path, range: Range) -> io::Result<Option<Self>> {
        let mut options = OpenOptions::new();
        options.read(true);
        let mut open = descriptors();
        let descriptor = open.open(path, &options)?;
        if descriptor.guards == 0 && !os::lock(&descriptor.file, range)? {
            return Ok(None);
        }
        descriptor.guards += 1;
        Ok(Some(Self { id: descriptor.id, file: Arc::clone(&descriptor.file), range, pid: std::process::id() }))
    }

    pub(super) fn id(&self) -> FileId {
        self.id
    }

    /// Whether this process holds SQLite's exclusive lock for writing, in the `-shm` file that is guarded.
    pub(super) fn is_writing(&self) -> bool {
        os::is_locked_by_this_process(&self.file, WRITE)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.pid != std::process::id() {
            return;
        }
        if let Some(descriptor) = descriptors().find(self.id) {
            descriptor.guards -= 1;
            if descriptor.guards == 0 {
                os::unlock(&descriptor.file, self.range);
            }
        }
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
mod os {
    use std::{fs::File, io, os::fd::AsFd as _};

    use nix::{
        errno::Errno,
        fcntl::{FcntlArg, fcntl},
        libc,
    };

    use super::Range;

    fn flock(kind: libc::c_int, range: Range) -> libc::flock {
        libc::flock {
            l_type: kind as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            // Both fit: SQLite's ranges end below two gigabytes.
            l_start: range.from as libc::off_t,
            l_len: range.bytes as libc::off_t,
            l_pid: 0,
        }
    }

    /// Takes a shared lock. Says `false` where there are no locks of this kind.
    pub(super) fn lock(file: &File, range: Range) -> io::Result<bool> {
        match fcntl(file.as_fd(), FcntlArg::F_OFD_SETLK(&flock(libc::F_RDLCK, range))) {
            Ok(_) => Ok(true),
            Err(Errno::EAGAIN | Errno::EACCES) => Err(Errno::EAGAIN.into()),
            Err(_) => Ok(false),
        }
    }

    pub(super) fn unlock(file: &File, range: Range) {
        // Cannot fail for a range that is locked.
        let _ = fcntl(file.as_fd(), FcntlArg::F_OFD_SETLK(&flock(libc::F_UNLCK, range)));
    }

    /// Whether an exclusive lock is held, and by this process. Where the system does not say: yes.
    pub(super) fn is_locked_by_this_process(file: &File, range: Range) -> bool {
        let mut asked = flock(libc::F_WRLCK, range);
        match fcntl(file.as_fd(), FcntlArg::F_OFD_GETLK(&mut asked)) {
            Ok(_) => {
                asked.l_type == libc::F_WRLCK as libc::c_short && asked.l_pid.cast_unsigned() == std::process::id()
            }
            Err(_) => true,
        }
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod os {
    use std::{fs::File, io};

    use super::Range;

    pub(super) fn lock(_: &File, _: Range) -> io::Result<bool> {
        Ok(false)
    }

    pub(super) fn unlock(_: &File, _: Range) {}

    pub(super) fn is_locked_by_this_process(_: &File, _: Range) -> bool {
        true
    }
}
