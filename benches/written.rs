//! Bytes written to the disk per event: what the operating system accounts to the process, and what reaches the device.
//!
//! ```sh
//! cargo bench --bench written              # about six minutes; prints a table
//! cargo bench --bench written -- quick     # seconds; for trying it out
//! ```
//! Each row is a process of its own. `process` is `write_bytes` of `/proc/self/io`: pages the process made dirty, so those
//! of mapped files too; a page that is written again before the kernel has taken it to the disk counts once. `device` is
//! what the disk under the temporary directory was told to write meanwhile, with a sync at the end, by `/sys/dev/block`: it
//! includes the file system's own and whatever else the machine writes. `shm` has the flight recorder in shared memory: the
//! difference is the flight file's share.
//!
//! Peers: `naive` inserts each event by itself, `batched` keeps 128 rows or two seconds and prunes within the insert, as a
//! popular tool's sink does: text columns, two indexes, a cap per partition enforced by a window function. Both have WAL
//! and `synchronous=NORMAL`.

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use l0::{Flight, Overload, Retention};
use rusqlite::{Connection, params};
use tracing_subscriber::prelude::*;

const CAP: u64 = 64 << 20;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let [peer, rate, events] = arguments.as_slice() {
        return measure(peer, rate.parse().unwrap(), events.parse().unwrap());
    }
    let scale = if arguments.iter().any(|argument| argument == "quick") { 50 } else { 1 };
    println!("{:28} {:>10} {:>10} {:>16} {:>16}", "", "events/s", "events", "process B/event", "device B/event");
    for (peer, rate, events) in [
        ("l0", 100, 6_000),
        ("l0 shm", 100, 6_000),
        ("naive", 100, 6_000),
        ("batched", 100, 6_000),
        ("l0", 10_000, 300_000),
        ("l0 shm", 10_000, 300_000),
        ("batched", 10_000, 100_000),
        ("l0", 0, 2_000_000),
        ("l0 shm", 0, 2_000_000),
        ("l0 at the cap", 0, 2_000_000),
        ("l0 requests", 0, 1_000_000),
        ("naive", 0, 20_000),
        ("batched", 0, 100_000),
    ] {
        let status = Command::new(std::env::current_exe().unwrap())
            .args([peer, &rate.to_string(), &(events / scale).to_string()])
            .status()
            .unwrap();
        assert!(status.success(), "{peer}");
    }
}

/// Records at a rate, 0 for as fast as it goes, and prints a row.
fn measure(peer: &str, rate: u64, events: u64) {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = sink(peer, dir.path());
    let settle = || _ = Command::new("sync").status();
    settle();
    let (process, device) = (process_bytes(), device_bytes(dir.path()));
    let start = Instant::now();
    for number in 0..events {
        if let Some(step_ns) = 1_000_000_000_u64.checked_div(rate) {
            let due = start + Duration::from_nanos(step_ns * number);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        sink.event(number);
    }
    let elapsed = start.elapsed();
    sink.finish();
    settle();
    let per_event = |bytes: u64| bytes as f64 / events as f64;
    println!(
        "{:28} {:>10.0} {events:>10} {:>16.0} {:>16.0}",
        peer,
        events as f64 / elapsed.as_secs_f64(),
        per_event(process_bytes() - process),
        per_event(device_bytes(dir.path()) - device),
    );
}

trait Sink {
    fn event(&mut self, number: u64);
    fn finish(&mut self) {}
}

fn sink(peer: &str, dir: &Path) -> Box<dyn Sink> {
    match peer {
        "naive" => Box::new(Naive(text_store(dir))),
        "batched" => Box::new(Batched { store: text_store(dir), waiting: Vec::new(), since: Instant::now() }),
        _ => {
            let is_at_cap = peer.contains("at the cap");
            let l0 = l0::builder()
                .dir(dir)
                .filter("info")
                .flight(if peer.contains("shm") { Flight::SharedMemory } else { Flight::Directory })
                .retention(Retention::default().max_bytes(if is_at_cap { CAP } else { 16 << 30 }))
                .overload(Overload::Block(Duration::from_secs(60)))
                .start()
                .unwrap();
            let subscriber = tracing_subscriber::registry().with(l0.layer());
            let mut sink = Box::new(L0 {
                l0,
                guard: tracing::subscriber::set_default(subscriber),
                in_requests: peer.contains("requests"),
            });
            if is_at_cap {
                (0..2_000_000).for_each(|number| sink.event(number));
                sink.finish();
                assert!(sink.l0.stats().store.removed.rows > 500_000);
            }
            sink
        }
    }
}

struct L0 {
    l0: l0::L0,
    #[allow(dead_code)]
    guard: tracing::subscriber::DefaultGuard,
    in_requests: bool,
}

impl Sink for L0 {
    fn event(&mut self, number: u64) {
        if self.in_requests && number.is_multiple_of(10) {
            tracing::info_span!("request", number).in_scope(|| (0..10).for_each(event));
        } else if !self.in_requests {
            event(number);
        }
    }

    fn finish(&mut self) {
        self.l0.flush().unwrap();
        assert_eq!(self.l0.stats().shed, 0);
    }
}

fn event(number: u64) {
    tracing::info!(order = number, customer = "ada", paid = true, "order placed");
}

/// As the notes of others describe it: everything a text, indexes by time and by partition.
fn text_store(dir: &Path) -> Connection {
    let store = Connection::open(dir.join("logs.db")).unwrap();
    store
        .execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;
             CREATE TABLE logs (id INTEGER PRIMARY KEY AUTOINCREMENT, ts INTEGER NOT NULL, ts_nanos INTEGER NOT NULL,
                level TEXT NOT NULL, target TEXT NOT NULL, message TEXT, module_path TEXT, file TEXT, line INTEGER,
                process_uuid TEXT, estimated_bytes INTEGER NOT NULL);
             CREATE INDEX logs_by_ts ON logs (ts DESC, ts_nanos DESC, id DESC);
             CREATE INDEX logs_by_process ON logs (process_uuid, id DESC)",
        )
        .unwrap();
    store
}

fn insert(store: &Connection, number: u64) {
    let text = format!("order placed order={number} customer=\"ada\" paid=true");
    let now = std::time::UNIX_EPOCH.elapsed().unwrap();
    store
        .prepare_cached(
            "INSERT INTO logs (ts, ts_nanos, level, target, message, module_path, file, line, process_uuid, estimated_bytes)
             VALUES (?1, ?2, 'INFO', 'written', ?3, 'written', 'benches/written.rs', 170, ?4, ?5)",
        )
        .unwrap()
        .execute(params![
            now.as_secs() as i64,
            now.subsec_nanos(),
            text,
            "pid:4711:01a206f5-1e48-7166-95c2-5971ba5be8a2",
            text.len() as i64 + 60
        ])
        .unwrap();
}

/// One transaction an event.
struct Naive(Connection);

impl Sink for Naive {
    fn event(&mut self, number: u64) {
        insert(&self.0, number);
    }
}

/// 128 rows or two seconds, pruned to ten megabytes in the same transaction.
struct Batched {
    store: Connection,
    waiting: Vec<u64>,
    since: Instant,
}

impl Sink for Batched {
    fn event(&mut self, number: u64) {
        if self.waiting.is_empty() {
            self.since = Instant::now();
        }
        self.waiting.push(number);
        if self.waiting.len() >= 128 || self.since.elapsed() >= Duration::from_secs(2) {
            self.finish();
        }
    }

    fn finish(&mut self) {
        self.store.execute_batch("BEGIN IMMEDIATE").unwrap();
        self.waiting.drain(..).for_each(|number| insert(&self.store, number));
        self.store
            .prepare_cached(
                "DELETE FROM logs WHERE id IN (SELECT id FROM (
                    SELECT id, sum(estimated_bytes) OVER (PARTITION BY process_uuid ORDER BY id DESC) AS bytes FROM logs)
                  WHERE bytes > 10485760)",
            )
            .unwrap()
            .execute([])
            .unwrap();
        self.store.execute_batch("COMMIT").unwrap();
    }
}

fn process_bytes() -> u64 {
    let io = fs::read_to_string("/proc/self/io").unwrap_or_default();
    io.lines().find_map(|line| line.strip_prefix("write_bytes: ")?.parse().ok()).unwrap_or(0)
}

/// Bytes that the disk of `dir` was told to write.
fn device_bytes(dir: &Path) -> u64 {
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::fs::MetadataExt as _;
        let device = fs::metadata(dir).unwrap().dev();
        let (major, minor) = (libc::major(device), libc::minor(device));
        let stat = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).unwrap_or_default();
        stat.split_whitespace().nth(6).and_then(|sectors| sectors.parse::<u64>().ok()).unwrap_or(0) * 512
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = dir;
        0
    }
}
