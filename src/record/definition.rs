//! What a callsite knows, told once: kind, level, target, name, place and the names of its fields.

use super::{Input, Malformed};
use crate::event::Severity;

/// Whether a callsite makes events or spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum CallsiteKind {
    Event = 1,
    Span = 2,
    /// An event bridged from the `log` crate.
    Log = 3,
}

/// An owned callsite definition.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Definition {
    pub(crate) kind: CallsiteKind,
    pub(crate) severity: Severity,
    pub(crate) target: String,
    pub(crate) name: String,
    pub(crate) module_path: Option<String>,
    pub(crate) file: Option<String>,
    pub(crate) line: Option<u32>,
    pub(crate) fields: Vec<String>,
}

/// Longer texts of a definition are cut: a target or a path of this length tells enough.
const TEXT_MAX_BYTES: usize = 1_024;

impl Definition {
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut input = Input(bytes);
        let kind = match input.u8()? {
            1 => CallsiteKind::Event,
            2 => CallsiteKind::Span,
            3 => CallsiteKind::Log,
            _ => return Err(Malformed),
        };
        let severity = Severity::from_code(i64::from(input.u8()?));
        let line = match input.u32()? {
            0 => None,
            line => Some(line),
        };
        let target = input.text()?.to_owned();
        let name = input.text()?.to_owned();
        let module_path = optional(input.text()?);
        let file = optional(input.text()?);
        let count = usize::from(input.u16()?);
        let mut fields = Vec::with_capacity(count.min(bytes.len() / 4));
        for _ in 0..count {
            fields.push(input.text()?.to_owned());
        }
        Ok(Self { kind, severity, target, name, module_path, file, line, fields })
    }
}

/// Encodes straight from borrowed parts, for a `log` record carries its definition each time.
#[allow(clippy::too_many_arguments)] // the parts of `tracing::Metadata`, in its order
pub(super) fn encode_parts<'a>(
    out: &mut Vec<u8>,
    kind: CallsiteKind,
    severity: Severity,
    target: &str,
    name: &str,
    places: [Option<&str>; 2],
    line: Option<u32>,
    field_count: usize,
    fields: impl Iterator<Item = &'a str>,
) {
    out.extend_from_slice(&[kind as u8, severity as u8]);
    out.extend_from_slice(&line.unwrap_or(0).to_le_bytes());
    text(out, target);
    text(out, name);
    for place in places {
        text(out, place.unwrap_or(""));
    }
    let count = u16::try_from(field_count).unwrap_or(u16::MAX);
    out.extend_from_slice(&count.to_le_bytes());
    for field in fields.take(usize::from(count)) {
        text(out, field);
    }
}

fn text(out: &mut Vec<u8>, text: &str) {
    let text = &text[..text.floor_char_boundary(TEXT_MAX_BYTES)];
    out.extend_from_slice(&(text.len() as u32).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn optional(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}
