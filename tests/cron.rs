//! Cron lines against croniter in UTC, and against a walk through every minute of the days around a change of offset, and
//! every second of the hours around two.

use std::collections::BTreeSet;

use jiff::{Timestamp, ToSpan as _, civil::DateTime, tz::TimeZone};
use l0::jobs::Schedule;

fn l0_of(at: Timestamp) -> l0::Timestamp {
    l0::Timestamp::from_unix_ns(i64::try_from(at.as_nanosecond()).unwrap())
}

fn jiff_of(at: l0::Timestamp) -> Timestamp {
    Timestamp::from_nanosecond(at.as_unix_ns().into()).unwrap()
}

#[test]
fn eight_thousand_times_are_as_croniter_has_them() {
    let mut wrong = Vec::new();
    let mut count = 0;
    for case in include_str!("data/cron.tsv").lines() {
        let mut cells = case.split('\t');
        let line = cells.next().unwrap();
        let schedule = Schedule::cron(line).unwrap();
        let times: Vec<Timestamp> = cells.map(|cell| cell.parse().unwrap()).collect();
        for pair in times.windows(2) {
            let next = schedule.next_after(l0_of(pair[0])).map(jiff_of);
            count += 1;
            if next != Some(pair[1]) {
                wrong.push(format!("{line} after {}: {next:?} and not {}", pair[0], pair[1]));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {count} are different:\n{}", wrong.len(), wrong.join("\n"));
    assert!(count >= 8_000, "{count}");
}

/// What the fields of a simple line match; a second way to read it.
struct Plain {
    fields: Vec<BTreeSet<i8>>,
    is_wild: bool,
}

impl Plain {
    /// Seconds, minutes and hours; days are all.
    fn new(line: &str) -> Self {
        let mut fields: Vec<&str> = line.split(' ').collect();
        if fields.len() == 5 {
            fields.insert(0, "0");
        }
        assert_eq!(fields[3..], ["*"; 3]);
        let of = |field: &str, limit: i8| -> BTreeSet<i8> {
            field
                .split(',')
                .flat_map(|item| match (item.strip_prefix("*/"), item.split_once('-')) {
                    (Some(step), _) => (0..limit).step_by(step.parse().unwrap()).collect::<Vec<_>>(),
                    (_, Some((from, to))) => (from.parse().unwrap()..=to.parse().unwrap()).collect(),
                    _ if item == "*" => (0..limit).collect(),
                    _ => vec![item.parse().unwrap()],
                })
                .collect()
        };
        let is_wild = fields[1].starts_with('*') || fields[2].starts_with('*');
        Self { fields: vec![of(fields[0], 60), of(fields[1], 60), of(fields[2], 24)], is_wild }
    }

    fn matches(&self, civil: DateTime) -> bool {
        let values = [civil.second(), civil.minute(), civil.hour()];
        self.fields.iter().zip(values).all(|(field, value)| field.contains(&value))
    }

    /// Every fire time of what the wall showed, second by second or minute by minute; of the `known` first moments only that they
    /// were shown.
    fn walk(&self, shown: &[(Timestamp, DateTime)], known: usize, step: jiff::Span) -> Vec<Timestamp> {
        let mut fires = BTreeSet::new();
        let mut seen = BTreeSet::new();
        for (index, (at, civil)) in shown.iter().enumerate() {
            let mut due = self.matches(*civil) && (self.is_wild || !seen.contains(civil));
            if !self.is_wild && index > 0 {
                // What was skipped is due now.
                let mut skipped = shown[index - 1].1 + step;
                while skipped < *civil {
                    due |= self.matches(skipped) && !seen.contains(&skipped);
                    skipped += step;
                }
            }
            seen.insert(*civil);
            if due && index >= known {
                fires.insert(*at);
            }
        }
        fires.into_iter().collect()
    }
}

const LINES: [&str; 11] = [
    "30 2 * * *",
    "0 0 * * *",
    "15,45 1-3 * * *",
    "59 23 * * *",
    "0 12 * * *",
    "30 1 * * *",
    "*/15 * * * *",
    "0 * * * *",
    "*/20 2 * * *",
    "5 */2 * * *",
    "10-40 4 * * *",
];

#[test]
fn around_changes_of_offset_times_are_those_of_a_walk_through_all_minutes() {
    let mut count = 0;
    for (zone, day) in [
        ("America/New_York", "2026-03-08"),
        ("America/New_York", "2026-11-01"),
        ("Europe/Berlin", "2026-03-29"),
        ("Europe/Berlin", "2026-10-25"),
        // The hour from 00:00 on is skipped, and that to it is repeated.
        ("America/Santiago", "2026-09-06"),
        ("America/Santiago", "2026-04-05"),
        // Half an hour.
        ("Australia/Lord_Howe", "2026-10-04"),
        ("Australia/Lord_Howe", "2026-04-05"),
        // Changes at 02:45 and 03:45.
        ("Pacific/Chatham", "2026-09-27"),
        ("Pacific/Chatham", "2026-04-05"),
        // A day that there was not.
        ("Pacific/Apia", "2011-12-30"),
        // Back for Ramadan, and forward again.
        ("Africa/Casablanca", "2026-02-15"),
        ("Africa/Casablanca", "2026-03-22"),
        // Its summer is the standard, its winter is negative.
        ("Europe/Dublin", "2026-03-29"),
        ("Europe/Dublin", "2026-10-25"),
        // Two hours.
        ("Antarctica/Troll", "2026-03-29"),
        ("Antarctica/Troll", "2026-10-25"),
        // A zone that changed its mind about its offset, by an hour and a half in all.
        ("Asia/Pyongyang", "2018-05-04"),
        ("UTC", "2026-03-29"),
    ] {
        let rules = TimeZone::get(zone).unwrap();
        let noon: DateTime = format!("{day}T12:00").parse().unwrap();
        let middle = rules.to_ambiguous_timestamp(noon).compatible().unwrap();
        let (from, to) = (middle - 30.hours(), middle + 30.hours());
        // All offsets of these days are of whole minutes.
        let step = 1.minute();
        let moments = std::iter::successors(Some(from - 30.hours()), |at| Some(*at + step)).take_while(|at| *at < to);
        let shown: Vec<_> = moments.map(|at| (at, rules.to_datetime(at))).collect();
        for line in LINES {
            let schedule = Schedule::cron(line).unwrap().in_zone(zone).unwrap();
            let expected = Plain::new(line).walk(&shown, 30 * 60, step);
            let mut seen = Vec::new();
            let mut at = from - 1.nanosecond();
            while let Some(next) = schedule.next_after(l0_of(at)).map(jiff_of).filter(|next| *next < to) {
                assert!(next > at, "{line} in {zone} stands still at {at}");
                seen.push(next);
                at = next;
            }
            assert_eq!(seen, expected, "{line} in {zone} around {day}");
            count += seen.len();
            // From any moment, not only from a fire time: each half of what is repeated among them.
            for minutes in 0..(60 * 60 / 7) {
                let at = from + (minutes * 7).minutes() + 31.seconds();
                let next = schedule.next_after(l0_of(at)).map(jiff_of).unwrap();
                let first = expected.iter().find(|time| **time > at);
                assert!(next > at && first.is_none_or(|first| *first == next), "{line} in {zone} after {at}: {next}");
            }
        }
    }
    assert!(count > 5_000, "{count}");
}

#[test]
fn around_a_change_seconds_are_those_of_a_walk_too() {
    for (zone, change) in [("Europe/Berlin", "2026-03-29T01:00:00Z"), ("Europe/Berlin", "2026-10-25T01:00:00Z")] {
        let rules = TimeZone::get(zone).unwrap();
        let change: Timestamp = change.parse().unwrap();
        let (from, to, step) = (change - 2.hours(), change + 2.hours(), 1.second());
        let moments = std::iter::successors(Some(from - 2.hours()), |at| Some(*at + step)).take_while(|at| *at < to);
        let shown: Vec<_> = moments.map(|at| (at, rules.to_datetime(at))).collect();
        for line in ["*/7 10,40 * * * *", "30 15 2 * * *", "* 30 2 * * *", "15,45 0 2-3 * * *"] {
            let schedule = Schedule::cron(line).unwrap().in_zone(zone).unwrap();
            let times = std::iter::successors(Some(l0_of(from - 1.second())), |at| schedule.next_after(*at)).skip(1);
            let seen: Vec<_> = times.map(jiff_of).take_while(|at| *at < to).collect();
            assert_eq!(seen, Plain::new(line).walk(&shown, 2 * 3_600, step), "{line} in {zone} around {change}");
        }
    }
}

#[test]
fn every_zone_at_every_change_is_later_than_what_is_asked_for_and_ends() {
    let lines = ["30 2 * * *", "0 0 29 2 *", "*/10 * * * *", "0 12 1 1 1", "0 0 31 12 */7"];
    let mut zones = 0;
    for zone in [
        "Africa/Cairo",
        "America/Nuuk",
        "Asia/Gaza",
        "Asia/Tehran",
        "Atlantic/Azores",
        "Pacific/Kwajalein",
        "America/Juneau",
        "Asia/Manila",
    ] {
        let rules = TimeZone::get(zone).unwrap();
        zones += 1;
        for line in lines {
            let schedule = Schedule::cron(line).unwrap().in_zone(zone).unwrap();
            let begin: Timestamp = "1830-01-01T00:00:00Z".parse().unwrap();
            for change in rules.following(begin).take_while(|change| change.timestamp().as_second() < 4_000_000_000) {
                for offset in [-7_201, -3_600, -1, 0, 1, 1_799, 3_600, 5_400] {
                    let at = change.timestamp() + i64::from(offset).seconds();
                    let next = schedule.next_after(l0_of(at)).map(jiff_of).unwrap();
                    assert!(next > at, "{line} in {zone} after {at}: {next}");
                    // None is passed over: from just before it, it is the next.
                    assert_eq!(schedule.next_after(l0_of(next - 1.nanosecond())).map(jiff_of), Some(next));
                }
            }
        }
    }
    assert_eq!(zones, 8);
    let end = l0::Timestamp::from_unix_ns(i64::MAX);
    assert_eq!(Schedule::cron("* * * * *").unwrap().next_after(end), None, "time ends");
    let start = l0::Timestamp::from_unix_ns(i64::MIN);
    assert!(Schedule::cron("* * * * *").unwrap().next_after(start).unwrap() > start);
}
