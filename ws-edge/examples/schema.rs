//! Writes what is made of the catalogue and the reference events: `docs/asyncapi.yaml`, and the types of the client
//! packages. `cargo dev schema` runs it. With `--check` it writes nothing, and fails if a file is not up to date.

use std::{path::Path, process::ExitCode};

use anyhow::{Context, Result};
use blackhole_common::catalogue::Catalogue;

fn main() -> Result<ExitCode> {
    let check = std::env::args().any(|argument| argument == "--check");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no workspace")?;
    let mut code = ExitCode::SUCCESS;
    for (path, text) in ws_edge::schema::files(&Catalogue::load(None)?) {
        let file = root.join(path);
        if std::fs::read_to_string(&file).is_ok_and(|is| is == text) {
            continue;
        }
        if check {
            println!("{path} is not up to date");
            code = ExitCode::FAILURE;
        } else {
            std::fs::write(&file, text).with_context(|| format!("cannot write {path}"))?;
            println!("wrote {path}");
        }
    }
    Ok(code)
}
