//! A store from outside: what is found in its directory, copied, removed by hand, and where the time went, after a death too.

mod support;

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use l0::{Clock, FlightState, Retention, TelemetryEvent, Timestamp, query::Reader};
use support::{Store, builder, change_header, is_consistent, store, texts};
use tracing::{error, info, info_span};

/// The directory as a killed process would have left it: its flight file says that another process with its pid wrote it.
fn as_if_killed(living: &Path) -> tempfile::TempDir {
    let dead = tempfile::tempdir().unwrap();
    fs::create_dir(dead.path().join("flight")).unwrap();
    for name in ["telemetry.db", "telemetry.db-wal", "state.db", "state.db-wal"] {
        if living.join(name).exists() {
            fs::copy(living.join(name), dead.path().join(name)).unwrap();
        }
    }
    for file in fs::read_dir(living.join("flight")).unwrap().flatten() {
        let mut bytes = fs::read(file.path()).unwrap();
        change_header(&mut bytes, |header| header[88] ^= 1);
        fs::write(dead.path().join("flight").join(file.file_name()), bytes).unwrap();
    }
    dead
}

/// A program whose spans overlap, nest and outlive each other, in one thread on a manual clock; flushed here and there.
fn program(store: &Store, hand: &l0::ManualClock, seed: u64, until: usize) {
    store.record(|| {
        let pass = |ms| hand.advance(Duration::from_millis(ms));
        let mut open = Vec::new();
        let mut number = seed;
        for step in 0..until {
            number = number.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
            let choice = number >> 40;
            pass(1 + choice % 9);
            if choice.is_multiple_of(3) && !open.is_empty() {
                open.remove((choice / 3) as usize % open.len());
            } else {
                let name = ["read", "parse", "write", "sync"][(choice / 7) as usize % 4];
                let parent: Option<&tracing::Span> = open.get((choice / 5) as usize % (open.len() + 1));
                let parent = parent.and_then(tracing::Span::id);
                let span = match name {
                    "read" => info_span!(parent: parent, "read"),
                    "parse" => info_span!(parent: parent, "parse"),
                    "write" => info_span!(parent: parent, "write"),
                    _ => info_span!(parent: parent, "sync"),
                };
                open.push(span);
            }
            if step % 37 == 36 {
                store.l0.flush().unwrap();
            }
        }
        std::mem::forget(open);
    });
}

fn simulated() -> (Store, l0::ManualClock) {
    let dir = tempfile::tempdir().unwrap();
    let (clock, hand) = Clock::manual(Timestamp::from_unix_ns(1_700_000_000_000_000_000));
    let l0 = builder(dir.path()).clock(clock).start().unwrap();
    (Store { l0, dir }, hand)
}

/// Self time by name, in microseconds: as counted with each close, and as the trees tell it.
fn self_times(reader: &Reader) -> [BTreeMap<String, u128>; 2] {
    let summary = reader.summary_between(None, Some(Timestamp::now())).unwrap();
    let counted = summary.spans.iter().map(|span| (span.name.clone(), span.self_time.unwrap().as_micros()));
    let mut told: BTreeMap<String, Duration> = BTreeMap::new();
    let ids = texts(&reader.sql("SELECT DISTINCT correlation_id FROM spans", &[]).unwrap());
    for id in ids {
        for span in reader.trace(&id[0]).unwrap().unwrap().all_spans() {
            if let Some(own) = span.self_time {
                *told.entry(span.name.clone()).or_default() += own;
            }
        }
    }
    [counted.collect(), told.into_iter().map(|(name, time)| (name, time.as_micros())).collect()]
}

fn agree([counted, told]: [BTreeMap<String, u128>; 2]) {
    assert_eq!(counted.keys().collect::<Vec<_>>(), told.keys().collect::<Vec<_>>());
    for (name, us) in &counted {
        // A manual clock gives stamps that are some nanoseconds apart.
        assert!(us.abs_diff(told[name]) <= 20, "{name}: {us} counted, {} in the trees", told[name]);
    }
}

#[test]
fn self_time_is_counted_as_the_trees_tell_it() {
    let (store, hand) = simulated();
    program(&store, &hand, 11, 600);
    store.l0.flush().unwrap();
    let times = self_times(&Reader::open(store.dir.path()).unwrap());
    assert!(times[0].len() == 4 && times[0].values().all(|us| *us > 100_000), "{times:?}");
    agree(times);
}

#[test]
#[cfg(target_os = "linux")] // elsewhere the lock alone tells who lives
fn self_time_outlives_the_process() {
    // Wherever the last commit was, the rest is counted by a recovery.
    for (seed, steps) in (0..6).flat_map(|seed| [37, 50, 73, 74, 110].map(|steps| (seed, steps))) {
        let (store, hand) = simulated();
        program(&store, &hand, seed, steps);
        let dead = as_if_killed(store.dir.path());
        assert!(l0::inspect(dead.path()).unwrap().needs_recovery());
        assert_eq!(l0::recover(dead.path()).unwrap().runs, 1);
        agree(self_times(&Reader::open(dead.path()).unwrap()));
    }
}

#[test]
fn a_window_has_both_ends() {
    let (store, hand) = simulated();
    let begin = 1_700_000_000_i64 / 3600 * 3600 + 3600;
    hand.set_wall(Timestamp::from_unix_ns(begin * 1_000_000_000));
    store.record(|| {
        for minute in 0..300 {
            if minute % 60 == 0 {
                error!(minute, "e")
            } else {
                info!(minute, "i")
            }
            hand.advance(Duration::from_secs(60));
        }
    });
    let at = |minute: i64| Some(Timestamp::from_unix_ns((begin + minute * 60) * 1_000_000_000));
    let asked = |since, until| {
        let summary = store.l0.summary_between(since, until).unwrap();
        (summary.events, summary.errors, summary.latest_errors.len())
    };
    assert_eq!(asked(None, None), (300, 5, 5));
    assert_eq!(asked(at(60), None), (240, 4, 4));
    assert_eq!(asked(None, at(120)), (120, 2, 2));
    assert_eq!(asked(at(90), at(150)), (60, 1, 1));
    // Within a minute the whole of it counts.
    assert_eq!(asked(at(90), Some(at(150).unwrap().saturating_add(Duration::from_nanos(1)))), (61, 1, 1));
    assert_eq!(asked(at(120), at(120)), (0, 0, 0));
    assert!(store.l0.summary_between(at(2), at(1)).unwrap_err().is_invalid_input());
}

#[test]
#[cfg(target_os = "linux")]
fn an_inspection_tells_who_records_and_what_a_death_left() {
    let store = store();
    store.l0.audit(TelemetryEvent::new("a")).unwrap();
    let found = l0::inspect(store.dir.path()).unwrap();
    assert!(found.is_own && found.is_writable && !found.needs_recovery() && !found.is_of_earlier_schema());
    let [file] = &found.flight_files[..] else { panic!("{found:?}") };
    assert_eq!((file.state, file.pid), (FlightState::InUse, Some(std::process::id())));
    let store_file = file.path.clone();
    let names: Vec<_> = found.databases.iter().map(|database| database.name).collect();
    assert_eq!(names, ["telemetry.db", "state.db"]);
    for file in found.files.iter().filter(|file| file.name.ends_with(".db")) {
        assert_eq!((file.is_private, file.bytes > 0), (Some(true), true), "{file:?}");
    }

    let dead = as_if_killed(store.dir.path());
    let before = listing(dead.path());
    let found = l0::inspect(dead.path()).unwrap();
    assert_eq!(found.flight_files[0].state, FlightState::Orphaned);
    assert!(found.needs_recovery());
    // To look is not to touch: neither is it taken, nor hidden from who recovers.
    assert_eq!(l0::recover(dead.path()).unwrap().runs, 1);
    assert!(before.contains_key("flight"));
    assert!(!l0::inspect(dead.path()).unwrap().needs_recovery());

    // A run that kept its flight recorder in memory left no file.
    let database = rusqlite::Connection::open(dead.path().join("telemetry.db")).unwrap();
    database
        .execute("UPDATE run SET outcome = 'running', ended_at = NULL, process_started = process_started + 1", [])
        .unwrap();
    let found = l0::inspect(dead.path()).unwrap();
    assert!(found.has_vanished_runs && found.dead_runs == [1] && found.needs_recovery());
    l0::recover(dead.path()).unwrap();
    assert!(!l0::inspect(dead.path()).unwrap().needs_recovery());
    database.execute("UPDATE run SET outcome = 'running'", []).unwrap();
    assert!(l0::inspect(dead.path()).unwrap().has_vanished_runs);
    database.execute("UPDATE run SET outcome = 'clean'", []).unwrap();

    let flight = dead.path().join("flight");
    let mut later = fs::read(&store_file).unwrap();
    change_header(&mut later, |header| header[8] += 1);
    fs::write(flight.join("0199a1b1-0000-7000-8000-000000000000.flight"), later).unwrap();
    fs::write(flight.join("0199a1b2-0000-7000-8000-000000000000.flight"), b"no flight file").unwrap();
    fs::write(flight.join("old.unreadable"), b"x").unwrap();
    let states: Vec<_> = l0::inspect(dead.path()).unwrap().flight_files.into_iter().map(|file| file.state).collect();
    assert_eq!(states, [FlightState::OfLaterVersion, FlightState::Orphaned, FlightState::SetAside]);

    fs::write(dead.path().join("telemetry.db"), b"not a database at all, but long enough for a header").unwrap();
    let found = l0::inspect(dead.path()).unwrap();
    assert!(found.databases[0].schema.is_none() && found.databases[0].problem.is_some(), "{found:?}");

    let empty = tempfile::tempdir().unwrap();
    let error = l0::inspect(empty.path()).unwrap_err();
    assert!(error.is_storage() && error.to_string().contains("there is no l0 store"), "{error}");
}

fn listing(dir: &Path) -> BTreeMap<String, (u64, SystemTime)> {
    let entries = fs::read_dir(dir).unwrap().flatten();
    let all = entries.map(|entry| {
        let metadata = entry.metadata().unwrap();
        (entry.file_name().to_str().unwrap().to_owned(), (metadata.len(), metadata.modified().unwrap()))
    });
    all.collect()
}

#[test]
#[cfg(target_os = "linux")]
fn a_copy_has_everything_and_the_original_is_left_alone() {
    let store = store();
    store.record(|| info!("committed"));
    store.l0.audit(TelemetryEvent::new("audited")).unwrap();
    store.l0.flush().unwrap();
    store.record(|| info!("in the flight file"));
    let dead = as_if_killed(store.dir.path());
    for living in [true, false] {
        let (from, to) = (if living { store.dir.path() } else { dead.path() }, tempfile::tempdir().unwrap());
        let to = to.path().join("copy");
        let (flight, before) = (listing(&from.join("flight")), listing(from)["telemetry.db"]);
        l0::copy(from, &to, true).unwrap();
        assert_eq!((listing(&from.join("flight")), listing(from)["telemetry.db"]), (flight, before));
        // Nothing is left in it for another machine, where it would not be trusted.
        assert!(fs::read_dir(to.join("flight")).map_or(0, Iterator::count) == 0);
        is_consistent(&to);
        let found = Reader::open(&to).unwrap().events().oldest_first().fetch().unwrap().items;
        let found: Vec<_> =
            found.iter().map(|row| if row.is_audit() { &row.event_type } else { &row.message }).collect();
        // What a living process has not committed is still its own.
        let expected = ["committed", "audited", "in the flight file"];
        assert_eq!(found, expected[..if living { 2 } else { 3 }], "living: {living}");
        let error = l0::copy(from, &to, true).unwrap_err();
        assert!(error.to_string().contains("not empty"), "{error}");
    }
    let to = tempfile::tempdir().unwrap();
    l0::copy(dead.path(), to.path(), false).unwrap();
    assert_eq!(Reader::open(to.path()).unwrap().logs().fetch().unwrap().items.len(), 1, "what is committed, alone");
    assert_eq!(fs::read_dir(dead.path().join("flight")).unwrap().count(), 1);
    // What is no store of ours is refused, and nothing is left of the attempt.
    for pragma in ["user_version = 99", "application_id = 7"] {
        let other = tempfile::tempdir().unwrap();
        l0::copy(store.dir.path(), other.path().join("a"), false).unwrap();
        let database = rusqlite::Connection::open(other.path().join("a/telemetry.db")).unwrap();
        database.execute_batch(&format!("PRAGMA {pragma}")).unwrap();
        assert!(l0::copy(other.path().join("a"), other.path().join("b"), true).unwrap_err().is_storage());
        assert!(!other.path().join("b").exists());
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_copy_made_while_others_recover_has_each_record_once() {
    let store = store();
    for number in 0..200 {
        store.l0.record(TelemetryEvent::new("n").payload(&number));
    }
    for _ in 0..10 {
        let dead = as_if_killed(store.dir.path());
        let copies = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| l0::recover(dead.path()).unwrap());
            for copy in 0..3 {
                let to = copies.path().join(copy.to_string());
                l0::copy(dead.path(), &to, true).unwrap();
                assert_eq!(Reader::open(&to).unwrap().events().event_type("n").count().unwrap(), 200);
            }
        });
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_flight_file_without_its_database_becomes_a_store() {
    let store = store();
    store.l0.record(TelemetryEvent::new("n"));
    let dead = as_if_killed(store.dir.path());
    for name in ["telemetry.db", "telemetry.db-wal"] {
        fs::remove_file(dead.path().join(name)).unwrap();
    }
    assert!(l0::inspect(dead.path()).unwrap().needs_recovery());
    assert_eq!(l0::recover(dead.path()).unwrap().records, 1);
}

#[test]
#[cfg(target_os = "linux")]
fn many_open_spans_of_one_long_trace_are_recovered_at_once() {
    let (store, hand) = simulated();
    store.record(|| {
        let main = info_span!("main").entered();
        for _ in 0..20_000 {
            drop(info_span!("step").entered());
        }
        let open: Vec<_> = (0..1_000).map(|_| info_span!("open")).collect();
        hand.advance(Duration::from_secs(1));
        store.l0.flush().unwrap();
        std::mem::forget((open, main));
    });
    let dead = as_if_killed(store.dir.path());
    // Looking at every span for each open one would take minutes.
    assert_eq!(l0::recover(dead.path()).unwrap().interrupted_spans, 1_001);
}

#[test]
fn a_dry_run_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    builder(dir.path()).start().unwrap().shutdown(Duration::from_secs(10)).unwrap();
    let before = fs::read(dir.path().join("telemetry.db")).unwrap();
    l0::cleanup(dir.path(), &Retention::default().max_age(Duration::from_secs(1)), true).unwrap();
    assert_eq!(fs::read(dir.path().join("telemetry.db")).unwrap(), before);
}

#[test]
fn a_store_is_cleaned_up_and_compacted_without_its_program() {
    let dir = tempfile::tempdir().unwrap();
    let (clock, hand) = Clock::manual(Timestamp::now().saturating_sub(Duration::from_secs(10 * 24 * 3600)));
    let l0 = builder(dir.path()).clock(clock).start().unwrap();
    let store = Store { l0, dir };
    store.record(|| {
        for _ in 0..3_000 {
            info!(text = "x".repeat(500), "old");
        }
        hand.advance(Duration::from_secs(9 * 24 * 3600));
        info!("new");
    });
    let Store { l0, dir } = store;
    l0.shutdown(Duration::from_secs(10)).unwrap();
    let week = Retention::default().max_age(Duration::from_secs(7 * 24 * 3600));
    let count = || Reader::open(dir.path()).unwrap().events().count().unwrap();
    assert_eq!(l0::cleanup(dir.path(), &week, true).unwrap().rows, 3_000);
    assert_eq!(count(), 3_001);
    assert_eq!(l0::cleanup(dir.path(), &week, false).unwrap().rows, 3_000);
    assert_eq!(count(), 1);
    let before = Reader::open(dir.path()).unwrap().size().unwrap();
    assert!(before.free_bytes > 1 << 20, "{before:?}");
    assert!(l0::compact(dir.path()).unwrap().returned_bytes > 1 << 20);
    let after = Reader::open(dir.path()).unwrap().size().unwrap();
    assert!(after.database_bytes < before.database_bytes / 2 && after.free_bytes == 0, "{after:?}");
    assert_eq!(after.max_bytes, 256 << 20, "the cap that the program said");
    is_consistent(dir.path());
    let nowhere = tempfile::tempdir().unwrap();
    assert!(l0::cleanup(nowhere.path(), &week, false).unwrap_err().is_storage());
    assert!(l0::compact(nowhere.path()).unwrap_err().is_storage());
    assert!(listing(nowhere.path()).is_empty(), "nothing is made where nothing was");
}
