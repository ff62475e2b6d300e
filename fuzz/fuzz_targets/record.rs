//! Runs [`l0::fuzzing::record`].

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| l0::fuzzing::record(bytes));
