//! The picture in `src/architecture.md` cannot drift from the code.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Modules of `src/lib.rs`, top to bottom; each imports only from above.
const ORDER: [&str; 24] = [
    "error",
    "fail_point",
    "sync",
    "clock",
    "correlation",
    "event",
    "redaction",
    "record",
    "flight",
    "capture",
    "config",
    "timer",
    "database",
    "state",
    "store",
    "query",
    "limits",
    "jobs",
    "health",
    "components",
    "status",
    "l0",
    "testing",
    "fuzzing",
];

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            found.extend(sources(&entry));
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            found.push(entry);
        }
    }
    found.sort();
    found
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn module(path: &Path) -> String {
    let first = path.strip_prefix(root().join("src")).unwrap().components().next().unwrap();
    first.as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned()
}

/// The names behind `crate::`, grouped imports included.
fn imports(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let (mut depth, mut start) = (1, 0);
            for (index, c) in group.char_indices() {
                match c {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    _ => {}
                }
                if depth == 0 || (depth == 1 && c == ',') {
                    found.push(group[start..index].trim().to_owned());
                    start = index + 1;
                }
                if depth == 0 {
                    break;
                }
            }
        } else {
            found.push(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
        }
    }
    found.into_iter().map(|name| name.split("::").next().unwrap().to_owned()).filter(|name| !name.is_empty()).collect()
}

#[test]
fn imports_point_one_way() {
    let lib = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let declared: Vec<&str> = lib
        .lines()
        .filter_map(|line| line.strip_prefix("mod ").or_else(|| line.strip_prefix("pub mod "))?.strip_suffix(';'))
        .collect();
    assert_eq!(declared, ORDER, "src/lib.rs declares the modules in the order of the data's flow");
    let mut edges = 0;
    for path in sources(&root().join("src")) {
        let own = module(&path);
        let Some(own_index) = ORDER.iter().position(|name| *name == own) else { continue };
        for import in imports(&fs::read_to_string(&path).unwrap()) {
            let Some(index) = ORDER.iter().position(|name| *name == import) else { continue };
            assert!(index <= own_index, "{} imports {import}, which stands below it", path.display());
            edges += usize::from(index < own_index);
        }
    }
    assert!(edges > 40, "the test sees the imports: {edges}");
}

#[test]
fn every_file_says_what_lives_there_and_fits_in_the_head() {
    for path in sources(&root().join("src")) {
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("//! "), "{} does not open with //!", path.display());
        let lines = text.lines().take_while(|line| *line != "mod tests {").count();
        assert!(lines <= 520, "{} has {lines} lines: make two rooms of it", path.display());
    }
}

#[test]
fn unsafe_code_is_where_the_page_says() {
    let mut found: Vec<String> = sources(&root().join("src"))
        .into_iter()
        .filter(|path| fs::read_to_string(path).unwrap().contains("allow(unsafe_code)"))
        .map(|path| path.strip_prefix(root().join("src")).unwrap().display().to_string())
        .collect();
    found.sort();
    assert_eq!(found, ["clock/counter.rs", "flight/file.rs"]);
}

#[test]
fn every_test_that_the_page_names_exists() {
    let page = fs::read_to_string(root().join("src/architecture.md")).unwrap();
    let (_, table) = page.split_once("## What a layer can get wrong").unwrap();
    let code: String = [sources(&root().join("src")), sources(&root().join("tests"))]
        .concat()
        .iter()
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| #")).collect();
    assert_eq!(rows.len(), 29);
    let mut names = 0;
    for row in rows {
        let here = row.split('|').nth(3).unwrap();
        for name in here.split('`').skip(1).step_by(2).filter(|name| name.contains('_') && !name.contains('(')) {
            if name == "on_register_dispatch" || name == "downcast_raw" {
                continue;
            }
            assert!(code.contains(&format!("fn {name}()")), "{name} is named in the page and does not exist");
            names += 1;
        }
    }
    assert!(names > 25, "{names}");
}
