//! From `tracing`'s callbacks to records in the flight recorder, on the application's own thread.
//!
//! The layer resolves the span, the fields are encoded into a thread-local scratch outside every lock (a user's `Debug`
//! may itself log, panic or block), and the bytes are pushed.
//!
//! Invariants:
//! - No lock is held while user code runs, so re-entry is harmless; a nested event gets its own scratch.
//! - Nothing is allocated in the steady state.
//! - l0's own threads record nothing: a thread-local flag says so.

mod callsite;
mod fields;
mod filter;
mod layer;
mod local;
mod panic;
mod spans;

pub(crate) use callsite::Callsites;
pub(crate) use filter::{Gate, Parsed, parse as parse_filter};
pub(crate) use layer::CaptureLayer;
pub(crate) use local::mark_own_thread;
pub(crate) use panic::install_hook;

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

use local::Local;
use tracing_core::{Event, Metadata, span};

use crate::{
    clock::Clock,
    event::{Severity, TelemetryEvent},
    flight::{FlightRecorder, Pushable},
    record::{CallsiteKind, Caps, Encoder, Head, Kind, key},
};

/// Fields longer than this are cut.
const FIELD_BYTES_MAX: usize = 16 << 10;
/// Further fields of one record are counted, not kept.
const FIELDS_MAX: u32 = 512;

/// What every thread needs to record for one `L0`.
#[derive(Debug)]
pub(crate) struct Capture {
    /// Tells several `L0` of one process apart in thread-local state.
    id: u32,
    flight: Arc<FlightRecorder>,
    clock: Clock,
    callsites: Callsites,
    caps: Caps,
    duplicate_layer: AtomicBool,
}

/// The span a record belongs to: its id and the stamp of its opening, both 0 outside every span.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct SpanRef {
    id: u64,
    opened: u64,
}

impl Capture {
    pub(crate) fn new(flight: Arc<FlightRecorder>, clock: Clock) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let caps = Caps { field_bytes: FIELD_BYTES_MAX, record_bytes: flight.record_bytes_max(), fields: FIELDS_MAX };
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            callsites: Callsites::default(),
            flight,
            clock,
            caps,
            duplicate_layer: AtomicBool::new(false),
        }
    }

    /// Records what has no callsite.
    pub(crate) fn direct(&self, event: &TelemetryEvent) {
        local::with(|local| {
            if !self.is_recording(local) {
                return;
            }
            let span = local.current_of_capture(self.id);
            let head =
                Head { kind: Kind::Direct, severity: event.severity, flags: 0, callsite: 0, span: span.id, other: 0 };
            let mut scratch = local.take_scratch();
            let mut encoder = Encoder::new(&mut scratch, self.caps, head);
            encoder.text(key::EVENT_TYPE, &event.event_type);
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
                    encoder.text(key, text);
                }
            }
            if let Some(duration_ns) = event.duration_ns {
                encoder.i64(key::DURATION_NS, duration_ns);
            }
            if let Some(payload) = &event.payload {
                encoder.json(key::PAYLOAD, payload);
            }
            self.finish(encoder);
            self.push(local, span.opened, &scratch, head);
            local.put_scratch(scratch);
        });
    }

    /// Records a warning of l0's own, as a row like any other.
    pub(crate) fn warn(&self, event_type: &str, message: impl Into<String>) {
        self.direct(
            &TelemetryEvent::new(event_type).source("l0").severity(Severity::Warning).category("l0").message(message),
        );
    }

    /// Whether this thread may record now. After the end, and in a forked child, records are only counted.
    #[inline]
    fn is_recording(&self, local: &Local) -> bool {
        if local.is_own_thread() {
            return false;
        }
        if self.flight.is_open() {
            return true;
        }
        self.flight.ignore();
        false
    }

    #[inline]
    fn event(&self, local: &Local, span: SpanRef, event: &Event<'_>) {
        let metadata = event.metadata();
        let (kind, callsite) = self.callsites.find(self, local, metadata);
        let head = Head {
            kind: Kind::Event,
            severity: Severity::from(*metadata.level()),
            flags: 0,
            callsite,
            span: span.id,
            other: 0,
        };
        if kind == CallsiteKind::Log {
            return self.log_event(local, span, head, event);
        }
        let mut scratch = local.take_scratch();
        let mut encoder = self.begin(&mut scratch, head, kind, metadata);
        event.record(&mut fields::Fields::new(&mut encoder));
        self.finish(encoder);
        self.push(local, span.opened, &scratch, head);
        local.put_scratch(scratch);
    }

    /// A record bridged from `log`: its target, file and line are in fields, and differ from record to record.
    #[cold]
    fn log_event(&self, local: &Local, span: SpanRef, head: Head, event: &Event<'_>) {
        use tracing_log::NormalizeEvent as _;
        let normalized = event.normalized_metadata();
        let mut scratch = local.take_scratch();
        let mut encoder = Encoder::new(&mut scratch, self.caps, Head { callsite: 0, ..head });
        encoder.definition(CallsiteKind::Log, normalized.as_ref().unwrap_or(event.metadata()));
        event.record(&mut fields::Fields::without_log_place(&mut encoder));
        self.finish(encoder);
        self.push(local, span.opened, &scratch, head);
        local.put_scratch(scratch);
    }

    /// Opens a span under `parent`; returns what refers to it, or `None` if it was shed.
    fn open(&self, local: &Local, parent: SpanRef, attributes: &span::Attributes<'_>) -> Option<SpanRef> {
        let metadata = attributes.metadata();
        let (kind, callsite) = self.callsites.find(self, local, metadata);
        let id = local.next_span_id();
        let severity = Severity::from(*metadata.level());
        let head = Head { kind: Kind::Open, severity, flags: 0, callsite, span: id, other: parent.id };
        let mut scratch = local.take_scratch();
        let mut encoder = self.begin(&mut scratch, head, kind, metadata);
        attributes.record(&mut fields::Fields::new(&mut encoder));
        self.finish(encoder);
        let stamp = self.push(local, parent.opened, &scratch, head);
        local.put_scratch(scratch);
        stamp.map(|opened| SpanRef { id, opened })
    }

    /// Records values on an open span.
    fn update(&self, local: &Local, span: SpanRef, metadata: &'static Metadata<'static>, values: &span::Record<'_>) {
        let (kind, callsite) = self.callsites.find(self, local, metadata);
        let severity = Severity::from(*metadata.level());
        let head = Head { kind: Kind::Update, severity, flags: 0, callsite, span: span.id, other: 0 };
        let mut scratch = local.take_scratch();
        let mut encoder = self.begin(&mut scratch, head, kind, metadata);
        values.record(&mut fields::Fields::new(&mut encoder));
        self.finish(encoder);
        self.push(local, span.opened, &scratch, head);
        local.put_scratch(scratch);
    }

    fn close(&self, local: &Local, span: SpanRef) {
        self.brief(local, span.opened, Kind::Close, span.id, 0);
    }

    fn link(&self, local: &Local, span: SpanRef, follows: SpanRef) {
        self.brief(local, span.opened.max(follows.opened), Kind::Link, span.id, follows.id);
    }

    /// A record without fields.
    fn brief(&self, local: &Local, after: u64, kind: Kind, span: u64, other: u64) {
        let head = Head { kind, severity: Severity::Info, flags: 0, callsite: 0, span, other };
        let mut scratch = local.take_scratch();
        self.finish(Encoder::new(&mut scratch, self.caps, head));
        self.push(local, after, &scratch, head);
        local.put_scratch(scratch);
    }

    #[inline]
    fn begin<'a>(
        &self,
        scratch: &'a mut Vec<u8>,
        head: Head,
        kind: CallsiteKind,
        metadata: &Metadata<'_>,
    ) -> Encoder<'a> {
        let mut encoder = Encoder::new(scratch, self.caps, head);
        if head.callsite == 0 {
            encoder.definition(kind, metadata);
        }
        encoder
    }

    #[inline]
    fn finish(&self, encoder: Encoder<'_>) {
        if encoder.finish() {
            // The hook took it for the end of the process.
            self.flight.mark_panicked(false);
        }
    }

    /// Stamps and pushes. A record comes after the opening of the span it belongs to, whatever the clock says: so the
    /// merge by time never shows a child before its parent, or a close before its open.
    #[inline]
    fn push(&self, local: &Local, after: u64, body: &[u8], head: Head) -> Option<u64> {
        let record = Pushable {
            body,
            severity: head.severity,
            urgent: head.severity >= Severity::Warning || head.kind == Kind::Close,
            counted: head.kind.is_counted(),
        };
        self.flight.push(local.lane(), self.clock.ticks().max(after + 1), record)
    }

    /// Says once that a second layer of the same `L0` was attached to one subscriber.
    fn note_duplicate_layer(&self) {
        if !self.duplicate_layer.swap(true, Ordering::Relaxed) {
            self.warn(
                "l0.duplicate_layer",
                "a second l0 layer was attached to the same subscriber; it records nothing: attach l0.layer() once",
            );
        }
    }
}
