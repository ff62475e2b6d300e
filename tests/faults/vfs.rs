//! A VFS for SQLite that fails or delays single operations on single files.
//!
//! It forwards everything to the VFS that was the default before. It becomes the default of the whole process, so it is
//! installed only in child processes.
#![allow(unsafe_code)]

use std::{
    ffi::{CStr, c_int, c_void},
    ptr,
    sync::{
        Mutex, Once,
        atomic::{AtomicPtr, AtomicU64, Ordering},
    },
    time::Duration,
};

use rusqlite::ffi::{self, sqlite3_file, sqlite3_io_methods, sqlite3_vfs};

/// What is done to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Open,
    Read,
    Write,
    Sync,
    Truncate,
    Lock,
}

impl Operation {
    pub const ALL: [Self; 6] = [Self::Open, Self::Read, Self::Write, Self::Sync, Self::Truncate, Self::Lock];

    /// The error that a failing device causes.
    pub fn io_error(self) -> c_int {
        match self {
            Self::Open => ffi::SQLITE_CANTOPEN,
            Self::Read => ffi::SQLITE_IOERR_READ,
            Self::Write => ffi::SQLITE_IOERR_WRITE,
            Self::Sync => ffi::SQLITE_IOERR_FSYNC,
            Self::Truncate => ffi::SQLITE_IOERR_TRUNCATE,
            Self::Lock => ffi::SQLITE_IOERR_LOCK,
        }
    }
}

/// What happens instead of the operation, or before it.
#[derive(Clone, Copy, Debug)]
pub enum Effect {
    /// The operation fails with this result code.
    Fail(c_int),
    /// The operation waits this long, then it is done.
    Delay(Duration),
}

/// A fault of one operation on the files whose names end in `suffix`.
#[derive(Clone, Debug)]
pub struct Fault {
    pub suffix: &'static str,
    pub operation: Operation,
    pub effect: Effect,
}

impl Fault {
    pub fn fails(suffix: &'static str, operation: Operation, code: c_int) -> Self {
        Self { suffix, operation, effect: Effect::Fail(code) }
    }

    pub fn delays(suffix: &'static str, operation: Operation, delay: Duration) -> Self {
        Self { suffix, operation, effect: Effect::Delay(delay) }
    }
}

static FAULTS: Mutex<Vec<Fault>> = Mutex::new(Vec::new());
static HITS: AtomicU64 = AtomicU64::new(0);
static REAL: AtomicPtr<sqlite3_vfs> = AtomicPtr::new(ptr::null_mut());

/// Replaces the faults that are in force.
pub fn set(faults: Vec<Fault>) {
    *FAULTS.lock().unwrap() = faults;
}

/// How many operations were failed or delayed so far.
pub fn hits() -> u64 {
    HITS.load(Ordering::Relaxed)
}

/// Makes this VFS the default of the process.
pub fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: SQLite returns its default VFS, which lives as long as the process. The copy has its function pointers
        // and its application data, so that its methods work for both. The copy is leaked, as registration needs.
        unsafe {
            assert_eq!(ffi::sqlite3_initialize(), ffi::SQLITE_OK);
            let real = ffi::sqlite3_vfs_find(ptr::null());
            assert!(!real.is_null());
            REAL.store(real, Ordering::Release);
            let mut shim = Box::new(ptr::read(real));
            shim.zName = c"l0-faults".as_ptr();
            shim.pNext = ptr::null_mut();
            shim.szOsFile = size_of::<ShimFile>() as c_int + (*real).szOsFile;
            shim.xOpen = Some(open);
            assert_eq!(ffi::sqlite3_vfs_register(Box::leak(shim), 1), ffi::SQLITE_OK);
        }
    });
}

/// Applies the faults of an operation: waits, and returns the code with which it fails, or `SQLITE_OK`.
fn apply_faults(name: &str, operation: Operation) -> c_int {
    let faults = FAULTS.lock().unwrap();
    let matching: Vec<Effect> = faults
        .iter()
        .filter(|fault| fault.operation == operation && name.ends_with(fault.suffix))
        .map(|fault| fault.effect)
        .collect();
    drop(faults);
    for effect in matching {
        HITS.fetch_add(1, Ordering::Relaxed);
        match effect {
            Effect::Fail(code) => return code,
            Effect::Delay(delay) => std::thread::sleep(delay),
        }
    }
    ffi::SQLITE_OK
}

/// What SQLite holds as a file; the real VFS's own follows it in memory.
#[repr(C)]
struct ShimFile {
    base: sqlite3_file,
    real: *mut sqlite3_file,
    name: Box<str>,
}

static METHODS: sqlite3_io_methods = sqlite3_io_methods {
    // Without version 3 SQLite reads with `xRead` and never from a memory map.
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};

unsafe extern "C" fn open(
    _vfs: *mut sqlite3_vfs,
    name: *const std::ffi::c_char,
    file: *mut sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    // SAFETY: SQLite passes room of `szOsFile` bytes, aligned to 8, and a name that is null or a C string.
    unsafe {
        (*file).pMethods = ptr::null();
        let text = if name.is_null() { "".into() } else { CStr::from_ptr(name).to_string_lossy() };
        let code = apply_faults(&text, Operation::Open);
        if code != ffi::SQLITE_OK {
            return code;
        }
        let shim = file.cast::<ShimFile>();
        let real = shim.add(1).cast::<sqlite3_file>();
        let vfs = REAL.load(Ordering::Acquire);
        let code = ((*vfs).xOpen.expect("each VFS opens files"))(vfs, name, real, flags, out_flags);
        if code == ffi::SQLITE_OK {
            let base = sqlite3_file { pMethods: &raw const METHODS };
            ptr::write(shim, ShimFile { base, real, name: text.into() });
        } else if let Some(methods) = (*real).pMethods.as_ref() {
            methods.xClose.map(|close| close(real));
        }
        code
    }
}

/// Calls the method of the real file, after the faults of the operation, if one is named.
macro_rules! forward {
    ($file:ident . $method:ident ($($argument:expr),*) $(, $operation:expr)?) => {{
        // SAFETY: SQLite calls the methods with files that `open` has filled, until `close`.
        let shim = unsafe { &*$file.cast::<ShimFile>() };
        $(
            let code = apply_faults(&shim.name, $operation);
            if code != ffi::SQLITE_OK {
                return code;
            }
        )?
        // SAFETY: the real VFS has filled its part; versions of its methods up to 2 are there in every default VFS.
        unsafe { ((*(*shim.real).pMethods).$method.expect("a method of a default VFS"))(shim.real $(, $argument)*) }
    }};
}

unsafe extern "C" fn close(file: *mut sqlite3_file) -> c_int {
    let code = forward!(file.xClose());
    // SAFETY: `open` wrote the value, and SQLite does not use the file after this.
    unsafe { ptr::drop_in_place(file.cast::<ShimFile>()) };
    code
}

unsafe extern "C" fn read(file: *mut sqlite3_file, to: *mut c_void, bytes: c_int, at: i64) -> c_int {
    forward!(file.xRead(to, bytes, at), Operation::Read)
}

unsafe extern "C" fn write(file: *mut sqlite3_file, from: *const c_void, bytes: c_int, at: i64) -> c_int {
    forward!(file.xWrite(from, bytes, at), Operation::Write)
}

unsafe extern "C" fn truncate(file: *mut sqlite3_file, bytes: i64) -> c_int {
    forward!(file.xTruncate(bytes), Operation::Truncate)
}

unsafe extern "C" fn sync(file: *mut sqlite3_file, flags: c_int) -> c_int {
    forward!(file.xSync(flags), Operation::Sync)
}

unsafe extern "C" fn file_size(file: *mut sqlite3_file, bytes: *mut i64) -> c_int {
    forward!(file.xFileSize(bytes))
}

unsafe extern "C" fn lock(file: *mut sqlite3_file, level: c_int) -> c_int {
    forward!(file.xLock(level), Operation::Lock)
}

unsafe extern "C" fn unlock(file: *mut sqlite3_file, level: c_int) -> c_int {
    forward!(file.xUnlock(level))
}

unsafe extern "C" fn check_reserved_lock(file: *mut sqlite3_file, is_held: *mut c_int) -> c_int {
    forward!(file.xCheckReservedLock(is_held))
}

unsafe extern "C" fn file_control(file: *mut sqlite3_file, operation: c_int, argument: *mut c_void) -> c_int {
    forward!(file.xFileControl(operation, argument))
}

unsafe extern "C" fn sector_size(file: *mut sqlite3_file) -> c_int {
    forward!(file.xSectorSize())
}

unsafe extern "C" fn device_characteristics(file: *mut sqlite3_file) -> c_int {
    forward!(file.xDeviceCharacteristics())
}

unsafe extern "C" fn shm_map(
    file: *mut sqlite3_file,
    page: c_int,
    page_bytes: c_int,
    extend: c_int,
    to: *mut *mut c_void,
) -> c_int {
    forward!(file.xShmMap(page, page_bytes, extend, to))
}

unsafe extern "C" fn shm_lock(file: *mut sqlite3_file, offset: c_int, count: c_int, flags: c_int) -> c_int {
    // To give a lock back never fails.
    if flags & ffi::SQLITE_SHM_UNLOCK != 0 {
        return forward!(file.xShmLock(offset, count, flags));
    }
    forward!(file.xShmLock(offset, count, flags), Operation::Lock)
}

unsafe extern "C" fn shm_barrier(file: *mut sqlite3_file) {
    forward!(file.xShmBarrier());
}

unsafe extern "C" fn shm_unmap(file: *mut sqlite3_file, delete: c_int) -> c_int {
    forward!(file.xShmUnmap(delete))
}

mod tests {
    use std::time::Instant;

    use rusqlite::{Connection, ErrorCode};

    use super::*;
    use crate::roles::{role, run, text};

    #[test]
    fn child_process() {
        let Some(role) = role() else { return };
        install();
        let path = std::path::Path::new(&role[0]).join("shim.db");
        let open = || {
            let database = Connection::open(&path)?;
            database.execute_batch(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; CREATE TABLE IF NOT EXISTS t (x)",
            )?;
            Ok::<_, rusqlite::Error>(database)
        };
        let database = open().unwrap();
        let insert = || database.execute("INSERT INTO t VALUES (randomblob(5000))", []);
        let checkpoint = || database.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        let code =
            |outcome: Result<_, rusqlite::Error>| outcome.map(|_: ()| ()).unwrap_err().sqlite_error_code().unwrap();
        for operation in Operation::ALL {
            let suffix =
                if operation == Operation::Lock || operation == Operation::Open { "shim.db" } else { "shim.db-wal" };
            let before = hits();
            insert().unwrap();
            set(vec![Fault::fails(suffix, operation, operation.io_error())]);
            let found = match operation {
                Operation::Open => code(open().map(drop)),
                Operation::Read | Operation::Truncate => code(checkpoint()),
                _ => code(insert().map(drop)),
            };
            let expected =
                if operation == Operation::Open { ErrorCode::CannotOpen } else { ErrorCode::SystemIoFailure };
            assert_eq!(found, expected, "{operation:?}");
            assert!(hits() > before);
            set(vec![]);
            insert().unwrap();
            checkpoint().unwrap();
        }
        set(vec![Fault::fails("other.db-wal", Operation::Write, ffi::SQLITE_FULL)]);
        insert().unwrap();
        set(vec![Fault::fails("-wal", Operation::Write, ffi::SQLITE_FULL)]);
        assert_eq!(code(insert().map(drop)), ErrorCode::DiskFull);
        let delay = Duration::from_millis(30);
        set(vec![Fault::delays("-wal", Operation::Sync, delay)]);
        let started = Instant::now();
        insert().unwrap();
        assert!(started.elapsed() >= delay);
    }

    #[test]
    fn the_shim_fails_and_delays_only_the_configured_operations() {
        let dir = tempfile::tempdir().unwrap();
        run("vfs::tests::child_process", &[text(dir.path())]);
    }
}
