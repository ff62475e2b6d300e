//! Random steps, each compared with a model: a list of jobs that is searched from end to end.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    clock::Timestamp,
    jobs::{
        Backoff, JobFilter, JobId, JobQueue, JobState, Reason,
        queue::{Cancel, Claim, Lease, NewJob, Note, Outcome, Owner, OwnerId, Settle, Terms},
    },
};

const KINDS: [&str; 3] = ["a", "b", "c"];
const QUEUES: [&str; 2] = ["default", "other"];
const S: i64 = 1_000_000_000;

#[derive(Clone, Debug)]
struct Job {
    id: JobId,
    new: NewJob,
    state: JobState,
    reason: Reason,
    run_at: Timestamp,
    since: Option<Timestamp>,
    attempt: u32,
    deaths: u32,
    lease: Option<Lease>,
    started_at: Option<Timestamp>,
    is_interrupted: bool,
    is_cancel_asked: bool,
    checkpoint: Option<String>,
    finished_at: Option<Timestamp>,
}

struct Model<'q> {
    queue: &'q dyn JobQueue,
    random: u64,
    now: Timestamp,
    /// In the order of their coming.
    jobs: Vec<Job>,
    owners: Vec<Owner>,
    /// Current and stale.
    leases: Vec<Lease>,
}

pub(super) fn run(queue: &dyn JobQueue, seed: u64, steps: usize) {
    let mut model = Model {
        queue,
        random: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15),
        now: Timestamp::from_unix_ns(1_800_000_000 * S),
        jobs: Vec::new(),
        owners: Vec::new(),
        leases: Vec::new(),
    };
    for _ in 0..steps {
        model.step();
        model.compare();
    }
}

impl Model<'_> {
    /// SplitMix64: the same steps on every machine.
    fn below(&mut self, bound: usize) -> usize {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) % bound.max(1) as u64) as usize
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn soon(&mut self) -> Timestamp {
        Timestamp::from_unix_ns(self.now.as_unix_ns() + self.below(20) as i64 * S)
    }

    fn step(&mut self) {
        match self.below(20) {
            0..=4 => self.enqueue(),
            5..=11 => self.exchange(),
            12 => self.note(),
            13 => self.cancel(),
            14 => self.rescue(),
            15 => self.retry(),
            16 => self.beat(),
            17 => self.prune(),
            // The wall clock goes on, and now and then back.
            18 if self.chance(30) => {
                self.now = Timestamp::from_unix_ns(self.now.as_unix_ns() - 30 * S);
                if self.chance(70) {
                    self.rebase();
                }
            }
            _ => self.now = self.soon(),
        }
    }

    fn enqueue(&mut self) {
        let count = self.below(4);
        let news: Vec<_> = (0..count).map(|_| self.new_job()).collect();
        let answers = self.queue.enqueue(news.clone()).unwrap();
        assert_eq!(answers.len(), news.len());
        for (new, answer) in news.into_iter().zip(answers) {
            let taken = self.jobs.iter().find(|job| {
                new.unique.is_some()
                    && (&job.new.unique, &job.new.kind) == (&new.unique, &new.kind)
                    && !job.state.is_final()
            });
            assert_eq!(answer.is_new, taken.is_none(), "{new:?}");
            match taken {
                Some(taken) => assert_eq!(answer.id, taken.id),
                None => {
                    assert!(self.jobs.iter().all(|job| job.id != answer.id), "ids are not used again");
                    self.jobs.push(Job {
                        id: answer.id,
                        run_at: new.run_at,
                        since: (!new.is_named).then_some(new.enqueued_at),
                        new,
                        state: JobState::Pending,
                        reason: Reason::None,
                        attempt: 0,
                        deaths: 0,
                        lease: None,
                        started_at: None,
                        is_interrupted: false,
                        is_cancel_asked: false,
                        checkpoint: None,
                        finished_at: None,
                    });
                }
            }
        }
    }

    fn new_job(&mut self) -> NewJob {
        let mut terms = Terms {
            max_attempts: 1 + self.below(3) as u32,
            backoff: Backoff::fixed(Duration::from_secs(1)),
            ..Terms::default()
        };
        if self.chance(10) {
            terms.start_by = Some(self.soon());
        }
        let kind = KINDS[self.below(KINDS.len())];
        NewJob {
            queue: QUEUES[usize::from(self.chance(20))].to_owned(),
            priority: self.below(3) as i32 - 1,
            run_at: if self.chance(30) { self.soon() } else { self.now },
            is_named: self.chance(30),
            unique: self.chance(20).then(|| "key".to_owned()),
            terms,
            ..NewJob::new(kind, "{}", self.now)
        }
    }

    fn owner(&mut self) -> OwnerId {
        if self.owners.is_empty() || self.chance(5) {
            let id = self.queue.register("model", &[]).unwrap();
            assert!(self.owners.iter().all(|known| known.id != id));
            self.owners.push(Owner { id, process: "model".to_owned(), kinds: Vec::new(), beat: 0 });
        }
        let index = self.below(self.owners.len());
        self.owners[index].id
    }

    fn exchange(&mut self) {
        let mut settles: Vec<Settle> = Vec::new();
        for _ in 0..self.below(3) {
            if self.leases.is_empty() {
                break;
            }
            let index = self.below(self.leases.len());
            let lease = self.leases[index];
            if settles.iter().all(|settle| settle.lease.id != lease.id) {
                let outcome = self.outcome();
                // What was not begun is given back, or was cancelled meanwhile.
                let may_be_unbegun = matches!(outcome, Outcome::Again { .. } | Outcome::Cancelled);
                let is_begun = !may_be_unbegun || self.chance(70);
                let (started_at, at) = (is_begun.then_some(self.now), self.now);
                settles.push(Settle { lease, started_at, at, progress: None, outcome });
            }
        }
        let claim = self.chance(80).then(|| self.claim());
        let answer = self.queue.exchange(settles.clone(), claim.clone()).unwrap();
        let settled: Vec<_> = settles.into_iter().map(|settle| self.settle(settle)).collect();
        assert_eq!(answer.settled, settled);
        let Some(claim) = claim else {
            assert!(answer.claimed.is_empty() && answer.missed.is_empty());
            return;
        };
        let (claimed, missed) = self.claimed(&claim);
        let seen: Vec<_> =
            answer.claimed.iter().map(|claimed| (claimed.lease.id, claimed.attempt, claimed.is_ahead)).collect();
        assert_eq!(seen, claimed, "{claim:?}");
        assert_eq!(answer.missed.iter().map(|missed| missed.id).collect::<Vec<_>>(), missed);
        for claimed in answer.claimed {
            assert!(!self.leases.contains(&claimed.lease), "a lease is minted once");
            self.leases.push(claimed.lease);
            let job = self.jobs.iter_mut().find(|job| job.id == claimed.lease.id).unwrap();
            assert_eq!((&claimed.checkpoint, &claimed.terms), (&job.checkpoint, &job.new.terms));
            job.lease = Some(claimed.lease);
        }
        let next = self.wanted(&claim).map(|job| job.run_at).min();
        match (answer.next_due, next) {
            (None, Some(next)) => panic!("a job is due at {next}, and nobody would look"),
            (Some(due), Some(next)) => assert!(due <= next.max(claim.now), "{due} is later than {next}"),
            _ => {}
        }
    }

    fn outcome(&mut self) -> Outcome {
        match self.below(5) {
            0 => Outcome::Success { result: "7".to_owned() },
            1 => Outcome::Failed { reason: Reason::Panicked, error: "boom".to_owned() },
            2 => Outcome::Cancelled,
            _ => Outcome::Again { reason: Reason::Error, error: None, run_at: self.soon(), counts: self.chance(70) },
        }
    }

    fn claim(&mut self) -> Claim {
        let kinds: Vec<_> = KINDS.iter().filter_map(|kind| self.chance(70).then_some((*kind).to_owned())).collect();
        let kinds = kinds.into_iter().map(|kind| (kind, self.chance(50))).collect();
        let queue = QUEUES[usize::from(self.chance(20))];
        let (owner, limit) = (self.owner(), self.below(4));
        Claim {
            kinds: std::sync::Arc::new(kinds),
            ahead: self.below(4),
            oldest: self.chance(20),
            ..Claim::new(owner, queue, &[], limit, self.now)
        }
    }

    fn settle(&mut self, settle: Settle) -> Option<JobState> {
        let job = self.jobs.iter_mut().find(|job| job.lease == Some(settle.lease))?;
        job.lease = None;
        job.started_at = settle.started_at;
        let (state, reason) = match settle.outcome {
            Outcome::Success { .. } => {
                job.checkpoint = None;
                (JobState::Success, Reason::None)
            }
            Outcome::Failed { reason, .. } => (JobState::Failed, reason),
            Outcome::Cancelled => (JobState::Cancelled, Reason::Cancelled),
            Outcome::Again { reason, run_at, counts, .. } => {
                let is_begun = settle.started_at.is_some();
                if is_begun {
                    job.new.terms.start_by = None;
                }
                (job.run_at, job.since) = (run_at, Some(settle.at));
                job.attempt -= u32::from(!counts);
                if job.is_cancel_asked {
                    (JobState::Cancelled, Reason::Cancelled)
                } else {
                    (JobState::Pending, if is_begun { reason } else { job.reason })
                }
            }
        };
        (job.state, job.reason) = (state, reason);
        job.finished_at = state.is_final().then_some(settle.at);
        Some(state)
    }

    /// The pending jobs that a claim is for.
    fn wanted<'m>(&'m self, claim: &'m Claim) -> impl Iterator<Item = &'m Job> {
        self.jobs.iter().filter(|job| {
            job.state == JobState::Pending
                && job.new.queue == claim.queue
                && claim.kinds.iter().any(|(kind, _)| *kind == job.new.kind)
        })
    }

    /// What a claim takes, and what it finds too late.
    fn claimed(&mut self, claim: &Claim) -> (Vec<(JobId, u32, bool)>, Vec<JobId>) {
        let mut due: Vec<_> = self.wanted(claim).filter(|job| job.run_at <= claim.now).map(|job| job.id).collect();
        let position = |id: &JobId| self.jobs.iter().position(|job| job.id == *id).unwrap();
        due.sort_by_key(|id| {
            let job = &self.jobs[position(id)];
            (if claim.oldest { 0 } else { -job.new.priority }, job.run_at, position(id))
        });
        due.truncate((claim.limit + claim.ahead).max(1));
        let (mut claimed, mut missed) = (Vec::new(), Vec::new());
        let mut has_suspect = false;
        for id in due {
            let Some(job) = self.jobs.iter_mut().find(|job| job.id == id) else { continue };
            if job.new.terms.start_by.is_some_and(|by| by < claim.now) {
                (job.state, job.reason, job.finished_at) = (JobState::Failed, Reason::MissedDeadline, Some(claim.now));
                missed.push(id);
                continue;
            }
            let is_ahead = claimed.len() >= claim.limit;
            let is_quick = claim.kinds.iter().any(|(kind, is_quick)| *kind == job.new.kind && *is_quick);
            let is_last = job.attempt + 1 >= job.new.terms.max_attempts;
            let may_be_ahead = is_quick && !is_last && job.deaths == 0 && !has_suspect;
            if is_ahead && (!may_be_ahead || claimed.len() >= claim.limit + claim.ahead) {
                break;
            }
            has_suspect |= job.deaths > 0;
            job.state = JobState::Running;
            job.attempt += 1;
            job.started_at = (!is_ahead).then_some(claim.now);
            job.is_interrupted = false;
            claimed.push((id, job.attempt, is_ahead));
        }
        (claimed, missed)
    }

    fn note(&mut self) {
        if self.leases.is_empty() {
            return;
        }
        let index = self.below(self.leases.len());
        let lease = self.leases[index];
        let number = self.below(99);
        let note = Note {
            checkpoint: self.chance(60).then(|| number.to_string()),
            is_interrupted: self.chance(30),
            started_at: self.chance(50).then_some(self.now),
            ..Note::new(lease)
        };
        let answer = self.queue.note(vec![note.clone()]).unwrap();
        let job = self.jobs.iter_mut().find(|job| job.lease == Some(lease));
        assert_eq!(answer, [job.is_some()]);
        if let Some(job) = job {
            job.started_at = note.started_at.or(job.started_at);
            job.checkpoint = note.checkpoint.or(job.checkpoint.take());
            job.is_interrupted |= note.is_interrupted;
        }
    }

    fn any_job(&mut self) -> Option<usize> {
        (!self.jobs.is_empty()).then(|| self.below(self.jobs.len()))
    }

    fn cancel(&mut self) {
        let Some(index) = self.any_job() else { return };
        let now = self.now;
        let job = &mut self.jobs[index];
        let answer = self.queue.cancel(job.id, now).unwrap();
        match job.state {
            JobState::Pending => {
                assert!(matches!(answer, Cancel::Done(_)), "{answer:?}");
                (job.state, job.reason, job.finished_at) = (JobState::Cancelled, Reason::Cancelled, Some(now));
            }
            JobState::Running => {
                assert_eq!(answer, Cancel::Asked);
                job.is_cancel_asked = true;
            }
            _ => assert_eq!(answer, Cancel::TooLate),
        }
    }

    fn beat(&mut self) {
        if self.owners.is_empty() {
            return;
        }
        let index = self.below(self.owners.len());
        let owner = &mut self.owners[index];
        let mut asked = self.queue.beat(owner.id).unwrap().expect("it is known");
        owner.beat += 1;
        asked.sort();
        let own = self.jobs.iter().filter(|job| job.lease.is_some_and(|lease| lease.owner == owner.id));
        let mut expected: Vec<_> = own.filter(|job| job.is_cancel_asked).map(|job| job.id).collect();
        expected.sort();
        assert_eq!(asked, expected);
    }

    fn rescue(&mut self) {
        if self.owners.is_empty() {
            return;
        }
        let index = self.below(self.owners.len());
        let mut owner = self.owners[index].clone();
        let is_late = self.chance(20) && owner.beat > 0;
        owner.beat -= u64::from(is_late);
        let now = self.now;
        let answer = self.queue.rescue(&owner, now).unwrap();
        if is_late {
            assert!(answer.is_empty(), "it was heard since");
            return;
        }
        self.owners.remove(index);
        let mut rescued = BTreeMap::new();
        for job in self.jobs.iter_mut().filter(|job| job.lease.is_some_and(|lease| lease.owner == owner.id)) {
            job.lease = None;
            (job.state, job.reason) = if job.is_cancel_asked {
                (JobState::Cancelled, Reason::Cancelled)
            } else if job.is_interrupted {
                (JobState::Pending, Reason::Interrupted)
            } else if job.attempt >= job.new.terms.max_attempts {
                (JobState::Failed, Reason::Abandoned)
            } else {
                (JobState::Pending, Reason::Abandoned)
            };
            job.finished_at = job.state.is_final().then_some(now);
            rescued.insert(job.id, (job.state, job.attempt));
            if job.reason == Reason::Interrupted {
                job.attempt -= 1;
            } else {
                job.deaths += 1;
            }
            if job.started_at.is_some() {
                job.new.terms.start_by = None;
            }
            (job.run_at, job.since) = (job.run_at.min(now), Some(now));
        }
        let seen = answer.into_iter().map(|rescued| (rescued.id, (rescued.state, rescued.attempt)));
        assert_eq!(seen.collect::<BTreeMap<_, _>>(), rescued);
    }

    fn retry(&mut self) {
        let Some(index) = self.any_job() else { return };
        let job = self.jobs[index].clone();
        let is_taken = self.jobs.iter().any(|other| {
            job.new.unique.is_some()
                && !other.state.is_final()
                && (&other.new.kind, &other.new.unique) == (&job.new.kind, &job.new.unique)
        });
        let may = matches!(job.state, JobState::Failed | JobState::Cancelled) && !is_taken;
        assert_eq!(self.queue.retry(job.id, self.now).unwrap(), may);
        if may {
            let now = self.now;
            let job = &mut self.jobs[index];
            (job.state, job.reason, job.run_at, job.attempt) = (JobState::Pending, Reason::None, now, 0);
            (job.deaths, job.is_cancel_asked, job.new.terms.start_by) = (0, false, None);
            (job.finished_at, job.since) = (None, Some(now));
        }
    }

    fn rebase(&mut self) {
        let (now, mut count) = (self.now.as_unix_ns(), 0);
        for job in self.jobs.iter_mut().filter(|job| job.state == JobState::Pending) {
            if let Some(since) = job.since.map(Timestamp::as_unix_ns).filter(|since| *since > now + S) {
                job.run_at = Timestamp::from_unix_ns(now + (job.run_at.as_unix_ns() - since).max(0));
                job.since = Some(self.now);
                count += 1;
            }
        }
        assert_eq!(self.queue.rebase(self.now).unwrap(), count);
    }

    fn prune(&mut self) {
        let (keep, limit) = (self.below(4) as u64, 1 + self.below(3) as u64);
        let before = Timestamp::from_unix_ns(self.now.as_unix_ns() - self.below(60) as i64 * S);
        let pruned = self.queue.prune(before, keep, limit).unwrap();
        assert!(pruned <= limit);
        let (left, gone): (Vec<_>, Vec<_>) =
            self.jobs.drain(..).partition(|job| self.queue.get(job.id).unwrap().is_some());
        assert_eq!(gone.len() as u64, pruned);
        for job in gone {
            let at = job.finished_at.expect("only what is final goes");
            let later = left.iter().filter(|other| {
                other.state == job.state
                    && (&other.new.kind, &other.new.queue) == (&job.new.kind, &job.new.queue)
                    && other.finished_at >= job.finished_at
            });
            assert!(at < before || later.count() as u64 >= keep, "neither old nor surplus");
        }
        self.jobs = left;
    }

    /// All rows, as anybody may see them.
    fn compare(&self) {
        let filter = JobFilter { limit: 10_000, ..JobFilter::default() };
        let listed = self.queue.list(&filter).unwrap();
        let seen: Vec<_> = listed
            .rows
            .iter()
            .map(|row| {
                let times = (row.run_at, row.started_at, row.finished_at);
                (row.id, row.state, row.reason, row.attempt, times, row.checkpoint.clone())
            })
            .collect();
        let expected: Vec<_> = self
            .jobs
            .iter()
            .rev()
            .map(|job| {
                let is_hidden = job.state == JobState::Running && job.started_at.is_none();
                let state = if is_hidden { JobState::Pending } else { job.state };
                let times = (job.run_at, job.started_at, job.finished_at);
                (job.id, state, job.reason, job.attempt, times, job.checkpoint.clone())
            })
            .collect();
        for (seen, expected) in seen.iter().zip(&expected) {
            assert_eq!(seen, expected);
        }
        assert_eq!(seen.len(), expected.len());
        let counts = self.queue.counts().unwrap();
        let sum = |of: fn(&crate::jobs::KindCounts) -> u64| counts.iter().map(of).sum::<u64>();
        let of = |state| expected.iter().filter(|row| row.1 == state).count() as u64;
        assert_eq!(sum(|counts| counts.pending), of(JobState::Pending));
        assert_eq!(sum(|counts| counts.running), of(JobState::Running));
        assert_eq!(sum(|counts| counts.success), of(JobState::Success));
        assert_eq!(sum(|counts| counts.failed + counts.cancelled), of(JobState::Failed) + of(JobState::Cancelled));
    }
}
