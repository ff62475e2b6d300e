//! How a command ends, and the exit code that tells a script.

use std::{error::Error as _, fmt, io, process::ExitCode};

/// How a question was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Answered,
    /// It was answered, and there is nothing: a failure only for those who say so.
    Nothing,
    No,
}

impl Outcome {
    pub(crate) fn of_count(count: usize) -> Self {
        if count == 0 { Self::Nothing } else { Self::Answered }
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The question makes no sense.
    Usage(String),
    Store(l0::Error),
    Other(String),
    /// Whoever read the output has gone.
    ClosedPipe,
}

impl Failure {
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Usage(_) => 2,
            Self::Store(error) if error.is_invalid_input() => 2,
            Self::Store(error) if error.is_timeout() => 4,
            Self::Store(_) | Self::Other(_) => 3,
            Self::ClosedPipe => 0,
        })
    }
}

impl From<l0::Error> for Failure {
    fn from(error: l0::Error) -> Self {
        let cause = error.source().and_then(|cause| cause.downcast_ref::<io::Error>());
        match cause {
            Some(cause) if cause.kind() == io::ErrorKind::BrokenPipe => Self::ClosedPipe,
            _ => Self::Store(error),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::ClosedPipe,
            _ => Self::Other(format!("cannot write the answer: {error}")),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text) | Self::Other(text) => f.write_str(text),
            // What is said to programmers is no help here.
            Self::Store(error) => f.write_str(&error.to_string().replace(", or allow it more with within(..)", "")),
            Self::ClosedPipe => f.write_str("nobody reads the answer"),
        }
    }
}
