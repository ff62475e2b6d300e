//! From the text of a cron line to what it names; an error says which field, why, and what would be valid.
//!
//! Five fields (minute, hour, day of month, month, day of week), or six with the second in front. Written here, for the crate
//! that knows most of the syntax takes `1,,2` and `,` for valid, names of months for minutes, and `*/2` in a day field for no
//! star, which cron does not.

use super::cron::{Cron, Days};

const TEXT_BYTES_MAX: usize = 1_000;

/// One field: what it is called, its bounds, and the names of its values from the first on.
struct Field {
    name: &'static str,
    first: u8,
    last: u8,
    names: &'static [&'static str],
}

const SECOND: Field = Field { name: "second", first: 0, last: 59, names: &[] };
const MINUTE: Field = Field { name: "minute", first: 0, last: 59, names: &[] };
const HOUR: Field = Field { name: "hour", first: 0, last: 23, names: &[] };
const DAY_OF_MONTH: Field = Field { name: "day of month", first: 1, last: 31, names: &[] };
const MONTH: Field = Field {
    name: "month",
    first: 1,
    last: 12,
    names: &["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"],
};
/// 7 is Sunday, too.
const DAY_OF_WEEK: Field =
    Field { name: "day of week", first: 0, last: 6, names: &["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"] };

/// What a field's plain items name, by bit; and whether it begins with a star.
#[derive(Clone, Copy, Default)]
struct Named {
    bits: u64,
    is_star: bool,
}

pub(super) fn parse(text: &str) -> Result<Cron, String> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(format!("a cron line has at most {TEXT_BYTES_MAX} bytes, and this one {}", text.len()));
    }
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let wrong = |why: String| format!("the cron line {line:?} {why}");
    let expanded = nickname(&line).map_err(wrong)?;
    let fields: Vec<&str> = expanded.split(' ').collect();
    let (second, rest) = match fields.len() {
        5 => ("0", &fields[..]),
        6 => (fields[0], &fields[1..]),
        7 => return Err(wrong("has 7 fields, and years cannot be named: leave the year out".to_owned())),
        count => {
            let count = if line.is_empty() { 0 } else { count };
            return Err(wrong(format!(
                "has {count} field{}: it takes five, minute hour day-of-month month day-of-week, as in \"30 2 * * MON-FRI\", \
                 or six with the second in front",
                if count == 1 { "" } else { "s" }
            )));
        }
    };
    let plain = |field: &Field, text: &str| {
        plain_field(field, text).map_err(|why| wrong(format!("has an error in its field {}: {why}", field.name)))
    };
    let (second, minute, hour) = (plain(&SECOND, second)?, plain(&MINUTE, rest[0])?, plain(&HOUR, rest[1])?);
    let month = plain(&MONTH, rest[3])?;
    let mut days = Days::default();
    days_of_month(rest[2], &mut days)
        .map_err(|why| wrong(format!("has an error in its field {}: {why}", DAY_OF_MONTH.name)))?;
    days_of_week(rest[4], &mut days)
        .map_err(|why| wrong(format!("has an error in its field {}: {why}", DAY_OF_WEEK.name)))?;
    let cron = Cron {
        seconds: second.bits,
        minutes: minute.bits,
        hours: u32::try_from(hour.bits).unwrap_or(0),
        months: u16::try_from(month.bits).unwrap_or(0),
        days,
        is_wild: minute.is_star || hour.is_star,
        text: line.clone(),
    };
    if !cron.ever_matches() {
        return Err(wrong("names no day that there is: look at its day of month and its month".to_owned()));
    }
    Ok(cron)
}

fn nickname(line: &str) -> Result<&str, String> {
    let Some(name) = line.strip_prefix('@') else { return Ok(line) };
    match name.to_ascii_lowercase().as_str() {
        "yearly" | "annually" => Ok("0 0 1 1 *"),
        "monthly" => Ok("0 0 1 * *"),
        "weekly" => Ok("0 0 * * 0"),
        "daily" | "midnight" => Ok("0 0 * * *"),
        "hourly" => Ok("0 * * * *"),
        "reboot" => Err("is of the start of the machine: enqueue the job when the program starts".to_owned()),
        name if name.starts_with("every") => Err("is an interval: write Schedule::every(duration)".to_owned()),
        _ => Err("is no nickname: there are @yearly, @monthly, @weekly, @daily, @midnight and @hourly".to_owned()),
    }
}

impl Field {
    fn valid(&self) -> String {
        let (first, last) = (self.first, self.last);
        let names = match self.names {
            [] => String::new(),
            [one, .., other] => format!(", the names {one} to {other}"),
            [one] => format!(", {one}"),
        };
        let special = match self.name {
            "day of month" => {
                ", L (the last day), L-3 (the third before it), 15W (the weekday nearest to the 15th), LW and ?"
            }
            "day of week" => ", 5L (the last Friday), 5#2 (the second) and ?",
            _ => "",
        };
        format!("valid are {first} to {last}{names}, *, ranges (a-b), steps (*/n, a-b/n), lists (a,b){special}")
    }

    /// A value, by number or name.
    fn value(&self, text: &str) -> Result<u8, String> {
        if let Some(index) = self.names.iter().position(|name| name.eq_ignore_ascii_case(text)) {
            return Ok(self.first + u8::try_from(index).unwrap_or(0));
        }
        if text.is_empty() {
            return Err(format!("a value is missing; {}", self.valid()));
        }
        let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.parse::<u8>().ok().filter(|_| is_number);
        match number {
            Some(number) if (self.first..=self.last).contains(&number) => Ok(number),
            // Sunday has two numbers.
            Some(7) if self.name == DAY_OF_WEEK.name => Ok(0),
            _ if is_number => Err(format!("{text} is not from {} to {}; {}", self.first, self.last, self.valid())),
            _ => Err(format!("{text:?} is nothing that it knows; {}", self.valid())),
        }
    }

    fn values(&self) -> usize {
        usize::from(self.last - self.first) + 1
    }

    /// A range, by its ends as they stand there. It may go over the end: FRI-MON, 22-2; and 0-7 is the whole week. Its values in
    /// their order.
    fn range(&self, from: &str, to: &str) -> Result<impl Iterator<Item = u8> + use<>, String> {
        let (from, to) =
            (self.value(from)?, if to == "7" && self.name == DAY_OF_WEEK.name { 7 } else { self.value(to)? });
        let (first, count) = (self.first, self.values());
        let length = match to.checked_sub(from) {
            Some(steps) => usize::from(steps) + 1,
            None => usize::from(to) + count - usize::from(from) + 1,
        };
        Ok((0..length).map(move |step| first + ((usize::from(from - first) + step) % count) as u8))
    }
}

/// One item of a list that has nothing special: its values by bit, and whether it is a star.
fn item(field: &Field, text: &str) -> Result<Named, String> {
    let (range, step) = match text.split_once('/') {
        Some((range, step)) => (range, Some(self::step(field, step)?)),
        None => (text, None),
    };
    let is_star = range == "*";
    let values: Vec<u8> = if is_star {
        (field.first..=field.last).collect()
    } else if let Some((from, to)) = range.split_once('-') {
        field.range(from, to)?.collect()
    } else if step.is_some() {
        // From there to the end.
        (field.value(range)?..=field.last).collect()
    } else {
        vec![field.value(range)?]
    };
    let bits = values.into_iter().step_by(step.unwrap_or(1)).fold(0, |bits, value| bits | 1 << value);
    Ok(Named { bits, is_star })
}

fn step(field: &Field, text: &str) -> Result<usize, String> {
    let step = text.parse::<usize>().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
    match step {
        Some(0) => Err("a step of 0 goes nowhere: write 1 or more".to_owned()),
        // It would be the first value alone, which is hardly what was meant.
        Some(step) if step > field.values() => Err(format!(
            "a step of {step} is longer than the field, which has {} values; for an interval write Schedule::every(duration)",
            field.values()
        )),
        Some(step) => Ok(step),
        None => Err(format!("the step {text:?} is no number; {}", field.valid())),
    }
}

fn plain_field(field: &Field, text: &str) -> Result<Named, String> {
    let mut named = Named { bits: 0, is_star: text.starts_with('*') };
    for text in text.split(',') {
        named.bits |= item(field, text)?.bits;
    }
    Ok(named)
}

fn days_of_month(text: &str, days: &mut Days) -> Result<(), String> {
    days.is_star_of_month = text.starts_with(['*', '?']);
    let day = |text: &str| DAY_OF_MONTH.value(text);
    for text in text.split(',') {
        let upper = text.to_ascii_uppercase();
        if upper == "?" {
            days.of_month |= item(&DAY_OF_MONTH, "*")?.bits as u32;
        } else if upper == "L" {
            days.before_last |= 1;
        } else if upper == "LW" || upper == "WL" {
            days.is_last_workday = true;
        } else if let Some(before) = upper.strip_prefix("L-") {
            let before = before.parse::<u8>().ok().filter(|before| (1..=30).contains(before));
            let Some(before) = before else {
                return Err(format!("{text:?} is no day before the last: L-1 to L-30 are"));
            };
            days.before_last |= 1 << before;
        } else if let Some(near) = upper.strip_suffix('W') {
            days.nearest_workday |= 1 << day(near)?;
        } else {
            days.of_month |= item(&DAY_OF_MONTH, text)?.bits as u32;
        }
    }
    Ok(())
}

fn days_of_week(text: &str, days: &mut Days) -> Result<(), String> {
    days.is_star_of_week = text.starts_with(['*', '?']);
    let day = |text: &str| DAY_OF_WEEK.value(text).map(usize::from);
    for text in text.split(',') {
        let upper = text.to_ascii_uppercase();
        if upper == "?" {
            days.of_week |= item(&DAY_OF_WEEK, "*")?.bits as u8;
        } else if upper == "L" {
            return Err("L needs a day here: 5L is the last Friday of the month".to_owned());
        } else if let Some((of, nth)) = upper.split_once('#') {
            let nth = nth.parse::<usize>().ok().filter(|nth| (1..=5).contains(nth));
            let Some(nth) = nth else {
                return Err(format!("{text:?} has no number from 1 to 5 behind its #: 5#2 is the second Friday"));
            };
            days.nth_of_week[nth - 1] |= 1 << day(of)?;
        } else if let Some(of) = upper.strip_suffix('L').or_else(|| upper.strip_prefix('L')) {
            days.last_of_week |= 1 << day(of)?;
        } else {
            days.of_week |= item(&DAY_OF_WEEK, text)?.bits as u8;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_said_with_its_field_and_what_would_be_right() {
        for (line, parts) in [
            ("", &["has 0 fields", "\"30 2 * * MON-FRI\""][..]),
            ("* * * *", &["has 4 fields", "five"]),
            ("0 0 1 1 * 2026 7", &["has 7 fields", "years"]),
            ("61 * * * *", &["minute: 61 is not from 0 to 59"]),
            ("* 24 * * *", &["hour: 24 is not from 0 to 23"]),
            ("0 0 0 * *", &["day of month: 0 is not from 1 to 31", "15W"]),
            ("0 0 * 13 *", &["month: 13 is not from 1 to 12", "JAN to DEC"]),
            ("0 0 * * 8", &["day of week: 8 is not from 0 to 6", "SUN to SAT"]),
            ("JAN * * * *", &["minute: \"JAN\" is nothing that it knows", "0 to 59"]),
            ("0 0 * * MONDAY", &["day of week: \"MONDAY\" is nothing"]),
            ("1,,2 * * * *", &["minute: a value is missing"]),
            (", * * * *", &["minute: a value is missing"]),
            ("*/0 * * * *", &["minute: a step of 0"]),
            ("*/90 * * * *", &["minute: a step of 90 is longer", "Schedule::every"]),
            ("*/x * * * *", &["minute: the step \"x\""]),
            ("+5 * * * *", &["minute: \"+5\" is nothing"]),
            ("1-2-3 * * * *", &["minute: \"2-3\" is nothing"]),
            ("? * * * *", &["minute: \"?\" is nothing"]),
            ("* * L-31 * *", &["day of month: \"L-31\"", "L-30"]),
            ("* * XW * *", &["day of month: \"X\" is nothing"]),
            ("* * * * L", &["day of week: L needs a day", "5L"]),
            ("* * * * 5#6", &["day of week: \"5#6\"", "5#2"]),
            ("0 0 30 2 *", &["names no day that there is"]),
            ("0 0 31 4,6,9,11 *", &["names no day"]),
            ("@reboot", &["enqueue the job when the program starts"]),
            ("@every 5m", &["Schedule::every"]),
            ("@often", &["no nickname", "@hourly"]),
        ] {
            let error = parse(line).unwrap_err();
            for part in parts {
                assert!(error.contains(part), "{line}: {error}");
            }
        }
        assert!(parse(&"1,".repeat(600)).unwrap_err().contains("at most"));
    }

    #[test]
    fn ranges_may_go_over_the_end_and_names_are_values() {
        let bits = |field, text| plain_field(field, text).unwrap().bits;
        let of = |values: &[u32]| values.iter().fold(0_u64, |bits, value| bits | 1 << value);
        assert_eq!(bits(&HOUR, "22-2"), of(&[22, 23, 0, 1, 2]));
        assert_eq!(bits(&HOUR, "22-3/2"), of(&[22, 0, 2]));
        assert_eq!(bits(&DAY_OF_WEEK, "fri-Mon"), of(&[5, 6, 0, 1]));
        assert_eq!(bits(&DAY_OF_WEEK, "5-7"), of(&[5, 6, 0]));
        assert_eq!(bits(&DAY_OF_WEEK, "0-7"), 0b111_1111, "each day");
        assert_eq!(bits(&DAY_OF_WEEK, "0-7/2"), of(&[0, 2, 4, 6]));
        assert_eq!(bits(&DAY_OF_WEEK, "7-2"), of(&[0, 1, 2]));
        assert_eq!(bits(&DAY_OF_WEEK, "SAT-7"), of(&[6, 0]));
        assert_eq!(bits(&DAY_OF_WEEK, "7"), of(&[0]));
        assert_eq!(bits(&MONTH, "NOV-FEB"), of(&[11, 12, 1, 2]));
        assert_eq!(bits(&MINUTE, "5/20"), of(&[5, 25, 45]));
        assert_eq!(bits(&MINUTE, "1,2,50-55/5"), of(&[1, 2, 50, 55]));
        assert_eq!(bits(&MINUTE, "*/60"), of(&[0]));
        assert_eq!(bits(&DAY_OF_MONTH, "*/10"), of(&[1, 11, 21, 31]));
    }
}
