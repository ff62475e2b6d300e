//! What a dead process left: finding orphaned flight files and reading them.
//!
//! Called by the store before its writer starts. A flight file is read into memory, never mapped, and trusted as little
//! as any input: a regular file of the same owner, opened without following links, whose sizes agree.

use std::{
    fs::{self, File, OpenOptions},
    io::Read as _,
    path::{Path, PathBuf},
    time::Duration,
};

use uuid::Uuid;

use super::{
    header::{self, Header, Reason, flag},
    parse::{End, HEADER_BYTES, Parse},
    process::Owner,
};
use crate::{
    clock::Timeline,
    error::{Error, Result},
    event::Severity,
};

/// Where flight files of a store live by default.
pub(super) fn directory(store: &Path) -> PathBuf {
    store.join("flight")
}

/// The directory for flight files in shared memory, if this user has one there: `/dev/shm` is open to everyone.
fn own_shared_directory(store: &Path) -> Option<PathBuf> {
    let dir = shared_directory(store)?;
    let found = fs::symlink_metadata(&dir).ok()?;
    (found.is_dir() && is_own(&found)).then_some(dir)
}

/// The last flight file of a store takes its directory in shared memory along.
pub(super) fn leave_no_directory(flight_file: &Path) {
    if let Some(dir) = flight_file.parent().filter(|dir| dir.starts_with(SHARED_ROOT)) {
        // Refused while another process has a file there.
        let _ = fs::remove_dir(dir);
    }
}

const SHARED_ROOT: &str = "/dev/shm";

/// Where they live in shared memory: a directory of this user's, named after the store.
pub(super) fn shared_directory(store: &Path) -> Option<PathBuf> {
    let root = Path::new(SHARED_ROOT);
    if !root.is_dir() {
        return None;
    }
    let store = fs::canonicalize(store).ok()?;
    // FNV-1a: any stable hash will do, the directory's owner is checked.
    let hash = store
        .as_os_str()
        .as_encoded_bytes()
        .iter()
        .fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3));
    Some(root.join(format!("l0-{}-{hash:016x}", user())))
}

#[cfg(unix)]
fn user() -> u32 {
    rustix::process::geteuid().as_raw()
}

#[cfg(not(unix))]
fn user() -> u32 {
    0
}

/// Whether a file belongs to this user.
#[cfg(unix)]
pub(crate) fn is_own(metadata: &fs::Metadata) -> bool {
    std::os::unix::fs::MetadataExt::uid(metadata) == user()
}

#[cfg(not(unix))]
pub(crate) fn is_own(_: &fs::Metadata) -> bool {
    true
}

/// Where a store's flight files are.
pub(super) fn directories(store: &Path) -> impl Iterator<Item = PathBuf> {
    [Some(directory(store)), own_shared_directory(store)].into_iter().flatten()
}

/// The flight files of a store whose processes are dead. Removes what was left of files that never got their name. Counts
/// directories that cannot be listed, and so are passed over.
pub(crate) fn orphans(store: &Path, failed: &mut u32) -> Vec<Orphan> {
    let mut found = Vec::new();
    for dir in directories(store) {
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) => {
                *failed += u32::from(error.kind() != std::io::ErrorKind::NotFound);
                continue;
            }
        };
        for path in entries.flatten().map(|entry| entry.path()) {
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("flight") => match Orphan::open(path) {
                    Ok(orphan) => found.extend(orphan),
                    Err(_) => *failed += 1,
                },
                Some("tmp") if is_named_after_a_run(&path) => remove_unfinished(&path),
                _ => {}
            }
        }
    }
    // Names are UUIDv7: oldest first.
    found.sort_by(|a, b| a.path.file_name().cmp(&b.path.file_name()));
    found
}

/// Removes the oldest of the files that were set aside, so that those that stay take no more than this.
pub(crate) fn limit_set_aside(store: &Path, bytes: u64) {
    let entries = fs::read_dir(directory(store)).into_iter().flatten().flatten();
    let mut aside: Vec<_> = entries
        .filter(|entry| entry.path().extension().is_some_and(|extension| extension == "unreadable"))
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.metadata().ok()?.len(), entry.path())))
        .collect();
    aside.sort();
    let mut sum = 0;
    for (_, length, path) in aside.into_iter().rev() {
        sum += length;
        if sum > bytes {
            let _ = fs::remove_file(path);
        }
    }
}

/// Whether a run's flight file exists.
pub(crate) fn has_file(store: &Path, run: Uuid) -> bool {
    [Some(directory(store)), shared_directory(store)].into_iter().flatten().any(|dir| dir.join(file_name(run)).exists())
}

pub(super) fn file_name(run: Uuid) -> String {
    format!("{run}.flight")
}

fn is_named_after_a_run(path: &Path) -> bool {
    path.file_stem().and_then(|stem| stem.to_str()).is_some_and(|stem| Uuid::parse_str(stem).is_ok())
}

/// A file that never got its name is nobody's after a minute: creating one takes milliseconds.
fn remove_unfinished(path: &Path) {
    let is_old = fs::symlink_metadata(path)
        .and_then(|metadata| metadata.modified())
        .is_ok_and(|modified| modified.elapsed().is_ok_and(|age| age > Duration::from_secs(60)));
    if is_old && matches!(open_own(path), Ok(Some(file)) if file.try_lock().is_ok()) {
        let _ = fs::remove_file(path);
    }
}

/// Opens a regular file of this user's; `None` if it is another kind of file, or somebody else's.
fn open_own(path: &Path) -> std::io::Result<Option<File>> {
    if !fs::symlink_metadata(path)?.is_file() {
        return Ok(None);
    }
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, rustix::fs::OFlags::NOFOLLOW.bits() as i32);
    // Some file systems lock only what is open for writing; for the rest reading is enough.
    let file = options.clone().write(true).open(path).or_else(|_| options.open(path))?;
    let metadata = file.metadata()?;
    Ok((metadata.is_file() && is_own(&metadata)).then_some(file))
}

/// The file of a dead process, locked by this one.
#[derive(Debug)]
pub(crate) struct Orphan {
    path: PathBuf,
    file: File,
}

impl Orphan {
    /// `None` if its process lives, another process recovers it, or it is not a file to trust.
    fn open(path: PathBuf) -> std::io::Result<Option<Self>> {
        let Some(mut file) = open_own(&path)? else { return Ok(None) };
        if file.try_lock().is_err() {
            return Ok(None);
        }
        let mut page = Vec::new();
        file.by_ref().take(header::BYTES as u64).read_to_end(&mut page)?;
        // What a later version wrote is for that version to recover.
        if header::is_of_later_version(&page) {
            return Ok(None);
        }
        // Of this process's own recorders, one that holds no lock is gone.
        let is_dead =
            Header::decode_head(&page).is_none_or(|head| head.owner == Owner::current() || !head.owner.is_alive());
        // Another process may have recovered and removed it while this one came to the lock.
        Ok((is_dead && path.exists()).then_some(Self { path, file }))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// How long the file is.
    pub(crate) fn bytes(&self) -> u64 {
        self.file.metadata().map_or(0, |metadata| metadata.len())
    }

    /// Reads the whole file; `None` if it is not a flight file of this version.
    pub(crate) fn read(&mut self) -> Result<Option<Image>> {
        use std::io::Seek as _;
        let mut bytes = Vec::new();
        self.file
            .rewind()
            .and_then(|()| self.file.read_to_end(&mut bytes))
            .map_err(|error| Error::io("cannot read the flight file", &self.path, error))?;
        Ok(Image::of(bytes))
    }

    /// Removes the file, once everything in it is stored.
    pub(crate) fn remove(self) -> Result<()> {
        fs::remove_file(&self.path).map_err(|error| Error::io("cannot remove the flight file", &self.path, error))?;
        leave_no_directory(&self.path);
        Ok(())
    }

    /// Puts a file that does not parse out of the way, where a person can look at it.
    pub(crate) fn set_aside(self) -> Result<()> {
        let aside = self.path.with_extension("unreadable");
        fs::rename(&self.path, &aside).map_err(|error| Error::io("cannot set aside the flight file", &self.path, error))
    }
}

/// The bytes of a dead process's flight file.
#[derive(Debug)]
pub(crate) struct Image {
    bytes: Vec<u8>,
    header: Header,
}

impl Image {
    /// The bytes of a file; `None` if it is not a flight file of this version.
    pub(crate) fn of(bytes: Vec<u8>) -> Option<Self> {
        Header::decode(&bytes).map(|header| Self { bytes, header })
    }

    pub(crate) fn run(&self) -> Uuid {
        Uuid::from_bytes(self.header.run)
    }

    pub(crate) fn key(&self) -> u64 {
        self.header.key
    }

    pub(crate) fn owner(&self) -> Owner {
        self.header.owner
    }

    /// Whether no record was ever put into it, as far as it tells.
    pub(crate) fn is_empty(&self) -> bool {
        let left = self.records(&[]);
        left.records.is_empty() && left.damaged == 0
    }

    /// Pages of an earlier boot may be torn: they were on their way to the disk when the machine stopped.
    pub(crate) fn is_of_this_boot(&self) -> bool {
        self.header.owner.is_of_this_boot()
    }

    pub(crate) fn panicked(&self) -> bool {
        header::word(&self.bytes, header::FLAGS_AT).is_some_and(|flags| flags & flag::PANICKED != 0)
    }

    /// How to turn the dead process's ticks into time.
    pub(crate) fn timeline(&self) -> Timeline {
        Timeline::through(header::anchors(&self.bytes))
    }

    pub(crate) fn shed_counts(&self) -> impl Iterator<Item = (Reason, Severity, u64)> + '_ {
        Reason::ALL.into_iter().flat_map(move |reason| {
            Severity::ALL.into_iter().map(move |severity| {
                let count = header::word(&self.bytes, header::shed_at(reason, severity)).unwrap_or(0);
                // More than any process records: the word is damaged.
                (reason, severity, if count > COUNT_MAX { 0 } else { count })
            })
        })
    }

    /// The callsites' definitions, each with its number. Says whether all of them are whole.
    pub(crate) fn definitions(&self, each: impl FnMut(u32, &[u8])) -> bool {
        let start = self.header.definitions_at as usize;
        let published = header::word(&self.bytes, header::DEFINED_AT).unwrap_or(0);
        let end = start + published.min(self.header.definitions_bytes) as usize;
        header::each_definition(self.bytes.get(start..end).unwrap_or_default(), each)
    }

    /// The records behind the committed positions, which come with how many counted records were before each.
    ///
    /// A lane begins at the larger of its committed and its own released position: an empty lane skips ahead. What is damaged
    /// is counted by what the lane has taken; if that word is damaged itself, each damaged place counts as one record.
    pub(crate) fn records(&self, committed: &[(u64, u64)]) -> Remains {
        let mut remains = Remains::default();
        for lane in 0..self.header.lanes {
            let [released, before, taken, complement] =
                header::lane_line(lane).map(|at| header::word(&self.bytes, at).unwrap_or(0));
            let [released, before] = [released, before].map(header::count_of);
            let taken = (taken == !complement).then_some(taken);
            let committed = committed.get(lane).copied().unwrap_or((0, 0));
            // A released position beyond the ring is none. Where the database knows nothing of the lane, because it is a new
            // one, the check of the word has to do.
            let released = released.filter(|released| {
                let is_near = committed.0 == 0 || released.saturating_sub(committed.0) <= self.header.lane_bytes;
                is_near && released.is_multiple_of(8)
            });
            let (from, before) = match released {
                Some(released) if released > committed.0 => (released, before),
                _ => (committed.0 & !7, Some(committed.1)),
            };
            let start = self.header.lane_at(lane);
            let ring = self.bytes.get(start..start + self.header.lane_bytes as usize).unwrap_or_default();
            let (left, gaps) = parse_ring(ring, from, self.header.key, self.header.record_bytes_max());
            let found = left.iter().filter(|left| left.is_counted).count() as u64;
            let ring_max = self.header.lane_bytes / HEADER_BYTES as u64;
            let missing = taken.zip(before).and_then(|(taken, before)| taken.checked_sub(before)?.checked_sub(found));
            remains.damaged += missing.filter(|missing| *missing <= ring_max).unwrap_or(gaps);
            let mut counted = before.unwrap_or(0);
            remains.records.extend(left.into_iter().map(|left| {
                counted = u64::from(left.is_counted).saturating_add(counted);
                Left { lane, counted, ..left }
            }));
            remains.starts.push((from, before.unwrap_or(0)));
            remains.ends.push(taken.unwrap_or(counted).max(counted));
        }
        remains.records.sort_by_key(|left| left.stamp);
        remains
    }
}

/// What a dead process left in its lanes.
#[derive(Debug, Default)]
pub(crate) struct Remains {
    /// By time.
    pub(crate) records: Vec<Left>,
    /// Where each lane's begin, and how many counted records were before that.
    pub(crate) starts: Vec<(u64, u64)>,
    /// How many counted records each lane has taken in all.
    pub(crate) ends: Vec<u64>,
    /// Counted records that are not there any more.
    pub(crate) damaged: u64,
}

/// A record that a dead process left in a lane.
#[derive(Debug)]
pub(crate) struct Left {
    pub(crate) stamp: u64,
    pub(crate) body: Vec<u8>,
    pub(crate) lane: usize,
    /// The position behind it, and how many counted records were before that.
    pub(crate) next: u64,
    pub(crate) counted: u64,
    is_counted: bool,
}

/// Counters that are larger are damaged.
const COUNT_MAX: u64 = 1 << 48;

/// The records of one ring from a position on, and in how many places there were none between them.
pub(super) fn parse_ring(ring: &[u8], from: u64, key: u64, largest: usize) -> (Vec<Left>, u64) {
    if ring.is_empty() {
        return (Vec::new(), 0);
    }
    let at = (from % ring.len() as u64) as usize;
    let line = [&ring[at..], &ring[..at]].concat();
    let mut parse = Parse::new(&line, from, key, largest, End::Unknown);
    let left = parse.by_ref().map(|entry| Left {
        stamp: entry.stamp,
        body: line[entry.body].to_vec(),
        lane: 0,
        next: entry.next,
        counted: 0,
        is_counted: entry.is_counted,
    });
    (left.collect(), parse.gaps())
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::flight::parse::{fixed, sum};

    #[test]
    fn a_new_database_gets_what_is_in_a_ring_of_many_laps() {
        let header = Header {
            file_bytes: header::BYTES as u64 + 512,
            lanes: 1,
            lane_bytes: 512,
            definitions_at: header::BYTES as u64,
            definitions_bytes: 0,
            run: [7; 16],
            owner: Owner::current(),
            key: 0x5EED,
        };
        let mut bytes = header.encode();
        let [released, before, taken, complement] = header::lane_line(0);
        let position = 100 * 512 + 64;
        for (at, word) in [
            (released, header::checked_count(position)),
            (before, header::checked_count(1_000)),
            (taken, 1_001),
            (complement, !1_001),
        ] {
            bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        bytes.resize(header::BYTES + 64, 0);
        let tag = position ^ header.key;
        bytes.extend(tag.to_le_bytes());
        bytes.extend(fixed(tag, 5, 8, true, sum(b"the body")));
        bytes.extend(b"the body");
        bytes.resize(header.file_bytes as usize, 0);
        let image = Image::of(bytes).unwrap();
        let remains = image.records(&[]);
        assert_eq!((remains.records.len(), remains.damaged), (1, 0));
        assert_eq!(remains.records[0].body, b"the body");
        assert!(!image.is_empty());
    }
}
