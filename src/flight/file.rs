//! The mapping behind a flight recorder: a file shared with the page cache, or anonymous memory.
//!
//! This file and `clock/counter.rs` hold all of the crate's unsafe code. The mapping is never lent as a slice: bytes are
//! copied in and out through raw pointers with checked bounds, and words that several threads touch are atomics.
//! `lane.rs` guarantees that no byte is copied out while another thread copies into it. A file truncated by the same
//! user while it is mapped is outside what can be defended against.
#![allow(unsafe_code)]

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use memmap2::{MmapMut, MmapOptions, MmapRaw};

use super::lane::Memory;
use crate::{
    error::{Error, Result},
    fail_point,
};

/// What a flight recorder's bytes live in, and so what they survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Medium {
    /// A file in the store's directory: survives the process.
    Directory,
    /// A file in `/dev/shm`: survives the process, not the machine's restart or the container's end.
    SharedMemory,
    /// Anonymous memory: survives nothing, so commits are frequent.
    Memory,
}

/// A fixed range of memory that may outlive the process.
#[derive(Debug)]
pub(super) struct Mapping {
    raw: MmapRaw,
    /// Held for its lock: as long as it is held the file is not an orphan.
    file: Option<File>,
    path: Option<PathBuf>,
}

// SAFETY: the pointer is to a mapping that this value owns and never unmaps before it is dropped; all access goes
// through the methods below, which state their own conditions.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    pub(super) fn anonymous(bytes: usize, header: &[u8]) -> Result<Self> {
        let map =
            MmapMut::map_anon(bytes).map_err(|error| Error::io("cannot map memory for", Path::new("l0"), error))?;
        let mapping = Self { raw: MmapRaw::from(map), file: None, path: None };
        mapping.write(0, header);
        Ok(mapping)
    }

    /// Creates `path`: under a temporary name, private, locked, all its blocks allocated by writing them, with its
    /// header; then it gets its name.
    pub(super) fn create(path: &Path, bytes: usize, header: &[u8]) -> Result<Self> {
        let temporary = path.with_extension("tmp");
        let fail = |what: &'static str| {
            let at = temporary.clone();
            move |error: io::Error| Error::io(what, &at, error)
        };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(&temporary).map_err(fail("cannot create the flight file"))?;
        let built = (|| {
            file.try_lock().map_err(|error| fail("cannot lock the flight file")(error.into()))?;
            allocate(&file, bytes).map_err(fail("cannot allocate the flight file"))?;
            let raw = MmapOptions::new().len(bytes).map_raw(&file).map_err(fail("cannot map the flight file"))?;
            let mapping = Self { raw, file: None, path: None };
            mapping.write(0, header);
            fail_point::hit("flight.before_name");
            fs::rename(&temporary, path).map_err(fail("cannot name the flight file"))?;
            fail_point::hit("flight.after_name");
            Ok(mapping)
        })();
        match built {
            Ok(mapping) => Ok(Self { file: Some(file), path: Some(path.to_owned()), ..mapping }),
            Err(error) => {
                let _ = fs::remove_file(&temporary);
                Err(error)
            }
        }
    }

    pub(super) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Ends the file's life: everything in it is stored.
    pub(super) fn remove(&self) -> io::Result<()> {
        match (&self.path, &self.file) {
            (Some(path), Some(_)) => match fs::remove_file(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                outcome => outcome,
            },
            _ => Ok(()),
        }
    }

    /// An atomic word of the mapping; `at` is a multiple of 8 that only atomics use.
    #[inline]
    pub(super) fn word(&self, at: usize) -> &AtomicU64 {
        assert!(at.is_multiple_of(8) && at + 8 <= self.raw.len());
        // SAFETY: in bounds, aligned (mappings are aligned to pages), valid as long as `self`, and this address is only
        // accessed as an atomic while others may access it.
        unsafe { AtomicU64::from_ptr(self.raw.as_mut_ptr().add(at).cast()) }
    }

    /// Copies in; no other thread reads or writes that range meanwhile.
    #[inline]
    pub(super) fn write(&self, at: usize, bytes: &[u8]) {
        assert!(at <= self.raw.len() && bytes.len() <= self.raw.len() - at);
        // SAFETY: in bounds; `bytes` cannot overlap a mapping that is never lent as a slice; exclusive by contract.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.raw.as_mut_ptr().add(at), bytes.len()) }
    }

    /// Copies out; no other thread writes that range meanwhile.
    pub(super) fn read(&self, at: usize, length: usize, out: &mut Vec<u8>) {
        assert!(at <= self.raw.len() && length <= self.raw.len() - at);
        out.reserve(length);
        // SAFETY: in bounds on both sides (reserved just above); the copied bytes are initialised, so the length may
        // grow over them.
        unsafe {
            std::ptr::copy_nonoverlapping(self.raw.as_ptr().add(at), out.as_mut_ptr().add(out.len()), length);
            out.set_len(out.len() + length);
        }
    }
}

/// Writing zeros, unlike reserving, makes the file system find every block now; a later store into the mapping cannot
/// fail for want of space where blocks are overwritten in place.
fn allocate(mut file: &File, bytes: usize) -> io::Result<()> {
    let zeros = vec![0; 1 << 20];
    let mut left = bytes;
    while left > 0 {
        let chunk = left.min(zeros.len());
        file.write_all(&zeros[..chunk])?;
        left -= chunk;
    }
    Ok(())
}

/// A lane's part of the mapping.
#[derive(Clone, Debug)]
pub(super) struct Region {
    pub(super) mapping: Arc<Mapping>,
    pub(super) at: usize,
    pub(super) released_at: usize,
}

impl Memory for Region {
    #[inline]
    fn write(&self, at: usize, bytes: &[u8]) {
        self.mapping.write(self.at + at, bytes);
    }

    #[inline]
    fn seal(&self, at: usize, word: u64) {
        self.mapping.word(self.at + at).store(word, Ordering::Release);
    }

    fn read(&self, at: usize, length: usize, out: &mut Vec<u8>) {
        self.mapping.read(self.at + at, length, out);
    }

    fn store_released(&self, position: u64) {
        self.mapping.word(self.released_at).store(position.to_le(), Ordering::Release);
    }
}

/// A word that reads 0 in a forked child, whose copy of the process has none of l0's threads.
///
/// On Linux the kernel wipes the word's page on fork. Elsewhere a fork is not noticed: after a fork without an exec the
/// child must not use l0.
#[derive(Debug)]
pub(super) struct ForkWord(Mapping);

impl ForkWord {
    pub(super) fn new() -> Result<Self> {
        let mapping = Mapping::anonymous(4_096, &[])?;
        #[cfg(target_os = "linux")]
        // SAFETY: the range is exactly the fresh private anonymous mapping above, on which this advice is defined.
        unsafe { rustix::mm::madvise(mapping.raw.as_mut_ptr().cast(), 4_096, rustix::mm::Advice::LinuxWipeOnFork) }
            // Where the kernel does not know the advice, a fork goes unnoticed, as on other systems.
            .unwrap_or(());
        mapping.word(0).store(1, Ordering::Release);
        Ok(Self(mapping))
    }

    pub(super) fn clear(&self) {
        self.0.word(0).store(0, Ordering::Release);
    }

    #[inline]
    pub(super) fn is_set(&self) -> bool {
        self.0.word(0).load(Ordering::Relaxed) != 0
    }
}
