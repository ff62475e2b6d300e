//! The `tracing_subscriber::Layer`: which span a callback is about.

use std::{
    any::Any,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use tracing_core::{Event, Subscriber, span};
use tracing_subscriber::{
    layer::{Context, Layer},
    registry::LookupSpan,
};

use super::{
    Capture, SpanRef, context, local,
    spans::{OpenSpan, SpanTable},
};

/// Records what one subscriber sees.
#[derive(Debug)]
pub(crate) struct CaptureLayer {
    capture: Arc<Capture>,
    /// Tells the layers of a process apart: span ids of two subscribers overlap.
    id: u32,
    spans: SpanTable,
    /// The `L0`s whose layers are further down in the same subscriber.
    beneath: Vec<u32>,
}

impl CaptureLayer {
    pub(crate) fn new(capture: Arc<Capture>) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Self { capture, id, spans: SpanTable::default(), beneath: Vec::new() }
    }

    #[inline]
    fn is_duplicate(&self) -> bool {
        self.beneath.contains(&self.capture.id)
    }

    /// The open span. In a forked child the table's locks may be held by threads that are not there: it is not asked.
    #[inline]
    fn find(&self, id: &span::Id) -> Option<OpenSpan> {
        if self.capture.flight.is_open() { self.spans.get(id.into_u64()) } else { None }
    }

    /// The span that `id` names, or its nearest recorded ancestor.
    fn resolve<S>(&self, id: &span::Id, ctx: &Context<'_, S>) -> SpanRef
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        if let Some(span) = self.spans.get(id.into_u64()) {
            return span.inside;
        }
        ctx.span_scope(id)
            .into_iter()
            .flatten()
            .find_map(|span| self.spans.get(span.id().into_u64()))
            .map_or(SpanRef::default(), |span| span.inside)
    }
}

impl<S> Layer<S> for CaptureLayer
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_layer(&mut self, subscriber: &mut S) {
        let subscriber: &dyn Subscriber = subscriber;
        if let Some(below) = subscriber.downcast_ref::<Self>() {
            self.beneath.clone_from(&below.beneath);
            self.beneath.push(below.capture.id);
        }
        if self.is_duplicate() {
            self.capture.note_duplicate_layer();
        }
    }

    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, ctx: Context<'_, S>) {
        if self.is_duplicate() {
            return;
        }
        local::with(|local| {
            if !self.capture.is_recording(local) {
                return;
            }
            let parent = match attributes.parent() {
                Some(parent) => self.resolve(parent, &ctx),
                None if attributes.is_contextual() => local.current(self.id),
                None => SpanRef::default(),
            };
            let span = self.capture.open(local, parent, attributes);
            self.spans.insert(id.into_u64(), span);
        });
    }

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, ctx: Context<'_, S>) {
        let Some(span @ OpenSpan { shed: false, .. }) = self.find(id) else { return };
        let Some(metadata) = ctx.metadata(id) else { return };
        local::with(|local| {
            if !self.capture.is_recording(local) {
                return;
            }
            let updated = self.capture.update(local, span, metadata, values);
            if updated != span {
                self.spans.insert(id.into_u64(), updated);
                local.refresh(self.id, id.into_u64(), updated.inside);
            }
        });
    }

    fn on_follows_from(&self, id: &span::Id, follows: &span::Id, _: Context<'_, S>) {
        let Some(OpenSpan { inside, shed: false, .. }) = self.find(id) else { return };
        let Some(OpenSpan { inside: followed, shed: false, .. }) = self.find(follows) else { return };
        local::with(|local| {
            if self.capture.is_recording(local) {
                self.capture.link(local, inside, followed);
            }
        });
    }

    #[inline]
    fn on_event(&self, event: &Event<'_>, ctx: Context<'_, S>) {
        if self.is_duplicate() {
            return;
        }
        local::with(|local| {
            if !self.capture.is_recording(local) {
                return;
            }
            let span = match event.parent() {
                Some(parent) => self.resolve(parent, &ctx),
                None if event.is_contextual() => local.current(self.id),
                None => SpanRef::default(),
            };
            self.capture.event(local, span, event);
        });
    }

    fn on_enter(&self, id: &span::Id, _: Context<'_, S>) {
        if let Some(span) = self.find(id) {
            local::with(|local| {
                local.enter(self.id, self.capture.id, self.capture.flight.key(), id.into_u64(), span.inside)
            });
        }
    }

    fn on_exit(&self, id: &span::Id, _: Context<'_, S>) {
        local::with(|local| local.exit(self.id, id.into_u64()));
    }

    fn on_close(&self, id: span::Id, _: Context<'_, S>) {
        // After the end the table is still tidied; in a forked child its locks are not touched.
        if !self.capture.flight.is_open() && self.capture.flight.is_forked() {
            return;
        }
        let Some(OpenSpan { inside, shed: false, has_context }) = self.spans.remove(id.into_u64()) else { return };
        if has_context {
            context::remove(inside.id);
        }
        local::with(|local| {
            if self.capture.is_recording(local) {
                self.capture.close(local, inside);
            }
        });
    }
}

// `downcast_ref` needs it, and `dyn Any` says so at compile time.
const _: fn(&CaptureLayer) -> &dyn Any = |layer| layer;
