//! Flight files in every state a death can leave them in, made by changing the words of a real one.
#![cfg(target_os = "linux")] // elsewhere the start of a process is not known, and its file's lock alone decides

mod support;

use std::{fs, path::Path, time::Duration};

use l0::{TelemetryEvent, query::Reader};
use support::{builder, change_header, texts};

/// The bytes of a flight file with five records that no database has, and its name.
fn left_behind() -> (String, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    let l0 = builder(dir.path()).start().unwrap();
    l0.record_batch((0..5).map(|number| TelemetryEvent::new("left").payload(&number)));
    let path = fs::read_dir(dir.path().join("flight")).unwrap().next().unwrap().unwrap().path();
    let mut bytes = fs::read(&path).unwrap();
    // Its process is another one than this: same pid, other start.
    change_header(&mut bytes, |header| header[88] ^= 1);
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
    change_header(&mut bytes, |header| header[64] ^= 1);
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
    change_header(&mut bytes, |header| header[8] += 1);
    let dir = store_with(&name, &bytes);
    assert_eq!(l0::recover(dir.path()).unwrap(), l0::Recovery::default());
    assert!(dir.path().join("flight").join(&name).exists());
}

#[test]
fn a_file_of_a_living_process_is_left_alone() {
    let (name, mut bytes) = left_behind();
    let mut other = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    let stat = fs::read_to_string(format!("/proc/{}/stat", other.id())).unwrap();
    let started: u64 = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap().parse().unwrap();
    change_header(&mut bytes, |header| {
        header[80..84].copy_from_slice(&other.id().to_le_bytes());
        header[88..96].copy_from_slice(&started.to_le_bytes());
    });
    let dir = store_with(&name, &bytes);
    assert_eq!(l0::recover(dir.path()).unwrap(), l0::Recovery::default());
    assert!(dir.path().join("flight").join(&name).exists());
    other.kill().unwrap();
    other.wait().unwrap();
    assert_eq!(l0::recover(dir.path()).unwrap().records, 5);
}

#[test]
fn a_file_of_this_process_that_nobody_holds_is_recovered() {
    let (name, mut bytes) = left_behind();
    change_header(&mut bytes, |header| header[88] ^= 1);
    let dir = store_with(&name, &bytes);
    assert_eq!(l0::recover(dir.path()).unwrap().records, 5);
}

/// Where the words of the first lane are, and where its ring begins, as the header says.
fn first_lane(bytes: &[u8]) -> (usize, usize) {
    let word = |at: usize| u64::from_le_bytes(*bytes[at..].first_chunk().unwrap()) as usize;
    (1_024, word(32) + word(40))
}

/// Where each record begins, by their tags, in all lanes: one that was locked for a moment leaves a record to another.
fn records(bytes: &[u8]) -> Vec<usize> {
    let word = |at: usize| u64::from_le_bytes(*bytes[at..].first_chunk().unwrap());
    let (lanes, lane_bytes, key) = (word(8) >> 32, word(24) as usize, word(96));
    let (_, start) = first_lane(bytes);
    let mut found = Vec::new();
    for ring in (0..lanes as usize).map(|lane| start + lane * lane_bytes) {
        let mut at = 0;
        while word(ring + at) == at as u64 ^ key {
            found.push(ring + at);
            at += 24 + (word(ring + at + 16) as u32 & 0x7FFF_FFFF).next_multiple_of(8) as usize;
        }
    }
    found
}

#[test]
fn damaged_records_are_counted_and_those_behind_them_are_recovered() {
    for (hit, left) in [(&[0][..], 4), (&[2], 4), (&[4], 4), (&[1, 2], 3), (&[0, 4], 3), (&[0, 1, 2, 3, 4], 0)] {
        // The tag, the stamp, the length, the checksum, the body.
        for offset in [0, 9, 16, 20, 40] {
            let (name, mut bytes) = left_behind();
            let places = records(&bytes);
            assert_eq!(places.len(), 5);
            hit.iter().for_each(|record| bytes[places[*record] + offset] ^= 0x41);
            let dir = store_with(&name, &bytes);
            let found = l0::recover(dir.path()).unwrap();
            let lost = hit.len() as u64;
            assert_eq!((found.records, found.damaged, found.unreadable), (left, lost, 0), "{hit:?} at {offset}");
            assert_eq!(latest_run(dir.path()), ["killed", &left.to_string(), &lost.to_string()]);
            let reader = Reader::open(dir.path()).unwrap();
            let reasons = texts(&reader.sql("SELECT reason, count FROM shed", &[]).unwrap());
            assert_eq!(reasons, [["damaged", &lost.to_string()]]);
        }
    }
}

#[test]
fn damage_is_counted_once_though_the_file_stays() {
    let (name, mut bytes) = left_behind();
    let places = records(&bytes);
    bytes[places[1] + 40] ^= 1;
    let dir = store_with(&name, &bytes);
    assert_eq!(l0::recover(dir.path()).unwrap().damaged, 1);
    // As if it could not have been removed: its positions are still there.
    let again = store_with(&name, &bytes);
    let store = rusqlite::Connection::open(again.path().join("telemetry.db")).unwrap();
    store.execute_batch("CREATE TRIGGER keep BEFORE DELETE ON lane BEGIN SELECT RAISE(IGNORE); END").unwrap();
    for damaged in [1, 0] {
        fs::write(again.path().join("flight").join(&name), &bytes).unwrap();
        assert_eq!(l0::recover(again.path()).unwrap().damaged, damaged);
    }
    assert_eq!(latest_run(again.path()), ["killed", "4", "1"]);
}

#[test]
fn a_damaged_header_is_read_from_its_copy_and_a_file_without_one_is_set_aside() {
    let (name, bytes) = left_behind();
    let damage = |ranges: &[std::ops::Range<usize>]| {
        let mut bytes = bytes.clone();
        ranges.iter().for_each(|range| bytes[range.clone()].fill(0xA5));
        let dir = store_with(&name, &bytes);
        l0::recover(dir.path()).unwrap()
    };
    for range in [0..8, 8..9, 12..32, 40..100, 3_968..4_000] {
        let found = damage(&[range]);
        assert_eq!((found.records, found.unreadable), (5, 0));
    }
    let found = damage(&[20..40, 3_980..3_990]);
    assert_eq!((found.records, found.unreadable), (0, 1));
    // Words that change while the process lives: anchors, counts of what was shed, positions, definitions.
    for range in [112..120, 256..500, 1_008..1_016, 1_024..1_056, 2_048..2_200, 4_096..8_192] {
        let found = damage(std::slice::from_ref(&range));
        assert_eq!(found.records + found.damaged, 5, "{range:?}");
    }
}

#[test]
fn files_that_cannot_be_removed_or_read_stop_no_start() {
    let (name, bytes) = left_behind();
    let dir = store_with(&name, &bytes);
    // Not even root can remove what is in a directory that is immutable.
    let flight = dir.path().join("flight");
    let chattr = |flag: &str| {
        let path = flight.join(&name);
        std::process::Command::new("chattr").arg(flag).arg(path).status().is_ok_and(|status| status.success())
    };
    if !chattr("+i") {
        return println!("skipped: chattr does not work here");
    }
    let l0 = builder(dir.path()).start();
    let recovered = l0.as_ref().map(|l0| l0.recovered());
    assert!(chattr("-i"));
    assert_eq!(recovered.unwrap().failed, 1);
    drop(l0);
    assert_eq!(l0::recover(dir.path()).unwrap().failed, 0);
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
    change_header(&mut bytes, |header| {
        header[88] ^= 1;
        header[64] ^= 1;
    });
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
