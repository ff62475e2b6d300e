//! The panic hook of `init`: a panic becomes a critical event, then the previous hook runs.

use std::{
    backtrace::Backtrace,
    panic::{PanicHookInfo, set_hook, take_hook},
    sync::Arc,
};

use super::Capture;
use crate::event::{Severity, TelemetryEvent};

/// A backtrace is cut here, so that the event keeps its other parts.
const BACKTRACE_BYTES_MAX: usize = 6 << 10;

/// Records every panic of the process from now on.
pub(crate) fn install_hook(capture: Arc<Capture>) {
    let previous = take_hook();
    set_hook(Box::new(move |info| {
        record(&capture, info);
        previous(info);
    }));
}

fn record(capture: &Capture, info: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let message = info.payload_as_str().unwrap_or("the panic's payload is not text");
    let mut backtrace = Backtrace::force_capture().to_string();
    backtrace.truncate(backtrace.floor_char_boundary(BACKTRACE_BYTES_MAX));
    capture.direct(
        &TelemetryEvent::new("panic")
            .source(thread.name().unwrap_or("unnamed thread"))
            .severity(Severity::Critical)
            .category("panic")
            .message(message)
            .payload(&serde_json::json!({
                "thread": thread.name(),
                "location": info.location().map(ToString::to_string),
                "backtrace": backtrace,
            })),
    );
    // Elsewhere a panic ends a thread, which the program may well survive.
    if thread.name() == Some("main") || cfg!(panic = "abort") {
        capture.flight.mark_panicked(true);
    }
}
