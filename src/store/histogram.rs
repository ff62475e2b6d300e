//! Durations counted in buckets of at most 6 % width, mergeable by addition.
//!
//! Sixteen linear buckets to each power of two, as in HdrHistogram with one significant hexadecimal digit: a bucket's
//! middle is within 3.1 % of everything in it.

/// Counts by bucket, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Histogram {
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

/// The middle of a bucket.
fn middle(bucket: u16) -> u64 {
    let (power, sub) = (u32::from(bucket) >> SUB_BITS, u64::from(bucket) & ((1 << SUB_BITS) - 1));
    match power {
        0 => sub,
        power => {
            let width = 1_u64 << (power - 1);
            ((1 << SUB_BITS) + sub).saturating_mul(width).saturating_add(width / 2)
        }
    }
}

impl Histogram {
    /// The duration, in nanoseconds, that this share of all does not exceed, within 3.1 %: by the nearest rank. 0 if there
    /// is none.
    pub(crate) fn quantile(&self, share: f64) -> u64 {
        let count: u64 = self.buckets.iter().map(|(_, count)| count).sum();
        let rank = ((count as f64 * share).ceil() as u64).max(1);
        let mut passed = 0;
        for (bucket, count) in &self.buckets {
            passed += count;
            if passed >= rank {
                return middle(*bucket);
            }
        }
        0
    }

    pub(super) fn add(&mut self, ns: u64) {
        self.add_many(bucket(ns), 1);
    }

    pub(crate) fn merge(&mut self, other: &Self) {
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
    pub(crate) fn decode(bytes: &[u8]) -> Self {
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
        fn quantiles_are_within_five_percent(mut values in prop::collection::vec(1_u64..(1 << 50), 1..300), share in 0.01_f64..1.0) {
            let mut histogram = Histogram::default();
            values.iter().for_each(|ns| histogram.add(*ns));
            values.sort_unstable();
            let rank = ((values.len() as f64 * share).ceil() as usize).max(1);
            let (exact, found) = (values[rank - 1] as f64, histogram.quantile(share) as f64);
            prop_assert!((found - exact).abs() <= exact * 0.05, "{} for {}", found, exact);
        }

        #[test]
        fn decoding_garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = Histogram::decode(&bytes);
        }
    }
}
