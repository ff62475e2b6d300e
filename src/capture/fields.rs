//! `tracing`'s visitor: each value goes into the record as what it is.

use std::{error::Error as StdError, fmt};

use tracing_core::field::{Field, Visit};

use super::{Capture, callsite::Rules};
use crate::record::{Encoder, key};

/// Whether a field holds an id, which is hashed rather than redacted.
pub(super) fn is_id(name: &str) -> bool {
    matches!(name, "correlation_id" | "tenant_id" | "actor_id")
}

/// Visits the fields of one record.
pub(super) struct Fields<'a, 'b> {
    encoder: &'a mut Encoder<'b>,
    capture: &'b Capture,
    rules: Rules,
    /// `log.target` and its like have gone into the definition.
    skip_log_place: bool,
}

impl<'a, 'b> Fields<'a, 'b> {
    pub(super) fn new(encoder: &'a mut Encoder<'b>, capture: &'b Capture, rules: Rules) -> Self {
        Self { encoder, capture, rules, skip_log_place: false }
    }

    pub(super) fn without_log_place(self) -> Self {
        Self { skip_log_place: true, ..self }
    }

    #[inline(always)]
    fn key(&self, field: &Field) -> Option<u16> {
        let index = field.index();
        if index >= usize::from(key::FIRST) || self.skip_log_place && field.name().starts_with("log.") {
            return None;
        }
        Some(index as u16)
    }
}

/// Numbers and booleans are no secrets, whatever their name.
macro_rules! visit {
    ($($method:ident($type:ty) => $encode:ident;)*) => {$(
        #[inline]
        fn $method(&mut self, field: &Field, value: $type) {
            if let Some(key) = self.key(field) {
                self.encoder.$encode(key, value);
            }
        }
    )*};
}

/// The value of a secret's field is never formatted.
macro_rules! visit_text {
    ($($method:ident($type:ty) => $encode:ident;)*) => {$(
        #[inline]
        fn $method(&mut self, field: &Field, value: $type) {
            let Some(key) = self.key(field) else { return };
            if self.rules.is_secret(self.capture, field) {
                return self.encoder.redacted(key);
            }
            if self.capture.redactor.is_strict() {
                let is_allowed = self.rules.is_allowed(self.capture, field);
                self.encoder.set_strict(self.capture.strict(is_allowed, is_id(field.name())));
            }
            self.encoder.$encode(key, value);
        }
    )*};
}

impl Visit for Fields<'_, '_> {
    visit! {
        record_bool(bool) => bool;
        record_i64(i64) => i64;
        record_u64(u64) => u64;
        record_f64(f64) => f64;
        record_i128(i128) => i128;
        record_u128(u128) => u128;
    }
    visit_text! {
        record_str(&str) => text;
        record_bytes(&[u8]) => bytes;
        record_debug(&dyn fmt::Debug) => debug;
        record_error(&(dyn StdError + 'static)) => error;
    }
}
