//! The W3C `traceparent` header, in and out (Trace Context, level 2).

use uuid::Uuid;

use super::{Around, CorrelationId, scope, trace_id_of};
use crate::error::{Error, Result};

/// A place in a trace that crosses processes: trace id, span id, flags.
///
/// ```
/// use l0::correlation::{self, TraceContext};
/// let incoming = correlation::from_traceparent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")?;
/// let _scope = correlation::enter(incoming.correlation_id());
/// let outgoing = TraceContext::current().unwrap();
/// assert_eq!(outgoing.trace_id(), incoming.trace_id());
/// println!("traceparent: {}", outgoing.traceparent());
/// # Ok::<(), l0::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceContext {
    trace_id: [u8; 16],
    span_id: u64,
    flags: u8,
}

const SAMPLED: u8 = 1;

/// Reads a `traceparent` header. A later version's is read as far as version 00 goes, as the recommendation asks.
///
/// # Errors
/// `is_invalid_input` for anything else than `version-traceid-parentid-flags` in lower-case hexadecimal, for ids of
/// zeros and for version `ff`.
pub fn from_traceparent(header: &str) -> Result<TraceContext> {
    read(header).ok_or_else(|| {
        let shown: String = header.chars().take(60).collect();
        Error::invalid_input(format!(
            "{shown:?} is not a traceparent: it reads 00-<32 hex digits>-<16 hex digits>-<2 hex digits>, in lower case, \
             ids not all zero"
        ))
    })
}

pub(crate) fn read(header: &str) -> Option<TraceContext> {
    let header = header.trim_matches([' ', '\t']);
    let part = |range: std::ops::Range<usize>| {
        let part = header.get(range)?;
        part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')).then_some(part)
    };
    let dashes = [2, 35, 52].iter().all(|at| header.as_bytes().get(*at) == Some(&b'-'));
    let version = u8::from_str_radix(part(0..2)?, 16).ok()?;
    let ends_well = match version {
        0 => header.len() == 55,
        0xFF => false,
        _ => header.len() == 55 || header.as_bytes().get(55) == Some(&b'-'),
    };
    let trace_id = u128::from_str_radix(part(3..35)?, 16).ok()?;
    let span_id = u64::from_str_radix(part(36..52)?, 16).ok()?;
    let flags = u8::from_str_radix(part(53..55)?, 16).ok()?;
    (dashes && ends_well && trace_id != 0 && span_id != 0).then_some(TraceContext {
        trace_id: trace_id.to_be_bytes(),
        span_id,
        flags,
    })
}

impl TraceContext {
    /// The place this thread is at, to be sent along with a request: the trace of the current span or scope, and the
    /// span. `None` outside of both. In the view `spans` it is `trace_id` and `w3c_span_id`.
    pub fn current() -> Option<Self> {
        let around = scope::around();
        let in_scope = scope::current_scope().map(|id| trace_id_of(id.as_str()));
        let (trace_id, span_id) = match (around, in_scope) {
            (Some(Around { correlation_id: None, span_id, .. }), Some(trace_id)) => (trace_id, span_id),
            (Some(Around { trace_id, span_id, .. }), _) => (trace_id, span_id),
            // No span to name: a parent that nobody has.
            (None, Some(trace_id)) => (trace_id, Uuid::new_v4().as_u64_pair().1),
            (None, None) => return None,
        };
        Some(Self { trace_id, span_id: span_id.max(1), flags: SAMPLED })
    }

    /// The header's value, in version 00.
    pub fn traceparent(&self) -> String {
        format!("00-{}-{:016x}-{:02x}", self.trace_id(), self.span_id, self.flags)
    }

    /// The trace id, 32 hexadecimal digits.
    pub fn trace_id(&self) -> String {
        Uuid::from_bytes(self.trace_id).simple().to_string()
    }

    pub(crate) fn trace_uuid(&self) -> Uuid {
        Uuid::from_bytes(self.trace_id)
    }

    /// The span id, 16 hexadecimal digits.
    pub fn span_id(&self) -> String {
        format!("{:016x}", self.span_id)
    }

    /// Whether the caller records this trace. l0 records in either case.
    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// The id under which what happens here belongs to that trace: its trace id.
    pub fn correlation_id(&self) -> CorrelationId {
        CorrelationId(self.trace_id().into())
    }
}

impl From<TraceContext> for CorrelationId {
    fn from(context: TraceContext) -> Self {
        context.correlation_id()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_traceparent_goes_round() {
        let context = from_traceparent(GOOD).unwrap();
        assert_eq!(context.traceparent(), GOOD);
        assert!(context.is_sampled());
        assert_eq!(context.correlation_id().trace_id(), "0af7651916cd43dd8448eb211c80319c");
        let later = from_traceparent(&format!("01{}-what-the-future-brings", &GOOD[2..])).unwrap();
        assert_eq!(later, context);
        assert!(from_traceparent(&format!(" {GOOD}\t")).is_ok());
    }

    #[test]
    fn what_is_no_traceparent_is_refused() {
        for bad in [
            "",
            "00",
            &GOOD.to_uppercase(),
            &GOOD[..54],
            &format!("{GOOD}-more"),
            &format!("{GOOD}0"),
            &format!("ff{}", &GOOD[2..]),
            &format!("01{}x", &GOOD[2..]),
            &GOOD.replace('-', "_"),
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319ç-b7ad6b716920333-01",
            "+0-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            let error = from_traceparent(bad).unwrap_err();
            assert!(error.is_invalid_input() && error.to_string().contains("traceparent"), "{bad}");
        }
    }

    #[test]
    fn the_way_out_is_the_scope_when_there_is_no_span() {
        assert_eq!(TraceContext::current(), None);
        let _scope = scope::enter("order-9".parse().unwrap());
        let context = TraceContext::current().unwrap();
        assert_eq!(context.trace_id(), "order-9".parse::<CorrelationId>().unwrap().trace_id());
        assert!(from_traceparent(&context.traceparent()).is_ok());
    }
}
