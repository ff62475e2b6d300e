//! Runs [`l0::fuzzing::damaged_lane`].

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| l0::fuzzing::damaged_lane(bytes));
