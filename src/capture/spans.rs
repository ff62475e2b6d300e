//! The open spans of one layer: from the `Registry`'s id, which is used again, to l0's own.
//!
//! A table of our own rather than the span's extensions: those allocate a box for every span, and two layers of one type
//! would share a slot.

use crossbeam_utils::CachePadded;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use super::SpanRef;

const SHARDS: usize = 16;

/// Open spans by the registry's id.
#[derive(Debug, Default)]
pub(super) struct SpanTable {
    shards: [CachePadded<Mutex<FxHashMap<u64, OpenSpan>>>; SHARDS],
}

/// An open span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OpenSpan {
    /// What is inside it refers to this.
    pub(super) inside: SpanRef,
    /// Its opening was shed; `inside` is then its nearest recorded ancestor.
    pub(super) shed: bool,
    /// It has an entry in the table of contexts.
    pub(super) has_context: bool,
}

impl SpanTable {
    pub(super) fn insert(&self, id: u64, span: OpenSpan) {
        self.shard(id).lock().insert(id, span);
    }

    pub(super) fn get(&self, id: u64) -> Option<OpenSpan> {
        self.shard(id).lock().get(&id).copied()
    }

    pub(super) fn remove(&self, id: u64) -> Option<OpenSpan> {
        self.shard(id).lock().remove(&id)
    }

    fn shard(&self, id: u64) -> &Mutex<FxHashMap<u64, OpenSpan>> {
        // The registry's ids differ in low and in high bits; the multiplication brings all of them to the top.
        &self.shards[(id.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 60) as usize]
    }
}

const _: () = assert!(SHARDS == 1 << 4);
