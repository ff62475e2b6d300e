//! The check itself must fail when a store and its acknowledgements differ.

use rusqlite::Connection;

use super::{
    campaign::Case,
    check::check,
    plan::{Death, Kind, Role},
    process::{Running, Witness},
};

const STEPS: u64 = 120;

/// A directory in which a child recorded and shut down.
fn sound() -> (Case, Witness) {
    let case = Case::new();
    let plan = case.plan(Role::RecordAndShutDown { steps: STEPS }, 2, Death::None);
    let child = Running::spawn(plan).wait();
    let found = check(&case.dir(), std::slice::from_ref(&child));
    assert!(found.faults.is_empty(), "{:?}", found.faults);
    assert_eq!((found.acknowledged, found.lost, found.doubled), (found.stored, 0, 0));
    assert!(found.stored >= 2 * STEPS);
    (case, child)
}

fn faults(case: &Case, child: Witness) -> String {
    check(&case.dir(), &[child]).faults.join("; ")
}

#[test]
fn an_acknowledgement_without_its_record_is_a_loss() {
    let (case, child) = sound();
    for kind in Kind::RECORDS {
        let mut child = child.clone();
        child.acknowledged.entry((kind, 1)).or_default().push(STEPS + 1);
        let found = check(&case.dir(), &[child]);
        assert_eq!((found.lost, found.doubled), (1, 0), "{kind:?}");
        assert!(found.faults[0].contains(&format!("1 records {kind:?} of child 0, thread 1 are lost")));
    }
}

#[test]
fn records_that_nobody_acknowledged_are_found() {
    let (case, mut child) = sound();
    child.acknowledged.get_mut(&(Kind::Event, 0)).unwrap().truncate(2);
    assert!(faults(&case, child).contains("rows nobody acknowledged"));
}

#[test]
fn a_refused_audit_that_is_stored_is_found() {
    let (case, mut child) = sound();
    let audits = child.acknowledged.remove(&(Kind::Audit, 0)).unwrap();
    assert!(!audits.is_empty());
    child.acknowledged.insert((Kind::RefusedAudit, 0), audits);
    assert!(faults(&case, child).contains("an audit that was refused is stored"));
}

#[test]
fn another_end_or_outcome_than_expected_is_found() {
    let (case, mut child) = sound();
    child.plan.death = Death::AtRecord { way: super::plan::Way::Abort, record: 1 };
    assert!(faults(&case, child.clone()).contains("child 0 ended with exit status: 0"));
    child.plan.child = 5;
    let faults = faults(&case, child);
    assert!(faults.contains("rows of an unknown child"), "{faults}");
    assert!(faults.contains("child 5 has runs with outcomes []"), "{faults}");
}

/// Triggers keep the audit from being changed.
fn drop_triggers(connection: &Connection) {
    let mut names = connection.prepare("SELECT name FROM sqlite_master WHERE type = 'trigger'").unwrap();
    let names: Vec<String> = names.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    for name in names {
        connection.execute_batch(&format!("DROP TRIGGER {name}")).unwrap();
    }
}

#[test]
fn changed_rows_are_found() {
    for (database, change, expected) in [
        ("telemetry.db", "UPDATE run SET outcome = 'killed'", "outcomes [\"killed\"], expected [\"clean\"]"),
        ("telemetry.db", "UPDATE run SET outcome = 'running', ended_at = NULL", "1 runs and 0 spans of dead processes"),
        ("telemetry.db", "UPDATE run SET stored = stored + 1", "runs whose count differs from their rows"),
        (
            "telemetry.db",
            "UPDATE span SET started_at = started_at - 60000000000 WHERE id = (SELECT max(id) FROM span)",
            "spans of one thread began out of order",
        ),
        ("telemetry.db", "UPDATE span SET state = 2", "spans of child 0 are interrupted"),
        ("telemetry.db", "UPDATE span SET state = 1 WHERE id = (SELECT max(id) FROM span)", "0 runs and 1 spans of dead"),
        ("telemetry.db", "DELETE FROM event WHERE at = (SELECT max(at) FROM event WHERE payload ->> 'begins_at' IS NOT NULL)", "1 records Event of child 0"),
        ("telemetry.db", "DELETE FROM span WHERE id = (SELECT max(id) FROM span)", "1 records Span of child 0"),
        (
            "telemetry.db",
            "UPDATE event SET payload = (SELECT payload FROM event AS e WHERE e.payload ->> 'thread' = event.payload ->> 'thread'
                 AND e.payload ->> 'begins_at' IS NOT NULL ORDER BY at DESC LIMIT 1)
              WHERE at = (SELECT min(at) FROM event WHERE payload ->> 'begins_at' IS NOT NULL)",
            "1 records are stored twice",
        ),
        (
            "telemetry.db",
            "UPDATE event SET payload = json_set(payload, '$.number', 119 - (payload ->> 'number')) WHERE payload ->> 'begins_at' IS NOT NULL",
            "not in the order of their numbers",
        ),
        ("telemetry.db", "UPDATE event SET payload = json_set(payload, '$.begins_at', 77)", "events are not in their spans"),
        ("telemetry.db", "UPDATE event SET callsite = 999", "the store is not consistent"),
        ("state.db", "DELETE FROM audit WHERE at = (SELECT min(at) FROM audit)", "1 records Audit of child 0"),
        ("state.db", "UPDATE job SET state = 2 WHERE number = (SELECT min(number) FROM job)", "1 records Job of child 0"),
        (
            "state.db",
            "INSERT INTO audit (at, severity, event_type, payload) SELECT at + 1000000000, severity, event_type, payload
               FROM audit ORDER BY at DESC LIMIT 1",
            "1 records are stored twice",
        ),
    ] {
        let (case, child) = sound();
        let connection = Connection::open(case.dir().join(database)).unwrap();
        drop_triggers(&connection);
        assert!(connection.execute(change, []).unwrap() > 0, "{change}");
        drop(connection);
        let faults = faults(&case, child);
        assert!(faults.contains(expected), "{change}: {faults}");
    }
}
