//! A number for each callsite, so that what it knows is told once.
//!
//! The first record of a callsite writes its definition into the flight file; after that each thread finds the number by
//! the address of the callsite's static metadata.

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tracing_core::Metadata;

use super::{
    Capture,
    local::{CachedCallsite, Local},
};
use crate::record::{CallsiteKind, encode_metadata};

/// The callsites that have recorded into one `L0`.
#[derive(Debug, Default)]
pub(crate) struct Callsites {
    numbers: Mutex<FxHashMap<usize, u32>>,
}

impl Callsites {
    /// The callsite's kind and number; number 0 means that its definition travels with each record.
    #[inline]
    pub(super) fn find(
        &self,
        capture: &Capture,
        local: &Local,
        metadata: &'static Metadata<'static>,
    ) -> (CallsiteKind, u32) {
        let address = std::ptr::from_ref(metadata).addr();
        let cell = local.cached_callsite(address);
        let cached = cell.get();
        if let CachedCallsite { kind: Some(kind), number, .. } = cached
            && cached.address == address
            && cached.capture == capture.id
        {
            return (kind, number);
        }
        self.find_shared(capture, cell, address, metadata)
    }

    #[cold]
    fn find_shared(
        &self,
        capture: &Capture,
        cell: &std::cell::Cell<CachedCallsite>,
        address: usize,
        metadata: &'static Metadata<'static>,
    ) -> (CallsiteKind, u32) {
        let kind = kind(metadata);
        let number = if kind == CallsiteKind::Log { 0 } else { self.number(capture, address, kind, metadata) };
        cell.set(CachedCallsite { address, capture: capture.id, number, kind: Some(kind) });
        (kind, number)
    }

    fn number(&self, capture: &Capture, address: usize, kind: CallsiteKind, metadata: &Metadata<'_>) -> u32 {
        let mut numbers = self.numbers.lock();
        if let Some(number) = numbers.get(&address) {
            return *number;
        }
        let mut definition = Vec::new();
        encode_metadata(&mut definition, kind, metadata);
        let next = numbers.len() as u32 + 1;
        let number = if capture.flight.define(next, &definition) { next } else { 0 };
        numbers.insert(address, number);
        number
    }
}

fn kind(metadata: &Metadata<'_>) -> CallsiteKind {
    if metadata.is_span() {
        CallsiteKind::Span
    } else if metadata.target() == "log" && metadata.fields().field("log.target").is_some() {
        CallsiteKind::Log
    } else {
        CallsiteKind::Event
    }
}
