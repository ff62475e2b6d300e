//! Writes a record into a scratch buffer, within the caps on field, record and field count.
//!
//! Runs on the application's thread, outside every lock, because formatting a value calls the application's own
//! `Debug` and `Display`: those may log, block or panic. A panic is caught here and leaves a mark in the field.

use std::{
    error::Error as StdError,
    fmt::{self, Write as _},
    panic::{AssertUnwindSafe, catch_unwind},
};

use tracing_core::Metadata;

use super::{CallsiteKind, Head, INLINE_DEFINITION, definition, key, tag};
use crate::{event::Severity, redaction::Redactor};

/// Upper bounds of one record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caps {
    /// Bytes of one field's text or bytes.
    pub(crate) field_bytes: usize,
    /// Bytes of the whole record.
    pub(crate) record_bytes: usize,
    /// Fields of one record.
    pub(crate) fields: u32,
}

/// Room kept for the fixed part of a field and for the final count of dropped fields.
const FIELD_OVERHEAD_BYTES: usize = 32;
/// A cut goes back at most this far to spare no half of a secret.
const CUT_BACK_BYTES_MAX: usize = 512;
/// An error's chain is cut here: longer ones are usually cycles.
const SOURCES_MAX: usize = 32;

/// Appends one record to `out`.
#[derive(Debug)]
pub(crate) struct Encoder<'a> {
    out: &'a mut Vec<u8>,
    caps: Caps,
    fields: u32,
    dropped: u32,
    panicked: bool,
    strict: Strict<'a>,
}

/// How a text is looked at before it is left in the flight recorder.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Strict<'a> {
    /// Not at all: the writer looks.
    Off,
    /// It loses its secrets.
    Text(&'a Redactor),
    /// If it is a secret it becomes its hash.
    Id(&'a Redactor),
}

impl Strict<'_> {
    fn is_on(self) -> bool {
        !matches!(self, Self::Off)
    }

    fn redact(self, text: &str) -> Option<String> {
        match self {
            Self::Off => None,
            Self::Text(redactor) => redactor.text(text),
            Self::Id(redactor) => match redactor.id(text) {
                std::borrow::Cow::Borrowed(_) => None,
                std::borrow::Cow::Owned(hashed) => Some(hashed),
            },
        }
    }
}

impl<'a> Encoder<'a> {
    pub(crate) fn new(out: &'a mut Vec<u8>, caps: Caps, head: Head) -> Self {
        out.clear();
        let mut fixed = [0; 16];
        fixed[0] = head.kind as u8;
        fixed[1] = head.severity as u8;
        fixed[2] = head.flags;
        fixed[4..8].copy_from_slice(&head.callsite.to_le_bytes());
        fixed[8..].copy_from_slice(&head.span.to_le_bytes());
        out.extend_from_slice(&fixed);
        if head.kind.has_other() {
            out.extend_from_slice(&head.other.to_le_bytes());
        }
        Self { out, caps, fields: 0, dropped: 0, panicked: false, strict: Strict::Off }
    }

    /// How texts are looked at from here on.
    #[inline]
    pub(crate) fn set_strict(&mut self, strict: Strict<'a>) {
        self.strict = strict;
    }

    /// In the place of a secret.
    #[inline]
    pub(crate) fn redacted(&mut self, key: u16) {
        self.fixed(key, tag::REDACTED, []);
    }

    /// The definition of a callsite that the file has no room for, or of a `log` record.
    pub(crate) fn definition(&mut self, kind: CallsiteKind, metadata: &Metadata<'_>) {
        self.out[2] |= INLINE_DEFINITION;
        // The target of a `log` record is the program's text, made at run time.
        let redacted = if kind == CallsiteKind::Log { self.strict.redact(metadata.target()) } else { None };
        let at = self.begin_length();
        encode_with_target(self.out, kind, metadata, redacted.as_deref().unwrap_or(metadata.target()));
        self.end_length(at);
    }

    /// The definition of a line that came without `tracing`.
    pub(crate) fn log_definition(&mut self, severity: Severity) {
        self.out[2] |= INLINE_DEFINITION;
        let at = self.begin_length();
        let none = std::iter::empty();
        definition::encode_parts(self.out, CallsiteKind::Log, severity, "l0.log", "log", [None, None], None, 0, none);
        self.end_length(at);
    }

    pub(crate) fn bool(&mut self, key: u16, value: bool) {
        self.fixed(key, tag::BOOL, [u8::from(value)]);
    }

    pub(crate) fn i64(&mut self, key: u16, value: i64) {
        self.word(key, tag::I64, value.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, key: u16, value: u64) {
        self.word(key, tag::U64, value.to_le_bytes());
    }

    pub(crate) fn f64(&mut self, key: u16, value: f64) {
        self.word(key, tag::F64, value.to_le_bytes());
    }

    /// The most frequent sizes, in one piece.
    #[inline]
    fn word(&mut self, key: u16, tag: u8, [a, b, c, d, e, f, g, h]: [u8; 8]) {
        if self.room_for_field().is_some() {
            let [low, high] = key.to_le_bytes();
            self.out.extend_from_slice(&[low, high, tag, a, b, c, d, e, f, g, h]);
        }
    }

    pub(crate) fn i128(&mut self, key: u16, value: i128) {
        self.fixed(key, tag::I128, value.to_le_bytes());
    }

    pub(crate) fn u128(&mut self, key: u16, value: u128) {
        self.fixed(key, tag::U128, value.to_le_bytes());
    }

    #[inline]
    pub(crate) fn text(&mut self, key: u16, value: &str) {
        let Some(room) = self.room_for_field() else { return };
        let [low, high] = key.to_le_bytes();
        if value.len() <= room && !self.strict.is_on() {
            let [a, b, c, d] = (value.len() as u32).to_le_bytes();
            self.out.extend_from_slice(&[low, high, tag::TEXT, a, b, c, d]);
            self.out.extend_from_slice(value.as_bytes());
        } else {
            self.out.extend_from_slice(&[low, high, tag::TEXT]);
            self.cut_text(value, room);
        }
    }

    /// JSON, kept whole or replaced by a string of its beginning, so that it always parses.
    pub(crate) fn json(&mut self, key: u16, json: &str) {
        let strict = std::mem::replace(&mut self.strict, Strict::Off);
        let redacted = match strict {
            Strict::Off => None,
            Strict::Text(redactor) | Strict::Id(redactor) => redactor.json_by_value(json),
        };
        self.json_as_it_is(key, redacted.as_deref().unwrap_or(json));
        self.strict = strict;
    }

    fn json_as_it_is(&mut self, key: u16, json: &str) {
        if json.len() <= self.room() {
            self.text(key, json);
        } else {
            let start = &json[..json.floor_char_boundary((self.room() / 2).saturating_sub(256))];
            let cut = serde_json::json!({ "l0.truncated": start, "l0.total_bytes": json.len() }).to_string();
            if cut.len() <= self.room() {
                self.text(key, &cut);
            } else {
                self.dropped += 1;
            }
        }
    }

    pub(crate) fn bytes(&mut self, key: u16, value: &[u8]) {
        let Some(room) = self.begin(key, tag::BYTES, 12) else { return };
        // Each byte is shown as three characters, so the cap counts what is stored.
        let shown = &value[..value.len().min(room / 3)];
        self.out.extend_from_slice(&(value.len() as u64).to_le_bytes());
        let at = self.begin_length();
        self.out.extend_from_slice(shown);
        self.end_length(at);
    }

    /// Formats with the value's own `Debug`, which is how `tracing` passes messages and `%` fields, too.
    pub(crate) fn debug(&mut self, key: u16, value: &dyn fmt::Debug) {
        let Some(room) = self.begin(key, tag::TEXT, 64) else { return };
        let at = self.begin_length();
        self.format(room, |out| write!(out, "{value:?}"));
        self.end_text(at);
    }

    /// An error's message and those of its sources.
    pub(crate) fn error(&mut self, key: u16, error: &(dyn StdError + 'static)) {
        let Some(room) = self.begin(key, tag::ERROR, 64) else { return };
        let whole = self.begin_length();
        let message = self.begin_length();
        self.format(room / 2, |out| write!(out, "{error}"));
        self.end_text(message);
        let mut next = source_of(error);
        for _ in 0..SOURCES_MAX {
            let Some(source) = next else { break };
            let used = self.out.len() - whole;
            if used + FIELD_OVERHEAD_BYTES * 4 > room {
                break;
            }
            let at = self.begin_length();
            self.format(room - used - FIELD_OVERHEAD_BYTES * 2, |out| write!(out, "{source}"));
            self.end_text(at);
            next = source_of(source);
        }
        self.end_length(whole);
    }

    /// Ends the record; says whether a value panicked while it was formatted.
    pub(crate) fn finish(self) -> bool {
        if self.dropped > 0 {
            self.out.extend_from_slice(&key::FIELDS_DROPPED.to_le_bytes());
            self.out.push(tag::U64);
            self.out.extend_from_slice(&u64::from(self.dropped).to_le_bytes());
        }
        self.panicked
    }

    #[inline]
    fn fixed<const N: usize>(&mut self, key: u16, tag: u8, value: [u8; N]) {
        if self.begin(key, tag, N).is_some() {
            self.out.extend_from_slice(&value);
        }
    }

    /// Room for one field's text, within both caps.
    #[inline]
    fn room(&self) -> usize {
        self.caps.record_bytes.saturating_sub(self.out.len() + 2 * FIELD_OVERHEAD_BYTES).min(self.caps.field_bytes)
    }

    /// Counts one field more, or one that was dropped; says how long its text may be.
    #[inline]
    fn room_for_field(&mut self) -> Option<usize> {
        let room = self.room();
        if room < FIELD_OVERHEAD_BYTES || self.fields >= self.caps.fields {
            self.dropped += 1;
            return None;
        }
        self.fields += 1;
        Some(room)
    }

    /// Begins a field whose value will take about `need` bytes; says how long its text may be.
    #[inline]
    fn begin(&mut self, key: u16, tag: u8, need: usize) -> Option<usize> {
        let room = self.room_for_field()?;
        // One check for space, so that the appends behind it need none of their own.
        self.out.reserve(3 + need);
        let [low, high] = key.to_le_bytes();
        self.out.extend_from_slice(&[low, high, tag]);
        Some(room)
    }

    #[inline]
    fn begin_length(&mut self) -> usize {
        self.out.extend_from_slice(&[0; 4]);
        self.out.len()
    }

    #[inline]
    fn end_length(&mut self, at: usize) {
        let length = (self.out.len() - at) as u32;
        self.out[at - 4..at].copy_from_slice(&length.to_le_bytes());
    }

    /// Ends a text; a strict one loses its secrets here.
    #[inline]
    fn end_text(&mut self, at: usize) {
        if self.strict.is_on() {
            self.redact(at);
        }
        self.end_length(at);
    }

    #[cold]
    fn redact(&mut self, at: usize) {
        let Some(text) = self.out.get(at..).and_then(|bytes| std::str::from_utf8(bytes).ok()) else { return };
        let Some(redacted) = self.strict.redact(text) else { return };
        self.out.truncate(at);
        // Markers may be longer than what they stand for; the record's cap holds all the same.
        let room = self.caps.record_bytes.saturating_sub(at + 4 * FIELD_OVERHEAD_BYTES).max(FIELD_OVERHEAD_BYTES);
        let kept = redacted.floor_char_boundary(room);
        self.out.extend_from_slice(&redacted.as_bytes()[..kept]);
        if kept < redacted.len() {
            self.mark(format_args!("...[truncated]"));
        }
    }

    #[cold]
    fn cut_text(&mut self, value: &str, room: usize) {
        let at = self.begin_length();
        let kept = &value[..cut_before_a_secret(value, room)];
        self.out.extend_from_slice(kept.as_bytes());
        if kept.len() < value.len() {
            self.mark(format_args!("...[{} more bytes truncated]", value.len() - kept.len()));
        }
        self.end_text(at);
    }

    /// Runs the application's formatting, bounded and with its panics caught.
    fn format(&mut self, room: usize, write: impl FnOnce(&mut Bounded<'_>) -> fmt::Result) {
        let start = self.out.len();
        let mut out = Bounded { out: &mut *self.out, room, full: false };
        let outcome = catch_unwind(AssertUnwindSafe(|| write(&mut out)));
        let full = out.full;
        match outcome {
            _ if full => {
                let text = self.out.get(start..).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default();
                let kept = start + cut_before_a_secret(text, text.len().saturating_sub(1));
                self.out.truncate(kept);
                self.mark(format_args!("...[truncated]"));
            }
            Ok(Ok(())) => {}
            Ok(Err(_)) => self.mark(format_args!("[formatting failed]")),
            Err(_) => {
                self.panicked = true;
                self.mark(format_args!("[panicked while formatting]"));
            }
        }
    }

    #[cold]
    fn mark(&mut self, mark: fmt::Arguments<'_>) {
        // Marks are of fixed shape, ours, and shorter than FIELD_OVERHEAD_BYTES * 2.
        let _ = std::io::Write::write_fmt(&mut *self.out, mark);
    }
}

/// Where a text is cut that has more than this many bytes: before the word, or the groups of digits, that the cut would
/// go through, for half a secret is not recognised as one.
fn cut_before_a_secret(text: &str, room: usize) -> usize {
    if text.len() <= room {
        return text.len();
    }
    let end = text.floor_char_boundary(room);
    let from = text.floor_char_boundary(end.saturating_sub(CUT_BACK_BYTES_MAX));
    let is_part =
        |c: char| !c.is_whitespace() && !matches!(c, ',' | ';' | '"' | '\'' | '(' | ')' | '{' | '}' | '<' | '>');
    let mut kept = text[from..end].trim_end_matches(is_part);
    let is_digits = text[from..end][kept.len()..].starts_with(|c: char| c.is_ascii_digit());
    if is_digits {
        kept = kept.trim_end_matches(|c: char| c.is_ascii_digit() || matches!(c, ' ' | '-'));
    }
    // Text without a word's end so far back is no text for readers.
    if kept.is_empty() { if from == 0 { 0 } else { end } } else { from + kept.len() }
}

fn source_of<'e>(error: &'e (dyn StdError + 'static)) -> Option<&'e (dyn StdError + 'static)> {
    catch_unwind(AssertUnwindSafe(|| error.source())).ok().flatten()
}

/// Encodes what a callsite's static metadata says.
pub(crate) fn encode_metadata(out: &mut Vec<u8>, kind: CallsiteKind, metadata: &Metadata<'_>) {
    encode_with_target(out, kind, metadata, metadata.target());
}

fn encode_with_target(out: &mut Vec<u8>, kind: CallsiteKind, metadata: &Metadata<'_>, target: &str) {
    definition::encode_parts(
        out,
        kind,
        Severity::from(*metadata.level()),
        target,
        metadata.name(),
        [metadata.module_path(), metadata.file()],
        metadata.line(),
        metadata.fields().len(),
        metadata.fields().iter().map(|field| field.name()),
    );
}

/// A writer that takes `room` bytes and then refuses, so that a huge `Debug` stops early.
struct Bounded<'a> {
    out: &'a mut Vec<u8>,
    room: usize,
    full: bool,
}

impl fmt::Write for Bounded<'_> {
    #[inline]
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if text.len() <= self.room {
            self.room -= text.len();
            self.out.extend_from_slice(text.as_bytes());
            return Ok(());
        }
        let kept = &text[..text.floor_char_boundary(self.room)];
        self.out.extend_from_slice(kept.as_bytes());
        self.room = 0;
        self.full = true;
        Err(fmt::Error)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Definition, Kind, Record, Value};
    use super::*;

    const CAPS: Caps = Caps { field_bytes: 16 << 10, record_bytes: 64 << 10, fields: 512 };

    fn head(kind: Kind) -> Head {
        Head {
            kind,
            severity: Severity::Info,
            flags: 0,
            callsite: 7,
            span: 9,
            other: if kind.has_other() { 3 } else { 0 },
        }
    }

    fn fields(bytes: &[u8]) -> Vec<(u16, String)> {
        let mut record = Record::decode(bytes).unwrap();
        let mut all = Vec::new();
        while let Some((key, value)) = record.next_field().unwrap() {
            let mut text = String::new();
            value.write_text(&mut text);
            if let Value::Error { sources, .. } = value {
                text.extend(sources.map(|source| format!(" <- {source}")));
            }
            all.push((key, text));
        }
        all
    }

    #[derive(Clone, Debug)]
    enum Owned {
        Bool(bool),
        I64(i64),
        U64(u64),
        F64(f64),
        I128(i128),
        U128(u128),
        Text(String),
        Bytes(Vec<u8>),
    }

    fn owned() -> impl Strategy<Value = Owned> {
        prop_oneof![
            any::<bool>().prop_map(Owned::Bool),
            any::<i64>().prop_map(Owned::I64),
            any::<u64>().prop_map(Owned::U64),
            any::<f64>().prop_map(Owned::F64),
            any::<i128>().prop_map(Owned::I128),
            any::<u128>().prop_map(Owned::U128),
            any::<String>().prop_map(Owned::Text),
            any::<Vec<u8>>().prop_map(Owned::Bytes),
        ]
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(values in prop::collection::vec((any::<u16>(), owned()), 0..40)) {
            let mut out = Vec::new();
            let mut encoder = Encoder::new(&mut out, CAPS, head(Kind::Open));
            for (key, value) in &values {
                match value {
                    Owned::Bool(v) => encoder.bool(*key, *v),
                    Owned::I64(v) => encoder.i64(*key, *v),
                    Owned::U64(v) => encoder.u64(*key, *v),
                    Owned::F64(v) => encoder.f64(*key, *v),
                    Owned::I128(v) => encoder.i128(*key, *v),
                    Owned::U128(v) => encoder.u128(*key, *v),
                    Owned::Text(v) => encoder.text(*key, v),
                    Owned::Bytes(v) => encoder.bytes(*key, v),
                }
            }
            encoder.finish();
            let mut record = Record::decode(&out).unwrap();
            prop_assert_eq!(record.head, head(Kind::Open));
            for (key, value) in &values {
                let (got_key, got) = record.next_field().unwrap().unwrap();
                prop_assert_eq!(got_key, *key);
                let same = match (value, got) {
                    (Owned::Bool(a), Value::Bool(b)) => *a == b,
                    (Owned::I64(a), Value::I64(b)) => *a == b,
                    (Owned::U64(a), Value::U64(b)) => *a == b,
                    (Owned::F64(a), Value::F64(b)) => a.to_bits() == b.to_bits(),
                    (Owned::I128(a), Value::I128(b)) => *a == b,
                    (Owned::U128(a), Value::U128(b)) => *a == b,
                    (Owned::Text(a), Value::Text(b)) => a == b,
                    (Owned::Bytes(a), Value::Bytes { shown, total }) => a == shown && total == a.len() as u64,
                    _ => false,
                };
                prop_assert!(same, "{:?} became {:?}", value, got);
            }
            prop_assert_eq!(record.next_field().unwrap(), None);
        }

        #[test]
        fn decoding_garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 1_u8..=6) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() { *first = kind; }
            if let Ok(mut record) = Record::decode(&bytes) {
                while let Ok(Some((_, value))) = record.next_field() {
                    value.write_text(&mut String::new());
                }
            }
            let _ = Definition::decode(&bytes);
        }
    }

    #[test]
    fn caps_leave_visible_marks_and_the_record_stays_within_them() {
        let mut out = Vec::new();
        let mut encoder = Encoder::new(&mut out, CAPS, head(Kind::Event));
        for key in 0..300 {
            encoder.text(key, &"x".repeat(10 << 20));
        }
        encoder.finish();
        assert!(out.len() <= CAPS.record_bytes);
        let fields = fields(&out);
        assert!(fields[0].1.ends_with(&format!("...[{} more bytes truncated]", (10 << 20) - (16 << 10))));
        let (key, dropped) = fields.last().unwrap();
        assert_eq!((*key, dropped.parse::<usize>().unwrap()), (key::FIELDS_DROPPED, 300 - (fields.len() - 1)));
    }

    #[test]
    fn a_debug_that_panics_fails_or_never_ends_leaves_a_mark() {
        struct Panics;
        struct Fails;
        struct Endless;
        impl fmt::Debug for Panics {
            fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
                panic!("in Debug")
            }
        }
        impl fmt::Debug for Fails {
            fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
                Err(fmt::Error)
            }
        }
        impl fmt::Debug for Endless {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                loop {
                    f.write_str("again ")?;
                }
            }
        }
        let mut out = Vec::new();
        let mut encoder = Encoder::new(&mut out, CAPS, head(Kind::Event));
        encoder.debug(0, &Panics);
        encoder.debug(1, &Fails);
        encoder.debug(2, &Endless);
        encoder.finish();
        let texts: Vec<String> = fields(&out).into_iter().map(|(_, text)| text).collect();
        assert_eq!(texts[..2], ["[panicked while formatting]", "[formatting failed]"]);
        assert!(texts[2].starts_with("again again ") && texts[2].ends_with("...[truncated]"));
    }

    #[test]
    fn an_error_keeps_its_chain_and_a_cycle_ends() {
        #[derive(Debug)]
        struct Level(u32);
        impl fmt::Display for Level {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "level {}", self.0)
            }
        }
        impl StdError for Level {
            fn source(&self) -> Option<&(dyn StdError + 'static)> {
                static LAST: Level = Level(2);
                static ENDLESS: Level = Level(99);
                match self.0 {
                    1 => Some(&LAST),
                    99 => Some(&ENDLESS),
                    _ => None,
                }
            }
        }
        let mut out = Vec::new();
        let mut encoder = Encoder::new(&mut out, CAPS, head(Kind::Event));
        encoder.error(0, &Level(1));
        encoder.error(1, &Level(99));
        encoder.finish();
        let fields = fields(&out);
        assert_eq!(fields[0].1, "level 1 <- level 2");
        assert_eq!(fields[1].1.matches("<- level 99").count(), SOURCES_MAX);
    }

    #[test]
    fn json_that_does_not_fit_still_parses() {
        let mut out = Vec::new();
        let mut encoder = Encoder::new(&mut out, CAPS, head(Kind::Direct));
        let json = serde_json::json!({ "quotes": "\"".repeat(100_000) }).to_string();
        encoder.json(key::PAYLOAD, &json);
        encoder.finish();
        let payload: serde_json::Value = serde_json::from_str(&fields(&out)[0].1).unwrap();
        assert_eq!(payload["l0.total_bytes"], json.len());
    }
}
