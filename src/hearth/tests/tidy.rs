//! The rules of docs/ARCHITECTURE.md that a compiler does not check: who may know whom, heavy packages in their leaves,
//! crates that introduce themselves, functions and files of a size that can be read.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// The rows of "Who may know whom". A crate knows lower rows only.
const ROWS: [(&str, u8); 26] = [
    ("core", 0),
    ("view", 0),
    ("ports", 1),
    ("store", 2),
    ("store-rocksdb", 2),
    ("store-postgres", 2),
    ("search-tantivy", 2),
    ("net", 2),
    ("sfu", 2),
    ("rooms", 3),
    ("users", 3),
    ("sync", 3),
    ("push", 3),
    ("search", 3),
    ("calls", 3),
    ("edge", 4),
    ("client", 5),
    ("admin", 5),
    ("federation", 5),
    ("media", 5),
    ("appservice", 5),
    ("server", 6),
    ("hearth", 7),
    ("sim", 7),
    ("bench", 7),
    ("fuzz", 7),
];

/// Arrows within a row that are drawn all the same.
const DRAWN: [(&str, &str); 4] = [("view", "core"), ("sync", "users"), ("push", "users"), ("calls", "rooms")];

/// Adapters know the contract and the rules, nothing else, and are known to the executable only.
const ADAPTERS: [&str; 5] = ["store-rocksdb", "store-postgres", "search-tantivy", "net", "sfu"];

/// Packages that only these crates may name: they are heavy, or belong to one edge of the system.
const LEAVES: [(&str, &[&str]); 15] = [
    ("rocksdb", &["store-rocksdb"]),
    ("librocksdb-sys", &["store-rocksdb"]),
    ("tantivy", &["search-tantivy"]),
    ("webrtc", &["sfu"]),
    ("object_store", &["media", "hearth"]),
    ("reqwest", &["net"]),
    ("hickory-resolver", &["net"]),
    ("rustls-native-certs", &["net"]),
    ("governor", &["edge"]),
    ("argon2", &["users", "bench"]),
    ("axum", &["edge", "server", "hearth", "sim", "bench", "fuzz"]),
    ("hyper", &["edge", "hearth", "net", "sim", "bench"]),
    ("rustls", &["hearth", "net", "sfu"]),
    ("clap", &["hearth"]),
    ("tikv-jemallocator", &["hearth", "bench"]),
];

/// Crates below the edge that speak of HTTP: the port for outbound requests and its adapter.
const OUTBOUND_HTTP: [&str; 2] = ["ports", "net"];

/// Rules are replayable from values, so they have no runtime, clock, randomness or network.
const IMPURE: [&str; 8] = ["tokio", "rand", "axum", "hyper", "hearth-ports", "futures-util", "metrics", "tracing"];

/// A screen; see docs/STYLE.md, "A function fits a screen".
const FUNCTION_LINES_MAX: usize = 80;

/// More than this is two subjects.
const FILE_LINES_MAX: usize = 600;

/// Tests are lists: they may be longer.
const TEST_FILE_LINES_MAX: usize = 1_000;

/// A crate of the workspace, by the name of its folder.
struct Crate {
    name: String,
    folder: PathBuf,
    dependencies: Vec<String>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn crates() -> Vec<Crate> {
    let folders = fs::read_dir(root().join("src")).unwrap().map(|entry| entry.unwrap().path());
    let outside = ["federation", "media", "appservice"].map(|name| root().join(name));
    let folders = folders.chain(outside).filter(|folder| folder.join("Cargo.toml").is_file());
    folders.map(|folder| read(&folder)).collect()
}

fn read(folder: &Path) -> Crate {
    let manifest: toml::Table = fs::read_to_string(folder.join("Cargo.toml")).unwrap().parse().unwrap();
    let dependencies = manifest.get("dependencies").and_then(toml::Value::as_table);
    Crate {
        name: folder.file_name().unwrap().to_str().unwrap().to_owned(),
        folder: folder.to_owned(),
        dependencies: dependencies.map(|table| table.keys().cloned().collect()).unwrap_or_default(),
    }
}

/// Rust files of a crate, tests of their own folder included, dependencies' not.
fn sources(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let hidden = path.file_name().is_some_and(|name| name == "target" || name == "node_modules");
            if path.is_dir() && !hidden {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    found
}

fn is_test(path: &Path) -> bool {
    let text = path.to_string_lossy();
    text.contains("/tests/") || text.ends_with("tests.rs") || text.contains("/bench") || text.contains("/suite")
}

fn assert_none(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

#[test]
fn crates_know_lower_rows_only() {
    let rows: BTreeMap<_, _> = ROWS.into();
    let mut problems = Vec::new();
    for Crate { name, dependencies, .. } in crates() {
        let Some(row) = rows.get(name.as_str()) else {
            problems.push(format!("{name} has no row: give it one here and in docs/ARCHITECTURE.md"));
            continue;
        };
        for other in dependencies.iter().filter_map(|dependency| dependency.strip_prefix("hearth-")) {
            let lower = rows.get(other).is_some_and(|other| other < row);
            if !lower && !DRAWN.contains(&(name.as_str(), other)) {
                problems.push(format!("{name} may not know {other}"));
            }
            if ADAPTERS.contains(&other) && row < &7 {
                problems.push(format!("{name} may not name the adapter {other}; only the executable does"));
            }
            if ADAPTERS.contains(&name.as_str()) && !["core", "ports"].contains(&other) {
                problems.push(format!("the adapter {name} may know core and ports only, not {other}"));
            }
        }
    }
    assert_none(&problems);
}

#[test]
fn heavy_packages_are_named_by_their_leaves_only() {
    let mut problems = Vec::new();
    for Crate { name, dependencies, .. } in crates() {
        for (package, leaves) in LEAVES {
            if dependencies.iter().any(|dependency| dependency == package) && !leaves.contains(&name.as_str()) {
                problems.push(format!("{name} may not depend on {package}; {} may", leaves.join(", ")));
            }
        }
        let pure = ["core", "view"].contains(&name.as_str());
        for package in IMPURE.iter().filter(|package| pure && dependencies.iter().any(|found| found == *package)) {
            problems.push(format!("{name} is pure and may not depend on {package}"));
        }
    }
    assert_none(&problems);
}

#[test]
fn no_protocol_below_the_edge() {
    let rows: BTreeMap<_, _> = ROWS.into();
    let mut problems = Vec::new();
    for Crate { name, folder, .. } in crates() {
        let below = rows.get(name.as_str()).is_some_and(|row| *row < 4);
        for (path, text) in sources(&folder).iter().filter(|(path, _)| below && !is_test(path)) {
            for (number, line) in text.lines().enumerate() {
                let endpoint = ["api::client", "api::federation", "api::appservice"];
                let http = ["http::", "StatusCode"].into_iter().filter(|_| !OUTBOUND_HTTP.contains(&name.as_str()));
                let comment = line.trim_start().starts_with("//");
                if !comment && endpoint.into_iter().chain(http).any(|name| line.contains(name)) {
                    problems.push(format!("{}:{}: {}", path.display(), number + 1, line.trim()));
                }
            }
        }
    }
    assert_none(&problems);
}

#[test]
fn crates_introduce_themselves() {
    let mut problems = Vec::new();
    for Crate { name, folder, .. } in crates() {
        let root = ["lib.rs", "main.rs"].map(|file| folder.join(file)).into_iter().find(|file| file.is_file());
        let Some(root) = root else { continue };
        let text = fs::read_to_string(root).unwrap();
        let opening = text.lines().take_while(|line| line.starts_with("//!")).count();
        if opening < 3 {
            problems.push(format!(
                "{name} opens with {opening} lines: say what it does, what it never does, where to start"
            ));
        }
    }
    assert_none(&problems);
}

#[test]
fn functions_and_files_can_be_read() {
    let mut problems = Vec::new();
    for Crate { folder, .. } in crates() {
        for (path, text) in sources(&folder) {
            let (lines, lines_max) =
                (text.lines().count(), if is_test(&path) { TEST_FILE_LINES_MAX } else { FILE_LINES_MAX });
            if lines > lines_max {
                problems.push(format!("{} has {lines} lines", path.display()));
            }
            let long = functions(&text).into_iter().filter(|(_, lines)| *lines > FUNCTION_LINES_MAX && !is_test(&path));
            problems.extend(long.map(|(name, lines)| format!("{}: `{name}` has {lines} lines", path.display())));
        }
    }
    assert_none(&problems);
}

/// Names and lengths of functions. The code is formatted, so a function ends at the first closing brace that stands as
/// far left as its head; one without a body ends with its signature.
fn functions(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<_> = text.lines().collect();
    let heads = lines.iter().enumerate().filter_map(|(number, line)| {
        let code = line.trim_start();
        let words = ["pub ", "pub(crate) ", "pub(super) ", "async ", "const "];
        let head = words.iter().fold(code, |rest, word| rest.strip_prefix(word).unwrap_or(rest));
        let name = head.strip_prefix("fn ")?.split(['(', '<']).next()?;
        Some((number, line.len() - code.len(), name.to_owned()))
    });
    let length = |number: usize, indent: usize| {
        let ends = |line: &str| {
            let rest = line.strip_prefix(&*" ".repeat(indent));
            rest.is_some_and(|rest| rest.starts_with('}') || rest.starts_with(')') && rest.ends_with(';'))
        };
        let one_line = lines[number].trim_end().ends_with('}') || lines[number].trim_end().ends_with(';');
        if one_line { Some(1) } else { lines[number..].iter().position(|line| ends(line)).map(|end| end + 1) }
    };
    heads.filter_map(|(number, indent, name)| Some((name, length(number, indent)?))).collect()
}

#[test]
fn the_length_of_a_function_is_counted_right() {
    let text = "fn a() {}\nimpl X {\n    pub(crate) async fn b(\n        &self,\n    ) {\n        if x {\n        }\n    }\n}\n\
                trait Y {\n    fn c(\n        &self,\n    ) -> u8;\n\n    fn d() {\n    }\n}\n";
    let lengths = [("a".to_owned(), 1), ("b".to_owned(), 6), ("c".to_owned(), 3), ("d".to_owned(), 2)];
    assert_eq!(functions(text), lengths);
}
