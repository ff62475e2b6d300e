//! Text for a terminal: hostile characters made harmless, columns that fit, durations that can be read.

use std::time::Duration;

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// Text as it is, but for characters that would move a terminal's cursor or turn its direction.
pub(super) fn shown(text: &str) -> String {
    let is_hostile = |c: char| {
        c.is_control() || matches!(c, '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        if is_hostile(c) {
            out.extend(c.escape_default())
        } else {
            out.push(c)
        }
        out
    })
}

/// The text, cut where it does not fit into this many columns.
pub(super) fn cut(text: &str, columns: usize) -> String {
    // Nothing that does not fit is even looked at: a message may be long.
    let start = &text[..text.floor_char_boundary(columns * 8 + 8)];
    let text = shown(start);
    if text.width() <= columns {
        return text;
    }
    let mut out = String::new();
    let mut left = columns.saturating_sub(1);
    for c in text.chars() {
        let width = c.width().unwrap_or(0);
        if width > left {
            break;
        }
        left -= width;
        out.push(c);
    }
    if columns > 0 {
        out.push('…');
    }
    out
}

/// The text in exactly this many columns.
pub(super) fn fit(text: &str, columns: usize) -> String {
    let mut out = cut(text, columns);
    out.extend(std::iter::repeat_n(' ', columns.saturating_sub(out.width())));
    out
}

/// A duration in three digits and its unit: at most eight columns.
pub(super) fn duration(d: Duration) -> String {
    let ns = d.as_nanos();
    let scaled = |unit_ns: u128, unit: &str| {
        let value = ns as f64 / unit_ns as f64;
        let decimals = if value < 9.995 {
            2
        } else if value < 99.95 {
            1
        } else {
            0
        };
        format!("{value:.decimals$} {unit}")
    };
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..999_500 => scaled(1_000, "µs"),
        999_500..999_500_000 => scaled(1_000_000, "ms"),
        999_500_000..99_950_000_000 => scaled(1_000_000_000, "s"),
        _ => match d.as_secs() {
            secs @ 0..6_000 => format!("{}m {:02}s", secs / 60, secs % 60),
            secs @ 6_000..360_000 => format!("{}h {:02}m", secs / 3_600, secs / 60 % 60),
            secs => format!("{} d", secs / 86_400),
        },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_read_well() {
        for (ns, expected) in [
            (0, "0 ns"),
            (999, "999 ns"),
            (1_234, "1.23 µs"),
            (12_345, "12.3 µs"),
            (123_456, "123 µs"),
            (999_600, "1.00 ms"),
            (1_500_000_000, "1.50 s"),
            (125_000_000_000, "2m 05s"),
            (7_200_000_000_000, "2h 00m"),
            (864_000_000_000_000, "10 d"),
        ] {
            assert_eq!(duration(Duration::from_nanos(ns)), expected);
        }
    }

    proptest! {
        #[test]
        fn what_is_fitted_fits(text in "(\\PC|[\u{0}-\u{1F}]|[一-十]){0,60}", columns in 0_usize..40) {
            prop_assert_eq!(fit(&text, columns).width(), columns);
            prop_assert!(!fit(&text, columns).contains(char::is_control));
        }

        #[test]
        fn a_duration_takes_eight_columns_at_most(ns in any::<u64>()) {
            prop_assert!(duration(Duration::from_nanos(ns)).width() <= 8);
        }
    }
}
