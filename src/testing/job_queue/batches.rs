//! Cases of many jobs in one call, and of leases that meet in one.

use super::cases::{again, at, claim_at, job, settle, success};
use crate::jobs::{
    JobQueue, JobState, Progress, Reason,
    queue::{Lease, NewJob, Outcome, Settle},
};

pub(super) fn many_at_once(queue: &dyn JobQueue) {
    let owner = queue.register("test", &[]).unwrap();
    // Some of them are there already, or are given twice.
    let of = |number: i64| NewJob {
        payload: number.to_string(),
        unique: (number % 50 == 40).then(|| "key".to_owned()),
        ..job(if number % 3 == 0 && number % 50 != 40 { "b" } else { "a" }, number)
    };
    let first = queue.enqueue(vec![of(40)]).unwrap()[0].id;
    let enqueued = queue.enqueue((100..300).map(of).collect()).unwrap();
    assert_eq!(enqueued.len(), 200);
    for (number, enqueued) in (100..).zip(&enqueued) {
        let is_known = number % 50 == 40;
        assert_eq!((enqueued.is_new, enqueued.id == first), (!is_known, is_known), "{number}");
        let row = queue.get(enqueued.id).unwrap().expect("it is there");
        let number = if is_known { 40 } else { number };
        assert_eq!((row.payload, row.enqueued_at, row.state), (number.to_string(), at(number), JobState::Pending));
    }
    let claimed = claim_at(queue, owner, 150, 1_000);
    let numbers: Vec<i64> = claimed.iter().map(|claimed| claimed.payload.parse().unwrap()).collect();
    let due = std::iter::once(40).chain((100..).filter(|number| number % 50 != 40));
    assert_eq!(numbers, due.take(150).collect::<Vec<_>>());
    for claimed in &claimed {
        let row = queue.get(claimed.lease.id).unwrap().unwrap();
        assert_eq!((row.state, row.started_at), (JobState::Running, Some(at(1_000))));
    }
    // They end in different ways, and of some the lease is another's by now.
    let outcome = |number: i64| match number % 5 {
        0 => success(),
        1 => Outcome::Failed { reason: Reason::TimedOut, error: format!("{number} took too long") },
        2 => Outcome::Cancelled,
        3 => again(2_000, true),
        _ => Outcome::Success { result: number.to_string() },
    };
    let is_stale = |number: i64| number % 7 == 0;
    let settles = claimed.iter().zip(&numbers).map(|(claimed, number)| Settle {
        lease: Lease { token: claimed.lease.token + i64::from(is_stale(*number)), ..claimed.lease },
        started_at: Some(at(*number)),
        at: at(1_001),
        progress: (number % 11 == 0).then(|| Progress::new(3, 4, "nearly")),
        outcome: outcome(*number),
    });
    let settled = queue.exchange(settles.collect(), None).unwrap().settled;
    assert_eq!(settled.len(), 150);
    for ((claimed, number), state) in claimed.iter().zip(numbers).zip(settled) {
        let row = queue.get(claimed.lease.id).unwrap().unwrap();
        if is_stale(number) {
            assert_eq!((state, row.state), (None, JobState::Running), "{number}");
            continue;
        }
        let expected = match outcome(number) {
            Outcome::Success { .. } => JobState::Success,
            Outcome::Failed { .. } => JobState::Failed,
            Outcome::Cancelled => JobState::Cancelled,
            Outcome::Again { .. } => JobState::Pending,
        };
        assert_eq!((state, row.state, row.started_at), (Some(expected), expected, Some(at(number))), "{number}");
        assert_eq!(row.progress.is_some(), number % 11 == 0);
        let is_final = expected != JobState::Pending;
        assert_eq!(row.finished_at, is_final.then_some(at(1_001)));
        match outcome(number) {
            Outcome::Success { result } => assert_eq!((row.result, row.error), (Some(result), None)),
            Outcome::Failed { reason, error } => assert_eq!((row.reason, row.error), (reason, Some(error))),
            _ => {}
        }
    }
}

/// A process that was paused may settle a job under a lease that it has lost, and under that which it has.
pub(super) fn stale_beside_current(queue: &dyn JobQueue) {
    let owner = queue.register("test", &[]).unwrap();
    queue.enqueue(vec![job("a", 0)]).unwrap();
    let first = claim_at(queue, owner, 1, 1)[0].lease;
    settle(queue, first, again(2, true), 1);
    let second = claim_at(queue, owner, 1, 2)[0].lease;
    let of = |lease, outcome| Settle { lease, started_at: Some(at(2)), at: at(3), progress: None, outcome };
    let failed = Outcome::Failed { reason: Reason::Error, error: "stale".to_owned() };
    let settled = queue.exchange(vec![of(first, failed), of(second, success())], None).unwrap().settled;
    let row = queue.get(second.id).unwrap().unwrap();
    assert_eq!((row.state, settled), (JobState::Success, vec![None, Some(JobState::Success)]));
}
