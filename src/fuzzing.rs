//! What fuzzers call: hostile bytes in the place of what a dead process left. Only in builds with `--cfg fuzzing` and in tests.
//!
//! `fuzz/` has the targets; their corpus is replayed by the tests below.

use crate::{
    flight::{Image, damage_a_lane},
    record::{Definition, Kind, LimitTally, Record},
};

/// The bytes are a flight file. Whatever they are, reading them ends, allocates no more than they need, and panics nowhere.
pub fn flight_file(bytes: &[u8]) {
    let Some(image) = Image::of(bytes.to_vec()) else { return };
    let remains = image.records(&[(64, 1), (u64::MAX, u64::MAX)]);
    let timeline = image.timeline();
    for left in &remains.records {
        let _ = timeline.at(left.stamp);
        record(&left.body);
    }
    image.definitions(|_, definition| _ = Definition::decode(definition));
    assert!(image.shed_counts().all(|(.., count)| count <= 1 << 48));
}

/// The bytes are the body of a record, and a definition.
pub fn record(bytes: &[u8]) {
    let _ = Definition::decode(bytes);
    let Ok(mut record) = Record::decode(bytes) else { return };
    if record.head.kind == Kind::Limit {
        let _ = LimitTally::decode(&mut record);
        return;
    }
    while let Ok(Some(_)) = record.next_field() {}
}

/// The bytes say which records a lane has and how they are damaged. Those that are whole are found, and every counted record is
/// either found or counted as damaged.
pub fn damaged_lane(bytes: &[u8]) {
    damage_a_lane(bytes);
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_corpus_of_each_target_is_harmless() {
        type Target = (&'static str, fn(&[u8]));
        let targets: [Target; 3] = [("flight_file", flight_file), ("record", record), ("damaged_lane", damaged_lane)];
        for (target, run) in targets {
            let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
            let entries: Vec<_> = std::fs::read_dir(&corpus).unwrap().collect();
            assert!(!entries.is_empty(), "{}", corpus.display());
            entries.into_iter().for_each(|entry| run(&std::fs::read(entry.unwrap().path()).unwrap()));
        }
    }
}
