//! Events that are recorded by a call, not by a macro: they have no callsite.

use super::{Capture, SpanRef, local};
use crate::{
    event::TelemetryEvent,
    flight::Pushable,
    record::{Encoder, Head, Kind, key},
};

impl Capture {
    /// Records an event that has no callsite.
    pub(crate) fn direct(&self, event: &TelemetryEvent) {
        self.direct_in(event, true);
    }

    /// The same, of something that has nothing to do with where this thread is.
    pub(crate) fn direct_aside(&self, event: &TelemetryEvent) {
        self.direct_in(event, false);
    }

    /// Records an event of the writer's own thread, where nothing else is recorded. Does not wait for room, which that thread
    /// makes.
    pub(crate) fn direct_of_writer(&self, event: &TelemetryEvent) {
        local::with(|local| {
            if !self.flight.is_open() {
                return;
            }
            let head = Head { kind: Kind::Direct, severity: event.severity, flags: 0, callsite: 0, span: 0, other: 0 };
            let mut scratch = local.take_scratch();
            self.encode_direct(&mut scratch, event, None, head);
            let record =
                Pushable { body: &scratch, severity: event.severity, urgent: true, counted: true, waits: false };
            self.flight.push(local.lane(), self.clock.ticks(), record);
            local.put_scratch(scratch);
        });
    }

    fn direct_in(&self, event: &TelemetryEvent, is_of_here: bool) {
        local::with(|local| {
            if !self.is_recording(local) {
                return;
            }
            let span = if is_of_here { local.current_of_capture(self.id) } else { SpanRef::default() };
            let head =
                Head { kind: Kind::Direct, severity: event.severity, flags: 0, callsite: 0, span: span.id, other: 0 };
            let mut scratch = local.take_scratch();
            self.encode_direct(&mut scratch, event, is_of_here.then_some(&span), head);
            self.push(local, self.clock.ticks(), span.opened, &scratch, head);
            local.put_scratch(scratch);
        });
    }

    /// Encodes an event that has no callsite; in the scope of this thread if its span is given.
    fn encode_direct(&self, scratch: &mut Vec<u8>, event: &TelemetryEvent, scope: Option<&SpanRef>, head: Head) {
        let mut encoder = Encoder::new(scratch, self.caps, head);
        encoder.set_strict(self.strict(false, false));
        if let Some(span) = scope {
            self.put_scope(&mut encoder, span);
        }
        self.put_column(&mut encoder, key::EVENT_TYPE, &event.event_type);
        let correlation_id = event.correlation_id.as_ref().map(|id| id.as_str());
        for (key, text) in [
            (key::SOURCE, event.source.as_deref()),
            (key::CATEGORY, event.category.as_deref()),
            (key::CORRELATION_ID, correlation_id),
            (key::TENANT_ID, event.tenant_id.as_deref()),
            (key::ACTOR_ID, event.actor_id.as_deref()),
            (key::MESSAGE, event.message.as_deref()),
            (key::STATUS, event.status.as_deref()),
        ] {
            if let Some(text) = text {
                self.put_column(&mut encoder, key, text);
            }
        }
        if let Some(duration_ns) = event.duration_ns {
            encoder.i64(key::DURATION_NS, duration_ns);
        }
        if let Some(payload) = event.payload.as_ref().filter(|_| event.is_clean) {
            encoder.json(key::CLEAN_PAYLOAD, payload);
        } else if let Some(payload) = &event.payload {
            let redacted = self.redactor.json_by_name(payload);
            encoder.json(key::PAYLOAD, redacted.as_deref().unwrap_or(payload));
        }
        self.finish(encoder);
    }
}
