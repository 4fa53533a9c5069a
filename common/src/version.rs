//! Which release this is.

use std::sync::LazyLock;

/// The release, as in `Cargo.toml`.
pub const RELEASE: &str = env!("CARGO_PKG_VERSION");

/// The commit it was built from: 12 digits. Debug builds have none.
pub const COMMIT: &str = match option_env!("BUILD_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};

static WITH_COMMIT: LazyLock<String> = LazyLock::new(|| format!("{RELEASE} (commit {COMMIT})"));

/// What `--version` prints.
pub fn with_commit() -> &'static str {
    &WITH_COMMIT
}
