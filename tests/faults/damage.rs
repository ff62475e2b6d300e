//! A damaged `telemetry.db` is set aside and a new one is begun. I/O errors set nothing aside.

use std::{
    collections::BTreeSet,
    fs,
    ops::Range,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use l0::{L0, Retention, TelemetryEvent, query::Reader};

use super::{
    foreign,
    ledger::{Numbered, RECORDED, compare, difference_of_counts, events_in},
    outages::writer_status,
    roles::{holds_within, poll, role, run, text},
    vfs::{self, Fault, Operation},
};

const TEST: &str = "damage::child_process";
pub const PAGE_BYTES: u64 = 4096;
/// The smallest cap. Its page cache is small, too, so SQLite soon reads damaged pages.
const SMALL: u64 = 8 << 20;
/// The default cap. The pages of a small store stay in the page cache, so SQLite reads no damaged page.
const LARGE: u64 = 256 << 20;
pub const BATCH: u64 = 20;
const SET_ASIDE_WITHIN: Duration = Duration::from_secs(5);
pub const REPORTED_WITHIN: Duration = Duration::from_secs(3);
pub const ENDS_WITHIN: Duration = Duration::from_secs(5);
const AWAY_FOR: Duration = Duration::from_secs(1);

/// Starts a store that commits only on a flush or under pressure.
fn start_with_cap(store: &Path, max_bytes: u64) -> l0::Result<L0> {
    l0::builder()
        .dir(store)
        .filter("off")
        .commit_every(Duration::from_secs(3600))
        .retention(Retention::default().max_bytes(max_bytes))
        .start()
}

pub fn start(store: &Path) -> l0::Result<L0> {
    start_with_cap(store, SMALL)
}

pub fn record(l0: &L0, numbers: Range<u64>) {
    for number in numbers {
        l0.record(TelemetryEvent::new(RECORDED).payload(&Numbered { number }));
    }
}

/// Records about `bytes` of other events, in several commits.
fn fill(l0: &L0, bytes: usize) {
    let message = "fill ".repeat(800);
    for number in 0..bytes / message.len() {
        l0.record(TelemetryEvent::new("faults.fill").message(message.as_str()));
        if number % 50 == 49 {
            l0.flush().unwrap();
        }
    }
    l0.flush().unwrap();
}

/// A store of about `bytes` that was shut down.
pub fn at_rest(bytes: usize) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let l0 = start(dir.path()).unwrap();
    fill(&l0, bytes);
    l0.shutdown(ENDS_WITHIN).unwrap();
    dir
}

pub fn database(store: &Path) -> PathBuf {
    store.join("telemetry.db")
}

pub fn length(file: &Path) -> u64 {
    fs::metadata(file).unwrap().len()
}

/// The files in a store's directory whose names begin with `prefix`.
pub fn files_named(store: &Path, prefix: &str) -> Vec<String> {
    let names = fs::read_dir(store).unwrap().flatten().map(|entry| entry.file_name().into_string().unwrap());
    names.filter(|name| name.starts_with(prefix)).collect()
}

/// The databases that were set aside.
fn set_aside(store: &Path) -> Vec<String> {
    let files = files_named(store, "telemetry.damaged-");
    files.into_iter().filter(|name| name.ends_with(".db")).collect()
}

/// What a test expects of a damaged database.
struct Expected {
    /// The first commit after the damage finds it, so nothing is committed into the damaged file.
    at_once: bool,
    /// There was a WAL with content beside it.
    has_wal: bool,
    /// The cap of the store.
    max_bytes: u64,
}

/// Records until the database is set aside, and checks everything that follows from that.
fn is_set_aside(l0: L0, store: &Path, expected: &Expected) {
    let mut problems = Vec::new();
    let (mut next, mut acknowledged) = (0, 0);
    let found = poll(SET_ASIDE_WITHIN, || {
        record(&l0, next..next + BATCH);
        next += BATCH;
        let outcome = l0.flush();
        let found = set_aside(store).first().cloned();
        if outcome.is_ok() && found.is_none() && !expected.at_once {
            // Committed into the damaged file before l0 found the damage.
            acknowledged = next;
        }
        found
    });
    let Some(name) = found else {
        let stats = l0.stats();
        panic!(
            "nothing is set aside {SET_ASIDE_WITHIN:?} after the damage: recorded {}, stored {}, shed {}, last_error {:?}, \
             l0.writer {:?}, readable: {:?}",
            stats.recorded,
            stats.stored,
            stats.shed,
            stats.last_error,
            writer_status(&l0),
            events_in(store, RECORDED).map(|events| events.len()),
        );
    };
    record(&l0, next..next + BATCH);
    next += BATCH;
    if !holds_within(ENDS_WITHIN, || l0.flush().is_ok()) {
        problems.push(format!("flush: {:?}", l0.stats().last_error));
    }
    problems.extend(compare("events in the new database", &(acknowledged..next).collect(), events_in(store, RECORDED)));
    if expected.has_wal && !store.join(format!("{name}-wal")).exists() {
        problems.push(format!("the WAL is not beside {name}: {:?}", files_named(store, "telemetry")));
    }
    let why = || writer_status(&l0).and_then(|status| Some(status.why()?.to_owned()));
    if !holds_within(REPORTED_WITHIN, || why().is_some_and(|why| why.contains(&name))) {
        problems.push(format!("l0.writer does not name {name}: {:?}", writer_status(&l0)));
    }
    let is_reported = |messages: &[String]| messages.len() == 1 && messages[0].contains(&name);
    let critical = || l0.flush().and_then(|()| critical_messages(store));
    if !holds_within(REPORTED_WITHIN, || critical().is_ok_and(|messages| is_reported(&messages))) {
        problems.push(format!("not one critical event that names {name}: {:?}", critical()));
    }
    problems.extend(difference_of_counts(&l0, ENDS_WITHIN));
    if let Err(error) = l0.shutdown(ENDS_WITHIN) {
        problems.push(format!("shutdown: {error}"));
    }
    problems.extend(problem_of_a_later_start(store, next).err().map(|error| format!("a later start: {error}")));
    if set_aside(store) != [name] {
        problems.push(format!("set aside: {:?}", set_aside(store)));
    }
    assert!(problems.is_empty(), "{problems:#?}");
}

fn problem_of_a_later_start(store: &Path, next: u64) -> l0::Result<()> {
    let l0 = start(store)?;
    record(&l0, next..next + 1);
    l0.flush()?;
    let found = events_in(store, RECORDED)?;
    assert!(found.contains(&next) && found.contains(&(next - 1)), "{} events", found.len());
    l0.shutdown(ENDS_WITHIN)
}

fn critical_messages(store: &Path) -> l0::Result<Vec<String>> {
    let sql = "SELECT message FROM telemetry_events WHERE severity = 'critical'";
    let table = Reader::open(store)?.sql(sql, &[])?;
    Ok(table.rows.iter().map(|row| row[0].to_string()).collect())
}

/// Starts a store, fills it, damages it, and expects it to be set aside.
fn a_living_store_is_set_aside(bytes: usize, expected: &Expected, damage: impl FnOnce(&Path)) {
    let dir = tempfile::tempdir().unwrap();
    let l0 = start_with_cap(dir.path(), expected.max_bytes).unwrap();
    fill(&l0, bytes);
    damage(dir.path());
    is_set_aside(l0, dir.path(), expected);
}

#[test]
fn a_living_database_that_is_truncated_is_set_aside() {
    let expected = Expected { at_once: true, has_wal: true, max_bytes: LARGE };
    // More than the WAL takes before it is copied into the database: what is only in the WAL cannot be cut off.
    a_living_store_is_set_aside(8 << 20, &expected, |store| foreign::truncate(&database(store), 2 * PAGE_BYTES));
}

#[test]
fn a_living_database_that_is_truncated_at_its_cap_is_set_aside() {
    let expected = Expected { at_once: true, has_wal: true, max_bytes: SMALL };
    a_living_store_is_set_aside(12 << 20, &expected, |store| foreign::truncate(&database(store), 2 * PAGE_BYTES));
}

#[test]
fn a_living_database_that_is_overwritten_behind_its_first_quarter_is_set_aside() {
    let expected = Expected { at_once: false, has_wal: false, max_bytes: SMALL };
    a_living_store_is_set_aside(4 << 20, &expected, |store| {
        let file = database(store);
        // Without this the damaged pages are in the WAL, too, and nobody reads them from the file.
        foreign::checkpoint(&file);
        let pages = length(&file) / PAGE_BYTES;
        foreign::overwrite(&file, pages / 4 * PAGE_BYTES..pages * PAGE_BYTES);
    });
}

#[test]
fn a_database_that_was_overwritten_behind_its_first_page_is_set_aside_at_the_start() {
    let dir = at_rest(1 << 20);
    let file = database(dir.path());
    foreign::overwrite(&file, PAGE_BYTES..length(&file));
    let l0 = start(dir.path()).unwrap();
    is_set_aside(l0, dir.path(), &Expected { at_once: true, has_wal: false, max_bytes: SMALL });
}

#[test]
fn a_database_that_was_truncated_is_set_aside_at_the_start() {
    let dir = at_rest(1 << 20);
    foreign::truncate(&database(dir.path()), 2 * PAGE_BYTES);
    let l0 = start(dir.path()).unwrap();
    is_set_aside(l0, dir.path(), &Expected { at_once: true, has_wal: false, max_bytes: SMALL });
}

#[test]
fn a_file_of_garbage_is_set_aside_at_the_start() {
    for garbage in ["garbage\n".to_owned(), "garbage\n".repeat(8_192)] {
        let dir = tempfile::tempdir().unwrap();
        fs::write(database(dir.path()), &garbage).unwrap();
        let l0 = start(dir.path()).unwrap();
        is_set_aside(l0, dir.path(), &Expected { at_once: true, has_wal: false, max_bytes: SMALL });
        let kept = dir.path().join(&set_aside(dir.path())[0]);
        assert_eq!(fs::read_to_string(kept).unwrap(), garbage, "it is kept as it was");
    }
}

#[test]
fn an_empty_file_is_a_new_database() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(database(dir.path()), "").unwrap();
    let l0 = start(dir.path()).unwrap();
    record(&l0, 0..BATCH);
    l0.flush().unwrap();
    assert_eq!(events_in(dir.path(), RECORDED).unwrap().len() as u64, BATCH);
    assert_eq!((set_aside(dir.path()), critical_messages(dir.path()).unwrap()), (vec![], vec![]));
}

#[test]
fn a_database_of_another_program_is_refused_and_stays() {
    let dir = tempfile::tempdir().unwrap();
    rusqlite::Connection::open(database(dir.path())).unwrap().execute_batch("CREATE TABLE x (y)").unwrap();
    let before = fs::read(database(dir.path())).unwrap();
    assert!(start(dir.path()).unwrap_err().to_string().contains("another program"));
    assert_eq!((fs::read(database(dir.path())).unwrap(), set_aside(dir.path())), (before, vec![]));
}

/// The child: I/O errors, while it records and while it starts.
#[test]
fn child_process() {
    let Some(role) = role() else { return };
    let store = Path::new(&role[0]);
    vfs::install();
    let l0 = start(store).unwrap();
    fill(&l0, 2 << 20);
    let mut next = 0;
    let mut errors = Vec::new();
    for operation in Operation::ALL {
        vfs::set(["telemetry.db", "-wal"].map(|file| Fault::fails(file, operation, operation.io_error())).into());
        let started = Instant::now();
        while started.elapsed() < AWAY_FOR {
            record(&l0, next..next + 1);
            next += 1;
            errors.extend(l0.flush().err());
            errors.extend(start(store).and_then(|second| second.shutdown(ENDS_WITHIN)).err());
            errors.extend(Reader::open(store).err());
            std::thread::sleep(Duration::from_millis(20));
        }
        vfs::set(Vec::new());
        assert!(holds_within(ENDS_WITHIN, || l0.flush().is_ok()), "{operation:?}: {:?}", l0.stats().last_error);
    }
    assert!(vfs::hits() > 0 && !errors.is_empty());
    let expected: BTreeSet<u64> = (0..next).collect();
    let mut problems: Vec<String> = compare("events", &expected, events_in(store, RECORDED)).into_iter().collect();
    let texts: BTreeSet<String> = errors.iter().map(ToString::to_string).collect();
    problems.extend(texts.into_iter().filter(|text| text.contains("malformed") || text.contains("move it away")));
    if !set_aside(store).is_empty() {
        problems.push(format!("set aside: {:?}", set_aside(store)));
    }
    assert!(problems.is_empty(), "{problems:#?}");
}

#[test]
fn io_errors_set_nothing_aside() {
    let dir = tempfile::tempdir().unwrap();
    run(TEST, &[text(&dir.path().join("store"))]);
}
