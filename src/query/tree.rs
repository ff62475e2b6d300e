//! A trace as text: a tree with bars, line by line, within so many columns.
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
    text::{cut, fit, human_duration},
};
use crate::event::Severity;

/// Columns unless said otherwise, and at least.
const COLUMNS: usize = 80;
const COLUMNS_MIN: usize = 60;
const COLUMNS_MAX: usize = 10_000;
/// Of what is left beside the times, the bar has two fifths.
const TIME: usize = 9;
/// Levels of indentation that are drawn; deeper ones are as far in.
const INDENT_MAX: usize = 8;
/// Events drawn in one span; the others are counted.
const EVENTS_SHOWN: usize = 20;

/// One line of a trace's text, and what it is about: enough to give it a colour.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TraceLine {
    /// Harmless on a terminal, and within its columns.
    pub text: String,
    /// What it shows.
    pub about: TraceLineKind,
}

/// What a line of a trace's text shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TraceLineKind {
    /// The trace's name.
    Title,
    /// Figures of the whole, headings, notes.
    Note,
    /// A span, what became of it, and whether it failed.
    Span(SpanState, bool),
    /// An event.
    Event(Severity),
}

impl fmt::Display for Trace {
    /// The tree within 80 columns, or within the formatter's width: `{:120}`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines(f.width().unwrap_or(COLUMNS)).iter().try_for_each(|line| writeln!(f, "{}", line.text))
    }
}

impl Trace {
    /// The tree, line by line, within so many columns (60 at least, 10,000 at most): what [`Display`](fmt::Display) writes, for those who want
    /// it in colour or as wide as their terminal.
    pub fn lines(&self, columns: usize) -> Vec<TraceLine> {
        let mut lines = Lines::new(columns.clamp(COLUMNS_MIN, COLUMNS_MAX));
        self.draw(&mut lines);
        lines.done
    }

    fn draw(&self, f: &mut Lines) {
        let spans = self.all_spans().count();
        let errors = self.errors();
        let start = self.started_at();
        let (begin_ns, end_ns) = match (start, self.ended_at()) {
            (Some(start), Some(end)) => (start.as_unix_ns(), end.as_unix_ns()),
            _ => (0, 0),
        };
        let frame = Frame { begin_ns, length_ns: end_ns.saturating_sub(begin_ns).max(1), columns: f.bar };
        f.push(TraceLineKind::Title, &format!("trace {}", self.correlation_id));
        let plural = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
        let mut facts = vec![
            start.map_or_else(String::new, |start| start.to_string()),
            human_duration(Duration::from_nanos(frame.length_ns.unsigned_abs())),
            plural(spans, "span"),
        ];
        if errors > 0 {
            facts.push(plural(errors, "error"));
        }
        if self.left_out > 0 {
            facts.push(format!("{} more left out", self.left_out));
        }
        f.push(TraceLineKind::Note, &facts.join("  "));
        if let Some(incomplete) = &self.incomplete {
            f.push(TraceLineKind::Note, incomplete);
        }
        if spans > 0 {
            f.columns(TraceLineKind::Note, "", "", "time", "self");
        }
        events(f, &frame, "", &self.events);
        // Depth-first without recursion: what is drawn to the left of each span stands with it.
        let mut left: Vec<(&SpanNode, String, &str)> =
            self.spans.iter().rev().map(|span| (span, String::new(), "")).collect();
        while let Some((span, prefix, branch)) = left.pop() {
            line(f, &frame, span, &format!("{prefix}{branch}"));
            let inside = match branch {
                "" => prefix,
                "├─ " => format!("{prefix}│  "),
                _ => format!("{prefix}   "),
            };
            // Half of the room is the names'.
            let deepest = (INDENT_MAX * 3).min(f.name / 2 / 3 * 3);
            let inside = if inside.chars().count() > deepest { inside.chars().take(deepest).collect() } else { inside };
            let below = if span.children.is_empty() { "  " } else { "│ " };
            events(f, &frame, &format!("{inside}{below}"), &span.events);
            for (index, child) in span.children.iter().enumerate().rev() {
                let branch = if index + 1 == span.children.len() { "└─ " } else { "├─ " };
                left.push((child, inside.clone(), branch));
            }
        }
    }
}

/// The lines that are drawn, and how wide their parts are.
struct Lines {
    done: Vec<TraceLine>,
    width: usize,
    name: usize,
    bar: usize,
}

impl Lines {
    fn new(width: usize) -> Self {
        let room = width - 2 * (TIME + 1) - 1;
        let bar = room * 2 / 5 + 1;
        Self { done: Vec::new(), width, name: room - bar, bar }
    }

    fn push(&mut self, about: TraceLineKind, text: &str) {
        self.done.push(TraceLine { text: cut(text.trim_end(), self.width), about });
    }

    /// A line whose parts stand below each other.
    fn columns(&mut self, about: TraceLineKind, name: &str, bar: &str, time: &str, own: &str) {
        let (name, bar) = (fit(name, self.name), fit(bar, self.bar));
        self.push(about, &format!("{name} {bar} {time:>TIME$} {own:>TIME$}"));
    }
}

/// The time that a line's bar stands for.
struct Frame {
    begin_ns: i64,
    length_ns: i64,
    /// Of the bar.
    columns: usize,
}

impl Frame {
    /// In eighths of a column.
    fn eighths(&self, at_ns: i64) -> usize {
        let since = i128::from(at_ns.saturating_sub(self.begin_ns)).clamp(0, i128::from(self.length_ns));
        usize::try_from(since * (self.columns as i128 * 8) / i128::from(self.length_ns)).unwrap_or(0)
    }

    /// A bar from one time to another; one without an end reaches to the end and is hatched.
    fn bar(&self, from_ns: i64, to_ns: Option<i64>) -> String {
        const PARTS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
        let first = (self.eighths(from_ns) / 8).min(self.columns - 1);
        let Some(to_ns) = to_ns else { return " ".repeat(first) + &"░".repeat(self.columns - first) };
        let length = self.eighths(to_ns).saturating_sub(first * 8).clamp(1, (self.columns - first) * 8);
        " ".repeat(first) + &"█".repeat(length / 8) + PARTS[length % 8]
    }
}

fn line(f: &mut Lines, frame: &Frame, span: &SpanNode, prefix: &str) {
    let mark = if span.is_failed { " !" } else { "" };
    let room = f.name.saturating_sub(prefix.chars().count() + mark.len());
    let name = format!("{prefix}{}{mark}", cut(&span.name, room));
    let begin = span.started_at.as_unix_ns();
    let end = span.duration.map(|duration| span.started_at.saturating_add(duration).as_unix_ns());
    let bar = frame.bar(begin, end);
    let time = match (span.state, span.duration) {
        (SpanState::Running, _) => "running".to_owned(),
        (SpanState::Interrupted, _) => "cut short".to_owned(),
        (SpanState::Closed, time) => time.map_or_else(String::new, human_duration),
    };
    let own = span.self_time.filter(|_| !span.children.is_empty()).map_or_else(String::new, human_duration);
    f.columns(TraceLineKind::Span(span.state, span.is_failed), &name, &bar, &time, &own);
    for follows in &span.follows_from {
        let indent = " ".repeat(prefix.chars().count());
        let of = follows.correlation_id.as_deref().unwrap_or_default();
        f.push(TraceLineKind::Note, &format!("{indent}  follows {} of {of}", follows.name));
    }
}

fn events(f: &mut Lines, frame: &Frame, prefix: &str, events: &[EventRow]) {
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
        let at = format!("+{}", human_duration(Duration::from_nanos(since)));
        f.push(TraceLineKind::Event(event.severity), &format!("{prefix}{at:>9} {level:<5} {text}"));
    }
    if events.len() > EVENTS_SHOWN {
        f.push(TraceLineKind::Note, &format!("{prefix}{:>9} {} more events", "", events.len() - EVENTS_SHOWN));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_fill_the_line() {
        for width in [60, 80, 81, 200] {
            let lines = Lines::new(width);
            assert_eq!(lines.name + lines.bar + 2 * TIME + 3, width);
        }
        assert_eq!((Lines::new(80).name, Lines::new(80).bar), (35, 24));
    }

    #[test]
    fn a_bar_lies_where_its_time_lies() {
        let frame = Frame { begin_ns: 1_000, length_ns: 2_400, columns: 24 };
        assert_eq!(frame.bar(1_000, Some(3_400)), "█".repeat(24));
        assert_eq!(frame.bar(2_200, Some(2_300)), format!("{}█", " ".repeat(12)));
        assert_eq!(frame.bar(1_000, Some(1_001)), "▏", "nothing is too short to be seen");
        assert_eq!(frame.bar(3_400, Some(9_999)), format!("{}█", " ".repeat(23)));
        assert_eq!(frame.bar(3_000, None), format!("{}░░░░", " ".repeat(20)));
        assert_eq!(frame.bar(i64::MIN, Some(i64::MAX)), "█".repeat(24));
    }
}
