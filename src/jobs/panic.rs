//! A handler that panics ends its attempt, not its thread; what it said is kept with the place and the backtrace.

use std::{
    any::Any,
    backtrace::Backtrace,
    cell::{Cell, RefCell},
    panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook, take_hook},
    sync::Once,
};

/// A backtrace is cut here.
const BACKTRACE_BYTES_MAX: usize = 6 << 10;

thread_local! {
    /// A handler runs on this thread.
    static IS_CATCHING: Cell<bool> = const { Cell::new(false) };
    static CAUGHT: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs `f`; a panic becomes its message, place and backtrace.
pub(crate) fn catch<R>(f: impl FnOnce() -> R) -> Result<R, String> {
    watch();
    let outer = IS_CATCHING.replace(true);
    // One that the application caught itself is none of this run.
    CAUGHT.take();
    let outcome = catch_unwind(AssertUnwindSafe(f));
    IS_CATCHING.set(outer);
    outcome.map_err(|payload| {
        let caught = CAUGHT.take();
        let message = caught.unwrap_or_else(|| said(&*payload).to_owned());
        discard(payload);
        message
    })
}

/// Drops what a panic, or a job, left; that may itself panic.
pub(crate) fn discard<T>(left: T) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(left))) {
        // Its own drop is not trusted any more.
        std::mem::forget(payload);
    }
}

/// Only the panic hook sees the place and the stack: it is chained once, and looks at threads that run a handler.
fn watch() {
    static WATCH: Once = Once::new();
    // Set while a panic is under way, a hook would be a second panic.
    if !WATCH.is_completed() && !std::thread::panicking() {
        WATCH.call_once(|| {
            let previous = take_hook();
            set_hook(Box::new(move |info| {
                if IS_CATCHING.try_with(Cell::get).unwrap_or(false) {
                    let _ = CAUGHT.try_with(|caught| caught.replace(Some(describe(info))));
                }
                previous(info);
            }));
        });
    }
}

fn describe(info: &PanicHookInfo<'_>) -> String {
    let mut text = info.payload_as_str().unwrap_or("the panic's payload is not text").to_owned();
    if let Some(place) = info.location() {
        text.push_str(&format!(" at {place}"));
    }
    let mut backtrace = Backtrace::force_capture().to_string();
    backtrace.truncate(backtrace.floor_char_boundary(BACKTRACE_BYTES_MAX));
    text.push('\n');
    text.push_str(&backtrace);
    text
}

fn said(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("the panic's payload is not text")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_told_with_its_place_and_backtrace() {
        assert_eq!(catch(|| 7), Ok(7));
        let told = catch(|| panic!("no {}", "paper")).unwrap_err();
        let first = told.lines().next().unwrap();
        assert!(first.starts_with("no paper at src") && first.contains("panic.rs"), "{first}");
        assert!(told.lines().count() > 3 && told.len() < BACKTRACE_BYTES_MAX + 1_000);
    }

    #[test]
    fn a_payload_whose_drop_panics_is_survived() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("again");
            }
        }
        assert!(catch(|| std::panic::panic_any(Bomb)).is_err());
        assert_eq!(catch(|| 7), Ok(7), "and the thread goes on");
    }
}
