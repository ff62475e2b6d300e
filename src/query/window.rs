//! The time a question is about.

use std::time::Duration;

use crate::{
    clock::Timestamp,
    error::{Error, Result},
};

/// Longer windows are taken for a mistake in units.
const LAST_MAX: Duration = Duration::from_secs(100 * 366 * 24 * 3600);

/// From and until when, as far as it is said.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Window {
    pub(super) last: Option<Duration>,
    pub(super) since: Option<Timestamp>,
    pub(super) until: Option<Timestamp>,
}

impl Window {
    pub(crate) fn last(d: Duration) -> Self {
        Self { last: Some(d), ..Self::default() }
    }

    /// From and until these times; a side that is `None` is open.
    pub(crate) fn between(since: Option<Timestamp>, until: Option<Timestamp>) -> Self {
        Self { last: None, since, until }
    }

    /// The nanoseconds it begins and ends at, by the store's clock.
    pub(super) fn bounds(&self, now: Timestamp) -> Result<(Option<i64>, Option<i64>)> {
        let last = match self.last {
            Some(d) if d.is_zero() || d > LAST_MAX => {
                return Err(Error::invalid_input(format!(
                    "last({d:?}) is no window: it must be more than nothing and at most a hundred years; are its units right?"
                )));
            }
            last => last.map(|d| now.saturating_sub(d)),
        };
        let since = self.since.max(last);
        if let (Some(since), Some(until)) = (since, self.until)
            && since > until
        {
            return Err(Error::invalid_input(format!(
                "the window begins at {since} and ends before that, at {until}: swap since and until"
            )));
        }
        Ok((since.map(Timestamp::as_unix_ns), self.until.map(Timestamp::as_unix_ns)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_that_make_no_sense_are_refused() {
        let at = Timestamp::from_unix_ns;
        for d in [Duration::ZERO, Duration::MAX, LAST_MAX * 2] {
            let error = Window::last(d).bounds(at(0)).unwrap_err();
            assert!(error.is_invalid_input() && error.to_string().contains("units"), "{error}");
        }
        let turned = Window { since: Some(at(2)), until: Some(at(1)), last: None };
        assert!(turned.bounds(at(0)).unwrap_err().to_string().contains("swap"));
        let both = Window { since: Some(at(5)), until: None, last: Some(LAST_MAX) };
        assert_eq!(both.bounds(at(7)).unwrap(), (Some(5), None));
        assert_eq!(Window::default().bounds(at(7)).unwrap(), (None, None));
    }
}
