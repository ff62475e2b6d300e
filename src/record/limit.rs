//! What a limit let pass and refused since it last told.

use super::{Caps, Encoder, Head, Kind, Malformed, Record, Value};
use crate::event::Severity;

/// Of one scope, or of one key of it, within one minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LimitTally<'a> {
    pub(crate) scope: &'a str,
    /// Empty for the whole scope.
    pub(crate) key: &'a str,
    /// The minute's beginning, in unix seconds.
    pub(crate) minute_s: i64,
    /// Charges that passed, that were refused, that would have been but for a dry run; tokens of those that passed.
    pub(crate) counts: [i64; 4],
}

const SCOPE: u16 = super::key::FIRST + 0x20;
const KEY: u16 = SCOPE + 1;
const MINUTE: u16 = SCOPE + 2;
/// What a timestamp in nanoseconds can hold.
const SECONDS_MAX: u64 = i64::MAX as u64 / 1_000_000_000;
/// The first of four.
const COUNTS: u16 = SCOPE + 3;

impl<'a> LimitTally<'a> {
    pub(crate) const HEAD: Head =
        Head { kind: Kind::Limit, severity: Severity::Info, flags: 0, callsite: 0, span: 0, other: 0 };

    pub(crate) fn encode(&self, out: &mut Vec<u8>, caps: Caps) {
        let mut encoder = Encoder::new(out, caps, Self::HEAD);
        encoder.text(SCOPE, self.scope);
        encoder.text(KEY, self.key);
        encoder.i64(MINUTE, self.minute_s);
        for (key, count) in (COUNTS..).zip(self.counts) {
            encoder.i64(key, count);
        }
        encoder.finish();
    }

    pub(crate) fn decode(record: &mut Record<'a>) -> Result<Self, Malformed> {
        let mut tally = Self { scope: "", key: "", minute_s: 0, counts: [0; 4] };
        while let Some((key, value)) = record.next_field()? {
            match (key, value) {
                (SCOPE, Value::Text(text)) => tally.scope = text,
                (KEY, Value::Text(text)) => tally.key = text,
                // No clock is so far away, and rounding to a minute or an hour would overflow.
                (MINUTE, Value::I64(seconds)) if seconds.unsigned_abs() > SECONDS_MAX => return Err(Malformed),
                (MINUTE, Value::I64(seconds)) => tally.minute_s = seconds.div_euclid(60) * 60,
                (COUNTS.., Value::I64(count)) => {
                    if let Some(place) = tally.counts.get_mut(usize::from(key - COUNTS)) {
                        *place = count;
                    }
                }
                _ => {}
            }
        }
        Ok(tally)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tally_comes_back_as_it_went() {
        let tally =
            LimitTally { scope: "api", key: "hashed:0a", minute_s: 1_700_000_040, counts: [1, i64::MAX, 0, -7] };
        let mut bytes = Vec::new();
        tally.encode(&mut bytes, Caps { field_bytes: 1 << 10, record_bytes: 1 << 12, fields: 64 });
        let mut record = Record::decode(&bytes).unwrap();
        assert_eq!(LimitTally::decode(&mut record), Ok(tally));
    }

    #[test]
    fn a_minute_that_no_clock_reaches_is_malformed() {
        for minute_s in [i64::MIN, i64::MAX] {
            let mut bytes = Vec::new();
            LimitTally { scope: "api", key: "", minute_s, counts: [0; 4] }
                .encode(&mut bytes, Caps { field_bytes: 1 << 10, record_bytes: 1 << 12, fields: 64 });
            assert_eq!(LimitTally::decode(&mut Record::decode(&bytes).unwrap()), Err(Malformed));
        }
    }
}
