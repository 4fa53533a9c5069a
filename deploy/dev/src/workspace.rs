//! The directories of this workspace, and those for the data of one run.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The root of the workspace that contains the crate cargo runs, or else the working directory.
pub fn root() -> Result<PathBuf> {
    let start = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let start = start.map_or_else(std::env::current_dir, Ok)?;
    match start.ancestors().find(|dir| dir.join("deploy/dev/Cargo.toml").is_file()) {
        Some(root) => Ok(root.to_owned()),
        None => bail!("{} is not inside the Blackhole workspace", start.display()),
    }
}

/// cargo's target directory.
pub fn target_dir() -> Result<PathBuf> {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => Ok(std::path::absolute(dir)?),
        None => Ok(root()?.join("target")),
    }
}

/// The cargo that started this program, or else the one in `PATH`.
pub fn cargo() -> PathBuf {
    std::env::var_os("CARGO").map_or_else(|| "cargo".into(), PathBuf::from)
}

/// A directory below `target/dev` for one run of one process.
///
/// Dropping it keeps the directory, for its logs. The next run sees by the lock that the owner has ended, and removes
/// it.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    _lock: File,
}

impl RunDir {
    /// Creates a directory whose name begins with `name`, and removes those of ended processes.
    pub fn create(name: &str) -> Result<Self> {
        let parent = target_dir()?.join("dev");
        Self::create_in(&parent, name).with_context(|| format!("cannot use {}", parent.display()))
    }

    fn create_in(parent: &Path, name: &str) -> Result<Self> {
        std::fs::create_dir_all(parent)?;
        // Locked while creating and removing, so that nobody removes a directory that is created but not locked yet.
        let gate = File::create(parent.join("lock"))?;
        gate.lock()?;
        for entry in std::fs::read_dir(parent)? {
            remove_if_stale(&entry?.path())?;
        }
        let unique = (0_u32..).map(|n| parent.join(format!("{name}-{}-{n}", std::process::id())));
        let path = unique.into_iter().find(|path| !path.exists()).context("no free directory name")?;
        std::fs::create_dir(&path)?;
        let lock = File::create(path.join("lock"))?;
        lock.lock()?;
        Ok(Self { path, _lock: lock })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Creates a subdirectory.
    pub fn subdir(&self, name: &str) -> Result<PathBuf> {
        let dir = self.path.join(name);
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        Ok(dir)
    }

    /// Removes the directory and its contents.
    pub fn remove(self) -> Result<()> {
        std::fs::remove_dir_all(&self.path).with_context(|| format!("cannot remove {}", self.path.display()))
    }
}

fn remove_if_stale(dir: &Path) -> Result<()> {
    let Ok(lock) = File::open(dir.join("lock")) else { return Ok(()) };
    match lock.try_lock() {
        Ok(()) => Ok(std::fs::remove_dir_all(dir)?),
        Err(TryLockError::WouldBlock) => Ok(()),
        Err(TryLockError::Error(error)) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_directory_is_removed_once_its_owner_has_ended() {
        let parent = std::env::temp_dir().join(format!("blackhole-dev-runs-{}", std::process::id()));
        let first = RunDir::create_in(&parent, "a").unwrap();
        let second = RunDir::create_in(&parent, "a").unwrap();
        assert!(first.path().is_dir() && second.path().is_dir());
        let left = first.path().to_owned();
        drop(first);
        let third = RunDir::create_in(&parent, "b").unwrap();
        assert!(!left.exists() && second.path().is_dir());
        third.remove().unwrap();
        std::fs::remove_dir_all(parent).unwrap();
    }
}
