//! Cases by hand: each rule of the trait where it is at its edge.

use std::{sync::Barrier, thread, time::Duration};

use super::batches;
use crate::{
    clock::Timestamp,
    jobs::{
        Backoff, JobFilter, JobQueue, JobState, Progress, Reason,
        queue::{
            Cancel, Claim, Claimed, Lease, NewJob, Note, Outcome, OwnerId, ScheduleChange, SchedulePut, Settle,
            WhichSchedules,
        },
    },
};

const S: i64 = 1_000_000_000;
const START: i64 = 1_800_000_000 * S;

pub(super) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_ns(START + seconds * S)
}

pub(super) fn job(kind: &str, seconds: i64) -> NewJob {
    NewJob::new(kind, "{}", at(seconds))
}

pub(super) fn claim_at(queue: &dyn JobQueue, owner: OwnerId, limit: usize, seconds: i64) -> Vec<Claimed> {
    let claim = Claim::new(owner, "default", &["a", "b"], limit, at(seconds));
    queue.exchange(Vec::new(), Some(claim)).unwrap().claimed
}

pub(super) fn settle(queue: &dyn JobQueue, lease: Lease, outcome: Outcome, seconds: i64) -> Option<JobState> {
    let settle = Settle { lease, started_at: Some(at(seconds)), at: at(seconds), progress: None, outcome };
    queue.exchange(vec![settle], None).unwrap().settled[0]
}

pub(super) fn success() -> Outcome {
    Outcome::Success { result: "1".to_owned() }
}

pub(super) fn again(seconds: i64, counts: bool) -> Outcome {
    Outcome::Again { reason: Reason::Error, error: Some("no".to_owned()), run_at: at(seconds), counts }
}

pub(super) fn run<Q: JobQueue>(make: &impl Fn() -> Q) {
    ids_lead_to_jobs(&make());
    batches::stale_beside_current(&make());
    batches::many_at_once(&make());
    order_of_claims(&make());
    leases_fence(&make());
    unique_keys(&make());
    attempts_and_rescue(&make());
    owners_that_are_heard_are_not_rescued(&make());
    cancels(&make());
    deadlines(&make());
    ahead(&make());
    notes(&make());
    pages(&make());
    retries_and_pruning(&make());
    schedules(&make());
    threads_claim_each_job_once(&make());
}

fn schedules(queue: &dyn JobQueue) {
    let put = |seconds: Option<i64>, waits: bool| SchedulePut {
        next_at: seconds.map(at),
        waits,
        entry: format!("{{\"at\":{}}}", seconds.unwrap_or(0)),
    };
    let change = |name: &str, revision: u64, to: Option<SchedulePut>, jobs: Vec<NewJob>| ScheduleChange {
        name: name.to_owned(),
        revision,
        to,
        jobs,
    };
    let one = |change: ScheduleChange| queue.change_schedules(vec![change]).unwrap().remove(0);
    let named = |name: &str| queue.schedules(&WhichSchedules::Named(name.to_owned())).unwrap().pop();
    let names = |which| queue.schedules(&which).unwrap().into_iter().map(|stored| stored.name).collect::<Vec<_>>();
    let due = |seconds| names(WhichSchedules::Due { by: at(seconds), skip: 0 });
    let fire = |name: &str, seconds| NewJob {
        schedule: Some(name.to_owned()),
        scheduled_for: Some(at(seconds)),
        ..job("a", seconds)
    };
    assert_eq!((named("x"), queue.next_schedule_at(at(0)).unwrap()), (None, None));
    assert_eq!(one(change("x", 7, Some(put(Some(5), false)), vec![fire("x", 0)])), None, "there is none yet");
    assert_eq!(one(change("x", 0, Some(put(Some(5), false)), Vec::new())), Some(Vec::new()));
    one(change("b", 0, Some(put(Some(3), false)), Vec::new()));
    one(change("c", 0, Some(put(None, false)), Vec::new()));
    let x = named("x").unwrap();
    assert_eq!((x.next_at, x.waits, x.entry.as_str(), x.open, x.ended_at), (Some(at(5)), false, "{\"at\":5}", 0, None));
    let next = |seconds| queue.next_schedule_at(at(seconds)).unwrap();
    assert_eq!((next(2), next(3), next(5)), (Some(at(3)), Some(at(5)), None));
    assert_eq!(names(WhichSchedules::Due { by: at(9), skip: 1 }), ["x"]);
    assert_eq!((due(2).len(), due(3), due(9)), (0, vec!["b".to_owned()], vec!["b".to_owned(), "x".to_owned()]));
    assert_eq!(names(WhichSchedules::All), ["b", "c", "x"]);
    // Its jobs come with the change, and not without it.
    let changes = vec![
        change("x", x.revision, Some(put(Some(15), true)), vec![fire("x", 5)]),
        change("b", x.revision ^ 1, Some(put(Some(9), false)), vec![fire("b", 3)]),
    ];
    let answers = queue.change_schedules(changes).unwrap();
    let id = answers[0].as_ref().unwrap()[0].id;
    assert!(answers[0].as_ref().unwrap()[0].is_new && answers[1].is_none());
    let row = queue.get(id).unwrap().unwrap();
    assert_eq!((row.schedule.as_deref(), row.scheduled_for), (Some("x"), Some(at(5))));
    assert_eq!(one(change("x", x.revision, None, Vec::new())), None, "that revision is gone");
    let x = named("x").unwrap();
    assert_eq!((x.open, x.waits, due(9)), (1, true, vec!["b".to_owned()]), "it waits, and its job is not final");
    // A fire time has one job.
    let both = one(change("x", x.revision, Some(put(Some(15), true)), vec![fire("x", 5), fire("x", 6)])).unwrap();
    assert_eq!((both[0].id, both[0].is_new, both[1].is_new), (id, false, true));
    let owner = queue.register("test", &[]).unwrap();
    let claimed = claim_at(queue, owner, 9, 7);
    assert_eq!(claimed.iter().map(|claimed| claimed.scheduled_for).collect::<Vec<_>>(), [Some(at(5)), Some(at(6))]);
    assert_eq!(claimed[0].schedule.as_deref(), Some("x"));
    settle(queue, claimed[0].lease, success(), 8);
    settle(queue, claimed[1].lease, again(20, true), 8);
    assert_eq!(named("x").unwrap().open, 1, "one is to be tried again");
    let lease = claim_at(queue, owner, 9, 20)[0].lease;
    settle(queue, lease, Outcome::Failed { reason: Reason::Error, error: "no".to_owned() }, 21);
    let x = named("x").unwrap();
    assert_eq!((x.open, x.ended_at), (0, Some(at(21))));
    assert_eq!(due(9), ["b", "x"], "what waited for the end of its jobs is due");
    let known = one(change("x", x.revision, Some(put(Some(30), false)), vec![fire("x", 6)])).unwrap();
    assert!(!known[0].is_new, "final or not");
    // Gone, and another of the same name.
    let before = named("x").unwrap().revision;
    assert_eq!(one(change("x", before, None, Vec::new())), Some(Vec::new()));
    assert_eq!(named("x"), None);
    one(change("x", 0, Some(put(None, false)), Vec::new()));
    assert_eq!(one(change("x", before, None, Vec::new())), None, "no revision comes again");
    assert_eq!(named("x").unwrap().next_at, None);
}

fn ids_lead_to_jobs(queue: &dyn JobQueue) {
    let new = NewJob {
        payload: "{\"x\":1}".to_owned(),
        priority: -3,
        correlation_id: Some("order-9".parse().unwrap()),
        scheduled_for: Some(at(-5)),
        unique: Some("k\u{1f}ey".to_owned()),
        ..job("a", 0)
    };
    let [enqueued] = queue.enqueue(vec![new]).unwrap()[..] else { panic!("one job, one answer") };
    assert!(enqueued.is_new);
    let row = queue.get(enqueued.id).unwrap().expect("it is there");
    assert_eq!((row.id, &*row.kind, &*row.queue, row.priority), (enqueued.id, "a", "default", -3));
    assert_eq!((&*row.payload, row.correlation_id.as_deref()), ("{\"x\":1}", Some("order-9")));
    assert_eq!((row.scheduled_for, row.unique.as_deref()), (Some(at(-5)), Some("k\u{1f}ey")));
    assert_eq!((row.state, row.attempt, row.enqueued_at, row.run_at), (JobState::Pending, 0, at(0), at(0)));
    let other = crate::jobs::JobId::of_row(1, at(77));
    assert_eq!(queue.get(other).unwrap(), None, "another job's number is not enough");
    assert_eq!(queue.get(uuid::Uuid::now_v7().into()).unwrap(), None);
    assert!(queue.enqueue(Vec::new()).unwrap().is_empty());
}

fn order_of_claims(queue: &dyn JobQueue) {
    let owner = queue.register("test", &[]).unwrap();
    let jobs = [("a", 0, 0), ("b", 5, 0), ("a", 5, -1), ("b", 0, -2), ("a", 9, 60), ("c", 9, 0)];
    let jobs = jobs.map(|(kind, priority, due)| NewJob { priority, run_at: at(due), ..job(kind, 0) });
    let ids: Vec<_> = queue.enqueue(jobs.to_vec()).unwrap().iter().map(|enqueued| enqueued.id).collect();
    let claimed = claim_at(queue, owner, 3, 1);
    let of = |claimed: &[Claimed]| claimed.iter().map(|claimed| claimed.lease.id).collect::<Vec<_>>();
    assert_eq!(of(&claimed), [ids[2], ids[1], ids[3]], "the higher priority, then the one that is due longer");
    assert_eq!(claimed[0].attempt, 1);
    let exchanged = queue.exchange(Vec::new(), Some(Claim::new(owner, "default", &["a", "b"], 9, at(1)))).unwrap();
    assert_eq!(of(&exchanged.claimed), [ids[0]], "of no kind that was not asked for, and none before its time");
    assert_eq!(exchanged.next_due, Some(at(60)));
    assert!(claim_at(queue, owner, 0, 99).is_empty(), "none where none is wanted");
    assert_eq!(of(&claim_at(queue, owner, 9, 60)), [ids[4]], "at its very time");
    let other = Claim::new(owner, "other", &["c"], 1, at(60));
    assert!(queue.exchange(Vec::new(), Some(other)).unwrap().claimed.is_empty(), "of another queue none");
    // Whatever their priority, those that are due longest.
    let jobs = [(0, -9), (7, -1)].map(|(priority, due)| NewJob { priority, run_at: at(due), ..job("a", 0) });
    let ids: Vec<_> = queue.enqueue(jobs.to_vec()).unwrap().iter().map(|enqueued| enqueued.id).collect();
    let oldest = Claim { oldest: true, ..Claim::new(owner, "default", &["a"], 1, at(0)) };
    assert_eq!(of(&queue.exchange(Vec::new(), Some(oldest)).unwrap().claimed), [ids[0]]);
}

fn leases_fence(queue: &dyn JobQueue) {
    let owner = queue.register("test", &[]).unwrap();
    let id = queue.enqueue(vec![job("a", 0)]).unwrap()[0].id;
    let first = claim_at(queue, owner, 1, 1)[0].lease;
    assert_eq!(settle(queue, first, again(2, true), 1), Some(JobState::Pending));
    assert_eq!(settle(queue, first, success(), 1), None, "it was given up");
    let second = claim_at(queue, owner, 1, 2)[0].lease;
    assert_ne!(first, second);
    assert_eq!(settle(queue, first, success(), 2), None, "another claim has it");
    let before = queue.get(id).unwrap();
    let note = Note { checkpoint: Some("9".to_owned()), progress: Some(Progress::new(1, 2, "x")), ..Note::new(first) };
    assert_eq!(queue.note(vec![note]).unwrap(), [false]);
    assert_eq!(queue.get(id).unwrap(), before, "a stale lease changes nothing");
    let stranger = Lease { owner: OwnerId(owner.0 + 1), ..second };
    assert_eq!(settle(queue, stranger, success(), 2), None, "nor one of somebody else");
    assert_eq!(settle(queue, second, success(), 3), Some(JobState::Success));
    assert_eq!(settle(queue, second, again(4, true), 3), None, "what is final stays so");
    let row = queue.get(id).unwrap().unwrap();
    assert_eq!((row.state, row.attempt, row.result.as_deref(), row.error), (JobState::Success, 2, Some("1"), None));
    assert_eq!((row.started_at, row.finished_at), (Some(at(3)), Some(at(3))));
}

fn unique_keys(queue: &dyn JobQueue) {
    let owner = queue.register("test", &[]).unwrap();
    let keyed = |kind: &str| NewJob { unique: Some("k".to_owned()), ..job(kind, 0) };
    let both = queue.enqueue(vec![keyed("a"), keyed("a"), keyed("b")]).unwrap();
    assert_eq!(
        [both[0].is_new, both[1].is_new, both[2].is_new],
        [true, false, true],
        "in its kind, within a batch, too"
    );
    assert_eq!(both[0].id, both[1].id);
    let claimed = claim_at(queue, owner, 2, 1);
    assert!(!queue.enqueue(vec![keyed("a")]).unwrap()[0].is_new, "while it runs");
    for claimed in &claimed {
        settle(queue, claimed.lease, success(), 1);
    }
    let next = queue.enqueue(vec![keyed("a")]).unwrap()[0];
    assert!(next.is_new && next.id != both[0].id, "when it is done the key is free");
    queue.cancel(next.id, at(1)).unwrap();
    assert!(queue.enqueue(vec![keyed("a")]).unwrap()[0].is_new);
    assert!(!queue.retry(next.id, at(1)).unwrap(), "its key is taken");
}

fn attempts_and_rescue(queue: &dyn JobQueue) {
    let mut terms = crate::jobs::queue::Terms::default();
    (terms.max_attempts, terms.backoff) = (2, Backoff::fixed(Duration::from_secs(1)));
    let id = queue.enqueue(vec![NewJob { terms: terms.clone(), ..job("a", 0) }]).unwrap()[0].id;
    let dies = |seconds| {
        let owner = queue.register("test", &["a".to_owned()]).unwrap();
        let claimed = claim_at(queue, owner, 1, seconds);
        let known = queue.owners().unwrap().into_iter().find(|known| known.id == owner).expect("it is registered");
        assert_eq!((&*known.process, &known.kinds[..]), ("test", &["a".to_owned()][..]));
        let rescued = queue.rescue(&known, at(seconds)).unwrap();
        assert!(queue.owners().unwrap().iter().all(|known| known.id != owner), "it is forgotten");
        (claimed, rescued)
    };
    let (claimed, rescued) = dies(1);
    assert_eq!((claimed[0].attempt, &claimed[0].terms), (1, &terms));
    assert_eq!((rescued[0].id, rescued[0].state, rescued[0].attempt), (id, JobState::Pending, 1));
    assert_eq!(settle(queue, claimed[0].lease, success(), 1), None, "its lease went with its owner");
    let row = queue.get(id).unwrap().unwrap();
    assert_eq!((row.state, row.reason, row.attempt), (JobState::Pending, Reason::Abandoned, 1));
    let (claimed, rescued) = dies(2);
    assert_eq!((claimed[0].attempt, rescued[0].state), (2, JobState::Failed), "in its last attempt");
    let row = queue.get(id).unwrap().unwrap();
    assert_eq!((row.state, row.reason, row.finished_at), (JobState::Failed, Reason::Abandoned, Some(at(2))));
    assert!(dies(3).0.is_empty(), "and it is over");
    // An orderly end costs no attempt, nor does what says so.
    let owner = queue.register("test", &[]).unwrap();
    let id = queue.enqueue(vec![NewJob { terms, ..job("a", 0) }]).unwrap()[0].id;
    let lease = claim_at(queue, owner, 1, 3)[0].lease;
    assert_eq!(settle(queue, lease, again(3, false), 3), Some(JobState::Pending));
    let claimed = &claim_at(queue, owner, 1, 3)[0];
    assert_eq!(claimed.attempt, 1);
    assert_eq!(queue.note(vec![Note { is_interrupted: true, ..Note::new(claimed.lease) }]).unwrap(), [true]);
    let known = queue.owners().unwrap().into_iter().find(|known| known.id == owner).unwrap();
    assert_eq!(queue.rescue(&known, at(4)).unwrap()[0].state, JobState::Pending);
    let row = queue.get(id).unwrap().unwrap();
    assert_eq!((row.attempt, row.reason), (0, Reason::Interrupted));
}

fn owners_that_are_heard_are_not_rescued(queue: &dyn JobQueue) {
    let owner = queue.register("one", &[]).unwrap();
    let other = queue.register("other", &[]).unwrap();
    assert_ne!(owner, other);
    queue.enqueue(vec![job("a", 0)]).unwrap();
    let lease = claim_at(queue, owner, 1, 1)[0].lease;
    let known = queue.owners().unwrap().into_iter().find(|known| known.id == owner).unwrap();
    assert_eq!(queue.beat(owner).unwrap(), Some(Vec::new()));
    assert!(queue.rescue(&known, at(2)).unwrap().is_empty(), "it was heard since");
    assert_eq!(settle(queue, lease, success(), 2), Some(JobState::Success));
    let known = queue.owners().unwrap().into_iter().find(|known| known.id == owner).unwrap();
    queue.rescue(&known, at(2)).unwrap();
    assert_eq!(queue.beat(owner).unwrap(), None, "it is not known any more");
    queue.enqueue(vec![job("a", 0)]).unwrap();
    let claim = Claim::new(owner, "default", &["a"], 1, at(9));
    let exchanged = queue.exchange(Vec::new(), Some(claim)).unwrap();
    assert!(exchanged.owner_is_unknown && exchanged.claimed.is_empty(), "nobody could rescue what it held");
    let third = queue.register("one", &[]).unwrap();
    assert!(third != owner && third != other, "ids are not used again");
}

fn cancels(queue: &dyn JobQueue) {
    let owner = queue.register("test", &[]).unwrap();
    let ids: Vec<_> =
        queue.enqueue(vec![job("a", 0), job("a", 1), job("a", 2)]).unwrap().iter().map(|job| job.id).collect();
    assert!(
        matches!(queue.cancel(ids[0], at(3)).unwrap(), Cancel::Done(ended) if ended.id == ids[0] && ended.kind == "a")
    );
    assert_eq!(queue.cancel(ids[0], at(3)).unwrap(), Cancel::TooLate);
    let row = queue.get(ids[0]).unwrap().unwrap();
    assert_eq!((row.state, row.finished_at), (JobState::Cancelled, Some(at(3))));
    let claimed = claim_at(queue, owner, 9, 3);
    assert_eq!(claimed.len(), 2, "what is cancelled is not claimed");
    for id in &ids[1..] {
        assert_eq!(queue.cancel(*id, at(4)).unwrap(), Cancel::Asked);
        assert!(queue.get(*id).unwrap().unwrap().is_cancel_asked);
    }
    let mut asked = queue.beat(owner).unwrap().unwrap();
    asked.sort();
    assert_eq!(asked, ids[1..]);
    assert_eq!(settle(queue, claimed[0].lease, success(), 5), Some(JobState::Success), "what is done is done");
    assert_eq!(settle(queue, claimed[1].lease, again(5, true), 5), Some(JobState::Cancelled), "and not tried again");
    assert_eq!(queue.cancel(crate::jobs::JobId::of_row(999, at(0)), at(5)).unwrap(), Cancel::TooLate);
    // Who dies meanwhile: the wish holds.
    let id = queue.enqueue(vec![job("a", 5)]).unwrap()[0].id;
    claim_at(queue, owner, 1, 6);
    queue.cancel(id, at(6)).unwrap();
    let known = queue.owners().unwrap().into_iter().find(|known| known.id == owner).unwrap();
    assert_eq!(queue.rescue(&known, at(6)).unwrap()[0].state, JobState::Cancelled);
}

fn deadlines(queue: &dyn JobQueue) {
    let owner = queue.register("test", &[]).unwrap();
    let by = |seconds| {
        let mut new = job("a", 0);
        new.terms.start_by = Some(at(seconds));
        new
    };
    let ids: Vec<_> = queue.enqueue(vec![by(5), by(10)]).unwrap().iter().map(|job| job.id).collect();
    let exchanged = queue.exchange(Vec::new(), Some(Claim::new(owner, "default", &["a"], 9, at(10)))).unwrap();
    assert_eq!(exchanged.missed.iter().map(|missed| missed.id).collect::<Vec<_>>(), [ids[0]]);
    assert_eq!(exchanged.claimed.iter().map(|claimed| claimed.lease.id).collect::<Vec<_>>(), [ids[1]]);
    let row = queue.get(ids[0]).unwrap().unwrap();
    assert_eq!((row.state, row.reason, row.attempt), (JobState::Failed, Reason::MissedDeadline, 0));
    settle(queue, exchanged.claimed[0].lease, again(11, true), 10);
    assert_eq!(claim_at(queue, owner, 9, 99).len(), 1, "only the first attempt is bound");
}

fn ahead(queue: &dyn JobQueue) {
    let owner = queue.register("test", &[]).unwrap();
    let mut last = job("a", 2);
    last.terms.max_attempts = 1;
    let ids: Vec<_> =
        queue.enqueue(vec![job("a", 0), job("a", 1), last, job("a", 3)]).unwrap().iter().map(|job| job.id).collect();
    let kinds = std::sync::Arc::new(vec![("a".to_owned(), true)]);
    let claim = Claim { ahead: 9, kinds, ..Claim::new(owner, "default", &[], 1, at(4)) };
    let claimed = queue.exchange(Vec::new(), Some(claim)).unwrap();
    let seen: Vec<_> = claimed.claimed.iter().map(|claimed| (claimed.lease.id, claimed.is_ahead)).collect();
    assert_eq!(seen, [(ids[0], false), (ids[1], true)], "none in its last attempt, nor behind such a one");
    assert!(claimed.next_due.is_some_and(|due| due <= at(4)), "there is more");
    let states = || ids.iter().map(|id| queue.get(*id).unwrap().unwrap().state).collect::<Vec<_>>();
    assert_eq!(states()[..2], [JobState::Running, JobState::Pending], "not begun is pending");
    let begun = Note { started_at: Some(at(4)), ..Note::new(claimed.claimed[1].lease) };
    assert_eq!(queue.note(vec![begun]).unwrap(), [true]);
    assert_eq!(states()[..2], [JobState::Running, JobState::Running]);
}

fn notes(queue: &dyn JobQueue) {
    let owner = queue.register("test", &[]).unwrap();
    let id = queue.enqueue(vec![job("a", 0)]).unwrap()[0].id;
    let lease = claim_at(queue, owner, 1, 1)[0].lease;
    let progress = |done| Some(Progress::new(done, 9, "half"));
    let first = Note { progress: progress(4), checkpoint: Some("[4]".to_owned()), ..Note::new(lease) };
    assert_eq!(queue.note(vec![first, Note { progress: progress(5), ..Note::new(lease) }]).unwrap(), [true, true]);
    let row = queue.get(id).unwrap().unwrap();
    assert_eq!((row.progress, row.checkpoint.as_deref()), (progress(5), Some("[4]")), "what is not said stays");
    let outcome = Settle { lease, started_at: Some(at(1)), at: at(2), progress: progress(6), outcome: again(2, true) };
    queue.exchange(vec![outcome], None).unwrap();
    assert_eq!(queue.get(id).unwrap().unwrap().progress, progress(6), "the last counts");
    assert_eq!(claim_at(queue, owner, 1, 2)[0].checkpoint.as_deref(), Some("[4]"), "the next attempt has it");
}

fn pages(queue: &dyn JobQueue) {
    let owner = queue.register("test", &[]).unwrap();
    let jobs = (0..5)
        .map(|number| NewJob { queue: if number == 4 { "q".into() } else { "default".into() }, ..job("a", number) });
    let ids: Vec<_> = queue.enqueue(jobs.collect()).unwrap().iter().map(|job| job.id).collect();
    queue.enqueue(vec![job("b", 9)]).unwrap();
    claim_at(queue, owner, 1, 9);
    let filter = |limit| JobFilter { limit, kind: Some("a".to_owned()), ..JobFilter::default() };
    let listed = queue.list(&filter(2)).unwrap();
    let of = |listed: &crate::jobs::queue::Listed| listed.rows.iter().map(|row| row.id).collect::<Vec<_>>();
    assert_eq!(of(&listed), [ids[4], ids[3]], "the latest first");
    let next = queue.list(&JobFilter { before: listed.next, ..filter(9) }).unwrap();
    assert_eq!((of(&next), next.next), (vec![ids[2], ids[1], ids[0]], None));
    let of_queue = JobFilter { queue: Some("q".to_owned()), ..filter(9) };
    assert_eq!(of(&queue.list(&of_queue).unwrap()), [ids[4]]);
    for (state, count) in [(JobState::Running, 1), (JobState::Pending, 4), (JobState::Failed, 0)] {
        let filter = JobFilter { state: Some(state), ..filter(9) };
        assert_eq!(queue.list(&filter).unwrap().rows.len(), count, "{state}");
    }
    let counts = queue.counts().unwrap();
    let seen: Vec<_> = counts.iter().map(|counts| (&*counts.kind, counts.pending, counts.running)).collect();
    assert_eq!(seen, [("a", 4, 1), ("b", 1, 0)]);
    assert_eq!(counts[0].oldest_pending, Some(at(1)));
}

fn retries_and_pruning(queue: &dyn JobQueue) {
    let owner = queue.register("test", &[]).unwrap();
    let ids: Vec<_> =
        queue.enqueue((0..6).map(|number| job("a", number)).collect()).unwrap().iter().map(|job| job.id).collect();
    let claimed = claim_at(queue, owner, 6, 9);
    for (index, claimed) in claimed.iter().enumerate().take(5) {
        let failed = Outcome::Failed { reason: Reason::Error, error: "no".to_owned() };
        settle(queue, claimed.lease, if index == 0 { failed } else { success() }, 10 + index as i64);
    }
    assert!(!queue.retry(ids[1], at(20)).unwrap(), "what succeeded is done");
    assert!(!queue.retry(ids[5], at(20)).unwrap(), "what runs is not over");
    assert!(queue.retry(ids[0], at(20)).unwrap());
    let row = queue.get(ids[0]).unwrap().unwrap();
    assert_eq!((row.state, row.attempt, row.run_at), (JobState::Pending, 0, at(20)));
    assert_eq!(queue.prune(at(12), 99, 99).unwrap(), 1, "what ended before, and is not pending again");
    assert_eq!(queue.get(ids[1]).unwrap(), None);
    assert_eq!(queue.prune(at(0), 1, 1).unwrap(), 1, "no more than asked for at a time");
    assert_eq!(queue.prune(at(0), 1, 99).unwrap(), 1, "all but the latest");
    let left = [ids[0], ids[4], ids[5]].map(|id| queue.get(id).unwrap().map(|row| row.state));
    assert_eq!(left, [Some(JobState::Pending), Some(JobState::Success), Some(JobState::Running)]);
}

fn threads_claim_each_job_once(queue: &dyn JobQueue) {
    const JOBS: usize = 200;
    queue.enqueue((0..JOBS).map(|_| job("a", 0)).collect()).unwrap();
    let start = Barrier::new(4);
    let counts = thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let owner = queue.register("test", &[]).unwrap();
                    start.wait();
                    let mut count = 0;
                    loop {
                        let claimed = claim_at(queue, owner, 3, 1);
                        if claimed.is_empty() {
                            return count;
                        }
                        for claimed in claimed {
                            assert_eq!(settle(queue, claimed.lease, success(), 2), Some(JobState::Success));
                            count += 1;
                        }
                    }
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
    });
    assert_eq!(counts, JOBS);
    assert_eq!(queue.counts().unwrap()[0].success, JOBS as u64);
}
