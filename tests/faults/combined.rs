//! Faults in combination: a removed log while a reader holds it, databases that are cut, damage in a long backlog.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    time::Duration,
};

use l0::{L0, Retention, TelemetryEvent, health::Status, query::Reader};

use super::{foreign, roles::holds_within};

const SOON: Duration = Duration::from_secs(10);
const PAGE_BYTES: u64 = 4_096;

fn start(dir: &Path) -> l0::Result<L0> {
    let retention = Retention::default().max_bytes(512 << 20);
    l0::builder().dir(dir).filter("off").commit_every(Duration::from_secs(3600)).retention(retention).start()
}

/// Another process that has a read transaction open until it is told to end.
struct ForeignReader {
    child: Child,
    input: ChildStdin,
}

impl ForeignReader {
    fn of(database: &Path) -> Self {
        let mut child =
            Command::new("sqlite3").arg(database).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        writeln!(input, "BEGIN; SELECT count(*) FROM sqlite_schema;").unwrap();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
        Self { child, input }
    }

    fn end(mut self) {
        drop(self.input);
        self.child.wait().unwrap();
    }
}

#[test]
fn a_removed_log_that_a_reader_holds_is_copied_when_the_reader_ends() {
    let dir = tempfile::tempdir().unwrap();
    let l0 = start(dir.path()).unwrap();
    let audit = |number: u64| l0.audit(TelemetryEvent::new("audited").payload(&number));
    let record = |number: u64| {
        l0.record(TelemetryEvent::new("recorded").payload(&number));
        l0.flush()
    };
    (0..5).for_each(|number| audit(number).and_then(|()| record(number)).unwrap());
    let readers = ["state.db", "telemetry.db"].map(|file| ForeignReader::of(&dir.path().join(file)));
    (5..10).for_each(|number| audit(number).and_then(|()| record(number)).unwrap());
    ["state.db-wal", "telemetry.db-wal"].iter().for_each(|file| fs::remove_file(dir.path().join(file)).unwrap());
    let audited: Vec<u64> = (10..13).filter(|number| audit(*number).is_ok()).collect();
    (10..13).for_each(|number| _ = record(number));
    readers.into_iter().for_each(ForeignReader::end);
    assert!(holds_within(SOON, || l0.flush().is_ok()), "{:?}", l0.stats().last_error);
    assert!(holds_within(SOON, || audit(13).is_ok()), "{:?}", audit(13));
    let numbers = |event_type: &str| -> Vec<u64> {
        let sql = "SELECT payload FROM telemetry_events WHERE event_type = ?1";
        let sql = if event_type == "audited" { "SELECT payload FROM audit WHERE event_type = ?1" } else { sql };
        let table = Reader::open(dir.path()).unwrap().sql(sql, &[event_type.into()]).unwrap();
        table.rows.iter().map(|row| row[0].to_string().parse().unwrap()).collect()
    };
    let found = numbers("audited");
    assert!((0..10).chain(audited).chain([13]).all(|number| found.contains(&number)), "{found:?}");
    assert_eq!(numbers("recorded"), (0..13).collect::<Vec<_>>());
    assert!(l0::inspect(dir.path()).unwrap().set_aside.is_empty());
    l0.shutdown(SOON).unwrap();
}

#[test]
fn a_state_db_that_is_cut_acknowledges_nothing_until_it_is_replaced() {
    for cut in [1, 2, 6, 12, 30] {
        let dir = tempfile::tempdir().unwrap();
        let l0 = start(dir.path()).unwrap();
        let audit = |l0: &L0, number: u64| {
            l0.audit(TelemetryEvent::new("audited").message("audit ".repeat(300)).payload(&number))
        };
        (0..100).for_each(|number| audit(&l0, number).unwrap());
        let file = dir.path().join("state.db");
        foreign::checkpoint(&file);
        (100..103).for_each(|number| audit(&l0, number).unwrap());
        let length = fs::metadata(&file).unwrap().len();
        foreign::truncate(&file, length - cut * PAGE_BYTES);
        let is_refused = || holds_within(SOON, || audit(&l0, 200).is_err());
        assert!(is_refused(), "cut by {cut} pages");
        let state = || l0.health().report().checks.into_iter().find(|check| check.name == "l0.state").unwrap().status;
        assert!(holds_within(SOON, || matches!(state(), Status::Unhealthy(_))), "{:?}", state());
        l0.shutdown(SOON).unwrap();
        for _ in 0..2 {
            let again = start(dir.path()).unwrap();
            let error = audit(&again, 201).unwrap_err().to_string();
            assert!(error.contains("state.db") && error.contains("salvage"), "{error}");
            again.shutdown(SOON).unwrap();
        }
        assert!(fs::metadata(&file).unwrap().len() < length, "nothing was filled with zeros");
    }
}

#[test]
fn damage_at_the_head_of_a_long_backlog_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let l0 = start(dir.path()).unwrap();
    l0.flush().unwrap();
    l0.record(TelemetryEvent::new("recorded").message("MARKER-X"));
    let file = fs::read_dir(dir.path().join("flight")).unwrap().next().unwrap().unwrap().path();
    let bytes = fs::read(&file).unwrap();
    let at = bytes.windows(8).position(|bytes| bytes == b"MARKER-X").unwrap();
    let flight = fs::OpenOptions::new().write(true).open(&file).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&flight, b"m", at as u64).unwrap();
    (0..60_000_u64).for_each(|number| l0.record(TelemetryEvent::new("recorded").payload(&number)));
    l0.flush().unwrap();
    l0.record(TelemetryEvent::new("recorded").message("last"));
    l0.flush().unwrap();
    let stats = l0.stats();
    assert_eq!((stats.recorded, stats.damaged), (60_002, 1));
    assert_eq!(stats.recorded, stats.stored + stats.shed + stats.damaged);
    l0.shutdown(SOON).unwrap();
}

#[test]
fn several_starts_on_a_damaged_store_all_succeed() {
    let dir = tempfile::tempdir().unwrap();
    start(dir.path()).unwrap().shutdown(SOON).unwrap();
    foreign::truncate(&dir.path().join("telemetry.db"), 10 * PAGE_BYTES);
    std::thread::scope(|scope| {
        let starts: Vec<_> = (0..4).map(|_| scope.spawn(|| start(dir.path()).map(|l0| l0.shutdown(SOON)))).collect();
        starts.into_iter().for_each(|start| start.join().unwrap().unwrap().unwrap());
    });
    assert_eq!(l0::inspect(dir.path()).unwrap().set_aside.len(), 1);
}
