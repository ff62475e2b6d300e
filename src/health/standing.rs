//! How a check stands after its results: pure rules, with the hysteresis that keeps it from flapping.

use std::time::Duration;

use super::{
    Status,
    check::{Kind, Terms},
};
use crate::query::human_duration;

/// What is known of a check, as readers see it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Standing {
    /// What is reported; `None` until a first result has made itself felt.
    pub(super) reported: Option<Status>,
    /// The latest result.
    pub(super) latest: Option<Status>,
    /// When that ended, and how long it took.
    pub(super) ended_ns: u64,
    pub(super) took: Duration,
    /// Results in a row that were unhealthy.
    pub(super) failures: u32,
    /// Results in a row that were all worse, or all better, than what is reported.
    worse: u32,
    better: u32,
    /// Times at which it was found to be running for too long, in this run.
    overdue: u32,
}

/// The worse the higher.
pub(super) fn level(status: &Status) -> u8 {
    match status {
        Status::Healthy => 0,
        Status::Degraded(_) => 1,
        Status::Unhealthy(_) => 2,
    }
}

impl Standing {
    /// After a result: what is reported then, if that is another state than before.
    pub(super) fn after(&mut self, result: Status, terms: &Terms, now_ns: u64, took: Duration) -> Option<Status> {
        (self.ended_ns, self.took, self.overdue) = (now_ns, took, 0);
        self.take(result, terms)
    }

    /// It has been running for longer than it may: once when its time is over, and once with each interval since, that is a
    /// failure like another.
    pub(super) fn while_running(&mut self, since_ns: u64, terms: &Terms, now_ns: u64) -> Option<Status> {
        let mut changed = None;
        while self.overdue < overdue(since_ns, terms, now_ns) {
            self.overdue += 1;
            changed = self.take(still_running(since_ns, terms, now_ns), terms).or(changed);
        }
        changed
    }

    fn take(&mut self, result: Status, terms: &Terms) -> Option<Status> {
        let rank = level(&result);
        self.failures = if rank == 2 { self.failures.saturating_add(1) } else { 0 };
        self.latest = Some(result.clone());
        let reported = self.reported.as_ref().map(level);
        // Before the first result nothing is known: a failure is believed at once, what is well must prove itself.
        let (is_worse, is_better) = reported.map_or((false, rank < 2), |reported| (rank > reported, rank < reported));
        self.worse = if is_worse { self.worse.saturating_add(1) } else { 0 };
        self.better = if is_better { self.better.saturating_add(1) } else { 0 };
        let is_believed = match reported {
            _ if is_worse => self.worse >= terms.fail_after,
            _ if is_better => self.better >= terms.pass_after,
            // The same as before, perhaps for another reason.
            _ => true,
        };
        if !is_believed {
            return None;
        }
        (self.worse, self.better) = (0, 0);
        let is_another = reported != Some(rank);
        self.reported = Some(result);
        if is_another { self.reported.clone() } else { None }
    }

    /// How it is seen at a moment: what is reported grows old, and what runs for too long fails before it ends.
    pub(super) fn seen(&self, running_since_ns: Option<u64>, terms: &Terms, now_ns: u64) -> Status {
        if terms.kind == Kind::Startup && self.reported == Some(Status::Healthy) {
            return Status::Healthy;
        }
        if let Some(since_ns) = running_since_ns {
            let further = overdue(since_ns, terms, now_ns).saturating_sub(self.overdue);
            let is_failing = self.failures.saturating_add(further) >= terms.fail_after || self.reported.is_none();
            if overdue(since_ns, terms, now_ns) > 0 && is_failing {
                return still_running(since_ns, terms, now_ns);
            }
        }
        let Some(reported) = &self.reported else {
            return match (terms.kind, &self.latest) {
                // A process that has just begun lives.
                (Kind::Liveness | Kind::Scheduled, None) => Status::Healthy,
                (_, None) => Status::Unhealthy("has not run yet".to_owned()),
                (_, Some(_)) => Status::Unhealthy(format!("has not passed {} times in a row yet", terms.pass_after)),
            };
        };
        let age = Duration::from_nanos(now_ns.saturating_sub(self.ended_ns));
        if terms.kind != Kind::Scheduled && age > terms.stale_after {
            let was = reported.as_str();
            return Status::Unhealthy(format!("has not run for {}, and was {was} then", human_duration(age)));
        }
        reported.clone()
    }

    /// Until when it is seen as it is now, if nothing comes.
    pub(super) fn seen_until(&self, running_since_ns: Option<u64>, terms: &Terms, now_ns: u64) -> u64 {
        if terms.kind == Kind::Startup && self.reported == Some(Status::Healthy) {
            return u64::MAX;
        }
        let ns = |d: Duration| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
        let stale_ns = match self.reported {
            Some(_) if terms.kind != Kind::Scheduled => self.ended_ns.saturating_add(ns(terms.stale_after)),
            _ => u64::MAX,
        };
        let overdue_ns = running_since_ns.map_or(u64::MAX, |since_ns| {
            let steps = u64::from(overdue(since_ns, terms, now_ns));
            let timeout_ns = since_ns.saturating_add(ns(terms.timeout));
            timeout_ns.saturating_add(ns(terms.every).saturating_mul(steps))
        });
        [stale_ns, overdue_ns].into_iter().filter(|at| *at >= now_ns).min().unwrap_or(u64::MAX)
    }
}

/// How often a run that began then has been too long by now.
fn overdue(since_ns: u64, terms: &Terms, now_ns: u64) -> u32 {
    let running = Duration::from_nanos(now_ns.saturating_sub(since_ns));
    let Some(over) = running.checked_sub(terms.timeout).filter(|over| !over.is_zero()) else { return 0 };
    u32::try_from(over.as_nanos() / terms.every.as_nanos().max(1)).unwrap_or(u32::MAX).saturating_add(1)
}

fn still_running(since_ns: u64, terms: &Terms, now_ns: u64) -> Status {
    let running = human_duration(Duration::from_nanos(now_ns.saturating_sub(since_ns)));
    let timeout = human_duration(terms.timeout);
    Status::Unhealthy(format!("overdue: still running after {running}, its timeout is {timeout}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const S: u64 = 1_000_000_000;

    fn terms(fail_after: u32, pass_after: u32) -> Terms {
        Terms { fail_after, pass_after, ..Terms::default() }
    }

    fn status(level: u8) -> Status {
        [Status::Healthy, Status::Degraded("so so".into()), Status::Unhealthy("no".into())][usize::from(level)].clone()
    }

    #[test]
    fn what_hangs_fails_with_each_interval_and_what_is_old_is_stale() {
        let terms = Terms {
            every: Duration::from_secs(10),
            timeout: Duration::from_secs(2),
            stale_after: Duration::from_secs(60),
            ..terms(3, 1)
        };
        let mut standing = Standing::default();
        assert!(standing.seen(None, &terms, 0).why().unwrap().contains("not run yet"));
        assert_eq!(standing.after(Status::Healthy, &terms, S, Duration::ZERO), Some(Status::Healthy));
        // It hangs from second 10 on: failures at 12+, 22+, 32+.
        let since = Some(10 * S);
        for (at, is_healthy) in [(11, true), (13, true), (23, true), (31, true), (33, false)] {
            assert_eq!(standing.seen(since, &terms, at * S) == Status::Healthy, is_healthy, "{at}");
            let mut told = standing.clone();
            let changed = told.while_running(10 * S, &terms, at * S);
            assert_eq!(changed.is_none(), is_healthy, "{at}");
            assert_eq!(told.while_running(10 * S, &terms, at * S), None, "once");
        }
        assert!(standing.seen(since, &terms, 33 * S).why().unwrap().starts_with("overdue: still running after 23.0 s"));
        assert!(standing.seen(None, &terms, 62 * S).why().unwrap().contains("has not run for 61.0 s"));
        assert_eq!(standing.seen_until(None, &terms, 2 * S), 61 * S);
        assert_eq!(standing.seen_until(since, &terms, 11 * S), 12 * S);
        assert_eq!(standing.seen_until(since, &terms, 13 * S), 22 * S);
        // It comes back.
        standing.while_running(10 * S, &terms, 33 * S);
        assert_eq!(standing.failures, 3);
        assert_eq!(standing.after(Status::Healthy, &terms, 40 * S, Duration::ZERO), Some(Status::Healthy));
        assert_eq!(standing.failures, 0);
    }

    #[test]
    fn a_step_of_the_start_is_done_once_and_a_process_that_begins_lives() {
        let startup = Terms { kind: Kind::Startup, ..Terms::default() };
        let mut standing = Standing::default();
        standing.after(status(2), &startup, S, Duration::ZERO);
        assert_eq!(level(&standing.seen(None, &startup, S)), 2);
        standing.after(Status::Healthy, &startup, 2 * S, Duration::ZERO);
        assert_eq!(standing.seen(None, &startup, 1_000_000 * S), Status::Healthy, "never stale");
        let live = Terms { kind: Kind::Liveness, ..Terms::default() };
        assert_eq!(Standing::default().seen(None, &live, 0), Status::Healthy);
    }

    proptest! {
        /// The model looks at the whole history: what is reported is the latest result that ended a long enough row of results
        /// which were all worse, or all better, than what was reported before it.
        #[test]
        fn hysteresis_is_as_in_a_model(
            results in proptest::collection::vec(0_u8..3, 0..60), fail_after in 1_u32..5, pass_after in 1_u32..5,
        ) {
            let terms = terms(fail_after, pass_after);
            let mut standing = Standing::default();
            let mut reported: Option<u8> = None;
            let mut since = 0;
            for (index, result) in results.iter().enumerate() {
                let changed = standing.after(status(*result), &terms, index as u64, Duration::ZERO);
                let row = |of: &dyn Fn(u8) -> bool| results[since..=index].iter().rev().take_while(|of_| of(**of_)).count() as u32;
                let becomes = match reported {
                    None if *result == 2 => true,
                    None => row(&|one| one < 2) >= pass_after,
                    Some(before) if *result > before => row(&|one| one > before) >= fail_after,
                    Some(before) if *result < before => row(&|one| one < before) >= pass_after,
                    Some(_) => false,
                };
                if becomes {
                    reported = Some(*result);
                    since = index + 1;
                }
                prop_assert_eq!(changed.as_ref().map(level), becomes.then_some(*result));
                prop_assert_eq!(standing.reported.as_ref().map(level), reported);
                let failures = results[..=index].iter().rev().take_while(|one| **one == 2).count();
                prop_assert_eq!(standing.failures as usize, failures);
            }
        }
    }
}
