//! The rooms of ws-edge: which module may use which, read from the source.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // The helpers are test code, too.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// The modules of the crate from the bottom to the top: each uses only modules above it in this list.
const ORDER: &[&str] = &[
    "ids",
    "clock",
    "metrics",
    "error",
    "protocol",
    "config",
    "limits",
    "outbox",
    "delivery",
    "upstream",
    "catchup",
    "access",
    "kazoo",
    "schema",
    "operator",
    "edge",
    "session",
    "http",
    "simulated",
    "lib",
    "main",
];

/// The longest source file, in lines.
const MAX_LINES: usize = 400;

/// A module's path in the crate: `["session", "task"]`.
type Module = Vec<String>;

/// All modules with the text of their files, without tests.
fn modules() -> BTreeMap<Module, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    files
        .into_iter()
        .filter_map(|file| {
            let path = file.strip_prefix(&root).unwrap().with_extension("");
            let module: Module = path.iter().map(|word| word.to_str().unwrap().to_owned()).collect();
            let is_test = module.iter().any(|word| matches!(word.as_str(), "tests" | "testing"));
            let text = fs::read_to_string(&file).unwrap();
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
            let code = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>();
            (!is_test).then(|| (module, code.join("\n")))
        })
        .collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            files.push(path);
        }
    }
}

/// The paths in a text that begin with `crate::`, `super::` or `self::`, from the crate's root on. Braces are expanded.
fn paths(module: &Module, code: &str) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    for (at, _) in code.match_indices("::") {
        let start =
            code[..at].rfind(|c: char| !c.is_alphanumeric() && c != '_').map_or(0, |before| before + 1);
        let base = match &code[start..at] {
            "crate" => Vec::new(),
            "self" if code[..start].ends_with([' ', '{', '\n']) => module.clone(),
            "super" if !code[..start].ends_with("super::") => module[..module.len() - 1].to_vec(),
            _ => continue,
        };
        expand(base, &code[at + 2..], &mut paths);
    }
    paths
}

/// Adds the paths that a use tree begins; returns what follows the tree.
fn expand<'c>(mut path: Vec<String>, mut code: &'c str, paths: &mut Vec<Vec<String>>) -> &'c str {
    loop {
        if let Some(inside) = code.strip_prefix('{') {
            code = inside.trim_start();
            while !code.starts_with('}') {
                code = expand(path.clone(), code, paths).trim_start();
                code = code.strip_prefix(',').unwrap_or(code).trim_start();
            }
            return &code[1..];
        }
        let end = code.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(code.len());
        match &code[..end] {
            "super" => drop(path.pop()),
            "self" | "" => {}
            word => path.push(word.to_owned()),
        }
        // `*`, and `as` with its name.
        code = code[end..].strip_prefix('*').unwrap_or(&code[end..]);
        match code.strip_prefix("::") {
            Some(rest) => code = rest,
            None => {
                paths.push(path);
                let rest = code.trim_start();
                let rest = rest.strip_prefix("as ").map_or(code, |alias| {
                    alias.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_')
                });
                return rest;
            }
        }
    }
}

/// Each module with the modules that it uses.
fn uses() -> BTreeMap<Module, BTreeSet<Module>> {
    let modules = modules();
    let owner = |path: &[String]| {
        (1..=path.len()).rev().map(|length| path[..length].to_vec()).find(|m| modules.contains_key(m))
    };
    modules
        .iter()
        .map(|(module, code)| {
            let used =
                paths(module, code).into_iter().filter_map(|path| owner(&path)).filter(|used| used != module);
            (module.clone(), used.collect())
        })
        .collect()
}

#[test]
fn arrows_between_rooms_go_one_way() {
    let rank = |module: &Module| ORDER.iter().position(|room| *room == module[0]);
    let uses = uses();
    let mut arrows = 0;
    for (module, used) in &uses {
        assert!(rank(module).is_some(), "{module:?} has no place in ORDER");
        for other in used.iter().filter(|other| other[0] != module[0]) {
            assert!(rank(other) < rank(module), "{} must not use {}", module.join("::"), other.join("::"));
            arrows += 1;
        }
    }
    assert!(arrows > 100, "only {arrows} uses were found: the source is not read as it is written");
}

#[test]
fn no_module_uses_itself_through_others() {
    let uses = uses();
    for start in uses.keys() {
        let mut reached = BTreeSet::new();
        let mut waiting: Vec<&Module> = uses[start].iter().collect();
        while let Some(module) = waiting.pop() {
            assert_ne!(module, start, "a circle of modules: {reached:?}");
            if reached.insert(module.clone()) {
                waiting.extend(&uses[module]);
            }
        }
    }
}

#[test]
fn files_are_short() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    assert!(files.len() > 50);
    for file in files {
        let lines = fs::read_to_string(&file).unwrap().lines().count();
        assert!(lines <= MAX_LINES, "{} has {lines} lines", file.display());
    }
}

#[test]
fn use_trees_are_read() {
    let module = vec!["session".to_owned(), "task".to_owned()];
    let code = "use super::{state::{State, Identity as Who}, *};\nuse crate::outbox::{self, Outbox};\nlet x = crate::ids::INBOX;";
    let read: Vec<String> = paths(&module, code).iter().map(|path| path.join("::")).collect();
    let expected = [
        "session::state::State",
        "session::state::Identity",
        "session",
        "outbox",
        "outbox::Outbox",
        "ids::INBOX",
    ];
    assert_eq!(read, expected);
}
