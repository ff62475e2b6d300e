//! What each thread keeps: a scratch buffer, the spans it has entered, recently used callsites.
//!
//! Reached with `try_with`: a record made while the thread's locals are being destroyed uses fresh ones.

use std::{
    cell::{Cell, RefCell},
    sync::atomic::{AtomicU64, Ordering},
};

use super::{SpanRef, callsite::CachedCallsite, context::Context};
use crate::flight;

/// A scratch buffer that has grown past this is not kept.
const SCRATCH_KEPT_BYTES: usize = 4 << 10;
const CALLSITES_CACHED: usize = 64;
/// Ids are taken from the process's counter in blocks, so threads do not contend for it.
const SPAN_ID_BLOCK: u64 = 64;

thread_local! {
    static LOCAL: Local = const { Local::new() };
}

/// One thread's state.
pub(super) struct Local {
    own_thread: Cell<bool>,
    /// One more than the preferred lane; 0 until the first record.
    lane: Cell<usize>,
    last_stamp: Cell<(u32, u64)>,
    scratch: Cell<Vec<u8>>,
    entered: RefCell<Vec<Entered>>,
    context: RefCell<Context>,
    span_ids: Cell<(u64, u64)>,
    callsites: [Cell<CachedCallsite>; CALLSITES_CACHED],
}

/// A span entered on this thread.
#[derive(Clone, Copy, Debug)]
struct Entered {
    layer: u32,
    capture: u32,
    registry_id: u64,
    span: SpanRef,
    /// Of the run that records it.
    run_key: u64,
    /// Entered again while already entered: does not become current, as in the `Registry`.
    duplicate: bool,
}

/// Runs `f` with this thread's state.
#[inline]
pub(super) fn with<R>(f: impl Fn(&Local) -> R) -> R {
    match LOCAL.try_with(&f) {
        Ok(result) => result,
        Err(_) => f(&Local::new()),
    }
}

/// Marks the current thread as one of l0's: what runs on it is not recorded.
pub(crate) fn mark_own_thread() {
    with(|local| local.own_thread.set(true));
}

impl Local {
    const fn new() -> Self {
        Self {
            own_thread: Cell::new(false),
            lane: Cell::new(0),
            last_stamp: Cell::new((0, 0)),
            scratch: Cell::new(Vec::new()),
            entered: RefCell::new(Vec::new()),
            context: RefCell::new(Context {
                correlation_id: String::new(),
                tenant_id: String::new(),
                actor_id: String::new(),
            }),
            span_ids: Cell::new((0, 0)),
            callsites: [const { Cell::new(CachedCallsite::NONE) }; CALLSITES_CACHED],
        }
    }

    #[inline]
    pub(super) fn is_own_thread(&self) -> bool {
        self.own_thread.get()
    }

    #[inline]
    pub(super) fn lane(&self) -> usize {
        match self.lane.get() {
            0 => {
                let lane = flight::next_lane();
                self.lane.set(lane.wrapping_add(1).max(1));
                lane
            }
            lane => lane - 1,
        }
    }

    /// The stamp of this thread's last record, if that was in the same capture: another has a clock of its own.
    #[inline]
    pub(super) fn last_stamp(&self, capture: u32) -> u64 {
        let (of, stamp) = self.last_stamp.get();
        if of == capture { stamp } else { 0 }
    }

    #[inline]
    pub(super) fn set_last_stamp(&self, capture: u32, stamp: u64) {
        self.last_stamp.set((capture, stamp));
    }

    /// The scratch buffer; one that is in use already, by the record around a nested one, leaves a new one here.
    #[inline]
    pub(super) fn take_scratch(&self) -> Vec<u8> {
        self.scratch.take()
    }

    #[inline]
    pub(super) fn put_scratch(&self, scratch: Vec<u8>) {
        if scratch.capacity() <= SCRATCH_KEPT_BYTES {
            self.scratch.set(scratch);
        }
    }

    /// An id no other span of this process has.
    #[inline]
    pub(super) fn next_span_id(&self) -> u64 {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let (mut next, mut end) = self.span_ids.get();
        if next == end {
            next = NEXT.fetch_add(SPAN_ID_BLOCK, Ordering::Relaxed);
            end = next + SPAN_ID_BLOCK;
        }
        self.span_ids.set((next + 1, end));
        next
    }

    pub(super) fn enter(&self, layer: u32, capture: u32, run_key: u64, registry_id: u64, span: SpanRef) {
        if let Ok(mut entered) = self.entered.try_borrow_mut() {
            let duplicate = entered.iter().any(|e| e.layer == layer && e.registry_id == registry_id);
            entered.push(Entered { layer, capture, registry_id, span, run_key, duplicate });
        }
    }

    pub(super) fn exit(&self, layer: u32, registry_id: u64) {
        if let Ok(mut entered) = self.entered.try_borrow_mut()
            && let Some(index) = entered.iter().rposition(|e| e.layer == layer && e.registry_id == registry_id)
        {
            entered.remove(index);
        }
    }

    /// The span says something new of itself.
    pub(super) fn refresh(&self, layer: u32, registry_id: u64, span: SpanRef) {
        if let Ok(mut entered) = self.entered.try_borrow_mut() {
            entered.iter_mut().filter(|e| e.layer == layer && e.registry_id == registry_id).for_each(|e| e.span = span);
        }
    }

    /// Buffers for reading what a span says; fresh ones where they are in use.
    pub(super) fn with_context<R>(&self, f: impl FnOnce(&mut Context) -> R) -> R {
        match self.context.try_borrow_mut() {
            Ok(mut context) => f(&mut context),
            Err(_) => f(&mut Context::default()),
        }
    }

    /// The innermost span of all, and the key of the run that records it.
    pub(super) fn innermost_of_all(&self) -> Option<(SpanRef, u64)> {
        let entered = self.entered.try_borrow().ok()?;
        entered.iter().rev().find(|e| !e.duplicate && e.span.id != 0).map(|e| (e.span, e.run_key))
    }

    /// The innermost span that this layer's subscriber has entered here.
    #[inline]
    pub(super) fn current(&self, layer: u32) -> SpanRef {
        self.innermost(|entered| entered.layer == layer)
    }

    /// The innermost span of any subscriber that records into this `L0`.
    pub(super) fn current_of_capture(&self, capture: u32) -> SpanRef {
        self.innermost(|entered| entered.capture == capture)
    }

    #[inline]
    fn innermost(&self, wanted: impl Fn(&Entered) -> bool) -> SpanRef {
        let Ok(entered) = self.entered.try_borrow() else { return SpanRef::default() };
        entered.iter().rev().find(|e| !e.duplicate && wanted(e)).map_or(SpanRef::default(), |e| e.span)
    }

    #[inline]
    pub(super) fn cached_callsite(&self, address: usize) -> &Cell<CachedCallsite> {
        &self.callsites[(address >> 4) % CALLSITES_CACHED]
    }
}
