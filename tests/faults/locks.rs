//! Nothing that was acknowledged is lost when SQLite's locks are cancelled or its WAL is removed.
//!
//! SQLite protects its WAL by POSIX locks, which any `close` of the file in the same process cancels. Another program then
//! believes that its connection is the last one and deletes the WAL. Each test makes one call or meets one such cause in
//! a child process, lets another process open and close the databases, goes on, and ends the child with SIGKILL.
#![allow(unsafe_code)]

use std::{
    ffi::{CStr, CString, c_char, c_int, c_void},
    fs::{self, File},
    path::{Path, PathBuf},
    time::Duration,
};

use l0::{L0, Retention, TelemetryEvent, query::Reader};

use super::{
    foreign,
    ledger::{AUDITED, Ledger, Numbered, RECORDED},
    roles::{Child, commands, poll, reply, role, rounds, text},
};

const TEST: &str = "locks::child_process";
/// How many events, audits and jobs one step of the child makes.
const BATCH: usize = 5;
/// Within this time all calls succeed again after files were removed.
const HEALS_WITHIN: Duration = Duration::from_secs(5);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// The child: records, audits and enqueues, and makes the calls that its parent names.
#[test]
fn child_process() {
    let Some(role) = role() else { return };
    let store = PathBuf::from(&role[0]);
    let l0 = l0::builder().dir(&store).filter("off").start().unwrap();
    let mut number = 0;
    for command in commands() {
        match command.split(' ').collect::<Vec<_>>()[..] {
            ["work"] => reply(&serde_json::to_string(&work(&l0, &mut number)).unwrap()),
            ["record"] => {
                let mut ledger = Ledger::default();
                record(&l0, &mut number, &mut ledger);
                reply(&serde_json::to_string(&ledger).unwrap());
            }
            ["call", name] => {
                reply(&call(&l0, &store, name).map_or_else(|error| format!("error: {error}"), |()| "ok".into()))
            }
            ["read", name] => reply(&format!("{} bytes", fs::read(store.join(name)).unwrap().len())),
            ["open", name] => reply(&format!("{:?}", File::options().read(true).write(true).open(store.join(name)))),
            ["backup"] => {
                let files = fs::read_dir(&store).unwrap().flatten().filter(|file| file.path().is_file());
                reply(&format!("{} bytes", files.map(|file| fs::read(file.path()).unwrap().len()).sum::<usize>()));
            }
            ["second", "library"] => reply(&second_library(&store)),
            _ => panic!("{command}"),
        }
    }
}

fn record(l0: &L0, number: &mut u64, ledger: &mut Ledger) {
    for _ in 0..BATCH {
        *number += 1;
        l0.record(TelemetryEvent::new(RECORDED).payload(&Numbered { number: *number }));
        ledger.events.insert(*number);
    }
}

fn work(l0: &L0, number: &mut u64) -> Ledger {
    let mut ledger = Ledger::default();
    for _ in 0..BATCH {
        *number += 1;
        match l0.audit(TelemetryEvent::new(AUDITED).payload(&Numbered { number: *number })) {
            Ok(()) => _ = ledger.audits.insert(*number),
            Err(error) => ledger.errors.push(format!("audit: {error}")),
        }
        *number += 1;
        match l0.jobs().enqueue(Numbered { number: *number }) {
            Ok(_) => _ = ledger.jobs.insert(*number),
            Err(error) => ledger.errors.push(format!("enqueue: {error}")),
        }
    }
    record(l0, number, &mut ledger);
    if let Err(error) = l0.flush() {
        // Recorded events are in the flight recorder: the next start brings them in.
        ledger.errors.push(format!("flush: {error}"));
    }
    ledger
}

fn call(l0: &L0, store: &Path, name: &str) -> l0::Result<()> {
    match name {
        "audit" => l0.audit(TelemetryEvent::new("faults.other")),
        "status" => {
            l0.status();
            Ok(())
        }
        "jobs.stats" => l0.jobs().stats().map(drop),
        "jobs.list" => l0.jobs().list().fetch().map(drop),
        "jobs.schedules" => l0.jobs().schedules().map(drop),
        "start" => {
            let second = l0::builder().dir(store).filter("off").start()?;
            second.record(TelemetryEvent::new("faults.other"));
            second.shutdown(Duration::from_secs(10))
        }
        "recover" => l0::recover(store).map(drop),
        "inspect" => l0::inspect(store).map(drop),
        "copy" => {
            let copy = tempfile::tempdir().unwrap();
            l0::copy(store, copy.path().join("copy"), true)
        }
        "check" => l0.check().map(drop),
        "cleanup" => l0::cleanup(store, &Retention::default().max_age(DAY), false).map(drop),
        "compact" => l0::compact(store).map(drop),
        "reader" => {
            let reader = Reader::open(store)?;
            reader.events().count()?;
            reader.check().map(drop)
        }
        "health" => {
            let health = l0.health();
            ["l0.writer", "l0.state", "l0.reader", "l0.jobs"]
                .iter()
                .try_for_each(|name| health.check_now(name).map(drop))
        }
        _ => panic!("{name}"),
    }
}

type Open = unsafe extern "C" fn(*const c_char, *mut *mut c_void) -> c_int;
type Exec = unsafe extern "C" fn(*mut c_void, *const c_char, *const c_void, *const c_void, *mut *mut c_char) -> c_int;
type Close = unsafe extern "C" fn(*mut c_void) -> c_int;

/// Opens, reads and closes both databases with the system's SQLite, which knows nothing of the program's own.
fn second_library(store: &Path) -> String {
    let names = [c"libsqlite3.so.0", c"libsqlite3.so", c"libsqlite3.dylib"];
    // SAFETY: loading a library by its name; SQLite's has no initialization that could do harm.
    let load = |name: &&CStr| {
        Some(unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW) }).filter(|library| !library.is_null())
    };
    let Some(library) = names.iter().find_map(load) else {
        return "skipped: the system has no libsqlite3".to_owned();
    };
    let symbol = |name: &CStr| {
        // SAFETY: the library is loaded and stays so.
        let symbol = unsafe { libc::dlsym(library, name.as_ptr()) };
        assert!(!symbol.is_null(), "{name:?}");
        symbol
    };
    // SAFETY: the types are those of SQLite's C interface.
    let (open, exec, close) = unsafe {
        (
            std::mem::transmute::<*mut c_void, Open>(symbol(c"sqlite3_open")),
            std::mem::transmute::<*mut c_void, Exec>(symbol(c"sqlite3_exec")),
            std::mem::transmute::<*mut c_void, Close>(symbol(c"sqlite3_close")),
        )
    };
    for name in ["telemetry.db", "state.db"] {
        let path = CString::new(text(&store.join(name))).unwrap();
        let mut database = std::ptr::null_mut();
        let sql = c"SELECT count(*) FROM sqlite_schema";
        // SAFETY: as the C interface wants it: the strings live through the calls, null stands for what is not wanted.
        let codes = unsafe {
            [
                open(path.as_ptr(), &raw mut database),
                exec(database, sql.as_ptr(), std::ptr::null(), std::ptr::null(), std::ptr::null_mut()),
                close(database),
            ]
        };
        if codes != [0; 3] {
            return format!("error: {name}: {codes:?}");
        }
    }
    "ok".to_owned()
}

/// The child with its ledger.
struct Recorder {
    dir: tempfile::TempDir,
    child: Child,
    ledger: Ledger,
}

impl Recorder {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let child = Child::start(TEST, &[text(&dir.path().join("store"))]);
        Self { dir, child, ledger: Ledger::default() }
    }

    fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    /// Has the child work; returns the calls that failed.
    fn work(&mut self) -> Vec<String> {
        self.acknowledge("work")
    }

    fn acknowledge(&mut self, command: &str) -> Vec<String> {
        let mut ledger: Ledger = serde_json::from_str(&self.child.ask(command)).unwrap();
        let errors = std::mem::take(&mut ledger.errors);
        self.ledger.add(ledger);
        errors
    }

    /// Files of the store that the child has open though they are deleted.
    fn deleted_files(&self) -> Vec<String> {
        let links = fs::read_dir(format!("/proc/{}/fd", self.child.pid())).into_iter().flatten().flatten();
        let targets = links.filter_map(|link| fs::read_link(link.path()).ok());
        let names = targets.filter_map(|target| Some(target.file_name()?.to_str()?.to_owned()));
        names.filter(|name| name.contains(".db") && name.ends_with("(deleted)")).collect()
    }

    /// Kills the child and compares the recovered store with what was acknowledged.
    fn kill_and_check(mut self, cause: &str) {
        let errors = self.acknowledge("record");
        assert!(errors.is_empty());
        let (deleted, store) = (self.deleted_files(), self.store());
        self.child.kill();
        let recovered = l0::recover(&store);
        let differences = self.ledger.differences(&store);
        assert!(
            recovered.is_ok() && differences.is_empty(),
            "after {cause}: {differences:#?}\nrecovery: {recovered:?}\nopen but deleted when it was killed: {deleted:?}"
        );
    }
}

/// Sends a command to the child, lets another process visit, has the child work, and kills it.
fn nothing_is_lost_after(command: &str) {
    let mut recorder = Recorder::start();
    assert_eq!(recorder.work(), [""; 0]);
    for _ in 0..rounds(1, 10) {
        let answer = recorder.child.ask(command);
        if answer.starts_with("skipped") {
            println!("{command}: {answer}");
            return;
        }
        assert!(!answer.contains("rror"), "{command}: {answer}");
        for _ in 0..2 {
            foreign::visit(&recorder.store());
            assert_eq!(recorder.work(), [""; 0], "after {command} and a visit");
        }
    }
    recorder.kill_and_check(command);
}

macro_rules! causes {
    ($($name:ident: $command:literal,)*) => {
        $(
            #[test]
            fn $name() {
                nothing_is_lost_after($command);
            }
        )*
    };
}

causes! {
    nothing_is_lost_after_an_audit: "call audit",
    nothing_is_lost_after_status: "call status",
    nothing_is_lost_after_job_stats: "call jobs.stats",
    nothing_is_lost_after_a_list_of_jobs: "call jobs.list",
    nothing_is_lost_after_schedules: "call jobs.schedules",
    nothing_is_lost_after_a_second_start: "call start",
    nothing_is_lost_after_recover: "call recover",
    nothing_is_lost_after_inspect: "call inspect",
    nothing_is_lost_after_copy: "call copy",
    nothing_is_lost_after_check: "call check",
    nothing_is_lost_after_cleanup: "call cleanup",
    nothing_is_lost_after_compact: "call compact",
    nothing_is_lost_after_a_reader: "call reader",
    nothing_is_lost_after_health_checks: "call health",
    nothing_is_lost_after_the_program_reads_telemetry_db: "read telemetry.db",
    nothing_is_lost_after_the_program_reads_state_db: "read state.db",
    nothing_is_lost_after_the_program_reads_the_wal_of_telemetry_db: "read telemetry.db-wal",
    nothing_is_lost_after_the_program_reads_the_wal_of_state_db: "read state.db-wal",
    nothing_is_lost_after_the_program_reads_the_shm_of_telemetry_db: "read telemetry.db-shm",
    nothing_is_lost_after_the_program_reads_the_shm_of_state_db: "read state.db-shm",
    nothing_is_lost_after_the_program_opens_and_closes_telemetry_db: "open telemetry.db",
    nothing_is_lost_after_the_program_opens_and_closes_state_db: "open state.db",
    nothing_is_lost_after_the_program_opens_and_closes_the_shm_of_telemetry_db: "open telemetry.db-shm",
    nothing_is_lost_after_the_program_opens_and_closes_the_shm_of_state_db: "open state.db-shm",
    nothing_is_lost_after_the_program_reads_every_file: "backup",
    nothing_is_lost_beside_a_second_sqlite_library: "second library",
}

/// Calls may fail after files were removed, but what is acknowledged is there, and calls succeed again soon.
fn nothing_acknowledged_is_lost_after_removing(names: &[&str], is_visited: bool) {
    let mut recorder = Recorder::start();
    assert_eq!(recorder.work(), [""; 0]);
    for round in 0..rounds(1, 10) {
        for name in names {
            let removed = fs::remove_file(recorder.store().join(name));
            assert!(round > 0 || removed.is_ok(), "{name}: {removed:?}");
        }
        if is_visited {
            foreign::visit(&recorder.store());
        }
        let mut errors = Vec::new();
        let heals = poll(HEALS_WITHIN, || {
            errors = recorder.work();
            errors.is_empty().then_some(())
        });
        assert!(heals.is_some(), "calls still fail after {HEALS_WITHIN:?}: {errors:#?}");
        assert_eq!(recorder.work(), [""; 0]);
    }
    recorder.kill_and_check(&format!("the removal of {names:?}"));
}

#[test]
fn nothing_acknowledged_is_lost_when_the_wal_of_telemetry_db_is_removed() {
    nothing_acknowledged_is_lost_after_removing(&["telemetry.db-wal"], false);
}

#[test]
fn nothing_acknowledged_is_lost_when_the_wal_of_state_db_is_removed() {
    nothing_acknowledged_is_lost_after_removing(&["state.db-wal"], false);
}

#[test]
fn nothing_acknowledged_is_lost_when_both_files_beside_telemetry_db_are_removed() {
    nothing_acknowledged_is_lost_after_removing(&["telemetry.db-wal", "telemetry.db-shm"], true);
}

#[test]
fn nothing_acknowledged_is_lost_when_both_files_beside_state_db_are_removed() {
    nothing_acknowledged_is_lost_after_removing(&["state.db-wal", "state.db-shm"], true);
}

#[test]
fn nothing_acknowledged_is_lost_when_the_shm_of_telemetry_db_is_removed() {
    nothing_acknowledged_is_lost_after_removing(&["telemetry.db-shm"], true);
}

#[test]
fn nothing_acknowledged_is_lost_when_the_shm_of_state_db_is_removed() {
    nothing_acknowledged_is_lost_after_removing(&["state.db-shm"], true);
}
