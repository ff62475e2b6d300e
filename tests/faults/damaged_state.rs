//! A damaged `state.db` is never set aside: telemetry goes on, audits and jobs are refused with an error that helps.

use std::{collections::BTreeSet, fs, path::Path};

use l0::{TelemetryEvent, health::Status};

use super::{
    damage::{BATCH, ENDS_WITHIN, PAGE_BYTES, REPORTED_WITHIN, files_named, length, record, start},
    foreign,
    ledger::{AUDITED, Numbered, RECORDED, compare, events_in},
    roles::holds_within,
};

/// A store with audits, damaged by `damage`: telemetry goes on, audits and jobs are refused, the file stays as it is.
fn a_damaged_state_db_stays(damage: impl FnOnce(&Path)) {
    let dir = tempfile::tempdir().unwrap();
    let (store, file) = (dir.path(), dir.path().join("state.db"));
    let l0 = start(store).unwrap();
    for number in 0..BATCH {
        l0.audit(TelemetryEvent::new(AUDITED).message("audit ".repeat(300)).payload(&Numbered { number })).unwrap();
        l0.jobs().enqueue(Numbered { number }).unwrap();
    }
    l0.shutdown(ENDS_WITHIN).unwrap();
    damage(&file);
    let before = fs::read(&file).unwrap();

    let l0 = start(store).unwrap();
    record(&l0, 0..BATCH);
    l0.flush().unwrap();
    let mut problems: Vec<String> =
        compare("events", &(0..BATCH).collect(), events_in(store, RECORDED)).into_iter().collect();
    let calls = [
        ("audit", l0.audit(TelemetryEvent::new(AUDITED).payload(&Numbered { number: BATCH }))),
        ("enqueue", l0.jobs().enqueue(Numbered { number: BATCH }).map(drop)),
        ("stats", l0.jobs().stats().map(drop)),
        ("list", l0.jobs().list().fetch().map(drop)),
    ];
    for (call, outcome) in calls {
        let text = outcome.map_or_else(|error| error.to_string(), |()| "Ok".to_owned());
        let says_what_to_do = ["salvage", "move", "restore"].iter().any(|word| text.contains(word));
        if !text.contains("state.db") || !says_what_to_do {
            problems.push(format!("{call} does not name state.db and what to do: {text}"));
        }
    }
    let state =
        || l0.health().report().checks.into_iter().find(|check| check.name == "l0.state").map(|check| check.status);
    if !holds_within(REPORTED_WITHIN, || matches!(state(), Some(Status::Unhealthy(_)))) {
        problems.push(format!("l0.state: {:?}", state()));
    }
    problems.extend(l0.shutdown(ENDS_WITHIN).err().map(|error| format!("shutdown: {error}")));
    if fs::read(&file).unwrap() != before || !files_named(store, "state.damaged").is_empty() {
        problems.push(format!("state.db was changed or moved: {:?}", files_named(store, "state")));
    }
    assert!(problems.is_empty(), "{problems:#?}");
}

#[test]
fn a_state_db_of_garbage_stays_and_telemetry_goes_on() {
    a_damaged_state_db_stays(|file| fs::write(file, "garbage\n".repeat(8_192)).unwrap());
}

#[test]
fn a_state_db_that_was_overwritten_behind_its_first_page_stays_and_telemetry_goes_on() {
    a_damaged_state_db_stays(|file| foreign::overwrite(file, PAGE_BYTES..length(file)));
}

#[test]
fn a_state_db_that_was_truncated_stays_and_telemetry_goes_on() {
    a_damaged_state_db_stays(|file| foreign::truncate(file, 2 * PAGE_BYTES));
}

#[test]
fn a_living_state_db_that_is_truncated_acknowledges_nothing_that_cannot_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let l0 = start(dir.path()).unwrap();
    let audit =
        |number| l0.audit(TelemetryEvent::new(AUDITED).message("audit ".repeat(300)).payload(&Numbered { number }));
    (0..BATCH).for_each(|number| audit(number).unwrap());
    let file = dir.path().join("state.db");
    foreign::checkpoint(&file);
    foreign::truncate(&file, 2 * PAGE_BYTES);
    let acknowledged: BTreeSet<u64> = (BATCH..2 * BATCH).filter(|number| audit(*number).is_ok()).collect();
    assert_eq!(files_named(dir.path(), "state.damaged"), [""; 0]);
    let difference =
        (!acknowledged.is_empty()).then(|| compare("audits", &acknowledged, events_in(dir.path(), AUDITED)));
    assert_eq!(difference.flatten(), None);
}
