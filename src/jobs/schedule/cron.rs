//! What a cron line names: civil times, in no zone. When those are, the zone says.

use jiff::civil::{Date, DateTime};

/// The civil times of a cron line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cron {
    /// As it was given, but for white space.
    pub(super) text: String,
    /// By bit.
    pub(super) seconds: u64,
    pub(super) minutes: u64,
    pub(super) hours: u32,
    pub(super) months: u16,
    pub(super) days: Days,
    /// Its minute or its hour begins with a star: it goes by real time, not by fixed times of the day.
    pub(super) is_wild: bool,
}

/// The days of a cron line, by bit; bit 0 of weekdays is Sunday.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Days {
    pub(super) of_month: u32,
    /// So many days before the last one.
    pub(super) before_last: u32,
    /// The weekday of Monday to Friday that is nearest to this day, in its month.
    pub(super) nearest_workday: u32,
    pub(super) is_last_workday: bool,
    pub(super) of_week: u8,
    /// The first, second, .. such weekday of the month.
    pub(super) nth_of_week: [u8; 5],
    pub(super) last_of_week: u8,
    pub(super) is_star_of_month: bool,
    pub(super) is_star_of_week: bool,
}

/// The calendar repeats itself after so many years.
const YEARS_MAX: i16 = 400;

impl Cron {
    /// The first of its times that is not before this one.
    pub(super) fn next(&self, from: DateTime) -> Option<DateTime> {
        let mut date = from.date();
        let mut at = (from.hour().unsigned_abs(), from.minute().unsigned_abs(), from.second().unsigned_abs());
        let last_year = from.year().saturating_add(YEARS_MAX);
        loop {
            if date.year() > last_year {
                return None;
            }
            let days = if self.months & 1 << date.month() == 0 { 0 } else { self.days.of(date.first_of_month()) };
            // Those from this day on.
            let left = days & u32::MAX << date.day();
            if left == 0 {
                date = date.last_of_month().tomorrow().ok()?;
                at = (0, 0, 0);
                continue;
            }
            let day = left.trailing_zeros() as i8;
            if day != date.day() {
                date = Date::new(date.year(), date.month(), day).ok()?;
                at = (0, 0, 0);
            }
            if let Some((hour, minute, second)) = self.time(at) {
                return Some(date.at(hour.cast_signed(), minute.cast_signed(), second.cast_signed(), 0));
            }
            date = date.tomorrow().ok()?;
            at = (0, 0, 0);
        }
    }

    /// The first of its times of the day that is not before this one.
    fn time(&self, (hour, minute, second): (u8, u8, u8)) -> Option<(u8, u8, u8)> {
        let first = |bits: u64, from: u8| {
            let left = bits & u64::MAX.checked_shl(from.into()).unwrap_or(0);
            (left != 0).then(|| left.trailing_zeros() as u8)
        };
        let hours = u64::from(self.hours);
        let (first_minute, first_second) = (first(self.minutes, 0)?, first(self.seconds, 0)?);
        if hours & 1 << hour != 0 {
            if self.minutes & 1 << minute != 0
                && let Some(second) = first(self.seconds, second)
            {
                return Some((hour, minute, second));
            }
            if let Some(minute) = first(self.minutes, minute + 1) {
                return Some((hour, minute, first_second));
            }
        }
        Some((first(hours, hour + 1)?, first_minute, first_second))
    }

    /// Whether there is any day that it names.
    pub(super) fn ever_matches(&self) -> bool {
        self.next(DateTime::constant(2000, 1, 1, 0, 0, 0, 0)).is_some()
    }
}

impl Days {
    /// Those of the month that begins on this date.
    ///
    /// As cron has it: a day is one that both fields name if either field begins with a star, else one that either names.
    fn of(&self, first: Date) -> u32 {
        let length = first.days_in_month().unsigned_abs();
        let all = (u32::MAX >> (31 - length)) & !1;
        let by_month = (self.of_month | self.special_of_month(first, length)) & all;
        let by_week = self.by_week(first, length) & all;
        if self.is_star_of_month || self.is_star_of_week { by_month & by_week } else { by_month | by_week }
    }

    fn special_of_month(&self, first: Date, length: u8) -> u32 {
        let mut days = 0;
        let before_last = (0..length).filter(|before| self.before_last & 1 << before != 0);
        before_last.for_each(|before| days |= 1 << (length - before));
        // The weekday of a day, 0 for Sunday.
        let weekday = |day: u8| (weekday_of(first) + day - 1) % 7;
        if self.is_last_workday {
            days |= 1
                << match weekday(length) {
                    6 => length - 1,
                    0 => length - 2,
                    _ => length,
                };
        }
        for day in (1..=length).filter(|day| self.nearest_workday & 1 << day != 0) {
            days |= 1
                << match weekday(day) {
                    6 if day == 1 => 3,
                    6 => day - 1,
                    0 if day == length => day - 2,
                    0 => day + 1,
                    _ => day,
                };
        }
        days
    }

    fn by_week(&self, first: Date, length: u8) -> u32 {
        let offset = weekday_of(first);
        // Day 1 has this weekday, day 8 again.
        let spread = |of_week: u8| {
            let weeks = (0..6).fold(0_u64, |weeks, week| weeks | u64::from(of_week) << (7 * week));
            ((weeks >> offset) << 1) as u32
        };
        let mut days = spread(self.of_week);
        let week = |number: u32| 0b1111_1110_u32.checked_shl(7 * number).unwrap_or(0);
        for (number, of_week) in self.nth_of_week.iter().enumerate().filter(|(_, of_week)| **of_week != 0) {
            days |= spread(*of_week) & week(number as u32);
        }
        if self.last_of_week != 0 {
            days |= spread(self.last_of_week) & 0b1111_1110 << (length - 7);
        }
        days
    }
}

/// 0 for Sunday.
fn weekday_of(date: Date) -> u8 {
    date.weekday().to_sunday_zero_offset().unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::super::parse::parse;
    use super::*;

    /// The days of a month, by looking at each.
    fn days(line: &str, year: i16, month: i8) -> Vec<i8> {
        let cron = parse(line).unwrap();
        let first = Date::constant(year, month, 1);
        (1..=first.days_in_month()).filter(|day| cron.days.of(first) & 1 << day != 0).collect()
    }

    #[test]
    fn days_of_month_and_of_week() {
        // May 2026 begins on a Friday and ends on a Sunday; August begins on a Saturday.
        for (line, month, expected) in [
            ("0 0 L * *", 5, &[31][..]),
            ("0 0 L-3 * *", 5, &[28]),
            ("0 0 LW * *", 5, &[29]),
            ("0 0 1W * *", 5, &[1]),
            ("0 0 1W * *", 8, &[3]),
            ("0 0 31W * *", 5, &[29]),
            ("0 0 10W * *", 5, &[11]),
            ("0 0 9W * *", 5, &[8]),
            ("0 0 31W * *", 6, &[]),
            ("0 0 * * 5L", 5, &[29]),
            ("0 0 * * L5", 5, &[29]),
            ("0 0 * * FRI#1", 5, &[1]),
            ("0 0 * * FRI#5", 5, &[29]),
            ("0 0 * * MON#5", 5, &[]),
            ("0 0 * * SUN", 5, &[3, 10, 17, 24, 31]),
            ("0 0 * * 7", 5, &[3, 10, 17, 24, 31]),
            ("0 0 13 * FRI", 5, &[1, 8, 13, 15, 22, 29]),
            ("0 0 */2 * FRI", 5, &[1, 15, 29]),
            ("0 0 1-15 * */3", 5, &[2, 3, 6, 9, 10, 13]),
            ("0 0 ? * FRI", 5, &[1, 8, 15, 22, 29]),
            ("0 0 13 * ?", 5, &[13]),
            ("0 0 * * MON,WED#2", 5, &[4, 11, 13, 18, 25]),
        ] {
            assert_eq!(days(line, 2026, month), expected, "{line} in {month}");
        }
        assert_eq!(days("0 0 L * *", 2028, 2), [29]);
    }

    #[test]
    fn the_next_time_is_not_before_the_one_it_is_asked_for() {
        let at = |text: &str| text.parse::<DateTime>().unwrap();
        for (line, from, expected) in [
            ("30 2 * * *", "2026-03-01T02:30:00", "2026-03-01T02:30:00"),
            ("30 2 * * *", "2026-03-01T02:30:01", "2026-03-02T02:30:00"),
            ("*/15 9-17 * * MON-FRI", "2026-03-06T17:46:00", "2026-03-09T09:00:00"),
            ("10,20 5 * * *", "2026-03-06T05:10:01", "2026-03-06T05:20:00"),
            ("*/7 59 23 31 12 *", "2026-12-31T23:59:50", "2026-12-31T23:59:56"),
            ("*/7 59 23 31 12 *", "2026-12-31T23:59:57", "2027-12-31T23:59:00"),
            ("0 0 29 2 *", "2096-03-01T00:00:00", "2104-02-29T00:00:00"),
            ("0 0 29 2 */7", "2024-03-01T00:00:00", "2032-02-29T00:00:00"),
        ] {
            assert_eq!(parse(line).unwrap().next(at(from)), Some(at(expected)), "{line} from {from}");
        }
        assert_eq!(parse("* * * * *").unwrap().next(at("9999-12-31T23:59:59")), None, "time ends");
    }
}
