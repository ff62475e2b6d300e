//! Times as people say and read them.

use std::time::Duration;

use jiff::{Span, Zoned, tz::TimeZone};
use l0::Timestamp;

use crate::{args::Common, failure::Failure};

/// The time that is asked about, as far as it was said, and the zone in which times are shown.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    pub(crate) since: Option<Timestamp>,
    pub(crate) until: Option<Timestamp>,
    zone: TimeZone,
}

impl Window {
    pub(crate) fn of(common: &Common) -> Result<Self, Failure> {
        let zone = if common.local {
            TimeZone::try_system()
                .map_err(|error| Failure::Usage(format!("--local: the local zone is unknown: {error}; set TZ")))?
        } else {
            TimeZone::UTC
        };
        let now = jiff::Timestamp::now().to_zoned(zone.clone());
        let time = |option: &str, text: &Option<String>| {
            text.as_deref().map(|text| parse(text, &now).ok_or_else(|| not_a_time(option, text))).transpose()
        };
        let (since, until) = (time("--since", &common.since)?, time("--until", &common.until)?);
        if let (Some(since), Some(until)) = (since, until)
            && since > until
        {
            return Err(Failure::Usage("--since is later than --until: swap them".to_owned()));
        }
        Ok(Self { since, until, zone })
    }

    /// The question within this window, by its own setters.
    pub(crate) fn within<Q>(
        &self,
        mut question: Q,
        since: impl FnOnce(Q, Timestamp) -> Q,
        until: impl FnOnce(Q, Timestamp) -> Q,
    ) -> Q {
        if let Some(at) = self.since {
            question = since(question, at);
        }
        if let Some(at) = self.until {
            question = until(question, at);
        }
        question
    }

    /// How long ago the window ends.
    pub(crate) fn age_of_end(&self) -> Result<Duration, Failure> {
        let end_ns = self.until.map_or(i64::MIN, Timestamp::as_unix_ns);
        let age = Timestamp::now().as_unix_ns().saturating_sub(end_ns);
        u64::try_from(age)
            .map(Duration::from_nanos)
            .ok()
            .filter(|age| !age.is_zero())
            .ok_or_else(|| Failure::Usage("--until is in the future: nothing there can be removed yet".to_owned()))
    }

    /// To the second, for tables.
    pub(crate) fn second(&self, at: Timestamp) -> String {
        self.show(at, 0)
    }

    /// To the microsecond, for lines.
    pub(crate) fn microsecond(&self, at: Timestamp) -> String {
        self.show(at, 6)
    }

    fn show(&self, at: Timestamp, digits: u8) -> String {
        let Ok(at) = jiff::Timestamp::from_nanosecond(at.as_unix_ns().into()) else { return at.to_string() };
        if self.zone == TimeZone::UTC {
            return format!("{at:.*}", usize::from(digits));
        }
        let format = if digits == 0 { "%Y-%m-%dT%H:%M:%S%:z" } else { "%Y-%m-%dT%H:%M:%S%.6f%:z" };
        at.to_zoned(self.zone.clone()).strftime(format).to_string()
    }
}

/// A span of time before now, whatever its sign; or a moment.
fn parse(text: &str, now: &Zoned) -> Option<Timestamp> {
    let text = Some(text.trim()).filter(|text| !text.is_empty() && !text.starts_with('+'))?;
    if let Some(span) = span(text) {
        return of_zoned(&now.checked_sub(span.abs()).ok()?);
    }
    // A number alone, and one with the letter of a military zone, is taken for an hour: nobody means that.
    let has_digits = text.starts_with(|c: char| c.is_ascii_digit());
    if has_digits && text.trim_start_matches(|c: char| c.is_ascii_digit()).len() <= 1 {
        return None;
    }
    // A day without an hour is meant from its beginning.
    let is_day = ["today", "yesterday", "tomorrow"].iter().any(|day| text.eq_ignore_ascii_case(day));
    let text = if is_day { format!("{text} 00:00") } else { text.to_owned() };
    let parsed = parse_datetime::parse_datetime_at_date(now.clone(), &text).ok()?;
    of_zoned(&parsed.into_zoned()?)
}

/// `3h`, `-3h`, `3 hours ago`; not `10:30:15`, which is a time of the day.
fn span(text: &str) -> Option<Span> {
    if text.contains(':') { None } else { text.parse().ok() }
}

fn of_zoned(at: &Zoned) -> Option<Timestamp> {
    i64::try_from(at.timestamp().as_nanosecond()).ok().map(Timestamp::from_unix_ns)
}

fn not_a_time(option: &str, text: &str) -> Failure {
    Failure::Usage(format!(
        "{option} {text:?} is no time: write for instance -3h, '2 days ago', yesterday, 10:30, 2026-11-22 or 2026-11-22T10:30:00Z"
    ))
}

/// An age, as in `7d` or `2 weeks`.
pub(crate) fn age(option: &str, text: &str) -> Result<Duration, Failure> {
    let now = Zoned::now();
    let age = span(text.trim()).and_then(|span| now.checked_sub(span.abs()).ok()).map(|then| then.duration_until(&now));
    age.and_then(|age| Duration::try_from(age).ok())
        .filter(|age| !age.is_zero())
        .ok_or_else(|| Failure::Usage(format!("{option} {text:?} is no age: write for instance 12h, 7d or '2 weeks'")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_understood() {
        let now: Zoned = "2026-11-23T10:00:00+01:00[Europe/Berlin]".parse().unwrap();
        for (text, expected) in [
            ("-3h", "2026-11-23T06:00:00.000000000Z"),
            ("3h", "2026-11-23T06:00:00.000000000Z"),
            ("2 days ago", "2026-11-21T09:00:00.000000000Z"),
            ("1h 30m", "2026-11-23T07:30:00.000000000Z"),
            ("yesterday", "2026-11-21T23:00:00.000000000Z"),
            ("Today", "2026-11-22T23:00:00.000000000Z"),
            ("now", "2026-11-23T09:00:00.000000000Z"),
            ("09:30", "2026-11-23T08:30:00.000000000Z"),
            ("09:30:15", "2026-11-23T08:30:15.000000000Z"),
            ("2026-11-22", "2026-11-21T23:00:00.000000000Z"),
            ("2026-07-01 10:30", "2026-07-01T08:30:00.000000000Z"),
            ("2026-11-22T10:30:00Z", "2026-11-22T10:30:00.000000000Z"),
        ] {
            assert_eq!(parse(text, &now).unwrap().to_string(), expected, "{text}");
        }
        for text in ["", "soon", "25:99", "99999999y", "2026", "5", "1M", "+3h"] {
            assert!(parse(text, &now).is_none(), "{text}");
        }
    }

    #[test]
    fn ages_are_understood() {
        let hours = |text| age("--older-than", text).unwrap().as_secs() / 3600;
        assert_eq!((hours("12h"), hours("2 days")), (12, 48));
        for text in ["", "0s", "old", "10:30:00", "7"] {
            assert!(age("--older-than", text).is_err(), "{text}");
        }
    }
}
