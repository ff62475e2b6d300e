//! The process's own subscriber: `init` as a program uses it. Re-entrancy is different here than with a scoped
//! subscriber, which guards against it; so this binary has one test, which owns the process.

mod support;

use std::{fmt, sync::Mutex};

use support::{texts, wait_for};
use tracing::{error, info, info_span};

/// A `Debug` that logs and opens spans while it is being recorded.
struct Chatty(u32);

impl fmt::Debug for Chatty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let _span = info_span!("inside debug", depth = self.0).entered();
        info!(depth = self.0, "from inside debug");
        if self.0 > 0 {
            info!(nested = ?Chatty(self.0 - 1), "nested");
        }
        write!(f, "chatty {}", self.0)
    }
}

#[derive(Debug)]
struct Panics;

impl fmt::Display for Panics {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("while it is displayed")
    }
}

#[test]
fn init_in_the_life_of_a_process() {
    let dir = tempfile::tempdir().unwrap();
    let _env = EnvGuard::set(&[("L0_DIR", dir.path().to_str().unwrap()), ("RUST_LOG", "global=debug,nonsense=loud")]);
    static HOOK: Mutex<Vec<String>> = Mutex::new(Vec::new());
    std::panic::set_hook(Box::new(|info| HOOK.lock().unwrap().push(info.to_string())));

    assert!(l0::get().is_none());
    let l0 = l0::init().unwrap();
    assert_eq!(l0.dir(), dir.path());
    assert_eq!(l0::get().unwrap().dir(), dir.path());
    assert_eq!(l0.events().event_type("l0.config").count().unwrap(), 1, "a bad $RUST_LOG is recorded, not fatal");

    // A second init, and a second install.
    let error = l0::init().unwrap_err();
    assert!(error.is_already_initialized() && error.to_string().contains("l0::get()"), "{error}");

    // Re-entrancy.
    info!(value = ?Chatty(3), "outer");
    assert_eq!(
        texts(
            &l0.sql(
                "SELECT count(*), count(DISTINCT fields ->> 'depth') FROM logs WHERE message = 'from inside debug'",
                &[]
            )
            .unwrap()
        ),
        [["4", "4"]]
    );
    assert_eq!(l0.events().message("outer").field("value", "chatty 3").count().unwrap(), 1);
    let span = info_span!("recorded late", value = tracing::field::Empty);
    span.record("value", tracing::field::debug(Chatty(0)));
    drop(span);
    assert_eq!(
        texts(&l0.sql("SELECT payload FROM spans WHERE name = 'recorded late'", &[]).unwrap()),
        [[r#"{"value":"chatty 0"}"#]]
    );

    // A user's formatting that panics harms nobody; the hook records it.
    info!(value = %Panics, fine = 1, "with a broken field");
    let event = l0.events().message("with a broken field").fetch().unwrap().items.remove(0);
    assert_eq!(event.field("value"), Some("[panicked while formatting]".into()));
    assert_eq!(event.field("fine"), Some(1.into()));

    // Records of the log crate, with their own target and line.
    let line = line!() + 1;
    log::warn!(target: "old::library", "from {}", "log");
    let event = l0.events().message("from log").fetch().unwrap().items.remove(0);
    assert_eq!(
        (event.source.as_str(), event.file.as_deref(), event.payload.as_str()),
        ("old::library", Some("tests/global.rs"), "{}")
    );
    assert_eq!(event.line, Some(line));

    // A panic in a thread becomes a critical event with its span's context, and the previous hook runs.
    let thread = std::thread::Builder::new().name("worker-7".into());
    let joined = thread.spawn(|| {
        let _span = info_span!("doomed", correlation_id = "order-9").entered();
        panic!("out of paper");
    });
    assert!(joined.unwrap().join().is_err());
    let event = l0.events().event_type("panic").message("out of paper").fetch().unwrap().items.remove(0);
    assert_eq!((event.severity, event.correlation_id.as_deref()), (l0::Severity::Critical, Some("order-9")));
    assert_eq!(event.field("thread"), Some("worker-7".into()));
    assert!(event.field("location").unwrap().to_string().starts_with("tests/global.rs:"));
    assert!(event.field("backtrace").unwrap().to_string().contains("global"));
    assert_eq!(HOOK.lock().unwrap().len(), 2);

    // The filter at run time.
    tracing::debug!("debug is off: the environment's filter was bad, info is used");
    l0.set_filter("debug").unwrap();
    tracing::debug!("debug is on");
    assert_eq!(l0.events().message("debug is").count().unwrap(), 1);
    log::debug!("and for log, too");
    assert_eq!(l0.events().message("and for log, too").count().unwrap(), 1);

    // A forgotten owner loses nothing: recording goes on.
    drop(l0);
    error!("after the owner");
    let handle = l0::get().unwrap();
    assert_eq!(handle.events().message("after the owner").count().unwrap(), 1);
    wait_for("nothing to be lost", || {
        let stats = handle.stats();
        handle.flush().is_ok() && stats.recorded == stats.stored + stats.shed
    });
    assert!(handle.stats().shed == 0 && handle.flush().is_ok());
}

/// Environment variables of this process, set before any thread starts.
struct EnvGuard;

impl EnvGuard {
    #[allow(unsafe_code)]
    fn set(variables: &[(&str, &str)]) -> Self {
        for (name, value) in variables {
            // SAFETY: the only test of this binary calls this first; the harness's main thread only waits.
            unsafe { std::env::set_var(name, value) };
        }
        Self
    }
}
