//! Runs [`l0::fuzzing::flight_file_resealed`].

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| l0::fuzzing::flight_file_resealed(bytes));
