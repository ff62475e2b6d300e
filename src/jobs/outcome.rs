//! What becomes of a job after an attempt: a pure function of how it ended and of what it was told meanwhile.

use std::time::Duration;

use super::{
    context::{CANCEL, INTERRUPT, LOST, TIMED_OUT},
    error::{Ending, JobError, JobFailure},
    id::{JobState, Reason},
    queue::{Outcome, Terms},
};
use crate::clock::{Timestamp, duration_ns};

/// How a handler ended.
#[derive(Debug)]
pub(super) enum End {
    /// With this result, as JSON.
    Returned(String),
    Failed(JobError),
    Panicked(String),
    Undecodable(String),
}

/// What is known where an attempt ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt<'t> {
    pub(super) attempt: u32,
    pub(super) terms: &'t Terms,
    /// What it was told.
    pub(super) flags: u8,
    pub(super) now: Timestamp,
    /// From 0 to 1.
    pub(super) chance: f64,
}

/// What becomes of the job; `None` if it is another's by now.
pub(super) fn decide(end: End, of: &Attempt<'_>) -> Option<Outcome> {
    if of.flags & LOST != 0 {
        return None;
    }
    let is_cancelled = of.flags & CANCEL != 0;
    let ending = match end {
        // What is done is done, whoever wanted it to end.
        End::Returned(result) => return Some(Outcome::Success { result }),
        End::Undecodable(error) => Ending::Fatal { error, reason: Reason::Undecodable },
        End::Panicked(error) if is_cancelled => Ending::Fatal { error, reason: Reason::Panicked },
        End::Panicked(error) => return Some(of.again(Reason::Panicked, error, None)),
        End::Failed(JobError(ending)) => ending,
    };
    Some(match ending {
        Ending::LeaseLost => return None,
        Ending::Fatal { error, reason } => Outcome::Failed { reason, error },
        _ if is_cancelled => Outcome::Cancelled,
        Ending::Snooze(pause) => {
            Outcome::Again { reason: Reason::Snoozed, error: None, run_at: of.after(pause), counts: false }
        }
        // Whatever it says when its time is over, that is why.
        Ending::TimedOut => of.timed_out(),
        Ending::Again { .. } | Ending::Cancelled | Ending::Interrupted if of.flags & TIMED_OUT != 0 => of.timed_out(),
        Ending::Again { .. } | Ending::Cancelled if of.flags & INTERRUPT != 0 => of.interrupted(),
        Ending::Interrupted => of.interrupted(),
        Ending::Cancelled => Outcome::Cancelled,
        Ending::Again { error, after } => of.again(Reason::Error, error, after),
    })
}

impl Attempt<'_> {
    fn after(&self, pause: Duration) -> Timestamp {
        Timestamp::from_unix_ns(self.now.as_unix_ns().saturating_add(duration_ns(pause)))
    }

    /// Another attempt, if there is one left.
    fn again(&self, reason: Reason, error: String, after: Option<Duration>) -> Outcome {
        if self.attempt >= self.terms.max_attempts {
            return Outcome::Failed { reason, error };
        }
        let pause = after.unwrap_or_else(|| self.terms.backoff.pause(self.attempt, self.chance));
        Outcome::Again { reason, error: Some(error), run_at: self.after(pause), counts: true }
    }

    fn timed_out(&self) -> Outcome {
        let timeout = self.terms.timeout.unwrap_or_default();
        self.again(Reason::TimedOut, format!("it took longer than its timeout of {timeout:?}"), None)
    }

    fn interrupted(&self) -> Outcome {
        Outcome::Again { reason: Reason::Interrupted, error: None, run_at: self.now, counts: false }
    }
}

/// What who waits is told of a job that is final.
pub(super) fn told(
    state: JobState,
    reason: Reason,
    error: Option<&str>,
    result: Option<&str>,
) -> Result<String, JobFailure> {
    let error = || error.unwrap_or_default().to_owned();
    match (state, reason) {
        (JobState::Success, _) => Ok(result.unwrap_or("null").to_owned()),
        (JobState::Cancelled, _) => Err(JobFailure::Cancelled),
        (_, Reason::Panicked) => Err(JobFailure::Panicked(error())),
        (_, Reason::TimedOut) => Err(JobFailure::TimedOut),
        (_, Reason::Abandoned) => Err(JobFailure::Abandoned),
        (_, Reason::MissedDeadline) => Err(JobFailure::MissedDeadline),
        (_, Reason::Undecodable) => Err(JobFailure::Undecodable(error())),
        _ => Err(JobFailure::Failed(error())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::job::Backoff;

    const S: Duration = Duration::from_secs(1);

    fn decided(end: End, attempt: u32, flags: u8) -> Option<Outcome> {
        let terms = Terms { max_attempts: 3, backoff: Backoff::fixed(7 * S), timeout: Some(S), ..Terms::default() };
        let now = Timestamp::from_unix_ns(0);
        decide(end, &Attempt { attempt, terms: &terms, flags, now, chance: 0.5 })
    }

    fn again(reason: Reason, error: Option<&str>, seconds: i64, counts: bool) -> Option<Outcome> {
        let run_at = Timestamp::from_unix_ns(seconds * 1_000_000_000);
        Some(Outcome::Again { reason, error: error.map(str::to_owned), run_at, counts })
    }

    fn failed(reason: Reason, error: &str) -> Option<Outcome> {
        Some(Outcome::Failed { reason, error: error.to_owned() })
    }

    #[test]
    fn each_ending_under_each_flag() {
        let error = || End::Failed(JobError::from("no"));
        let cancelled = || End::Failed(JobError::cancelled());
        let panicked = || End::Panicked("boom".to_owned());
        let done = || End::Returned("1".to_owned());
        let late = "it took longer than its timeout of 1s";
        let success = Some(Outcome::Success { result: "1".to_owned() });
        let cases = [
            (done(), 1, 0, success.clone()),
            (done(), 1, CANCEL | TIMED_OUT | INTERRUPT, success),
            (done(), 1, LOST, None),
            (error(), 1, 0, again(Reason::Error, Some("no"), 7, true)),
            (error(), 3, 0, failed(Reason::Error, "no")),
            (error(), 3, INTERRUPT, again(Reason::Interrupted, None, 0, false)),
            (error(), 1, CANCEL, Some(Outcome::Cancelled)),
            (error(), 1, TIMED_OUT | INTERRUPT, again(Reason::TimedOut, Some(late), 7, true)),
            (error(), 3, TIMED_OUT, failed(Reason::TimedOut, late)),
            (End::Failed(JobError::retry_after("no", 2 * S)), 1, 0, again(Reason::Error, Some("no"), 2, true)),
            (End::Failed(JobError::retry_after("no", 2 * S)), 3, 0, failed(Reason::Error, "no")),
            (End::Failed(JobError::snooze(2 * S)), 3, 0, again(Reason::Snoozed, None, 2, false)),
            (End::Failed(JobError::snooze(2 * S)), 3, CANCEL, Some(Outcome::Cancelled)),
            (End::Failed(JobError::fatal("no")), 1, CANCEL | INTERRUPT, failed(Reason::Error, "no")),
            (cancelled(), 1, 0, Some(Outcome::Cancelled)),
            (cancelled(), 1, CANCEL | TIMED_OUT, Some(Outcome::Cancelled)),
            (cancelled(), 1, INTERRUPT, again(Reason::Interrupted, None, 0, false)),
            (cancelled(), 1, TIMED_OUT, again(Reason::TimedOut, Some(late), 7, true)),
            (End::Failed(JobError(Ending::Interrupted)), 3, INTERRUPT, again(Reason::Interrupted, None, 0, false)),
            (End::Failed(JobError(Ending::LeaseLost)), 1, 0, None),
            (panicked(), 1, 0, again(Reason::Panicked, Some("boom"), 7, true)),
            (panicked(), 3, INTERRUPT, failed(Reason::Panicked, "boom")),
            (panicked(), 1, CANCEL, failed(Reason::Panicked, "boom")),
            (End::Undecodable("what".to_owned()), 1, CANCEL, failed(Reason::Undecodable, "what")),
        ];
        for (index, (end, attempt, flags, expected)) in cases.into_iter().enumerate() {
            let shown = format!("{index}: {end:?} in attempt {attempt} with {flags:04b}");
            assert_eq!(decided(end, attempt, flags), expected, "{shown}");
        }
    }
}
