//! A number for each callsite, so that what it knows is told once.
//!
//! The first record of a callsite writes its definition into the flight file; after that each thread finds the number by
//! the address of the callsite's static metadata.

use std::cell::Cell;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tracing_core::Metadata;

use super::{Capture, context};
use crate::{
    record::{CallsiteKind, encode_metadata},
    redaction::FieldRule,
};

/// The callsites that have recorded into one `L0`.
#[derive(Debug, Default)]
pub(crate) struct Callsites {
    numbers: Mutex<FxHashMap<usize, u32>>,
}

impl Callsites {
    /// What is known of the callsite; number 0 means that its definition travels with each record.
    #[inline]
    pub(super) fn find<'c>(
        &self,
        capture: &Capture,
        cell_of: impl FnOnce(usize) -> &'c Cell<CachedCallsite>,
        metadata: &'static Metadata<'static>,
    ) -> Callsite {
        let address = std::ptr::from_ref(metadata).addr();
        let cell = cell_of(address);
        let cached = cell.get();
        if let Some(callsite) = cached.callsite
            && cached.address == address
            && cached.capture == capture.id
        {
            return callsite;
        }
        self.find_shared(capture, cell, address, metadata)
    }

    #[cold]
    fn find_shared(
        &self,
        capture: &Capture,
        cell: &Cell<CachedCallsite>,
        address: usize,
        metadata: &'static Metadata<'static>,
    ) -> Callsite {
        let kind = kind(metadata);
        let number = if kind == CallsiteKind::Log { 0 } else { self.number(capture, address, kind, metadata) };
        let callsite = Callsite {
            number,
            kind,
            has_context: kind == CallsiteKind::Span
                && metadata.fields().iter().any(|field| context::FIELDS.contains(&field.name())),
            rules: Rules::of(capture, metadata),
        };
        cell.set(CachedCallsite { address, capture: capture.id, callsite: Some(callsite) });
        callsite
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

/// What one `L0` knows of a callsite, found by the callsite's address: a thread's cell of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct CachedCallsite {
    address: usize,
    capture: u32,
    callsite: Option<Callsite>,
}

impl CachedCallsite {
    pub(super) const NONE: Self = Self { address: 0, capture: 0, callsite: None };
}

/// What one `L0` knows of a callsite.
#[derive(Clone, Copy, Debug)]
pub(super) struct Callsite {
    /// 0: its definition travels with each record.
    pub(super) number: u32,
    pub(super) kind: CallsiteKind,
    /// Whether it has a field that reaches into the span.
    pub(super) has_context: bool,
    pub(super) rules: Rules,
}

/// Which fields of a callsite hold secrets by their names, and which are allowed to: a bit for each.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rules {
    secret: u64,
    allowed: u64,
    /// There are more fields than bits; those are looked up each time.
    is_wide: bool,
}

impl Rules {
    fn of(capture: &Capture, metadata: &Metadata<'_>) -> Self {
        let mut rules = Self { is_wide: metadata.fields().len() > 64, ..Self::default() };
        for (index, field) in metadata.fields().iter().enumerate().take(64) {
            match capture.redactor.field(field.name()) {
                FieldRule::Checked => {}
                FieldRule::Allowed => rules.allowed |= 1 << index,
                FieldRule::Redacted(_) => rules.secret |= 1 << index,
            }
        }
        rules
    }

    #[inline]
    pub(super) fn is_secret(self, capture: &Capture, field: &tracing_core::Field) -> bool {
        match field.index() {
            index @ 0..64 => self.secret >> index & 1 != 0,
            _ => self.is_wide && matches!(capture.redactor.field(field.name()), FieldRule::Redacted(_)),
        }
    }

    pub(super) fn is_allowed(self, capture: &Capture, field: &tracing_core::Field) -> bool {
        match field.index() {
            index @ 0..64 => self.allowed >> index & 1 != 0,
            _ => self.is_wide && capture.redactor.field(field.name()) == FieldRule::Allowed,
        }
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
