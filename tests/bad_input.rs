//! Wrong settings and broken surroundings: an error that names the thing and says what to do, and the program goes on.

mod support;

use std::{fs, path::Path};

use l0::query::Reader;
use support::builder;

fn refused(dir: &Path, hints: &[&str]) {
    let error = builder(dir).start().expect_err("this directory cannot be used");
    let text = error.to_string();
    assert!(error.is_storage(), "{text}");
    for hint in hints {
        assert!(text.contains(hint), "{text:?} does not say {hint:?}");
    }
    assert!(text.contains(dir.to_str().unwrap()), "{text:?} does not name {}", dir.display());
}

#[test]
fn a_directory_that_is_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "kept").unwrap();
    refused(&file, &["a file stands where a directory is needed"]);
    refused(&file.join("below"), &["a file stands where a directory is needed"]);
    assert_eq!(fs::read_to_string(file).unwrap(), "kept");
}

#[cfg(target_os = "linux")]
#[test]
fn a_directory_that_cannot_be_created_or_written() {
    // /proc refuses even root.
    refused(Path::new("/proc/l0-test/store"), &["cannot create the store's directory"]);
    refused(Path::new("/proc/self"), &["cannot create"]);
}

#[test]
fn a_store_of_a_newer_schema_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    drop(builder(dir.path()).start().unwrap());
    let database = rusqlite::Connection::open(dir.path().join("telemetry.db")).unwrap();
    database.execute_batch("PRAGMA user_version = 99").unwrap();
    drop(database);
    refused(dir.path(), &["schema 99", "a later one"]);
    assert!(Reader::open(dir.path()).unwrap_err().to_string().contains("schema 99"));
    assert_eq!(fs::read_dir(dir.path().join("flight")).unwrap().count(), 0, "nothing is left behind");
}

#[test]
fn a_database_of_another_program_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("telemetry.db");
    rusqlite::Connection::open(&path).unwrap().execute_batch("CREATE TABLE theirs (x)").unwrap();
    let before = fs::read(&path).unwrap();
    refused(dir.path(), &["another program"]);
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn what_only_has_the_name_of_a_database_is_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let text = "this is not a database, it only has the name of one".repeat(100);
    fs::write(dir.path().join("telemetry.db"), &text).unwrap();
    drop(builder(dir.path()).start().unwrap());
    let [aside] = &l0::inspect(dir.path()).unwrap().set_aside[..] else { panic!("one file") };
    assert_eq!(fs::read_to_string(aside).unwrap(), text);
    let error = l0::salvage(aside, dir.path().join("salvaged")).unwrap_err();
    assert!(error.is_storage() && error.to_string().contains("telemetry.damaged"), "{error}");
}

#[test]
fn a_directory_without_a_store() {
    let dir = tempfile::tempdir().unwrap();
    for error in [Reader::open(dir.path()).unwrap_err(), l0::recover(dir.path()).unwrap_err()] {
        assert!(error.is_storage() && error.to_string().contains("no l0 store"), "{error}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "looking creates nothing");
}

#[test]
fn flight_files_that_are_none_are_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    drop(builder(dir.path()).start().unwrap());
    let flight = dir.path().join("flight");
    fs::write(flight.join("torn.flight"), vec![7; 10_000]).unwrap();
    fs::write(flight.join("empty.flight"), "").unwrap();
    let secret = dir.path().join("secret");
    fs::write(&secret, "not ours to touch").unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink(&secret, flight.join("link.flight")).unwrap();
    let l0 = builder(dir.path()).start().unwrap();
    assert_eq!((l0.recovered().runs, l0.recovered().unreadable), (0, 2));
    assert_eq!(l0.events().event_type("l0.recovery").count().unwrap(), 1);
    assert!(flight.join("torn.unreadable").exists() && flight.join("empty.unreadable").exists());
    assert_eq!(fs::read_to_string(secret).unwrap(), "not ours to touch");
}

#[test]
fn filters_and_settings_that_make_no_sense() {
    const HOUR: std::time::Duration = std::time::Duration::from_secs(3600);
    let keep = l0::Retention::default;
    let dir = tempfile::tempdir().unwrap();
    for (error, hint) in [
        (builder(dir.path()).filter("shop=verbose").start().unwrap_err(), "shop=verbose"),
        (builder(dir.path()).filter("warning").start().unwrap_err(), "did you mean \"warn\""),
        (builder(dir.path()).default_filter("a=b=c").start().unwrap_err(), "a=b=c"),
        (builder(dir.path()).buffer_bytes(1).start().unwrap_err(), "buffer_bytes(1)"),
        (builder(dir.path()).commit_every(std::time::Duration::ZERO).start().unwrap_err(), "commit_every"),
        (builder(dir.path()).retention(keep().max_bytes(1 << 20)).start().unwrap_err(), "max_bytes(1048576)"),
        (builder(dir.path()).retention(keep().max_bytes(u64::MAX)).start().unwrap_err(), "16 TiB"),
        (builder(dir.path()).retention(keep().max_age(std::time::Duration::ZERO)).start().unwrap_err(), "max_age(0)"),
        (
            builder(dir.path()).retention(keep().max_age_of_warnings(std::time::Duration::ZERO)).start().unwrap_err(),
            "max_age_of_warnings(0)",
        ),
        (
            builder(dir.path()).retention(keep().max_age(2 * HOUR).max_age_of_warnings(HOUR)).start().unwrap_err(),
            "must not be less than max_age",
        ),
        (builder(dir.path()).retention(keep().max_audit_bytes(9)).start().unwrap_err(), "max_audit_bytes(9)"),
    ] {
        assert!(error.is_config() && error.to_string().contains(hint), "{error}");
    }
    let error = l0::builder().app_id("../escape").start().unwrap_err();
    assert!(error.is_config() && error.to_string().contains("com.acme.Editor"), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing was created for them");

    let l0 = builder(dir.path()).start().unwrap();
    assert!(l0.set_filter("shop=verbose").unwrap_err().is_config());
    assert!("two words".parse::<l0::correlation::CorrelationId>().unwrap_err().is_invalid_input());
}

#[cfg(unix)]
#[test]
fn files_are_private_and_git_ignores_them() {
    use std::os::unix::fs::PermissionsExt as _;
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("deep/store");
    let l0 = builder(&dir).start().unwrap();
    l0.flush().unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&dir), mode(&dir.join("flight"))), (0o700, 0o700));
    for file in ["telemetry.db", "telemetry.db-wal", "telemetry.db-shm"] {
        assert_eq!(mode(&dir.join(file)), 0o600, "{file}");
    }
    let flight = fs::read_dir(dir.join("flight")).unwrap().next().unwrap().unwrap().path();
    assert_eq!(mode(&flight), 0o600);
    assert_eq!(fs::read_to_string(dir.join(".gitignore")).unwrap(), "*\n");
}
