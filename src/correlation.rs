//! Correlation: the id that ties everything of one request, job or session together.
//!
//! A [`CorrelationId`] is the caller's own text, or a UUIDv7 that l0 makes. Spans and events carry it in the field
//! `correlation_id`; what is inside a span inherits it.

use std::{fmt, str::FromStr};

use crate::error::Error;

/// The text that ties records together: 1 to 128 characters from `[A-Za-z0-9._:-]`.
///
/// ```
/// use l0::correlation::CorrelationId;
/// let id: CorrelationId = "order-9".parse()?;
/// assert_eq!(id.as_str(), "order-9");
/// assert!("two words".parse::<CorrelationId>().is_err());
/// # Ok::<(), l0::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CorrelationId(String);

impl CorrelationId {
    /// A fresh UUIDv7.
    pub fn new() -> Self {
        Self(uuid::Uuid::now_v7().to_string())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
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

impl FromStr for CorrelationId {
    type Err = Error;

    /// # Errors
    /// `is_invalid_input` if the text is empty, longer than 128 characters or has another character.
    fn from_str(text: &str) -> Result<Self, Error> {
        if is_valid(text) {
            return Ok(Self(text.to_owned()));
        }
        let shown: String = text.chars().take(40).collect();
        Err(Error::invalid_input(format!(
            "{shown:?} is not a correlation id: use 1 to 128 characters from A-Z a-z 0-9 . _ : -"
        )))
    }
}

/// Whether a text may serve as a correlation id.
pub(crate) fn is_valid(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-'))
}

/// The id of a trace that nobody named: shaped as a UUIDv7, computed from what the root span already has, so that
/// making one costs the recording thread nothing and every reader computes the same.
///
/// RFC 9562 section 5.7: 48 bits of unix milliseconds, then random bits; here a mix of the run's key and the span's id.
pub(crate) fn trace_id(run_key: u64, span_id: u64, started_at_unix_ns: i64) -> [u8; 16] {
    let unix_ms = u64::try_from(started_at_unix_ns / 1_000_000).unwrap_or(0);
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
        let ids: std::collections::HashSet<_> =
            (1..10_000).map(|span| trace_id(7, span, 1_700_000_000_000_000_000)).collect();
        assert_eq!(ids.len(), 9_999);
        let id = uuid::Uuid::from_bytes(trace_id(7, 1, 1_700_000_000_123_000_000));
        assert_eq!(id.get_version_num(), 7);
        assert_eq!(id.get_timestamp().unwrap().to_unix().0, 1_700_000_000);
    }
}
