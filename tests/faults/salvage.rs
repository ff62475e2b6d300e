//! What can be read of a damaged database is brought into a new store.

use std::{collections::BTreeSet, fs, path::Path};

use l0::{TelemetryEvent, query::Reader};

use super::{
    damage::{BATCH, ENDS_WITHIN, PAGE_BYTES, at_rest, database, length, record, start},
    foreign,
    ledger::{AUDITED, Numbered, RECORDED, compare, events_in},
};

#[test]
fn what_can_be_read_of_a_damaged_telemetry_db_is_salvaged() {
    let dir = at_rest(1 << 20);
    let l0 = start(dir.path()).unwrap();
    record(&l0, 0..BATCH);
    l0.shutdown(ENDS_WITHIN).unwrap();
    let count = |store: &Path| Reader::open(store).unwrap().events().count().unwrap();
    let (file, before) = (database(dir.path()), count(dir.path()));
    let middle = length(&file) / PAGE_BYTES / 2;
    foreign::overwrite(&file, middle * PAGE_BYTES..(middle + 4) * PAGE_BYTES);
    let damaged = fs::read(&file).unwrap();
    let to = dir.path().join("salvaged");
    l0::salvage(&file, &to).unwrap();
    let after = count(&to);
    assert!(after >= before / 2 && after <= before, "{after} of {before}");
    assert!(Reader::open(&to).unwrap().check().unwrap().is_sound());
    assert_eq!(fs::read(&file).unwrap(), damaged, "the damaged file is only read");
    start(&to).unwrap().shutdown(ENDS_WITHIN).unwrap();
    assert!(l0::salvage(&file, &to).unwrap_err().is_storage(), "a directory that is not empty is refused");
}

#[test]
fn what_can_be_read_of_a_damaged_state_db_is_salvaged() {
    let dir = tempfile::tempdir().unwrap();
    let l0 = start(dir.path()).unwrap();
    for number in 0..500 {
        l0.audit(TelemetryEvent::new(AUDITED).message("audit ".repeat(300)).payload(&Numbered { number })).unwrap();
    }
    l0.shutdown(ENDS_WITHIN).unwrap();
    let file = dir.path().join("state.db");
    let middle = length(&file) / PAGE_BYTES / 2;
    foreign::overwrite(&file, middle * PAGE_BYTES..(middle + 4) * PAGE_BYTES);
    let to = dir.path().join("salvaged");
    l0::salvage(&file, &to).unwrap();
    let found: BTreeSet<u64> = events_in(&to, AUDITED).unwrap().into_iter().collect();
    assert!(found.len() > 400, "{} of 500", found.len());
    start(&to).unwrap().audit(TelemetryEvent::new(AUDITED)).unwrap();
}

#[test]
fn an_undamaged_database_is_salvaged_whole_with_its_wal() {
    let dir = tempfile::tempdir().unwrap();
    let l0 = start(dir.path()).unwrap();
    record(&l0, 0..BATCH);
    l0.flush().unwrap();
    let to = dir.path().join("salvaged");
    l0::salvage(database(dir.path()), &to).unwrap();
    assert_eq!(compare("events", &(0..BATCH).collect(), events_in(&to, RECORDED)), None);
}
