//! A trace as text: a tree with bars, within 80 columns.
//!
//! ```text
//! trace order-9
//! 2026-11-23T04:01:23.950613348Z  80.9 ms  3 spans  1 error
//!                                                                   time      self
//! GET /orders                         ████████████████████████   80.9 ms   51.2 ms
//! ├─ auth                             █▎                         4.12 ms
//! └─ db.query !                              ████████▍           25.9 ms
//!       +52.1 ms ERROR timed out
//! ```

use std::{fmt, time::Duration};

use super::{
    EventRow, SpanNode, SpanState, Trace,
    text::{cut, duration, fit},
};
use crate::event::Severity;

const COLUMNS: usize = 80;
const NAME: usize = 35;
const BAR: usize = 24;
const TIME: usize = 9;
/// Levels of indentation that are drawn; deeper ones are as far in.
const INDENT_MAX: usize = 8;
/// Events drawn in one span; the others are counted.
const EVENTS_SHOWN: usize = 20;

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let spans = self.all_spans().count();
        let errors = self.errors();
        let start = self.started_at();
        let (begin_ns, end_ns) = match (start, self.ended_at()) {
            (Some(start), Some(end)) => (start.as_unix_ns(), end.as_unix_ns()),
            _ => (0, 0),
        };
        let frame = Frame { begin_ns, length_ns: end_ns.saturating_sub(begin_ns).max(1) };
        writeln!(f, "trace {}", cut(&self.correlation_id, COLUMNS - 6))?;
        let plural = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
        let mut facts = vec![
            start.map_or_else(String::new, |start| start.to_string()),
            duration(Duration::from_nanos(frame.length_ns.unsigned_abs())),
            plural(spans, "span"),
        ];
        if errors > 0 {
            facts.push(plural(errors, "error"));
        }
        if self.left_out > 0 {
            facts.push(format!("{} more left out", self.left_out));
        }
        writeln!(f, "{}", cut(&facts.join("  "), COLUMNS))?;
        if let Some(incomplete) = &self.incomplete {
            writeln!(f, "{}", cut(incomplete, COLUMNS))?;
        }
        if spans > 0 {
            writeln!(f, "{}", format!("{:NAME$} {:BAR$} {:>TIME$} {:>TIME$}", "", "", "time", "self").trim_end())?;
        }
        events(f, &frame, "", &self.events)?;
        // Depth-first without recursion: what is drawn to the left of each span stands with it.
        let mut left: Vec<(&SpanNode, String, &str)> =
            self.spans.iter().rev().map(|span| (span, String::new(), "")).collect();
        while let Some((span, prefix, branch)) = left.pop() {
            line(f, &frame, span, &format!("{prefix}{branch}"))?;
            let inside = match branch {
                "" => prefix,
                "├─ " => format!("{prefix}│  "),
                _ => format!("{prefix}   "),
            };
            let inside = if inside.chars().count() > INDENT_MAX * 3 {
                inside.chars().take(INDENT_MAX * 3).collect()
            } else {
                inside
            };
            let below = if span.children.is_empty() { "  " } else { "│ " };
            events(f, &frame, &format!("{inside}{below}"), &span.events)?;
            for (index, child) in span.children.iter().enumerate().rev() {
                let branch = if index + 1 == span.children.len() { "└─ " } else { "├─ " };
                left.push((child, inside.clone(), branch));
            }
        }
        Ok(())
    }
}

/// The time that a line's bar stands for.
struct Frame {
    begin_ns: i64,
    length_ns: i64,
}

impl Frame {
    /// In eighths of a column.
    fn eighths(&self, at_ns: i64) -> usize {
        let since = i128::from(at_ns.saturating_sub(self.begin_ns)).clamp(0, i128::from(self.length_ns));
        usize::try_from(since * (BAR as i128 * 8) / i128::from(self.length_ns)).unwrap_or(0)
    }

    /// A bar from one time to another; one without an end reaches to the end and is hatched.
    fn bar(&self, from_ns: i64, to_ns: Option<i64>) -> String {
        const PARTS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
        let first = (self.eighths(from_ns) / 8).min(BAR - 1);
        let Some(to_ns) = to_ns else { return " ".repeat(first) + &"░".repeat(BAR - first) };
        let length = self.eighths(to_ns).saturating_sub(first * 8).clamp(1, (BAR - first) * 8);
        " ".repeat(first) + &"█".repeat(length / 8) + PARTS[length % 8]
    }
}

fn line(f: &mut fmt::Formatter<'_>, frame: &Frame, span: &SpanNode, prefix: &str) -> fmt::Result {
    let mark = if span.is_failed { " !" } else { "" };
    let room = NAME.saturating_sub(prefix.chars().count() + mark.len());
    let name = fit(&format!("{prefix}{}{mark}", cut(&span.name, room)), NAME);
    let begin = span.started_at.as_unix_ns();
    let end = span.duration.map(|duration| span.started_at.saturating_add(duration).as_unix_ns());
    let bar = fit(&frame.bar(begin, end), BAR);
    let time = match (span.state, span.duration) {
        (SpanState::Running, _) => "running".to_owned(),
        (SpanState::Interrupted, _) => "cut short".to_owned(),
        (SpanState::Closed, time) => time.map_or_else(String::new, duration),
    };
    let own = span.self_time.filter(|_| !span.children.is_empty()).map_or_else(String::new, duration);
    writeln!(f, "{}", format!("{name} {bar} {time:>TIME$} {own:>TIME$}").trim_end())?;
    for follows in &span.follows_from {
        let indent = " ".repeat(prefix.chars().count());
        let of = follows.correlation_id.as_deref().unwrap_or_default();
        writeln!(f, "{}", cut(&format!("{indent}  follows {} of {of}", follows.name), COLUMNS))?;
    }
    Ok(())
}

fn events(f: &mut fmt::Formatter<'_>, frame: &Frame, prefix: &str, events: &[EventRow]) -> fmt::Result {
    for event in events.iter().take(EVENTS_SHOWN) {
        let since = event.at.as_unix_ns().saturating_sub(frame.begin_ns).max(0).unsigned_abs();
        let level = match event.severity {
            _ if event.is_audit() => "AUDIT",
            Severity::Trace => "TRACE",
            Severity::Debug => "DEBUG",
            Severity::Info => "INFO",
            Severity::Warning => "WARN",
            Severity::Error => "ERROR",
            Severity::Critical => "CRIT",
        };
        let mut text = event.message.clone();
        if event.event_type != "log" {
            text = format!("[{}] {text}", event.event_type);
        }
        if event.payload != "{}" {
            text = format!("{text} {}", event.payload);
        }
        let at = format!("+{}", duration(Duration::from_nanos(since)));
        writeln!(f, "{}", cut(&format!("{prefix}{at:>9} {level:<5} {text}"), COLUMNS))?;
    }
    if events.len() > EVENTS_SHOWN {
        writeln!(f, "{prefix}{:>9} {} more events", "", events.len() - EVENTS_SHOWN)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_lies_where_its_time_lies() {
        let frame = Frame { begin_ns: 1_000, length_ns: 2_400 };
        assert_eq!(frame.bar(1_000, Some(3_400)), "█".repeat(24));
        assert_eq!(frame.bar(2_200, Some(2_300)), format!("{}█", " ".repeat(12)));
        assert_eq!(frame.bar(1_000, Some(1_001)), "▏", "nothing is too short to be seen");
        assert_eq!(frame.bar(3_400, Some(9_999)), format!("{}█", " ".repeat(23)));
        assert_eq!(frame.bar(3_000, None), format!("{}░░░░", " ".repeat(20)));
        assert_eq!(frame.bar(i64::MIN, Some(i64::MAX)), "█".repeat(24));
    }
}
