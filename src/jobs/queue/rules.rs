//! What the queues that come with l0 have in common: pure rules, told by numbers.

use super::{Claim, Terms};
use crate::{
    clock::Timestamp,
    jobs::id::{JobState, Reason},
};

/// What becomes of a job whose process died: its state, why, and whether the attempt counts.
pub(super) fn after_death(
    attempt: u32,
    max_attempts: u32,
    is_interrupted: bool,
    is_cancel_asked: bool,
) -> (JobState, Reason, bool) {
    if is_cancel_asked {
        (JobState::Cancelled, Reason::Cancelled, true)
    } else if is_interrupted {
        (JobState::Pending, Reason::Interrupted, false)
    } else if attempt >= max_attempts {
        (JobState::Failed, Reason::Abandoned, true)
    } else {
        (JobState::Pending, Reason::Abandoned, true)
    }
}

/// Whether a due job has come too late to be begun for the first time. One that was begun has no such bound any more.
fn is_missed(start_by: Option<Timestamp>, now: Timestamp) -> bool {
    start_by.is_some_and(|by| by < now)
}

/// Takes from the jobs that are due, in their order, those of a claim.
pub(super) struct Taking<'c> {
    claim: &'c Claim,
    taken: usize,
    is_over: bool,
}

/// What becomes of a due job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Take {
    Now,
    Ahead,
    Missed,
    /// It, and all behind it, stay.
    Leave,
}

impl<'c> Taking<'c> {
    pub(super) fn new(claim: &'c Claim) -> Self {
        Self { claim, taken: 0, is_over: false }
    }

    /// The most that may be taken.
    pub(super) fn want(claim: &Claim) -> usize {
        claim.limit.saturating_add(claim.ahead)
    }

    /// Of the next job: how often it was tried and its process died, how it is to be treated, and whether its kind may be
    /// claimed ahead.
    pub(super) fn next(&mut self, attempt: u32, deaths: u32, terms: &Terms, may_be_ahead: bool) -> Take {
        if is_missed(terms.start_by, self.claim.now) {
            return Take::Missed;
        }
        let begins_at_once = self.taken < self.claim.limit;
        let is_last = attempt.saturating_add(1) >= terms.max_attempts;
        // What is claimed ahead would be charged with an attempt, should the one before it end the process.
        let is_ahead = !begins_at_once && !self.is_over && may_be_ahead && !is_last && deaths == 0;
        if begins_at_once {
            self.is_over |= deaths > 0;
        } else if !is_ahead || self.taken >= Self::want(self.claim) {
            return Take::Leave;
        }
        self.taken += 1;
        if begins_at_once { Take::Now } else { Take::Ahead }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::queue::OwnerId;

    #[test]
    fn a_death_counts_unless_it_was_orderly_and_the_last_one_is_the_end() {
        use {JobState::*, Reason::*};
        for (of, becomes) in [
            ((1, 3, false, false), (Pending, Abandoned, true)),
            ((3, 3, false, false), (Failed, Abandoned, true)),
            ((3, 3, true, false), (Pending, Interrupted, false)),
            ((1, 3, false, true), (JobState::Cancelled, Reason::Cancelled, true)),
        ] {
            let (attempt, max, interrupted, cancel) = of;
            assert_eq!(after_death(attempt, max, interrupted, cancel), becomes, "{of:?}");
        }
    }

    #[test]
    fn nothing_is_taken_ahead_that_a_death_would_harm() {
        let now = Timestamp::from_unix_ns(100);
        let claim = Claim { ahead: 2, ..Claim::new(OwnerId(1), "default", &["a"], 1, now) };
        let terms = |max_attempts| Terms { max_attempts, ..Terms::default() };
        let take = |jobs: &[(u32, u32, u32)]| {
            let mut taking = Taking::new(&claim);
            let taken = jobs.iter().map(|(attempt, deaths, max)| taking.next(*attempt, *deaths, &terms(*max), true));
            taken.collect::<Vec<_>>()
        };
        use Take::{Ahead, Leave, Now};
        assert_eq!(take(&[(0, 0, 3), (0, 0, 3), (0, 0, 3), (0, 0, 3)]), [Now, Ahead, Ahead, Leave]);
        assert_eq!(take(&[(0, 0, 3), (2, 0, 3)]), [Now, Leave], "in its last attempt");
        assert_eq!(take(&[(0, 0, 3), (1, 1, 9)]), [Now, Leave], "its process died");
        assert_eq!(take(&[(1, 1, 9), (0, 0, 3)]), [Now, Leave], "that of the one before it died");
        let late = Terms { start_by: Some(Timestamp::from_unix_ns(99)), ..Terms::default() };
        let mut taking = Taking::new(&claim);
        assert_eq!(taking.next(0, 0, &late, true), Take::Missed);
        assert_eq!(taking.next(0, 0, &terms(3), false), Now);
        assert_eq!(taking.next(0, 0, &terms(3), false), Leave, "its kind is not quick");
    }
}
