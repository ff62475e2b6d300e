//! What fuzzers call: hostile bytes in the place of what a dead process left. Only in builds with `--cfg fuzzing` and in tests.
//!
//! `fuzz/` has the targets; their corpus is replayed by the tests below.

use crate::{
    flight::{Image, damage_a_lane, reseal},
    record::{Definition, Kind, LimitTally, Record, Value},
};

/// What the database knows of the first two lanes: a small position, and the largest one.
const COMMITTED: [(u64, u64); 2] = [(64, 1), (u64::MAX, u64::MAX)];

/// The bytes are a flight file. Whatever they are, reading them ends, allocates no more than they need, and panics nowhere.
pub fn flight_file(bytes: &[u8]) {
    let Some(image) = Image::of(bytes.to_vec()) else { return };
    let remains = image.records(&COMMITTED);
    let timeline = image.timeline();
    for left in &remains.records {
        let _ = timeline.at(left.stamp);
        record(&left.body);
    }
    assert!(remains.records.is_sorted_by_key(|left| left.stamp));
    let found_bytes: usize = remains.records.iter().map(|left| left.body.len()).sum();
    assert!(found_bytes < bytes.len(), "{found_bytes} bytes of records in {} of the file", bytes.len());
    assert!(remains.damaged <= bytes.len() as u64 / 8, "{} damaged records in {} bytes", remains.damaged, bytes.len());
    assert_eq!(remains.starts.len(), remains.ends.len());
    image.definitions(|_, definition| _ = Definition::decode(definition));
    assert!(image.shed_counts().all(|(.., count)| count <= 1 << 48));
}

/// As [`flight_file`], but the checks of the bytes are made right first: mutations reach the code behind them.
pub fn flight_file_resealed(bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    reseal(&mut bytes, &COMMITTED);
    flight_file(&bytes);
}

/// The bytes are the body of a record, and a definition.
pub fn record(bytes: &[u8]) {
    let _ = Definition::decode(bytes);
    let Ok(mut record) = Record::decode(bytes) else { return };
    if record.head.kind == Kind::Limit {
        let _ = LimitTally::decode(&mut record);
        return;
    }
    let mut text = String::new();
    while let Ok(Some((_, value))) = record.next_field() {
        value.write_text(&mut text);
        if let Value::Error { sources, .. } = value {
            text.extend(sources);
        }
    }
    // No value grows more than a float: at most 330 bytes of text from the 11 of its field.
    assert!(text.len() <= 32 * bytes.len() + 64, "{} bytes of text from {}", text.len(), bytes.len());
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
        let targets: [Target; 4] = [
            ("flight_file", flight_file),
            ("flight_file_resealed", flight_file_resealed),
            ("record", record),
            ("damaged_lane", damaged_lane),
        ];
        for (target, run) in targets {
            let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
            let entries: Vec<_> = std::fs::read_dir(&corpus).unwrap().collect();
            assert!(!entries.is_empty(), "{}", corpus.display());
            entries.into_iter().for_each(|entry| run(&std::fs::read(entry.unwrap().path()).unwrap()));
        }
    }
}
