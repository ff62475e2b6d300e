//! How an attempt ends that does not succeed, what a caller is told of it, and why a closure is not taken.

use std::{error::Error as StdError, fmt, time::Duration};

use super::id::Reason;

/// How a handler ends an attempt that does not succeed. Any error converts into one by `?`, and then the job is tried again
/// as its options say.
///
/// ```
/// use l0::jobs::JobError;
/// fn parse(text: &str) -> Result<u32, JobError> {
///     if text.is_empty() {
///         return Err(JobError::fatal("an empty number will not become one")); // no further attempt
///     }
///     Ok(text.parse()?) // another attempt, later
/// }
/// assert!(parse("x").is_err());
/// ```
pub struct JobError(pub(super) Ending);

/// What an attempt asks for.
#[derive(Debug)]
pub(super) enum Ending {
    /// To be tried again, after the backoff or so long.
    Again { error: String, after: Option<Duration> },
    /// To be tried no more.
    Fatal { error: String, reason: Reason },
    /// To be called again in so long, which is no failure.
    Snooze(Duration),
    /// To be over.
    Cancelled,
    /// It ends because its process does: `check` said so.
    Interrupted,
    /// It ends because its time is over: `check` said so.
    TimedOut,
    /// Another has the job: nothing of this attempt counts.
    LeaseLost,
}

impl JobError {
    /// The job fails now, whatever attempts are left.
    pub fn fatal(e: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self(Ending::Fatal { error: chain(&*e.into()), reason: Reason::Error })
    }

    /// The job is tried again in so long rather than after its backoff, if an attempt is left.
    pub fn retry_after(e: impl Into<Box<dyn StdError + Send + Sync>>, d: Duration) -> Self {
        Self(Ending::Again { error: chain(&*e.into()), after: Some(d) })
    }

    /// The handler is called again in so long. That is no failure and costs no attempt.
    pub fn snooze(d: Duration) -> Self {
        Self(Ending::Snooze(d))
    }

    /// The job ends as cancelled.
    pub fn cancelled() -> Self {
        Self(Ending::Cancelled)
    }
}

impl<E: Into<Box<dyn StdError + Send + Sync>>> From<E> for JobError {
    fn from(e: E) -> Self {
        Self(Ending::Again { error: chain(&*e.into()), after: None })
    }
}

impl fmt::Debug for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("JobError").field(&self.0).finish()
    }
}

// `JobError` is no `std::error::Error`, for then the conversion from any error would not be one of its own.

/// An error and its sources, in one line.
fn chain(error: &(dyn StdError + 'static)) -> String {
    const SOURCES_MAX: usize = 16;
    let mut text = error.to_string();
    let mut next = error.source();
    for _ in 0..SOURCES_MAX {
        let Some(source) = next else { break };
        next = source.source();
        let said = source.to_string();
        // Many errors repeat their source.
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
    }
    text
}

/// Why a job that was waited for has no result.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum JobFailure {
    /// Its last attempt failed, with this error.
    Failed(String),
    /// Its last attempt panicked, with this message and backtrace.
    Panicked(String),
    /// Its last attempt took longer than it may.
    TimedOut,
    /// It was cancelled.
    Cancelled,
    /// The process that ran it died, in its last attempt.
    Abandoned,
    /// It could not be begun in time.
    MissedDeadline,
    /// Its payload, or its result, is not what its kind is made of.
    Undecodable(String),
    /// l0 was shut down before the job was done. A durable one goes on when a process next runs its kind.
    Stopped,
}

impl fmt::Display for JobFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(error) => write!(f, "the job failed: {error}"),
            Self::Panicked(message) => {
                write!(f, "the job panicked: {}", message.lines().next().unwrap_or_default())
            }
            Self::TimedOut => f.write_str("the job took longer than its timeout"),
            Self::Cancelled => f.write_str("the job was cancelled"),
            Self::Abandoned => f.write_str("the process that ran the job died, in its last attempt"),
            Self::MissedDeadline => f.write_str("the job could not be begun in time"),
            Self::Undecodable(why) => write!(f, "the job could not be read: {why}"),
            Self::Stopped => f.write_str("l0 was shut down before the job was done"),
        }
    }
}

impl StdError for JobFailure {}

/// Why a closure was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SubmitError {
    /// As many wait already as may: let some be done first.
    Full,
    /// l0 was shut down, or this is a forked child process.
    Stopped,
}

impl fmt::Display for SubmitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("as many closures wait as may: wait for some of them, or spawn later"),
            Self::Stopped => f.write_str("l0 is closed: it was shut down, or this is a forked child process"),
        }
    }
}

impl StdError for SubmitError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Outer(std::num::ParseIntError);
    impl fmt::Display for Outer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("no order")
        }
    }
    impl StdError for Outer {
        fn source(&self) -> Option<&(dyn StdError + 'static)> {
            Some(&self.0)
        }
    }

    #[test]
    fn an_error_brings_its_sources_and_says_each_once() {
        let source = || "x".parse::<u8>().unwrap_err();
        let JobError(Ending::Again { error, after: None }) = JobError::from(Outer(source())) else { panic!() };
        assert_eq!(error, "no order: invalid digit found in string");
        let JobError(Ending::Fatal { error, .. }) = JobError::fatal("over") else { panic!() };
        assert_eq!(error, "over");
    }
}
