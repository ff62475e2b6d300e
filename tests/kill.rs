//! SIGKILL, again and again: nothing that was recorded may be missing, nothing may be there twice.
//!
//! The child tells on a pipe the number it has just recorded. Half of the kills come after a random number, the other
//! half the moment the WAL grows, so that they fall into a commit. `L0_KILLS=1000 cargo test --release --test kill`
//! kills more often.
#![cfg(unix)]

use std::{
    fs,
    io::{Read, Write as _},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use l0::query::Reader;
use tracing::{info, info_span};
use tracing_subscriber::prelude::*;

const CHILD: &str = "L0_KILL_TEST_DIR";
/// Set for every third kill: the flight file lies in shared memory.
const SHARED: &str = "L0_KILL_TEST_SHARED";
const THREADS: u64 = 3;

#[test]
fn kills_lose_nothing_and_double_nothing() {
    if let Some(dir) = std::env::var_os(CHILD) {
        return record_for_ever(Path::new(&dir));
    }
    let wanted: u32 = std::env::var("L0_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(10);
    let mut seen = Seen::default();
    let mut random = 0x9E37_79B9_u64;
    while seen.kills < wanted || seen.kills < wanted * 15 && !seen.is_enough() {
        random = random.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1);
        kill_once(&mut seen, random >> 33);
    }
    println!("{seen:?}");
    assert!(seen.is_enough(), "no kill hit what it should: {seen:?}");
}

/// What the kills hit.
#[derive(Debug, Default)]
struct Seen {
    kills: u32,
    recorded: u64,
    recovered: u64,
    /// Frames of an unfinished commit in the WAL.
    inside_a_commit: u32,
    /// Committed, but not yet released.
    between_commit_and_release: u32,
    /// Records lay across the end of a lane.
    wrapped: u32,
    interrupted_spans: u64,
}

impl Seen {
    fn is_enough(&self) -> bool {
        self.inside_a_commit + self.between_commit_and_release > 0 && self.wrapped > 0 && self.recovered > 0
    }
}

/// The child: three threads, numbers in spans, a small flight recorder, commits all the time.
fn record_for_ever(dir: &Path) {
    let l0 = l0::builder()
        .dir(dir)
        .filter("info")
        .buffer_bytes(2500 << 10)
        .commit_every(Duration::from_millis(3))
        .flight(if std::env::var_os(SHARED).is_some() { l0::Flight::SharedMemory } else { l0::Flight::Directory })
        .overload(l0::Overload::Block(Duration::from_secs(60)))
        .start()
        .unwrap();
    let dispatch = tracing::Dispatch::new(tracing_subscriber::registry().with(l0.layer()));
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let dispatch = dispatch.clone();
            scope.spawn(move || {
                tracing::dispatcher::with_default(&dispatch, || {
                    for number in 0_u64.. {
                        let hundred = info_span!("hundred", thread, begins_at = number);
                        for number in number * 100..(number + 1) * 100 {
                            hundred
                                .in_scope(|| info!(thread, number, padding = "xxxxxxxxxxxxxxxxxxxxxxxx", "recorded"));
                            let told = ((thread << 56) | number).to_le_bytes();
                            std::io::stderr().lock().write_all(&told).unwrap();
                        }
                    }
                });
            });
        }
    });
}

fn kill_once(seen: &mut Seen, random: u64) {
    let dir = tempfile::tempdir().unwrap();
    let is_shared = seen.kills % 3 == 2;
    let mut command = Command::new(std::env::current_exe().unwrap());
    if is_shared {
        command.env(SHARED, "1");
    }
    let mut child = command
        .args(["--exact", "kills_lose_nothing_and_double_nothing", "--nocapture"])
        .env(CHILD, dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut told = child.stderr.take().unwrap();
    let mut last = [None; THREADS as usize];
    let mut hear = |told: &mut dyn Read| {
        let mut bytes = [0; 8];
        told.read_exact(&mut bytes).ok()?;
        let number = u64::from_le_bytes(bytes);
        last[(number >> 56) as usize] = Some(number & 0xFF_FFFF_FFFF_FFFF);
        Some(())
    };
    for _ in 0..1 + random % 20_000 {
        hear(&mut told).expect("the child lives until it is killed");
    }
    if seen.kills % 2 == 1 {
        let wal = dir.path().join("telemetry.db-wal");
        let size = || fs::metadata(&wal).map_or(0, |metadata| metadata.len());
        let before = size();
        for _ in 0..20_000 {
            if size() > before {
                break;
            }
            hear(&mut told).expect("the child lives until it is killed");
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    while hear(&mut told).is_some() {}

    if is_shared {
        assert!(!dir.path().join("flight").exists(), "the flight file is in shared memory");
    } else {
        look_at_the_body(dir.path(), seen);
    }
    let recovery = l0::recover(dir.path()).unwrap();
    assert_eq!(recovery.runs, 1);
    assert_eq!(l0::recover(dir.path()).unwrap(), l0::Recovery::default(), "a second recovery finds nothing");
    let reader = Reader::open(dir.path()).unwrap();
    let ask = |sql: &str| -> Vec<Vec<i64>> {
        let rows = reader.sql(sql, &[]).unwrap().rows;
        rows.iter().map(|row| row.iter().map(|value| value.to_string().parse().unwrap_or(-1)).collect()).collect()
    };
    for (thread, last) in last.iter().enumerate() {
        let Some(last) = last else { continue };
        let found = ask(&format!(
            "SELECT count(*), count(DISTINCT fields ->> 'number'), min(fields ->> 'number'), max(fields ->> 'number')
               FROM logs WHERE fields ->> 'thread' = {thread}"
        ));
        let [count, distinct, min, max] = found[0][..] else { unreachable!("four columns") };
        assert_eq!((count, min), (distinct, 0), "thread {thread}: a number is there twice, or the first is missing");
        assert_eq!(max + 1, count, "thread {thread}: a number is missing in the middle");
        assert!(max >= *last as i64, "thread {thread}: {last} was recorded, the store ends at {max}");
        seen.recorded += *last + 1;
    }
    let lost = ask("SELECT count(*) FROM logs WHERE span_id IS NULL OR span_id NOT IN (SELECT id FROM spans)");
    assert_eq!(lost, [[0]], "every event is in a span that has a row");
    let wrong = ask(
        "SELECT count(*) FROM logs AS e JOIN spans AS s ON s.id = e.span_id
          WHERE s.payload ->> 'begins_at' != (e.fields ->> 'number') / 100 OR s.payload ->> 'thread' != e.fields ->> 'thread'",
    );
    assert_eq!(wrong, [[0]], "every event is in its own span");
    assert_eq!(ask("SELECT count(*) FROM spans WHERE state = 'running'"), [[0]]);
    assert!(ask("SELECT count(*) FROM spans WHERE state = 'interrupted'")[0][0] <= THREADS as i64);
    assert_eq!(ask("SELECT count(*) FROM runs WHERE outcome = 'killed' AND shed = 0"), [[1]]);
    assert_eq!(
        ask("SELECT stored - (SELECT count(*) FROM telemetry_events) - (SELECT count(*) FROM spans) FROM runs"),
        [[0]],
        "what is counted as stored is there"
    );
    seen.kills += 1;
    seen.recovered += recovery.records;
    seen.interrupted_spans += recovery.interrupted_spans;
}

/// What the death left: read from the files themselves, before anybody opens them.
fn look_at_the_body(dir: &Path, seen: &mut Seen) {
    seen.inside_a_commit += u32::from(wal_ends_inside_a_commit(&dir.join("telemetry.db-wal")));
    let flight = fs::read_dir(dir.join("flight")).unwrap().next().unwrap().unwrap().path();
    let flight = fs::read(flight).unwrap();
    let word = |at: usize| u64::from_le_bytes(*flight[at..].first_chunk().unwrap());
    let copy = tempfile::tempdir().unwrap();
    for file in ["telemetry.db", "telemetry.db-wal"] {
        fs::copy(dir.join(file), copy.path().join(file)).unwrap();
    }
    let database = rusqlite::Connection::open(copy.path().join("telemetry.db")).unwrap();
    let mut positions = database.prepare("SELECT lane, position FROM lane").unwrap();
    let positions = positions.query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))).unwrap();
    let (mut wrapped, mut between) = (false, false);
    let (lane_bytes, key) = (word(24), word(96));
    let first_lane = (word(32) + word(40)) as usize;
    for (lane, position) in positions.map(Result::unwrap) {
        let (lane, committed) = (lane as usize, position as u64);
        let released = word(1024 + lane * 64);
        between |= committed > released;
        // Walk over what was not stored yet: does it lie across the lane's end?
        let mut at = committed.max(released);
        let start = at / lane_bytes;
        let place = |position: u64| first_lane + lane * lane_bytes as usize + (position % lane_bytes) as usize;
        while word(place(at)) == at ^ key {
            at += 24 + word(place(at + 16)).next_multiple_of(8);
        }
        wrapped |= at / lane_bytes > start;
    }
    seen.wrapped += u32::from(wrapped);
    seen.between_commit_and_release += u32::from(between);
}

/// Whether the last frame of the WAL's current lap is not one that ends a transaction.
fn wal_ends_inside_a_commit(wal: &Path) -> bool {
    let bytes = fs::read(wal).unwrap();
    let Some(header) = bytes.get(..32) else { return false };
    let page = u32::from_be_bytes(*header[8..].first_chunk().unwrap()) as usize;
    bytes[32..]
        .chunks_exact(24 + page)
        .take_while(|frame| frame[8..16] == header[16..24])
        .last()
        .is_some_and(|frame| frame[4..8] == [0; 4])
}
