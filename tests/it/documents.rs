//! Checks the documentation: links resolve, and paths in the text exist.
//!
//! A **path** is a code span outside of code blocks that consists of letters, digits, `_`, `-`, `.` and `/`, and
//!
//! - ends in `/` or in one of [`EXTENSIONS`], or
//! - contains a `/` and starts with a file or folder of the repository's root.
//!
//! Spans that start with `/` (URLs) or `target/` (build output) are not paths. A path is relative to the repository's
//! root, or to `src` of the crate whose folder is the last one named in a code span before it, in the same paragraph,
//! list item or table row.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
};

use blackhole_dev::workspace;

/// Pages whose paths are checked. Links are checked in all pages.
const PAGES: [&str; 4] = ["README.md", "CONTRIBUTING.md", "docs/architecture.md", "docs/protocol.md"];

/// Extensions of files that the pages name.
const EXTENSIONS: [&str; 9] = [".cfg", ".conf", ".html", ".js", ".json", ".md", ".rs", ".toml", ".yaml"];

/// A page's text without its code blocks.
fn prose(page: &str) -> String {
    let mut in_block = false;
    let lines = page.lines().map(|line| {
        let is_fence = line.trim_start().starts_with("```");
        in_block ^= is_fence;
        if is_fence || in_block { "" } else { line }
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The paragraphs, list items and table rows.
fn blocks(prose: &str) -> Vec<String> {
    let mut blocks = vec![String::new()];
    for line in prose.lines() {
        let text = line.trim_start();
        let number = text.trim_start_matches(|character: char| character.is_ascii_digit());
        let is_item = text.starts_with("- ") || (number.len() < text.len() && number.starts_with(". "));
        if text.is_empty() || text.starts_with('|') || is_item {
            blocks.push(String::new());
        }
        let block = blocks.last_mut().unwrap();
        block.push_str(line);
        block.push('\n');
    }
    blocks
}

/// The code spans of a block.
fn spans(block: &str) -> impl Iterator<Item = &str> {
    block.split('`').skip(1).step_by(2)
}

fn is_path(root: &Path, span: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./".contains(&byte);
    if !span.bytes().all(is_plain) || span.starts_with('/') || span.starts_with("target/") {
        return false;
    }
    let begins_in_root = || span.split_once('/').is_some_and(|(first, _)| root.join(first).exists());
    span.ends_with('/') || EXTENSIONS.iter().any(|extension| span.ends_with(extension)) || begins_in_root()
}

/// The paths of a page that do not exist.
fn missing_paths(root: &Path, crates: &HashSet<String>, page: &str) -> Vec<String> {
    let mut missing = Vec::new();
    for block in blocks(&prose(page)) {
        let mut src: Option<PathBuf> = None;
        for span in spans(&block) {
            if crates.contains(span) {
                src = Some(root.join(span).join("src"));
            }
            let exists = |folder: &PathBuf| folder.join(span).exists();
            if is_path(root, span) && !exists(&root.to_owned()) && !src.as_ref().is_some_and(exists) {
                missing.push(span.to_owned());
            }
        }
    }
    missing
}

/// The anchors of a page's headings, as GitHub makes them.
fn anchors(page: &str) -> HashSet<String> {
    let prose = prose(page);
    let headings = prose.lines().filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| {
        let text = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        text.chars().filter(|character| character.is_alphanumeric() || "-_".contains(*character)).collect()
    };
    headings.map(anchor).collect()
}

/// The links of a page that do not resolve.
fn broken_links(file: &Path) -> Vec<String> {
    let page = fs::read_to_string(file).unwrap();
    let prose = prose(&page);
    let targets = prose.split("](").skip(1).filter_map(|rest| rest.split_once(')').map(|(target, _)| target));
    let is_broken = |target: &&str| {
        let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
        let to = if path.is_empty() { file.to_owned() } else { file.with_file_name("").join(path) };
        if anchor.is_empty() || to.extension().is_none_or(|extension| extension != "md") {
            return !to.exists();
        }
        !fs::read_to_string(to).is_ok_and(|page| anchors(&page).contains(anchor))
    };
    let local = targets.filter(|target| !target.contains("://"));
    local.filter(is_broken).map(str::to_owned).collect()
}

fn pages(root: &Path) -> Vec<PathBuf> {
    let files = ["", "docs", "deploy"].map(|folder| fs::read_dir(root.join(folder)).unwrap());
    let files = files.into_iter().flatten().map(|entry| entry.unwrap().path());
    files.filter(|file| file.extension().is_some_and(|extension| extension == "md")).collect()
}

/// The folders of the workspace's crates.
fn crates(root: &Path) -> HashSet<String> {
    let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    let (_, members) = manifest.split_once("members = [").unwrap();
    let (members, _) = members.split_once(']').unwrap();
    members.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn links_resolve() {
    let root = workspace::root().unwrap();
    let all = pages(&root);
    assert!(all.len() >= 12, "{all:?}");
    let broken: Vec<_> = all.iter().map(|file| (file, broken_links(file))).collect();
    let broken: Vec<_> = broken.iter().filter(|(_, links)| !links.is_empty()).collect();
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn paths_exist() {
    let root = workspace::root().unwrap();
    let crates = crates(&root);
    let missing = PAGES.map(|page| {
        let text = fs::read_to_string(root.join(page)).unwrap();
        (page, missing_paths(&root, &crates, &text))
    });
    let missing: Vec<_> = missing.iter().filter(|(_, paths)| !paths.is_empty()).collect();
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn a_wrong_path_is_reported() {
    let root = workspace::root().unwrap();
    let page = "Right: `Cargo.toml`, `tests/it/main.rs`, `.ci/run`, `docs/`, `common`: `lib.rs`, `catalogue/`.\n\
                Wrong: `Cargo.tml.md`, `tests/it/nowhere`, `nowhere/`, `deploy/dev`: `catalogue/`.\n\
                - None: `GET /client.js`, `/client.js`, `a.b`, `target/dev`, `either/or`, `1.0`.\n\
                - Of another item: `lib.rs`.\n\n\
                | `common`, `auth-svc` | `authority.rs` | `catalogue.rs` |\n\
                ```text\n`nowhere.rs`\n```\n";
    assert_eq!(
        missing_paths(&root, &crates(&root), page),
        ["Cargo.tml.md", "tests/it/nowhere", "nowhere/", "catalogue/", "lib.rs", "catalogue.rs"]
    );
    let anchors = anchors("# The `api`, twice\n## relay.publish, dialog.push\n```sh\n# none\n```\n");
    assert_eq!(anchors, ["the-api-twice", "relaypublish-dialogpush"].map(str::to_owned).into());
}
