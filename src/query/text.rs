//! Text for a terminal: hostile characters made harmless, columns that fit, durations that can be read.

use std::{borrow::Cow, time::Duration};

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// The text, harmless on a terminal: characters that would move its cursor, colour it, turn its direction or break the line
/// are written as Rust writes them (`\u{1b}`).
///
/// `Display` of rows, traces and tables does this by itself.
///
/// ```
/// assert_eq!(l0::query::harmless("\u{1b}[2Jgone"), "\\u{1b}[2Jgone");
/// assert_eq!(l0::query::harmless("naïve 日本"), "naïve 日本");
/// ```
pub fn harmless(text: &str) -> Cow<'_, str> {
    if is_plain(text) || !text.contains(is_hostile) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_hostile(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    Cow::Owned(out)
}

/// Whether it is of nothing but ASCII letters, digits and signs, as most is.
fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| (b' '..=b'~').contains(&byte))
}

/// Whether a terminal would obey it rather than show it: control characters, marks and overrides of direction, separators of
/// lines, invisible tags.
pub(super) fn is_hostile(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{061C}' | '\u{200E}' | '\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{206F}'
            | '\u{00AD}' | '\u{180E}' | '\u{200B}' | '\u{2060}'..='\u{2064}' | '\u{3164}' | '\u{FEFF}' | '\u{FFF9}'..='\u{FFFB}' | '\u{E0000}'..='\u{E007F}')
}

/// The text, cut where it does not fit into this many columns.
pub(super) fn cut(text: &str, columns: usize) -> String {
    // Nothing that does not fit is even looked at: a message may be long.
    let start = &text[..text.floor_char_boundary(columns.saturating_mul(8).saturating_add(8))];
    let is_whole = start.len() == text.len();
    let text = harmless(start);
    if text.width() <= columns && is_whole {
        return text.into_owned();
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

/// JSON in which what a terminal would obey is escaped where it stands in a text, and means the same. Line feeds between values
/// are left as they are, other space of that kind becomes a blank.
///
/// ```
/// assert_eq!(l0::query::harmless_json("{\"a\":\t\"\u{202e}\"}"), r#"{"a": "\u202e"}"#);
/// ```
pub fn harmless_json(json: &str) -> Cow<'_, str> {
    escaped_json(json, '\n')
}

/// The same on one line.
pub(super) fn json_line(json: &str) -> Cow<'_, str> {
    escaped_json(json, ' ')
}

fn escaped_json(json: &str, line_feed: char) -> Cow<'_, str> {
    if is_plain(json) || !json.contains(is_hostile) {
        return json.into();
    }
    let (mut out, mut is_text, mut is_escaped) = (String::with_capacity(json.len() + 16), false, false);
    for c in json.chars() {
        match c {
            // JSON's readers take no other control character there.
            '\t' | '\r' if !is_text => out.push(' '),
            '\n' if !is_text => out.push(line_feed),
            c if is_hostile(c) => {
                c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}")));
            }
            c => out.push(c),
        }
        is_text ^= c == '"' && !is_escaped;
        is_escaped = is_text && c == '\\' && !is_escaped;
    }
    out.into()
}

/// A duration in three digits and its unit, for people: at most eight columns.
///
/// ```
/// assert_eq!(l0::query::human_duration(std::time::Duration::from_micros(1234)), "1.23 ms");
/// ```
pub fn human_duration(d: Duration) -> String {
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
    fn hostile_characters_are_escaped_in_json_and_stay_what_they_are() {
        let text = "a\u{1b}[2J\u{202e}\u{9b}\u{e0041}\u{7f}é日";
        let json = serde_json::to_string(text).unwrap();
        let harmless = harmless_json(&json);
        assert!(!harmless.contains(is_hostile), "{harmless}");
        assert_eq!(serde_json::from_str::<String>(&harmless).unwrap(), text);
        assert!(!super::harmless(text).contains(is_hostile));
        let spaced = "{\t\"a\\\\\":\r\n[1,\t\"\u{9b}\\\"\t\"]}";
        let expected = serde_json::json!({"a\\": [1, "\u{9b}\"\t"]});
        // A tab within a text is not JSON, but is made so.
        for json in [harmless_json(spaced), json_line(spaced)] {
            assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap(), expected, "{json}");
        }
        assert!(!json_line(spaced).contains('\n') && harmless_json(spaced).contains('\n'));
    }

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
            assert_eq!(human_duration(Duration::from_nanos(ns)), expected);
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
            prop_assert!(human_duration(Duration::from_nanos(ns)).width() <= 8);
        }
    }
}
