//! Runs [`l0::fuzzing::flight_file`].

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| l0::fuzzing::flight_file(bytes));
