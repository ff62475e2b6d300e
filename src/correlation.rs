//! Correlation: the id that ties everything of one request, job or session together.
//!
//! A record takes its id from, in this order: its own field `correlation_id`, the nearest span around it that has one, the
//! scope of [`enter`] or [`scope`], a span's field `traceparent`; else the root span makes one. What is inside a span
//! inherits it, and with it `tenant_id` and `actor_id`. A `correlation_id` that is recorded on a root span later names its
//! whole trace. An event outside every span and scope belongs to nothing and has none.
//!
//! ```
//! use l0::correlation::{self, CorrelationId};
//! use tracing_subscriber::prelude::*;
//! # let dir = tempfile::tempdir().unwrap();
//! # let l0 = l0::builder().dir(dir.path()).start()?;
//! # let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(l0.layer()));
//! let id: CorrelationId = "order-9".parse()?;
//! {
//!     let _scope = correlation::enter(id.clone());
//!     tracing::info!("checked out");
//!     let passed_on = correlation::current();
//!     std::thread::spawn(move || {
//!         let _scope = passed_on.map(correlation::enter); // the same id on another thread
//!     });
//! }
//! assert_eq!(l0.events().correlation_id("order-9").count()?, 1);
//! # Ok::<(), l0::Error>(())
//! ```
//!
//! Every id has a W3C trace id of 128 bits: a UUID's own bits, and of any other text its UUIDv5 (RFC 9562) in the
//! namespace [`NAMESPACE`], so that all stores and services agree on it.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::{Error, Result};

mod scope;
mod trace_context;

pub(crate) use scope::{Around, set_around, with_scope};
pub use scope::{Scope, Scoped, enter, scope};
pub(crate) use trace_context::read as read_traceparent;
pub use trace_context::{TraceContext, from_traceparent};

/// The namespace in which a text that is no UUID has its trace id, as UUIDv5.
pub const NAMESPACE: Uuid = Uuid::from_u128(0x6c30_0000_7472_5163_8a6f_7272_656c_6174);

/// The text that ties records together: 1 to 128 characters from `[A-Za-z0-9._:-]`. Cheap to clone.
///
/// ```
/// use l0::correlation::CorrelationId;
/// let id: CorrelationId = "order-9".parse()?;
/// assert_eq!(id.as_str(), "order-9");
/// assert!("two words".parse::<CorrelationId>().is_err());
/// # Ok::<(), l0::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct CorrelationId(Arc<str>);

impl CorrelationId {
    /// A fresh UUIDv7.
    pub fn new() -> Self {
        Self::from(Uuid::now_v7())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The 128 bits that stand for it in a `traceparent` and in the view `spans`, as 32 hexadecimal digits.
    ///
    /// ```
    /// let id: l0::correlation::CorrelationId = "0af7651916cd43dd8448eb211c80319c".parse()?;
    /// assert_eq!(id.trace_id(), id.as_str());
    /// # Ok::<(), l0::Error>(())
    /// ```
    pub fn trace_id(&self) -> String {
        Uuid::from_bytes(trace_id_of(&self.0)).simple().to_string()
    }

    fn parse(text: &str) -> Result<Self> {
        if is_valid(text) {
            return Ok(Self(text.into()));
        }
        let shown: String = text.chars().take(40).collect();
        Err(Error::invalid_input(format!(
            "{shown:?} is not a correlation id: use 1 to 128 characters from A-Z a-z 0-9 . _ : -"
        )))
    }
}

impl Default for CorrelationId {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for CorrelationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for CorrelationId {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl FromStr for CorrelationId {
    type Err = Error;

    /// # Errors
    /// `is_invalid_input` if the text is empty, longer than 128 characters or has another character.
    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

impl TryFrom<&str> for CorrelationId {
    type Error = Error;

    fn try_from(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

impl TryFrom<String> for CorrelationId {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        Self::parse(&text)
    }
}

impl From<CorrelationId> for String {
    fn from(id: CorrelationId) -> Self {
        id.as_str().to_owned()
    }
}

impl From<Uuid> for CorrelationId {
    fn from(id: Uuid) -> Self {
        Self(id.hyphenated().encode_lower(&mut Uuid::encode_buffer()).into())
    }
}

/// The id that a record made here, now, would belong to: that of the span around, else the scope's, else the one that the
/// root span has made; `None` outside of all.
///
/// Spans count if some l0 of this process records them.
pub fn current() -> Option<CorrelationId> {
    let around = scope::around();
    if let Some(Around { correlation_id: Some(id), .. }) = &around {
        return Some(id.clone());
    }
    scope::current_scope().or_else(|| around.map(|around| Uuid::from_bytes(around.trace_id).into()))
}

/// Whether a text may serve as a correlation id.
pub(crate) fn is_valid(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-'))
}

/// The trace id that a text stands for.
pub(crate) fn trace_id_of(text: &str) -> [u8; 16] {
    Uuid::try_parse(text).unwrap_or_else(|_| Uuid::new_v5(&NAMESPACE, text.as_bytes())).into_bytes()
}

/// The id of a trace that nobody named: shaped as a UUIDv7, computed from what the root span already has, so that making
/// one costs the recording thread next to nothing.
///
/// RFC 9562 section 5.7: 48 bits of unix milliseconds, then random bits; here a mix of the run's key and the span's id.
pub(crate) fn trace_id(run_key: u64, span_id: u64, unix_ms: u64) -> [u8; 16] {
    let high = mix(run_key ^ span_id.rotate_left(32));
    let low = mix(high ^ span_id);
    let bits = (u128::from(unix_ms & 0xFFFF_FFFF_FFFF) << 80)
        | (0x7 << 76)
        | (u128::from(high & 0xFFF) << 64)
        | (0b10 << 62)
        | u128::from(low >> 2);
    bits.to_be_bytes()
}

/// The finalizer of SplitMix64: a bijection, so distinct spans of a run keep distinct ids.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_outside_the_alphabet_are_refused() {
        for good in ["a", "order-9", "0af7651916cd43dd8448eb211c80319c", "a.b_c:d", &"x".repeat(128)] {
            assert!(good.parse::<CorrelationId>().is_ok(), "{good}");
        }
        for bad in ["", "two words", "é", "a\n", "a/b", &"x".repeat(129)] {
            let error = bad.parse::<CorrelationId>().unwrap_err();
            assert!(error.is_invalid_input() && error.to_string().contains("128"), "{bad}");
        }
        assert!(is_valid(CorrelationId::new().as_str()));
    }

    #[test]
    fn trace_ids_are_uuid_v7_and_distinct() {
        let ids: std::collections::HashSet<_> = (1..10_000).map(|span| trace_id(7, span, 1_700_000_000_000)).collect();
        assert_eq!(ids.len(), 9_999);
        let id = uuid::Uuid::from_bytes(trace_id(7, 1, 1_700_000_000_123));
        assert_eq!(id.get_version_num(), 7);
        assert_eq!(id.get_timestamp().unwrap().to_unix().0, 1_700_000_000);
    }

    #[test]
    fn a_text_has_one_trace_id_everywhere() {
        let hex = "0af7651916cd43dd8448eb211c80319c";
        let id: CorrelationId = hex.parse().unwrap();
        assert_eq!(id.trace_id(), hex);
        assert_eq!("0af76519-16cd-43dd-8448-eb211c80319c".parse::<CorrelationId>().unwrap().trace_id(), hex);
        // As `uuid.uuid5(NAMESPACE, "order-9")` in Python.
        let id: CorrelationId = "order-9".parse().unwrap();
        assert_eq!(id.trace_id(), "a4f1a107f5e154ab813cd09663de5ccf");
        let read: CorrelationId = serde_json::from_str("\"order-9\"").unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), "\"order-9\"");
        assert!(serde_json::from_str::<CorrelationId>("\"two words\"").is_err());
    }
}
