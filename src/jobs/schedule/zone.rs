//! When the civil times of a cron line are, in a time zone: the rule for daylight saving.
//!
//! A line whose minute and hour both are fixed (neither begins with a star) names times of the day, each of which comes once:
//! one that the zone skips is due at the end of the gap, one that the zone repeats is due the first time. A line with a star
//! goes by real time: it is due whenever the clock on the wall shows what it names, never within a gap, and both times where
//! an hour is repeated. So have it the crons of Debian and Vixie, but for gaps of three hours or more, which they do not take for
//! daylight saving; here the length does not matter.

use jiff::{
    Timestamp,
    civil::DateTime,
    tz::{AmbiguousOffset, Offset, TimeZone},
};

use super::cron::Cron;

/// The first moment of the line that is later than this one; `None` if there is none that can be told.
pub(super) fn next(cron: &Cron, zone: &TimeZone, after: Timestamp) -> Option<Timestamp> {
    if cron.is_wild { next_wild(cron, zone, after) } else { next_fixed(cron, zone, after) }
}

fn whole(at: Timestamp) -> Option<Timestamp> {
    let below = i64::from(at.subsec_nanosecond() < 0);
    Timestamp::from_second(at.as_second() - below).ok()
}

fn second_after(at: Timestamp) -> Option<Timestamp> {
    Timestamp::from_second(whole(at)?.as_second() + 1).ok()
}

/// From one offset to the next, what the wall shows moves as time does.
fn next_wild(cron: &Cron, zone: &TimeZone, after: Timestamp) -> Option<Timestamp> {
    let mut from = second_after(after)?;
    loop {
        let offset = zone.to_offset(from);
        let found = offset.to_timestamp(cron.next(offset.to_datetime(from))?).ok()?;
        match change_after(zone, from, offset) {
            Some(change) if change <= found => from = change,
            _ => return Some(found),
        }
    }
}

/// When the offset becomes another.
fn change_after(zone: &TimeZone, from: Timestamp, offset: Offset) -> Option<Timestamp> {
    zone.following(from).find(|change| change.offset() != offset).map(|change| change.timestamp())
}

fn next_fixed(cron: &Cron, zone: &TimeZone, after: Timestamp) -> Option<Timestamp> {
    let second = jiff::Span::new().seconds(1);
    let before = whole(after)?;
    // What the wall would show next: a change at this second must not hide what it skips.
    let mut from = zone.to_offset(before).to_datetime(before).checked_add(second).ok()?;
    loop {
        let civil = cron.next(from)?;
        let (at, resume) = first_moment(zone, civil)?;
        if at > after {
            return Some(at);
        }
        // It was in the first pass of what is repeated, and this is the second: nothing of it is due any more.
        from = resume.unwrap_or(civil.checked_add(second).ok()?);
    }
}

/// When the wall shows this for the first time, or would if it did not skip it; and of what is repeated, where that ends.
fn first_moment(zone: &TimeZone, civil: DateTime) -> Option<(Timestamp, Option<DateTime>)> {
    match zone.to_ambiguous_timestamp(civil).offset() {
        AmbiguousOffset::Unambiguous { offset } => Some((offset.to_timestamp(civil).ok()?, None)),
        AmbiguousOffset::Fold { before, .. } => {
            let first = before.to_timestamp(civil).ok()?;
            // The repetition begins with this change, at which the wall has shown all of it.
            let change = change_after(zone, first, before)?;
            Some((first, Some(before.to_datetime(change))))
        }
        // The change lies between what the two offsets make of it.
        AmbiguousOffset::Gap { before, after } => {
            Some((change_after(zone, after.to_timestamp(civil).ok()?, before)?, None))
        }
    }
}

/// A zone of the database, or what to do instead.
pub(super) fn find(name: &str) -> Result<TimeZone, String> {
    // Names that the database has, and that stand for no zone of their own.
    const NONE: [&str; 4] = ["Etc/Unknown", "Factory", "localtime", "posixrules"];
    let found = jiff::tz::db()
        .get(name)
        .ok()
        .filter(|zone| zone.iana_name().is_some_and(|known| !NONE.iter().any(|none| known.eq_ignore_ascii_case(none))));
    found.ok_or_else(|| {
        let known: Vec<String> = jiff::tz::db().available().map(|name| name.to_string()).collect();
        if known.is_empty() {
            return format!(
                "the time zone {name:?} is not known, for this machine has no time zone database: install the package tzdata, \
                 or enable l0's feature bundled-tz"
            );
        }
        let near = near(name, &known);
        let advice = if near.is_empty() { String::new() } else { format!("; near are {}", near.join(", ")) };
        format!("the time zone {name:?} is not known: IANA names are like Europe/Berlin or UTC{advice}")
    })
}

/// The known names that are most like this one.
fn near<'k>(name: &str, known: &'k [String]) -> Vec<&'k str> {
    let plain = |name: &str| name.to_lowercase().replace([' ', '-'], "_");
    let wanted = plain(name);
    let last = |name: &str| name.rsplit('/').next().unwrap_or(name).to_owned();
    let mut near: Vec<_> = known
        .iter()
        .map(|known| {
            let (whole, city) = (plain(known), last(&plain(known)));
            // A city may be named without its region, or with a wrong one.
            let likeness = strsim::jaro_winkler(&wanted, &whole).max(strsim::jaro_winkler(&last(&wanted), &city));
            (likeness, known.as_str())
        })
        .filter(|(likeness, _)| *likeness > 0.85)
        .collect();
    near.sort_by(|one, other| other.0.total_cmp(&one.0).then(one.1.cmp(other.1)));
    near.into_iter().map(|(_, name)| name).take(3).collect()
}
