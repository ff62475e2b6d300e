//! A window in whole minutes and hours, as sums are kept: the summary and the report of limits ask by it.

use rusqlite::Connection;

use crate::clock::Timestamp;

const MINUTE: i64 = 60;
const HOUR: i64 = 3_600;

/// A part of the window: rollups of this period, from here until there, in unix seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) period: i64,
    pub(super) from: i64,
    pub(super) until: i64,
}

/// Hours for the middle, minutes for the edges, unless they are from before the oldest minute that is kept. The end is
/// exclusive; what lies within the last minute, or hour, counts whole.
fn parts(since: i64, until: i64, oldest_minute: i64) -> Vec<Part> {
    let floor = |time: i64, period: i64| time.div_euclid(period) * period;
    let ceil = |time: i64, period: i64| -(-time).div_euclid(period) * period;
    let from = floor(since, if since < oldest_minute { HOUR } else { MINUTE });
    let until = ceil(until, if until < oldest_minute { HOUR } else { MINUTE });
    let (first_hour, last_hour) = (ceil(from, HOUR), floor(until, HOUR));
    let all = if first_hour >= last_hour {
        vec![Part { period: MINUTE, from, until }]
    } else {
        vec![
            Part { period: MINUTE, from, until: first_hour },
            Part { period: HOUR, from: first_hour, until: last_hour },
            Part { period: MINUTE, from: last_hour, until },
        ]
    };
    all.into_iter().filter(|part| part.from < part.until).collect()
}

/// The parts of a window of a table that has sums by `period` and `start`, and where the first begins; `since` may be open.
pub(super) fn of_window(
    connection: &Connection,
    table: &str,
    since: Option<i64>,
    until: Timestamp,
) -> rusqlite::Result<(Vec<Part>, Timestamp)> {
    let oldest = |period: i64| {
        let sql = format!("SELECT min(start) FROM {table} WHERE period = ?1");
        connection.prepare_cached(&sql)?.query_row([period], |row| row.get::<_, Option<i64>>(0))
    };
    let seconds = |ns: i64| ns.div_euclid(1_000_000_000);
    // The first second that is not asked for.
    let until_s = seconds(until.as_unix_ns().saturating_sub(1)) + 1;
    let since_s = since.map_or(oldest(HOUR)?.unwrap_or(until_s).min(until_s), seconds);
    let (minute, hour) = (oldest(MINUTE)?, oldest(HOUR)?);
    // No minute is missing where hours do not reach further back.
    let oldest_kept = minute.filter(|minute| hour.is_some_and(|hour| hour < minute.div_euclid(HOUR) * HOUR));
    let parts = parts(since_s, until_s, oldest_kept.unwrap_or(i64::MIN));
    let from = parts.first().map_or(until_s, |part| part.from);
    Ok((parts, Timestamp::from_unix_ns(from.saturating_mul(1_000_000_000))))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn parts_cover_the_window_once(
            since in -100_000_i64..2_000_000,
            length in 0_i64..400_000,
            oldest in prop_oneof![Just(i64::MIN), -100_000_i64..2_000_000],
        ) {
            let until = since + length;
            let parts = parts(since, until, oldest);
            let begins = since.div_euclid(MINUTE) * MINUTE;
            let from = parts.first().map_or(begins, |part| part.from);
            prop_assert!(from == begins || since < oldest && (begins - HOUR..=begins).contains(&from));
            let end = parts.last().map_or(until, |part| part.until);
            let within = if until < oldest { HOUR } else { MINUTE };
            prop_assert!((until..until + within).contains(&end), "{} {:?}", until, parts);
            for part in parts.iter().filter(|part| part.period == MINUTE) {
                prop_assert!(part.from + HOUR > oldest, "{:?} is of minutes that are gone", part);
            }
            for pair in parts.windows(2) {
                prop_assert_eq!(pair[0].until, pair[1].from);
            }
            for part in &parts {
                prop_assert_eq!(part.from.rem_euclid(part.period), 0);
            }
            let minutes: i64 = parts.iter().filter(|p| p.period == MINUTE).map(|p| p.until - p.from).sum();
            prop_assert!(minutes <= 2 * HOUR + MINUTE, "{:?}", parts);
        }
    }
}
