//! How a check stands after its results: pure rules, with the hysteresis that keeps it from flapping.

use std::time::Duration;

use super::{
    Status,
    check::{Kind, Terms},
};
use crate::{clock::Timestamp, query::human_duration};

/// What is known of a check, as readers see it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Standing {
    /// What is reported; `None` until a first result has made itself felt.
    pub(super) reported: Option<Status>,
    /// Since when it is reported to be so, in a word.
    pub(super) since: Option<Timestamp>,
    /// The latest result.
    pub(super) latest: Option<Status>,
    /// A run has come to its end.
    pub(super) has_run: bool,
    /// When that was, or else when it was registered; and how long it took.
    pub(super) ended_ns: u64,
    /// That was earlier by so much: before there was this clock.
    pub(super) earlier: Duration,
    pub(super) took: Duration,
    /// Results in a row that were unhealthy.
    pub(super) failures: u32,
    /// Results in a row that were all worse, or all better, than what is reported.
    worse: u32,
    better: u32,
    /// Times at which it was found to be running for too long, in this run.
    overdue: u32,
    /// What is reported is that the result is too old.
    is_stale: bool,
}

/// While it hangs it is not looked at more often.
const OVERDUE_STEP_MIN: Duration = Duration::from_millis(500);

/// The worse the higher.
pub(super) fn level(status: &Status) -> u8 {
    match status {
        Status::Healthy => 0,
        Status::Degraded(_) => 1,
        Status::Unhealthy(_) => 2,
    }
}

impl Standing {
    /// Of a check that is registered then.
    pub(super) fn at(now_ns: u64) -> Self {
        Self { ended_ns: now_ns, ..Self::default() }
    }

    /// It is a step of the start, and has passed.
    pub(super) fn is_done(&self, terms: &Terms) -> bool {
        terms.kind == Kind::Startup && self.reported == Some(Status::Healthy)
    }

    /// After a result: what is reported then, if that is another state than before.
    pub(super) fn after(&mut self, result: Status, terms: &Terms, now_ns: u64, took: Duration) -> Option<Status> {
        let was_overdue = std::mem::take(&mut self.overdue) > 0;
        // Whatever it says, it has taken too long.
        let result = match result {
            Status::Healthy | Status::Degraded(_) if took > terms.timeout => {
                Status::Unhealthy(format!("took {took:.1?}, longer than its timeout of {:?}", terms.timeout))
            }
            result => result,
        };
        (self.has_run, self.ended_ns, self.took) = (true, now_ns, took);
        (self.is_stale, self.earlier) = (false, Duration::ZERO);
        // That it took too long was seen while it did.
        if was_overdue && took > terms.timeout {
            if self.reported.as_ref().is_some_and(|reported| level(reported) == 2) {
                self.reported = Some(result.clone());
            }
            self.latest = Some(result);
            return None;
        }
        self.take(result, terms)
    }

    /// A result that is too old says nothing any more: that is a change like another, once.
    pub(super) fn grown_old(&mut self, terms: &Terms, now_ns: u64) -> Option<Status> {
        if self.is_done(terms) {
            return None;
        }
        let was = match &self.reported {
            Some(reported) if level(reported) < 2 => reported.as_str(),
            None if terms.kind == Kind::Liveness => Status::Healthy.as_str(),
            _ => return None,
        };
        let stale = stale(was, terms, self.ended_ns, now_ns)?;
        (self.worse, self.better) = (0, 0);
        (self.reported, self.is_stale) = (Some(stale), true);
        self.reported.clone()
    }

    /// It has been running for longer than it may: once when its time is over, and once with each interval since, that is a
    /// failure like another.
    pub(super) fn while_running(&mut self, since_ns: u64, terms: &Terms, now_ns: u64) -> Option<Status> {
        let mut changed = None;
        while self.overdue < overdue(since_ns, terms, now_ns) {
            self.overdue += 1;
            changed = self.take(still_running(terms), terms).or(changed);
        }
        changed
    }

    fn take(&mut self, result: Status, terms: &Terms) -> Option<Status> {
        let rank = level(&result);
        self.failures = if rank == 2 { self.failures.saturating_add(1) } else { 0 };
        self.latest = Some(result.clone());
        if self.is_done(terms) {
            return None;
        }
        // A process that has just begun lives.
        let at_first = (terms.kind == Kind::Liveness).then_some(0);
        let reported = self.reported.as_ref().map(level).or(at_first);
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
        let is_another = self.reported.as_ref().map(level) != Some(rank);
        self.reported = Some(result);
        if is_another { self.reported.clone() } else { None }
    }

    /// How it is seen at a moment: what is reported grows old, and what runs for too long fails before it ends.
    pub(super) fn seen(&self, running_since_ns: Option<u64>, terms: &Terms, now_ns: u64) -> Status {
        if self.is_done(terms) {
            return Status::Healthy;
        }
        if let Some(since_ns) = running_since_ns {
            let times = overdue(since_ns, terms, now_ns);
            let is_believed = match &self.reported {
                None if terms.kind != Kind::Liveness => true,
                Some(Status::Unhealthy(_)) => true,
                _ => self.worse.saturating_add(times.saturating_sub(self.overdue)) >= terms.fail_after,
            };
            if times > 0 && is_believed {
                return match &self.reported {
                    // That is noted.
                    Some(overdue @ Status::Unhealthy(_)) if self.overdue > 0 => overdue.clone(),
                    _ => still_running(terms),
                };
            }
        }
        let Some(reported) = &self.reported else {
            return match (terms.kind, &self.latest) {
                (Kind::Liveness, _) => {
                    stale(Status::Healthy.as_str(), terms, self.ended_ns, now_ns).unwrap_or(Status::Healthy)
                }
                (Kind::Scheduled, None) => Status::Healthy,
                (_, None) => Status::Unhealthy("has not run yet".to_owned()),
                (_, Some(_)) => Status::Unhealthy(format!("has not passed {} times in a row yet", terms.pass_after)),
            };
        };
        let stale = if self.is_stale { None } else { stale(reported.as_str(), terms, self.ended_ns, now_ns) };
        stale.unwrap_or_else(|| reported.clone())
    }

    /// Until when it is seen as it is now, if nothing comes.
    pub(super) fn seen_until(&self, running_since_ns: Option<u64>, terms: &Terms, now_ns: u64) -> u64 {
        if self.is_done(terms) {
            return u64::MAX;
        }
        let ns = |d: Duration| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
        let stale_ns = match self.reported {
            _ if terms.kind == Kind::Scheduled => u64::MAX,
            Some(_) => self.ended_ns.saturating_add(ns(terms.stale_after)),
            None if terms.kind == Kind::Liveness => self.ended_ns.saturating_add(ns(terms.stale_after)),
            None => u64::MAX,
        };
        let overdue_ns = running_since_ns.map_or(u64::MAX, |since_ns| {
            let steps = u64::from(overdue(since_ns, terms, now_ns));
            let timeout_ns = since_ns.saturating_add(ns(terms.timeout));
            timeout_ns.saturating_add(ns(step(terms)).saturating_mul(steps))
        });
        [stale_ns, overdue_ns].into_iter().filter(|at| *at >= now_ns).min().unwrap_or(u64::MAX)
    }
}

/// How often a run that began then has been too long by now.
fn overdue(since_ns: u64, terms: &Terms, now_ns: u64) -> u32 {
    let running = Duration::from_nanos(now_ns.saturating_sub(since_ns));
    let Some(over) = running.checked_sub(terms.timeout).filter(|over| !over.is_zero()) else { return 0 };
    u32::try_from(over.as_nanos().div_ceil(step(terms).as_nanos())).unwrap_or(u32::MAX)
}

/// Of two failures of one that hangs.
fn step(terms: &Terms) -> Duration {
    terms.every.max(OVERDUE_STEP_MIN)
}

fn stale(was: &str, terms: &Terms, ended_ns: u64, now_ns: u64) -> Option<Status> {
    let age = Duration::from_nanos(now_ns.saturating_sub(ended_ns));
    let is_stale = terms.kind != Kind::Scheduled && age > terms.stale_after;
    let text = || {
        let longer = human_duration(terms.stale_after);
        // That is so whenever it is left to itself.
        let is_always = terms.stale_after <= terms.every;
        let advice = if is_always { ": its stale_after is to be longer than its interval" } else { "" };
        format!("has not run for longer than {longer}, and was {was} then{advice}")
    };
    is_stale.then(|| Status::Unhealthy(text()))
}

fn still_running(terms: &Terms) -> Status {
    Status::Unhealthy(format!("overdue: still running, its timeout is {}", human_duration(terms.timeout)))
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
        assert!(
            standing
                .seen(since, &terms, 33 * S)
                .why()
                .unwrap()
                .starts_with("overdue: still running, its timeout is 2.00 s")
        );
        assert!(standing.seen(None, &terms, 62 * S).why().unwrap().contains("has not run for longer than 60.0 s"));
        assert_eq!(standing.seen_until(None, &terms, 2 * S), 61 * S);
        assert_eq!(standing.seen_until(since, &terms, 11 * S), 12 * S);
        assert_eq!(standing.seen_until(since, &terms, 13 * S), 22 * S);
        // It took too long, which is known: that is no further failure.
        let mut late = standing.clone();
        late.while_running(10 * S, &terms, 33 * S);
        let slow = Status::Unhealthy("took 24 s".to_owned());
        assert_eq!(late.after(slow.clone(), &terms, 34 * S, Duration::from_secs(24)), None);
        assert_eq!((late.failures, &late.reported), (3, &Some(slow)));
        // Staleness is a change, once.
        let mut old = standing.clone();
        assert_eq!(old.grown_old(&terms, 61 * S), None);
        assert!(old.grown_old(&terms, 62 * S).unwrap().why().unwrap().contains("has not run"));
        assert_eq!(old.grown_old(&terms, 63 * S), None);
        assert_eq!(old.after(Status::Healthy, &terms, 64 * S, Duration::ZERO), Some(Status::Healthy));
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
        assert_eq!(standing.after(status(2), &startup, 3 * S, Duration::ZERO), None, "nor undone");
        let live = Terms { kind: Kind::Liveness, ..Terms::default() };
        assert_eq!(Standing::default().seen(None, &live, 0), Status::Healthy);
        assert_eq!(level(&Standing::default().seen(None, &live, 1_000 * S)), 2, "unless it is never looked at");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]

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

        /// A reader sees what a look of the timer would note at that moment, whether it was or was not; and until the moment that
        /// it is told it sees the same.
        #[test]
        fn what_is_seen_is_what_a_look_would_note(
            steps in proptest::collection::vec((0_u64..30, 0_u8..3, prop_oneof![Just(0_u64), 0_u64..30], any::<bool>()), 0..12),
            fail_after in 1_u32..4, pass_after in 1_u32..3, kind in 0_u8..3, (every, timeout, stale) in (1_u64..12, 1_u64..12, 0_u64..30),
        ) {
            let kind = [Kind::Readiness, Kind::Liveness, Kind::Startup][usize::from(kind)];
            let (every, timeout) = (Duration::from_secs(every), Duration::from_secs(timeout));
            let stale_after = every + Duration::from_secs(stale);
            let terms = Terms { kind, every, timeout, stale_after, ..terms(fail_after, pass_after) };
            let (mut standing, mut now) = (Standing::default(), 0);
            let look = |standing: &mut Standing, running: Option<u64>, now: u64| {
                running.map(|since| standing.while_running(since, &terms, now));
                standing.grown_old(&terms, now);
            };
            let same = |standing: &Standing, running: Option<u64>, now: u64| {
                let mut noted = standing.clone();
                look(&mut noted, running, now);
                let seen = standing.seen(running, &terms, now);
                prop_assert_eq!(level(&seen), level(&noted.seen(running, &terms, now)), "{:?}", (standing, &noted));
                if let Some(reported) = &noted.reported {
                    prop_assert_eq!(level(&seen), level(reported), "{:?}", (standing, &noted));
                }
                // In half seconds, up to where it may change.
                let until = standing.seen_until(running, &terms, now).min(now + 60 * S);
                for at in (now..=until).step_by(S as usize / 2) {
                    prop_assert_eq!(level(&seen), level(&standing.seen(running, &terms, at)), "{} {:?}", at, standing);
                }
                Ok(())
            };
            for (wait, result, took, is_looked_at) in steps {
                for _ in 0..wait {
                    same(&standing, None, now)?;
                    if is_looked_at {
                        look(&mut standing, None, now);
                    }
                    now += S;
                }
                let since = now;
                for _ in 0..took {
                    same(&standing, Some(since), now)?;
                    if is_looked_at {
                        look(&mut standing, Some(since), now);
                    }
                    now += S;
                }
                let took = Duration::from_nanos(now - since);
                let changed = standing.after(status(result), &terms, now, took);
                prop_assert!(took <= terms.timeout || changed.is_none_or(|changed| level(&changed) == 2));
                same(&standing, None, now)?;
            }
        }
    }
}
