//! The closed vocabulary that crosses from application threads to the writer, and its binary form.
//!
//! Capture encodes, the store decodes; the flight recorder between them treats a record as bytes. The bytes also come
//! back from the file of a dead process, so decoding trusts nothing: every length is checked, and what does not parse is
//! an error, never a panic.
//!
//! ```text
//! record      kind u8, severity u8, flags u8, 0 u8, callsite u32, span u64, [other u64], [definition], field*
//! field       key u16, type u8, value          key: index of the callsite's field, or one of `key`
//! text        length u32, bytes                integers little-endian
//! ```

use std::fmt::{self, Write as _};

mod definition;
mod encoder;
mod limit;

pub(crate) use definition::{CallsiteKind, Definition};
pub(crate) use encoder::{Caps, Encoder, Strict, encode_metadata};
pub(crate) use limit::LimitTally;

use crate::event::Severity;

/// What a record tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A `tracing` or `log` event.
    Event = 1,
    /// A span began; `other` is its parent, 0 for a root.
    Open = 2,
    /// Values recorded on a span later.
    Update = 3,
    /// A span ended.
    Close = 4,
    /// A span follows from `other`.
    Link = 5,
    /// A `TelemetryEvent`, without a callsite.
    Direct = 6,
    /// What a limit let pass and refused.
    Limit = 7,
}

impl Kind {
    fn from_code(code: u8) -> Option<Self> {
        [Self::Event, Self::Open, Self::Update, Self::Close, Self::Link, Self::Direct, Self::Limit]
            .into_iter()
            .find(|kind| *kind as u8 == code)
    }

    fn has_other(self) -> bool {
        matches!(self, Self::Open | Self::Link)
    }

    /// Whether the record counts in `Stats::recorded`; the others complete a span that has been counted, or are counts
    /// themselves.
    pub(crate) fn is_counted(self) -> bool {
        matches!(self, Self::Event | Self::Open | Self::Direct)
    }
}

/// The record carries its callsite's definition, because the file's region for them is full or it is a `log` record.
pub(crate) const INLINE_DEFINITION: u8 = 1;

/// Keys of fields that no callsite defines.
pub(crate) mod key {
    pub(crate) const FIRST: u16 = 0xFF00;
    pub(crate) const EVENT_TYPE: u16 = FIRST;
    pub(crate) const SOURCE: u16 = FIRST + 1;
    pub(crate) const CATEGORY: u16 = FIRST + 2;
    pub(crate) const CORRELATION_ID: u16 = FIRST + 3;
    pub(crate) const TENANT_ID: u16 = FIRST + 4;
    pub(crate) const ACTOR_ID: u16 = FIRST + 5;
    pub(crate) const MESSAGE: u16 = FIRST + 6;
    pub(crate) const STATUS: u16 = FIRST + 7;
    pub(crate) const DURATION_NS: u16 = FIRST + 8;
    /// The whole payload, as JSON.
    pub(crate) const PAYLOAD: u16 = FIRST + 9;
    /// How many fields did not fit.
    pub(crate) const FIELDS_DROPPED: u16 = FIRST + 10;
    /// The scope's correlation id.
    pub(crate) const SCOPE: u16 = FIRST + 11;
    /// The id that a root span made for its trace.
    pub(crate) const TRACE_ID: u16 = FIRST + 12;
    /// The whole payload, as JSON of l0's own, in which there is no secret.
    pub(crate) const CLEAN_PAYLOAD: u16 = FIRST + 13;

    /// The name by which redaction knows the column of a key; empty for what is none.
    pub(crate) fn column(key: u16) -> &'static str {
        match key {
            EVENT_TYPE => "event_type",
            SOURCE => "source",
            CATEGORY => "category",
            CORRELATION_ID => "correlation_id",
            TENANT_ID => "tenant_id",
            ACTOR_ID => "actor_id",
            MESSAGE => "message",
            STATUS => "status",
            _ => "",
        }
    }
}

/// The fixed part of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) kind: Kind,
    pub(crate) severity: Severity,
    pub(crate) flags: u8,
    pub(crate) callsite: u32,
    /// The span it is about, or the one an event is in; 0 for none.
    pub(crate) span: u64,
    /// The parent (`Open`) or the span followed (`Link`); 0 for none.
    pub(crate) other: u64,
}

/// A decoded record, borrowing from its bytes.
#[derive(Debug)]
pub(crate) struct Record<'a> {
    pub(crate) head: Head,
    pub(crate) definition: Option<Definition>,
    fields: Input<'a>,
}

/// One value of a field.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Value<'a> {
    Bool(bool),
    I64(i64),
    U64(u64),
    F64(f64),
    I128(i128),
    U128(u128),
    Text(&'a str),
    /// Something was there; its field's name says that it is a secret's.
    Redacted,
    /// The first bytes of `total`.
    Bytes {
        shown: &'a [u8],
        total: u64,
    },
    /// An error's message, and those of its sources one after the other.
    Error {
        message: &'a str,
        sources: Sources<'a>,
    },
}

/// The messages of an error's sources, outermost first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sources<'a>(Input<'a>);

impl<'a> Iterator for Sources<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        if self.0.is_empty() { None } else { self.0.text().ok() }
    }
}

impl Value<'_> {
    /// The value as plain text, as a column shows it.
    pub(crate) fn write_text(&self, out: &mut String) {
        let result = match *self {
            Value::Bool(v) => write!(out, "{v}"),
            Value::I64(v) => write!(out, "{v}"),
            Value::U64(v) => write!(out, "{v}"),
            Value::F64(v) => write!(out, "{v}"),
            Value::I128(v) => write!(out, "{v}"),
            Value::U128(v) => write!(out, "{v}"),
            Value::Text(v) | Value::Error { message: v, .. } => out.write_str(v),
            Value::Bytes { shown, total } => write_bytes(out, shown, total),
            Value::Redacted => out.write_str("[REDACTED]"),
        };
        // Writing to a String cannot fail.
        debug_assert!(result.is_ok());
    }
}

/// Bytes as `tracing` itself prints them: `[00 ff]`.
fn write_bytes(out: &mut String, shown: &[u8], total: u64) -> fmt::Result {
    out.push('[');
    for (index, byte) in shown.iter().enumerate() {
        if index > 0 {
            out.push(' ');
        }
        write!(out, "{byte:02x}")?;
    }
    let left = total.saturating_sub(shown.len() as u64);
    if left > 0 {
        write!(out, " ...[{left} more bytes truncated]")?;
    }
    out.push(']');
    Ok(())
}

/// A record that does not parse: a file of another version, or damaged.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

impl<'a> Record<'a> {
    pub(crate) fn decode(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut input = Input(bytes);
        let kind = Kind::from_code(input.u8()?).ok_or(Malformed)?;
        let severity = Severity::from_code(i64::from(input.u8()?));
        let flags = input.u8()?;
        input.u8()?;
        let callsite = input.u32()?;
        let span = input.u64()?;
        let other = if kind.has_other() { input.u64()? } else { 0 };
        let definition = if flags & INLINE_DEFINITION != 0 {
            let length = input.u32()? as usize;
            Some(Definition::decode(input.take(length)?)?)
        } else {
            None
        };
        Ok(Self { head: Head { kind, severity, flags, callsite, span, other }, definition, fields: input })
    }

    /// The kind, by the first byte alone.
    pub(crate) fn kind_of(bytes: &[u8]) -> Option<Kind> {
        bytes.first().and_then(|code| Kind::from_code(*code))
    }

    /// The severity, by the second byte alone.
    pub(crate) fn severity_of(bytes: &[u8]) -> Severity {
        Severity::from_code(bytes.get(1).map_or(0, |code| i64::from(*code)))
    }

    /// The next field's key and value, in the order they were recorded.
    pub(crate) fn next_field(&mut self) -> Result<Option<(u16, Value<'a>)>, Malformed> {
        if self.fields.is_empty() {
            return Ok(None);
        }
        let key = self.fields.u16()?;
        Ok(Some((key, self.fields.value()?)))
    }
}

/// A cursor over untrusted bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(Malformed)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Result<&'a str, Malformed> {
        let length = self.u32()? as usize;
        std::str::from_utf8(self.take(length)?).map_err(|_| Malformed)
    }

    fn value(&mut self) -> Result<Value<'a>, Malformed> {
        Ok(match self.u8()? {
            tag::BOOL => Value::Bool(self.u8()? != 0),
            tag::I64 => Value::I64(self.array().map(i64::from_le_bytes)?),
            tag::U64 => Value::U64(self.u64()?),
            tag::F64 => Value::F64(self.array().map(f64::from_le_bytes)?),
            tag::I128 => Value::I128(self.array().map(i128::from_le_bytes)?),
            tag::U128 => Value::U128(self.array().map(u128::from_le_bytes)?),
            tag::TEXT => Value::Text(self.text()?),
            tag::BYTES => {
                let total = self.u64()?;
                let length = self.u32()? as usize;
                Value::Bytes { shown: self.take(length)?, total }
            }
            tag::ERROR => {
                let length = self.u32()? as usize;
                let mut all = Input(self.take(length)?);
                let message = all.text()?;
                let mut rest = all;
                while !rest.is_empty() {
                    rest.text()?;
                }
                Value::Error { message, sources: Sources(all) }
            }
            tag::REDACTED => Value::Redacted,
            _ => return Err(Malformed),
        })
    }
}

/// Type bytes of values.
mod tag {
    pub(super) const BOOL: u8 = 1;
    pub(super) const I64: u8 = 2;
    pub(super) const U64: u8 = 3;
    pub(super) const F64: u8 = 4;
    pub(super) const I128: u8 = 5;
    pub(super) const U128: u8 = 6;
    pub(super) const TEXT: u8 = 7;
    pub(super) const BYTES: u8 = 8;
    pub(super) const ERROR: u8 = 9;
    pub(super) const REDACTED: u8 = 10;
}
