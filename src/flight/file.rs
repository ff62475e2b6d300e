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

use super::{header::checked_count, lane::Memory, parse::HEADER_BYTES};
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

    /// Reads a word that only atomics use; `at` is a multiple of 8.
    #[inline]
    pub(super) fn load(&self, at: usize) -> u64 {
        u64::from_le(self.word(at).load(Ordering::Acquire))
    }

    /// Writes a word that only atomics use, after every earlier write.
    #[inline]
    pub(super) fn store(&self, at: usize, value: u64) {
        self.word(at).store(value.to_le(), Ordering::Release);
    }

    /// Adds to a word that only atomics use.
    pub(super) fn add(&self, at: usize, value: u64) {
        let added = |word: u64| Some(u64::from_le(word).wrapping_add(value).to_le());
        let _ = self.word(at).fetch_update(Ordering::Relaxed, Ordering::Relaxed, added);
    }

    /// An atomic word of the mapping, in the file's byte order; `at` is a multiple of 8 that only atomics use.
    #[inline]
    fn word(&self, at: usize) -> &AtomicU64 {
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

/// A lane's part of the mapping: its ring, and its words in the header.
#[derive(Clone, Debug)]
pub(super) struct Region {
    mapping: Arc<Mapping>,
    at: usize,
    bytes: usize,
    line: [usize; 4],
}

impl Region {
    /// `bytes` of the mapping from `at` on, and the words at `line`; all of them multiples of 8.
    pub(super) fn new(mapping: Arc<Mapping>, at: usize, bytes: usize, line: [usize; 4]) -> Self {
        let is_within = |at: usize, bytes: usize| {
            at.is_multiple_of(8) && at.checked_add(bytes).is_some_and(|end| end <= mapping.raw.len())
        };
        assert!(is_within(at, bytes) && line.iter().all(|at| is_within(*at, 8)));
        Self { mapping, at, bytes, line }
    }

    /// Stores one of the lane's words.
    #[inline]
    fn store(&self, word: usize, value: u64, order: Ordering) {
        // SAFETY: `new` has checked that the word is in the mapping and aligned, and nothing in here changes after it; the
        // mapping lives as long as `self`, and the word is only accessed as an atomic.
        let word = unsafe { AtomicU64::from_ptr(self.mapping.raw.as_mut_ptr().add(self.line[word]).cast()) };
        word.store(value.to_le(), order);
    }
}

impl Memory for Region {
    #[inline]
    fn write(&self, at: usize, bytes: &[u8]) {
        self.mapping.write(self.at + at, bytes);
    }

    #[inline]
    fn seal(&self, at: usize, word: u64) {
        self.mapping.store(self.at + at, word);
    }

    #[inline]
    fn put(&self, at: usize, tag: u64, fixed: &[u8; 16], body: &[u8]) {
        let ends_within = at <= self.bytes && HEADER_BYTES + body.len() <= self.bytes - at;
        assert!(ends_within && at.is_multiple_of(8));
        // SAFETY: `new` has checked that the ring is in the mapping and begins at a multiple of 8, and the line above that the
        // record is in the ring; mappings are aligned to pages, so the tag is aligned. `Lane::push` holds the lane's lock, so
        // nobody else writes or reads that range; the tag is only accessed as an atomic. `body` cannot overlap a mapping that
        // is never lent as a slice.
        unsafe {
            let start = self.mapping.raw.as_mut_ptr().add(self.at + at);
            std::ptr::copy_nonoverlapping(fixed.as_ptr(), start.add(8), fixed.len());
            std::ptr::copy_nonoverlapping(body.as_ptr(), start.add(HEADER_BYTES), body.len());
            AtomicU64::from_ptr(start.cast()).store(tag.to_le(), Ordering::Release);
        }
    }

    fn read(&self, at: usize, length: usize, out: &mut Vec<u8>) {
        self.mapping.read(self.at + at, length, out);
    }

    fn store_released(&self, position: u64, counted: u64) {
        // In this order: a process that dies between the two leaves the later count with the earlier position, which recovery
        // sees from the records behind it.
        self.store(1, checked_count(counted), Ordering::Release);
        self.store(0, checked_count(position), Ordering::Release);
    }

    #[inline]
    fn store_recorded(&self, counted: u64) {
        self.store(2, counted, Ordering::Relaxed);
        self.store(3, !counted, Ordering::Relaxed);
    }
}

/// A word that says whether records are taken: not after the end, nor in a forked child, whose copy of the process has none
/// of l0's threads.
///
/// On Linux the kernel wipes the word's page on fork. Where it does not do that, each look compares the process's id.
#[derive(Debug)]
pub(super) struct ForkWord {
    mapping: Mapping,
    pid: u32,
}

const CLOSED: u64 = 0;
const OPEN: u64 = 1;
/// Open in the process with this id: a fork goes unnoticed by the kernel.
const OPEN_HERE: u64 = 2;

impl ForkWord {
    pub(super) fn new() -> Result<Self> {
        let mapping = Mapping::anonymous(4_096, &[])?;
        #[cfg(target_os = "linux")]
        // SAFETY: the range is exactly the fresh private anonymous mapping above, on which this advice is defined.
        let is_wiped = unsafe {
            rustix::mm::madvise(mapping.raw.as_mut_ptr().cast(), 4_096, rustix::mm::Advice::LinuxWipeOnFork).is_ok()
        };
        #[cfg(not(target_os = "linux"))]
        let is_wiped = false;
        Ok(Self::of(mapping, is_wiped))
    }

    fn of(mapping: Mapping, is_wiped: bool) -> Self {
        // Without fork there is nothing to notice.
        mapping.store(0, if is_wiped || !cfg!(unix) { OPEN } else { OPEN_HERE });
        Self { mapping, pid: std::process::id() }
    }

    pub(super) fn clear(&self) {
        self.mapping.store(0, CLOSED);
    }

    #[inline]
    pub(super) fn is_set(&self) -> bool {
        match self.mapping.word(0).load(Ordering::Relaxed) {
            word if word == OPEN.to_le() => true,
            word if word == CLOSED => false,
            _ => self.is_this_process(),
        }
    }

    #[cold]
    fn is_this_process(&self) -> bool {
        std::process::id() == self.pid
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_fork_is_noticed_where_the_kernel_does_not_wipe() {
        let word = ForkWord::of(Mapping::anonymous(4_096, &[]).unwrap(), false);
        assert!(word.is_set());
        let in_a_child = ForkWord { pid: word.pid + 1, ..word };
        assert!(!in_a_child.is_set());
        let word = ForkWord { pid: std::process::id(), ..in_a_child };
        assert!(word.is_set());
        word.clear();
        assert!(!word.is_set());
    }
}
