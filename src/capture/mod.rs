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
mod context;
mod direct;
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

use callsite::Callsite;
use local::Local;
use spans::OpenSpan;
use tracing_core::{Event, Metadata, span};

use crate::{
    clock::Clock,
    correlation::{self, Around, CorrelationId},
    event::{Severity, TelemetryEvent},
    flight::{FlightRecorder, Pushable},
    record::{CallsiteKind, Caps, Encoder, Head, Kind, LimitTally, Strict, key},
    redaction::{FieldRule, Redactor},
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
    redactor: Arc<Redactor>,
    caps: Caps,
    duplicate_layer: AtomicBool,
}

/// The span a record belongs to; all zero outside every span.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct SpanRef {
    id: u64,
    /// The stamp of its opening.
    opened: u64,
    /// The nearest span around, or itself, that says something of tenant and actor: its entry in `context`.
    context: u64,
    /// The span that began the trace it is in, or gave it another name.
    origin: u64,
    /// The trace's id, unless it was named when it began.
    trace_id: [u64; 2],
    /// The trace was named when it began: the name is what the origin says in `context`.
    is_named: bool,
}

impl SpanRef {
    /// Whether the trace has a name, be it a late one.
    fn has_name(&self) -> bool {
        // It may have been named on another thread since this copy was made.
        self.is_named || context::is_named(self.origin) || context::is_named(self.id)
    }
}

/// What the innermost span of this thread says.
fn around() -> Option<Around> {
    let (span, run_key) = local::with(Local::innermost_of_all)?;
    let said_by = |id| context::with(id, |context| context.correlation_id.parse::<CorrelationId>().ok()).flatten();
    let own = said_by(span.id).filter(|_| span.origin != span.id);
    let is_named = span.is_named || own.is_some();
    let name = own.or_else(|| said_by(span.origin));
    let trace_id = match &name {
        Some(name) if is_named => correlation::trace_id_of(name.as_str()),
        _ => trace_bytes(span.trace_id),
    };
    Some(Around { correlation_id: name, trace_id, span_id: span.id ^ run_key })
}

fn trace_bytes([high, low]: [u64; 2]) -> [u8; 16] {
    (u128::from(high) << 64 | u128::from(low)).to_be_bytes()
}

impl Capture {
    pub(crate) fn new(flight: Arc<FlightRecorder>, clock: Clock, redactor: Arc<Redactor>) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        correlation::set_around(around);
        let caps = Caps { field_bytes: FIELD_BYTES_MAX, record_bytes: flight.record_bytes_max(), fields: FIELDS_MAX };
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            callsites: Callsites::default(),
            flight,
            clock,
            redactor,
            caps,
            duplicate_layer: AtomicBool::new(false),
        }
    }

    /// Records a line for a reader, without `tracing`.
    pub(crate) fn log(&self, level: tracing_core::Level, category: &str, message: &str) {
        local::with(|local| {
            if !self.is_recording(local) {
                return;
            }
            let span = local.current_of_capture(self.id);
            let severity = Severity::from(level);
            let head = Head { kind: Kind::Event, severity, flags: 0, callsite: 0, span: span.id, other: 0 };
            let mut scratch = local.take_scratch();
            let mut encoder = Encoder::new(&mut scratch, self.caps, head);
            encoder.set_strict(self.strict(false, false));
            encoder.log_definition(severity);
            self.put_scope(&mut encoder, &span);
            self.put_column(&mut encoder, key::CATEGORY, category);
            self.put_column(&mut encoder, key::MESSAGE, message);
            self.finish(encoder);
            self.push(local, self.clock.ticks(), span.opened, &scratch, head);
            local.put_scratch(scratch);
        });
    }

    /// Whether anything is recorded: not after the end, nor in a forked child.
    #[inline]
    pub(crate) fn is_open(&self) -> bool {
        self.flight.is_open()
    }

    /// This process's run.
    pub(crate) fn run(&self) -> uuid::Uuid {
        self.flight.run()
    }

    /// Whether this is a forked child, in which locks stand as they did in the parent.
    pub(crate) fn is_forked(&self) -> bool {
        self.flight.is_forked()
    }

    /// Records what a limit counted; says whether there was room for it.
    pub(crate) fn limit(&self, tally: &LimitTally<'_>) -> bool {
        local::with(|local| {
            if local.is_own_thread() || !self.flight.is_open() {
                return false;
            }
            let mut scratch = local.take_scratch();
            tally.encode(&mut scratch, self.caps);
            let record =
                Pushable { body: &scratch, severity: Severity::Info, urgent: true, counted: false, waits: false };
            let pushed = self.flight.push(local.lane(), self.clock.ticks(), record);
            local.put_scratch(scratch);
            pushed.is_some()
        })
    }

    /// Adds what the current span says to an event that does not go through the writer; returns the span's own id.
    pub(crate) fn complete(&self, event: &mut TelemetryEvent) -> Option<u64> {
        let span = local::with(|local| local.current_of_capture(self.id));
        if event.correlation_id.is_none() {
            event.correlation_id = correlation::current();
        }
        // The trace's first span may have been told since those inside it were opened.
        for id in [span.id, span.context, span.origin] {
            context::with(id, |context| {
                for (place, said) in
                    [(&mut event.tenant_id, &context.tenant_id), (&mut event.actor_id, &context.actor_id)]
                {
                    if place.is_none() && !said.is_empty() {
                        *place = Some(said.clone());
                    }
                }
            });
        }
        Some(span.id).filter(|id| *id != 0)
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
    fn callsite(&self, local: &Local, metadata: &'static Metadata<'static>) -> Callsite {
        self.callsites.find(self, |address| local.cached_callsite(address), metadata)
    }

    #[inline]
    fn event(&self, local: &Local, span: SpanRef, event: &Event<'_>) {
        let metadata = event.metadata();
        let callsite = self.callsite(local, metadata);
        let head = Head {
            kind: Kind::Event,
            severity: Severity::from(*metadata.level()),
            flags: 0,
            callsite: callsite.number,
            span: span.id,
            other: 0,
        };
        if callsite.kind == CallsiteKind::Log {
            return self.log_event(local, span, head, callsite, event);
        }
        let mut scratch = local.take_scratch();
        let mut encoder = self.begin(&mut scratch, head, callsite, metadata);
        self.put_scope(&mut encoder, &span);
        event.record(&mut fields::Fields::new(&mut encoder, self, callsite.rules));
        self.finish(encoder);
        self.push(local, self.clock.ticks(), span.opened, &scratch, head);
        local.put_scratch(scratch);
    }

    /// A record bridged from `log`: its target, file and line are in fields, and differ from record to record.
    #[cold]
    fn log_event(&self, local: &Local, span: SpanRef, head: Head, callsite: Callsite, event: &Event<'_>) {
        use tracing_log::NormalizeEvent as _;
        let normalized = event.normalized_metadata();
        let mut scratch = local.take_scratch();
        let mut encoder = Encoder::new(&mut scratch, self.caps, Head { callsite: 0, ..head });
        encoder.set_strict(self.strict(false, false));
        encoder.definition(CallsiteKind::Log, normalized.as_ref().unwrap_or(event.metadata()));
        self.put_scope(&mut encoder, &span);
        event.record(&mut fields::Fields::new(&mut encoder, self, callsite.rules).without_log_place());
        self.finish(encoder);
        self.push(local, self.clock.ticks(), span.opened, &scratch, head);
        local.put_scratch(scratch);
    }

    /// Opens a span under `parent`. One that was shed leaves its parent for what is inside it.
    fn open(&self, local: &Local, parent: SpanRef, attributes: &span::Attributes<'_>) -> OpenSpan {
        let metadata = attributes.metadata();
        let callsite = self.callsite(local, metadata);
        let ticks = self.clock.ticks();
        let mut inside = SpanRef { id: local.next_span_id(), ..parent };
        let severity = Severity::from(*metadata.level());
        let head =
            Head { kind: Kind::Open, severity, flags: 0, callsite: callsite.number, span: inside.id, other: parent.id };
        let mut has_context = false;
        let mut scratch = local.take_scratch();
        let mut encoder = self.begin(&mut scratch, head, callsite, metadata);
        if self.put_scope(&mut encoder, &parent) {
            inside = SpanRef { origin: inside.id, is_named: true, ..inside };
            has_context = true;
        } else if parent.id == 0 {
            let bytes = correlation::trace_id(self.flight.key(), inside.id, self.flight.unix_ms(ticks));
            let trace_id = u128::from_be_bytes(bytes);
            encoder.u128(key::TRACE_ID, trace_id);
            inside.origin = inside.id;
            inside.trace_id = [(trace_id >> 64) as u64, trace_id as u64];
        }
        attributes.record(&mut fields::Fields::new(&mut encoder, self, callsite.rules));
        self.finish(encoder);
        let Some(opened) = self.push(local, ticks, parent.opened, &scratch, head) else {
            local.put_scratch(scratch);
            return OpenSpan { inside: parent, shed: true, has_context: false };
        };
        inside.opened = opened;
        if has_context {
            self.name_by_scope(local, &inside, parent.context);
        }
        if callsite.has_context {
            let may_be_named = !inside.is_named && !parent.has_name();
            has_context |= self.note_context(local, &mut inside, parent.context, metadata, &scratch, may_be_named);
        }
        local.put_scratch(scratch);
        OpenSpan { inside, shed: false, has_context }
    }

    /// Records values on an open span; returns what it says of itself now.
    fn update(
        &self,
        local: &Local,
        span: OpenSpan,
        metadata: &'static Metadata<'static>,
        values: &span::Record<'_>,
    ) -> OpenSpan {
        let OpenSpan { mut inside, mut has_context, shed } = span;
        let callsite = self.callsite(local, metadata);
        let severity = Severity::from(*metadata.level());
        let head =
            Head { kind: Kind::Update, severity, flags: 0, callsite: callsite.number, span: inside.id, other: 0 };
        let mut scratch = local.take_scratch();
        let mut encoder = self.begin(&mut scratch, head, callsite, metadata);
        values.record(&mut fields::Fields::new(&mut encoder, self, callsite.rules));
        self.finish(encoder);
        let pushed = self.push(local, self.clock.ticks(), inside.opened, &scratch, head);
        if callsite.has_context && pushed.is_some() {
            has_context |= self.note_context(local, &mut inside, span.inside.context, metadata, &scratch, false);
        }
        local.put_scratch(scratch);
        OpenSpan { inside, shed, has_context }
    }

    /// One column of a record without a callsite, as the rules have it.
    fn put_column<'a>(&'a self, encoder: &mut Encoder<'a>, key: u16, text: &str) {
        let name = key::column(key);
        match self.redactor.column(name) {
            FieldRule::Redacted(_) => encoder.redacted(key),
            rule => {
                let strict = self.strict(*rule == FieldRule::Allowed, fields::is_id(name));
                encoder.set_strict(strict);
                encoder.text(key, text);
                encoder.set_strict(self.strict(false, false));
            }
        }
    }

    /// How a text is looked at before it is left in the flight recorder.
    #[inline]
    fn strict(&self, is_allowed: bool, is_id: bool) -> Strict<'_> {
        match (self.redactor.is_strict() && !is_allowed, is_id) {
            (false, _) => Strict::Off,
            (true, false) => Strict::Text(&self.redactor),
            (true, true) => Strict::Id(&self.redactor),
        }
    }

    /// The scope's id, unless the trace around has a name of its own. Says whether it was put.
    #[inline]
    fn put_scope<'a>(&'a self, encoder: &mut Encoder<'a>, around: &SpanRef) -> bool {
        if around.is_named {
            return false;
        }
        let put = correlation::with_scope(|id| {
            let applies = !around.has_name();
            if applies {
                encoder.set_strict(self.strict(false, true));
                encoder.text(key::SCOPE, id);
                encoder.set_strict(self.strict(false, false));
            }
            applies
        });
        put.unwrap_or(false)
    }

    #[cold]
    fn name_by_scope(&self, local: &Local, span: &SpanRef, parent_context: u64) {
        local.with_context(|found| {
            found.clear();
            correlation::with_scope(|id| found.correlation_id.push_str(id));
            context::put(span.id, parent_context, found);
        });
    }

    /// Notes what a record says of the span; says whether it is anything.
    fn note_context(
        &self,
        local: &Local,
        span: &mut SpanRef,
        parent_context: u64,
        metadata: &Metadata<'_>,
        bytes: &[u8],
        may_be_named: bool,
    ) -> bool {
        local.with_context(|found| {
            if !context::read(metadata, bytes, may_be_named, found) {
                return false;
            }
            context::put(span.id, parent_context, found);
            span.context = span.id;
            // A root that is named late names its whole trace; elsewhere the name begins here.
            let is_late_root = span.origin == span.id && !span.is_named && !may_be_named;
            if !found.correlation_id.is_empty() && !is_late_root {
                span.origin = span.id;
                span.is_named = true;
            }
            true
        })
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
        self.push(local, self.clock.ticks(), after, &scratch, head);
        local.put_scratch(scratch);
    }

    #[inline]
    fn begin<'a>(
        &'a self,
        scratch: &'a mut Vec<u8>,
        head: Head,
        callsite: Callsite,
        metadata: &Metadata<'_>,
    ) -> Encoder<'a> {
        let mut encoder = Encoder::new(scratch, self.caps, head);
        if callsite.number == 0 {
            encoder.definition(callsite.kind, metadata);
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
    fn push(&self, local: &Local, ticks: u64, after: u64, body: &[u8], head: Head) -> Option<u64> {
        let record = Pushable {
            body,
            severity: head.severity,
            urgent: head.severity >= Severity::Warning || head.kind == Kind::Close,
            counted: head.kind.is_counted(),
            waits: true,
        };
        // Behind this thread's last record, even where that went into another lane or the counter was read early.
        let stamp = self.flight.push(local.lane(), ticks.max(after + 1).max(local.last_stamp(self.id) + 1), record);
        if let Some(stamp) = stamp {
            local.set_last_stamp(self.id, stamp);
        }
        stamp
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
