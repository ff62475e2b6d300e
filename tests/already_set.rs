//! A subscriber is already set: l0 says so, tells what to do, and the program goes on. This binary has one test.

use std::time::Duration;

use tracing::info;

#[test]
fn install_beside_another_subscriber() {
    let dir = tempfile::tempdir().unwrap();
    tracing::subscriber::set_global_default(tracing_subscriber::registry()).unwrap();
    let error = l0::builder().dir(dir.path()).install().unwrap_err();
    assert!(error.is_already_initialized() && error.to_string().contains("l0.layer()"), "{error}");
    assert!(l0::get().is_none());
    info!("the program goes on");
    let l0 = l0::builder().dir(dir.path()).start().unwrap();
    l0.record(l0::TelemetryEvent::new("still.possible"));
    assert_eq!(l0.events().count().unwrap(), 1);
    l0.shutdown(Duration::from_secs(10)).unwrap();
}
