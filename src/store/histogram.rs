//! Durations counted in buckets of at most 6 % width, mergeable by addition.
//!
//! Sixteen linear buckets to each power of two, as in HdrHistogram with one significant hexadecimal digit: a bucket's
//! middle is within 3.1 % of everything in it.

/// Counts by bucket, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Histogram {
    buckets: Vec<(u16, u64)>,
}

const SUB_BITS: u32 = 4;

fn bucket(ns: u64) -> u16 {
    let exponent = 63 - (ns | 1).leading_zeros();
    if exponent < SUB_BITS {
        return ns as u16;
    }
    let sub = (ns >> (exponent - SUB_BITS)) & ((1 << SUB_BITS) - 1);
    (((exponent - SUB_BITS + 1) << SUB_BITS) as u64 + sub) as u16
}

impl Histogram {
    pub(super) fn add(&mut self, ns: u64) {
        self.add_many(bucket(ns), 1);
    }

    pub(super) fn merge(&mut self, other: &Self) {
        for (bucket, count) in &other.buckets {
            self.add_many(*bucket, *count);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.buckets.is_empty()
    }

    fn add_many(&mut self, bucket: u16, count: u64) {
        match self.buckets.binary_search_by_key(&bucket, |(bucket, _)| *bucket) {
            Ok(index) => self.buckets[index].1 += count,
            Err(index) => self.buckets.insert(index, (bucket, count)),
        }
    }

    /// Bucket (as the step from the one before) and count, alternately, as LEB128.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.buckets.len() * 3);
        let mut last = 0;
        for (bucket, count) in &self.buckets {
            leb128(&mut out, u64::from(bucket - last));
            leb128(&mut out, *count);
            last = *bucket;
        }
        out
    }

    /// What does not parse ends the histogram.
    pub(super) fn decode(bytes: &[u8]) -> Self {
        let mut histogram = Self::default();
        let mut rest = bytes;
        let mut last = 0_u16;
        while let (Some(step), Some(count)) = (read_leb128(&mut rest), read_leb128(&mut rest)) {
            let Some(bucket) = u16::try_from(step).ok().and_then(|step| last.checked_add(step)) else { break };
            histogram.add_many(bucket, count);
            last = bucket;
        }
        histogram
    }
}

fn leb128(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn read_leb128(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn buckets_rise_and_are_narrow(ns in 16_u64..(1 << 62)) {
            prop_assert!(bucket(ns + 1) == bucket(ns) || bucket(ns + 1) == bucket(ns) + 1);
            let wider = ns + ns / 15 + 1;
            prop_assert!(bucket(wider) > bucket(ns), "{} and {} share a bucket", ns, wider);
        }

        #[test]
        fn encoding_and_merging_lose_nothing(a in prop::collection::vec(any::<u64>(), 0..80), b in prop::collection::vec(any::<u64>(), 0..80)) {
            let of = |values: &[u64]| {
                let mut histogram = Histogram::default();
                values.iter().for_each(|ns| histogram.add(*ns));
                histogram
            };
            let mut merged = Histogram::decode(&of(&a).encode());
            merged.merge(&Histogram::decode(&of(&b).encode()));
            prop_assert_eq!(merged, of(&[a, b].concat()));
        }

        #[test]
        fn decoding_garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = Histogram::decode(&bytes);
        }
    }
}
