//! From a record's fields to the columns of its row: which fields are columns, and the JSON of the rest.
//!
//! A well-known field whose value does not fit its column stays in the payload: nothing is lost to a naming accident.
//! Every text passes the redaction's value rules here, before SQLite sees it.

use super::callsite_plan::{CallsitePlan, FieldPlan, Role, write_json};
use crate::{
    correlation,
    event::Severity,
    record::{Malformed, Record, Value, key},
    redaction::{FieldRule, Redactor},
};

/// A text that may be there; its buffer is used again.
#[derive(Debug, Default)]
pub(super) struct Slot {
    set: bool,
    text: String,
}

impl Slot {
    pub(super) fn get(&self) -> Option<&str> {
        self.set.then_some(self.text.as_str())
    }

    fn put(&mut self, value: &Value<'_>, checked: &Checked<'_>) {
        self.text.clear();
        checked.write_text(value, &mut self.text);
        if let Some(redacted) = checked.redact(&self.text) {
            self.text = redacted;
        }
        self.set = true;
    }

    /// An id: one that looks like a secret becomes its hash.
    fn put_id(&mut self, value: &Value<'_>, checked: &Checked<'_>) {
        self.text.clear();
        checked.write_text(value, &mut self.text);
        if let (false, std::borrow::Cow::Owned(hashed)) = (checked.is_allowed(), checked.redactor.id(&self.text)) {
            self.text = hashed;
        }
        self.set = true;
    }
}

/// The rules for the values of one field.
struct Checked<'a> {
    redactor: &'a Redactor,
    rule: &'a FieldRule,
    field: Option<&'a FieldPlan>,
}

impl Checked<'_> {
    fn write_text(&self, value: &Value<'_>, out: &mut String) {
        match value {
            Value::Redacted => out.push_str(self.marker()),
            value => value.write_text(out),
        }
    }

    /// A number that is a card's, in a field whose name says so.
    fn is_card(&self, number: u64) -> bool {
        number >= 1_000_000_000_000
            && !self.is_allowed()
            && self.field.is_some_and(|field| self.redactor.is_card_number(field.name(), &number.to_string()))
    }

    fn is_allowed(&self) -> bool {
        *self.rule == FieldRule::Allowed
    }

    /// The text without its secrets, if it has any.
    fn redact(&self, text: &str) -> Option<String> {
        if self.is_allowed() { None } else { self.redactor.text(text) }
    }

    /// What stands in the place of a value that was not recorded.
    fn marker(&self) -> &str {
        match self.rule {
            FieldRule::Redacted(marker) => marker,
            FieldRule::Checked | FieldRule::Allowed => "[REDACTED]",
        }
    }
}

/// The columns of one row; its buffers are used again.
#[derive(Debug, Default)]
pub(super) struct Columns {
    pub(super) message: Slot,
    pub(super) event_type: Slot,
    pub(super) source: Slot,
    pub(super) category: Slot,
    pub(super) correlation_id: Slot,
    /// The scope's correlation id, where the span around has none.
    pub(super) scope: Slot,
    /// The trace id of a `traceparent`.
    pub(super) remote: Slot,
    /// The id that a root span made for its trace.
    pub(super) trace_id: Option<[u8; 16]>,
    pub(super) tenant_id: Slot,
    pub(super) actor_id: Slot,
    pub(super) status: Slot,
    pub(super) span_name: Slot,
    pub(super) severity: Option<Severity>,
    pub(super) duration_ns: Option<i64>,
    /// A JSON object, or any JSON if it was given whole; empty if there is none.
    pub(super) payload: Vec<u8>,
    /// Whether any column but message and payload is set.
    pub(super) is_promoted: bool,
}

impl Columns {
    fn clear(&mut self) {
        for slot in [
            &mut self.message,
            &mut self.event_type,
            &mut self.source,
            &mut self.category,
            &mut self.correlation_id,
            &mut self.scope,
            &mut self.remote,
            &mut self.tenant_id,
            &mut self.actor_id,
            &mut self.status,
            &mut self.span_name,
        ] {
            slot.set = false;
        }
        self.severity = None;
        self.duration_ns = None;
        self.trace_id = None;
        self.payload.clear();
        self.is_promoted = false;
    }

    /// Reads all fields of a record.
    pub(super) fn read(
        &mut self,
        record: &mut Record<'_>,
        plan: Option<&CallsitePlan>,
        redactor: &Redactor,
    ) -> Result<(), Malformed> {
        self.clear();
        while let Some((number, value)) = record.next_field()? {
            if number >= key::FIRST {
                let rule = redactor.column(key::column(number));
                self.put(Role::of_key(number), &value, &Checked { redactor, rule, field: None });
                continue;
            }
            let field = plan.and_then(|plan| plan.fields.get(usize::from(number))).ok_or(Malformed)?;
            self.put(field.role, &value, &Checked { redactor, rule: &field.rule, field: Some(field) });
        }
        if !self.payload.is_empty() && self.payload[0] == b'{' && self.payload.last() != Some(&b'}') {
            self.payload.push(b'}');
        }
        Ok(())
    }

    fn put(&mut self, role: Role, value: &Value<'_>, checked: &Checked<'_>) {
        let slot = match role {
            Role::Message => {
                self.message.put(value, checked);
                self.put_sources(value, checked);
                return;
            }
            Role::EventType => &mut self.event_type,
            Role::Source => &mut self.source,
            Role::Category => &mut self.category,
            Role::CorrelationId => {
                self.correlation_id.put_id(value, checked);
                if correlation::is_valid(&self.correlation_id.text) {
                    self.is_promoted = true;
                } else {
                    self.correlation_id.set = false;
                    self.put_payload(value, checked);
                }
                return;
            }
            Role::Scope => {
                self.scope.put_id(value, checked);
                self.is_promoted = true;
                return;
            }
            Role::Traceparent => {
                if let Value::Text(header) = value
                    && let Ok(context) = correlation::from_traceparent(header)
                {
                    self.remote.put(&Value::Text(&context.trace_id()), checked);
                    self.is_promoted = true;
                }
                return self.put_payload(value, checked);
            }
            Role::TraceId => {
                if let Value::U128(id) = value {
                    self.trace_id = Some(id.to_be_bytes());
                }
                return;
            }
            Role::TenantId | Role::ActorId => {
                let slot = if role == Role::TenantId { &mut self.tenant_id } else { &mut self.actor_id };
                slot.put_id(value, checked);
                self.is_promoted = true;
                return;
            }
            Role::Status => &mut self.status,
            Role::SpanName => &mut self.span_name,
            Role::OtelStatus => {
                self.status.put(value, checked);
                if *value != Value::Redacted {
                    self.status.text.make_ascii_lowercase();
                }
                self.is_promoted = true;
                return;
            }
            Role::DurationMs | Role::DurationNs => {
                let unit_ns = if role == Role::DurationMs { 1_000_000 } else { 1 };
                match duration_ns(value, unit_ns) {
                    Some(duration_ns) => {
                        self.duration_ns = Some(duration_ns);
                        self.is_promoted = true;
                    }
                    None => self.put_payload(value, checked),
                }
                return;
            }
            Role::Severity => {
                match value {
                    Value::Text(text) if text.parse::<Severity>().is_ok() => self.severity = text.parse().ok(),
                    _ => self.put_payload(value, checked),
                }
                return;
            }
            Role::CleanPayload => {
                if let Value::Text(json) = value {
                    self.payload.clear();
                    self.payload.extend_from_slice(json.as_bytes());
                }
                return;
            }
            Role::WholePayload => {
                if let Value::Text(json) = value {
                    self.payload.clear();
                    let redacted = checked.redactor.json_by_value(json);
                    self.payload.extend_from_slice(redacted.as_deref().unwrap_or(json).as_bytes());
                }
                return;
            }
            Role::FieldsDropped => {
                // A payload given whole is closed already.
                if self.payload.last() == Some(&b'}') {
                    self.payload.pop();
                }
                if self.payload != b"{" {
                    self.separate();
                }
                self.payload.extend_from_slice(b"\"l0.fields_dropped\":");
                write_value(&mut self.payload, value, checked);
                return;
            }
            Role::Payload => return self.put_payload(value, checked),
        };
        slot.put(value, checked);
        self.is_promoted = true;
    }

    fn put_payload(&mut self, value: &Value<'_>, checked: &Checked<'_>) {
        // Records without a callsite carry their payload whole.
        let Some(field) = checked.field else { return };
        self.separate();
        self.payload.extend_from_slice(&field.json_key);
        write_value(&mut self.payload, value, checked);
        self.put_sources(value, checked);
    }

    fn put_sources(&mut self, value: &Value<'_>, checked: &Checked<'_>) {
        let (Value::Error { sources, .. }, Some(field)) = (*value, checked.field) else { return };
        let mut first = true;
        for source in sources {
            if first {
                self.separate();
                self.payload.extend_from_slice(&field.json_sources_key);
            }
            self.payload.push(if first { b'[' } else { b',' });
            write_text(&mut self.payload, source, checked);
            first = false;
        }
        if !first {
            self.payload.push(b']');
        }
    }

    fn separate(&mut self) {
        self.payload.push(if self.payload.is_empty() { b'{' } else { b',' });
    }
}

/// A duration of at least nothing, that a column can hold.
fn duration_ns(value: &Value<'_>, unit_ns: i64) -> Option<i64> {
    let ns = match *value {
        Value::I64(v) => v.checked_mul(unit_ns),
        Value::U64(v) => i64::try_from(v).ok()?.checked_mul(unit_ns),
        Value::I128(v) => i64::try_from(v).ok()?.checked_mul(unit_ns),
        Value::U128(v) => i64::try_from(v).ok()?.checked_mul(unit_ns),
        Value::F64(v) => {
            let ns = v * unit_ns as f64;
            (ns.is_finite() && ns < i64::MAX as f64).then_some(ns as i64)
        }
        _ => None,
    };
    ns.filter(|ns| *ns >= 0)
}

/// One value as JSON. Numbers that JSON's readers would round, and those it has no word for, become strings.
fn write_value(out: &mut Vec<u8>, value: &Value<'_>, checked: &Checked<'_>) {
    match *value {
        Value::Bool(v) => write_json(out, &v),
        Value::I64(v) if checked.is_card(v.unsigned_abs()) => write_json(out, &"[REDACTED:card]"),
        Value::U64(v) if checked.is_card(v) => write_json(out, &"[REDACTED:card]"),
        Value::I64(v) => write_json(out, &v),
        Value::U64(v) => write_json(out, &v),
        Value::F64(v) if v.is_finite() => write_json(out, &v),
        Value::I128(v) => match (i64::try_from(v), u64::try_from(v)) {
            (Ok(v), _) => write_json(out, &v),
            (_, Ok(v)) => write_json(out, &v),
            _ => write_json(out, &v.to_string()),
        },
        Value::U128(v) => match u64::try_from(v) {
            Ok(v) => write_json(out, &v),
            Err(_) => write_json(out, &v.to_string()),
        },
        Value::Text(v) | Value::Error { message: v, .. } => write_text(out, v, checked),
        Value::Redacted => write_json(out, &checked.marker()),
        Value::F64(_) | Value::Bytes { .. } => {
            // Bytes that are a text are looked at as one.
            if let Value::Bytes { shown, .. } = *value
                && let Some(redacted) = std::str::from_utf8(shown).ok().and_then(|text| checked.redact(text))
            {
                return write_json(out, &redacted);
            }
            let mut text = String::new();
            value.write_text(&mut text);
            write_json(out, &text);
        }
    }
}

/// A text, without its secrets.
fn write_text(out: &mut Vec<u8>, text: &str, checked: &Checked<'_>) {
    match checked.redact(text) {
        Some(redacted) => write_json(out, &redacted),
        None => write_json(out, &text),
    }
}

/// Lays late fields over earlier ones: the last value of a name wins, the others stay to the letter.
pub(super) fn merge_payload(earlier: &[u8], later: &[u8]) -> Vec<u8> {
    type Object<'a> = std::collections::BTreeMap<std::borrow::Cow<'a, str>, &'a serde_json::value::RawValue>;
    let parse = |bytes| serde_json::from_slice::<Object<'_>>(bytes);
    match (parse(earlier), parse(later)) {
        (Ok(mut all), Ok(later)) => {
            all.extend(later);
            serde_json::to_vec(&all).unwrap_or_else(|_| earlier.to_vec())
        }
        (Err(_), Ok(_)) => later.to_vec(),
        _ => earlier.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{CallsiteKind, Caps, Definition, Encoder, Head, Kind};

    fn read(names: &[&str], kind: CallsiteKind, encode: impl FnOnce(&mut Encoder<'_>)) -> Columns {
        let definition = Definition {
            kind,
            severity: Severity::Info,
            target: "t".into(),
            name: "n".into(),
            module_path: None,
            file: None,
            line: None,
            fields: names.iter().map(ToString::to_string).collect(),
        };
        let caps = Caps { field_bytes: 1 << 14, record_bytes: 1 << 16, fields: 512 };
        let mut bytes = Vec::new();
        let head = Head { kind: Kind::Event, severity: Severity::Info, flags: 0, callsite: 1, span: 0, other: 0 };
        let mut encoder = Encoder::new(&mut bytes, caps, head);
        encode(&mut encoder);
        encoder.finish();
        let mut columns = Columns::default();
        let redactor = crate::redaction::Redaction::default().compile(crate::redaction::random_key).unwrap();
        let plan = CallsitePlan::new(1, &definition, &redactor);
        columns.read(&mut Record::decode(&bytes).unwrap(), Some(&plan), &redactor).unwrap();
        columns
    }

    fn payload(columns: &Columns) -> &str {
        std::str::from_utf8(&columns.payload).unwrap()
    }

    #[test]
    fn values_keep_their_kind_in_json() {
        let names: Vec<String> = (0..10).map(|i| format!("f{i}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let columns = read(&names, CallsiteKind::Event, |e| {
            e.bool(0, true);
            e.u64(1, u64::MAX);
            e.f64(2, f64::NAN);
            e.f64(3, f64::NEG_INFINITY);
            e.f64(4, 1.0);
            e.i128(5, -5);
            e.u128(6, u128::MAX);
            e.text(7, "a\"b\u{1}");
            e.bytes(8, &[0, 255]);
            e.i64(9, i64::MIN);
        });
        assert_eq!(
            payload(&columns),
            r#"{"f0":true,"f1":18446744073709551615,"f2":"NaN","f3":"-inf","f4":1.0,"f5":-5,"f6":"340282366920938463463374607431768211455","f7":"a\"b\u0001","f8":"[00 ff]","f9":-9223372036854775808}"#
        );
    }

    #[test]
    fn the_last_of_a_name_wins_and_the_others_are_kept() {
        let columns = read(&["a", "message", "a", "message", "a"], CallsiteKind::Event, |e| {
            for key in [0, 2, 4] {
                e.u64(key, u64::from(key));
            }
            e.text(1, "first");
            e.text(3, "second");
        });
        assert_eq!(columns.message.get(), Some("second"));
        assert_eq!(payload(&columns), r##"{"a#1":0,"a#2":2,"a":4,"message#1":"first"}"##);
    }

    #[test]
    fn well_known_fields_become_columns_if_they_fit() {
        let names = ["correlation_id", "tenant_id", "status", "duration_ms", "severity"];
        let fits = read(&names, CallsiteKind::Event, |e| {
            e.text(0, "order-9");
            e.u64(1, 7);
            e.u64(2, 402);
            e.f64(3, 1.5);
            e.text(4, "critical");
        });
        assert_eq!(
            (fits.correlation_id.get(), fits.tenant_id.get(), fits.status.get(), fits.duration_ns, fits.severity),
            (Some("order-9"), Some("7"), Some("402"), Some(1_500_000), Some(Severity::Critical))
        );
        assert!(fits.payload.is_empty() && fits.is_promoted);
        let misfits = read(&names, CallsiteKind::Event, |e| {
            e.text(0, "two words");
            e.i64(3, -1);
            e.text(4, "loud");
        });
        assert_eq!(payload(&misfits), r#"{"correlation_id":"two words","duration_ms":-1,"severity":"loud"}"#);
        assert!(!misfits.is_promoted);
    }

    #[test]
    fn late_fields_lie_over_earlier_ones() {
        assert_eq!(merge_payload(br#"{"b":1.10,"a":"x"}"#, br#"{"a":2}"#), br#"{"a":2,"b":1.10}"#);
        assert_eq!(merge_payload(b"", br#"{"a":2}"#), br#"{"a":2}"#);
    }
}
