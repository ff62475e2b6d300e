//! Flight files in every state a death can leave them in, made by changing the words of a real one.
#![cfg(target_os = "linux")] // elsewhere the start of a process is not known, and its file's lock alone decides

mod support;

use std::{fs, path::Path, time::Duration};

use l0::{TelemetryEvent, query::Reader};
use support::{builder, texts};

/// The bytes of a flight file with five records that no database has, and its name.
fn left_behind() -> (String, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    let l0 = builder(dir.path()).start().unwrap();
    l0.record_batch((0..5).map(|number| TelemetryEvent::new("left").payload(&number)));
    let path = fs::read_dir(dir.path().join("flight")).unwrap().next().unwrap().unwrap().path();
    let mut bytes = fs::read(&path).unwrap();
    // Its process is another one than this: same pid, other start.
    bytes[88] ^= 1;
    (path.file_name().unwrap().to_str().unwrap().to_owned(), bytes)
}

/// A store that has never seen that run, with the file in it.
fn store_with(name: &str, bytes: &[u8]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    builder(dir.path()).start().unwrap().shutdown(Duration::from_secs(10)).unwrap();
    fs::write(dir.path().join("flight").join(name), bytes).unwrap();
    dir
}

fn latest_run(dir: &Path) -> Vec<String> {
    let reader = Reader::open(dir).unwrap();
    texts(&reader.sql("SELECT outcome, stored, shed FROM runs ORDER BY id DESC LIMIT 1", &[]).unwrap()).remove(0)
}

#[test]
fn a_run_that_the_database_never_saw_is_added_from_its_file() {
    let (name, bytes) = left_behind();
    let dir = store_with(&name, &bytes);
    let found = l0::recover(dir.path()).unwrap();
    assert_eq!((found.runs, found.records, found.unreadable), (1, 5, 0));
    assert_eq!(latest_run(dir.path()), ["killed", "5", "0"]);
    assert_eq!(Reader::open(dir.path()).unwrap().events().event_type("left").count().unwrap(), 5);
    assert!(!dir.path().join("flight").join(&name).exists());
}

#[test]
fn a_panic_of_the_main_thread_is_how_the_run_ended() {
    let (name, mut bytes) = left_behind();
    bytes[104] |= 1;
    let dir = store_with(&name, &bytes);
    assert_eq!(l0::recover(dir.path()).unwrap().records, 5);
    assert_eq!(latest_run(dir.path()), ["panicked", "5", "0"]);
}

#[test]
fn a_file_of_another_boot_is_not_replayed_and_its_loss_is_a_row() {
    let (name, mut bytes) = left_behind();
    bytes[64] ^= 1;
    let dir = store_with(&name, &bytes);
    let found = l0::recover(dir.path()).unwrap();
    assert_eq!((found.runs, found.records), (1, 0));
    assert_eq!(latest_run(dir.path()), ["killed", "0", "5"]);
    let reader = Reader::open(dir.path()).unwrap();
    assert_eq!(texts(&reader.sql("SELECT reason, count FROM shed", &[]).unwrap()), [["other_boot", "5"]]);
}

#[test]
fn a_file_of_a_later_version_waits_for_that_version() {
    let (name, mut bytes) = left_behind();
    bytes[8] += 1;
    let dir = store_with(&name, &bytes);
    assert_eq!(l0::recover(dir.path()).unwrap(), l0::Recovery::default());
    assert!(dir.path().join("flight").join(&name).exists());
}

#[test]
fn a_file_of_a_living_process_is_left_alone() {
    let (name, mut bytes) = left_behind();
    bytes[88] ^= 1;
    let dir = store_with(&name, &bytes);
    assert_eq!(l0::recover(dir.path()).unwrap(), l0::Recovery::default());
    assert!(dir.path().join("flight").join(&name).exists());
}

#[test]
fn what_was_lost_is_counted_once_though_the_recovery_was_stopped_halfway() {
    let small = || l0::Retention::default().max_bytes(8 << 20);
    let left = tempfile::tempdir().unwrap();
    let l0 = builder(left.path()).retention(small()).start().unwrap();
    // More than one transaction of the recovery takes.
    l0.record_batch((0..1_000).map(|number| TelemetryEvent::new("left").message("x".repeat(200)).payload(&number)));
    let file = fs::read_dir(left.path().join("flight")).unwrap().next().unwrap().unwrap().path();
    let mut bytes = fs::read(&file).unwrap();
    // Of another process, and of another boot.
    bytes[88] ^= 1;
    bytes[64] ^= 1;
    let recorded = l0.stats().recorded - l0.stats().stored;
    drop(l0);

    let dir = tempfile::tempdir().unwrap();
    builder(dir.path()).retention(small()).start().unwrap().shutdown(Duration::from_secs(10)).unwrap();
    fs::write(dir.path().join("flight").join(file.file_name().unwrap()), &bytes).unwrap();
    let store = rusqlite::Connection::open(dir.path().join("telemetry.db")).unwrap();
    let stop = "CREATE TRIGGER stop BEFORE INSERT ON lane WHEN NEW.position > 200000 BEGIN SELECT json('{no'); END";
    store.execute_batch(stop).unwrap();
    assert!(l0::recover(dir.path()).unwrap_err().is_storage());
    let shed = || -> i64 {
        store
            .query_row("SELECT ifnull(sum(count), 0) FROM shed WHERE reason = 'other_boot'", [], |row| row.get(0))
            .unwrap()
    };
    assert!(shed() > 0, "a part of it is committed");
    store.execute_batch("DROP TRIGGER stop").unwrap();
    assert_eq!(l0::recover(dir.path()).unwrap().runs, 1);
    assert_eq!(shed(), recorded as i64);
}
