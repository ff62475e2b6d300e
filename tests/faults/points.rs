//! Names of fail points: those in the source, and those that a process reached.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// Fail points that no scenario reaches, each with its reason.
pub const UNREACHED: [(&str, &str); 0] = [];

/// The names in `src`.
pub fn in_source() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    visit(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut |text| {
        for call in text.split("fail_point::hit(").skip(1) {
            let name = call.trim_start().strip_prefix('"').and_then(|rest| rest.split('"').next());
            names.insert(name.expect("a fail point has a literal name").to_owned());
        }
    });
    assert!(names.len() > 5, "the search finds the names: {names:?}");
    names
}

fn visit(dir: &Path, each: &mut impl FnMut(&str)) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            visit(&path, each);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            each(&fs::read_to_string(path).unwrap());
        }
    }
}

/// How often a process reached each point, from the file that it appended their names to.
pub fn reached(log: &Path) -> BTreeMap<String, u64> {
    let mut hits = BTreeMap::new();
    for name in fs::read_to_string(log).unwrap_or_default().lines() {
        *hits.entry(name.to_owned()).or_default() += 1;
    }
    hits
}
