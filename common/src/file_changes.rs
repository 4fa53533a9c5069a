//! Notices that files have changed.
//!
//! They are polled with `stat` rather than watched: polling follows the symlinks that Kubernetes swaps, notices editors that
//! replace a file, works on every file system, and is cheap. A change counts only once two polls in a row see the same
//! version, because a file that is still being written may parse with half of its content missing.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

/// How often to poll. A change takes effect after two to three polls.
pub const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Identifies a version of some files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fingerprint(Vec<(PathBuf, Option<Version>)>);

/// Device, inode, length, mtime and ctime. ctime also changes if a tool restores the mtime.
type Version = (u64, u64, u64, i64, i64, i64, i64);

impl Fingerprint {
    /// The current version of `files`. Follows symlinks.
    pub fn of(files: impl IntoIterator<Item = PathBuf>) -> Fingerprint {
        let version = |file: &Path| {
            let data = fs::metadata(file).ok()?;
            let mtime = (data.mtime(), data.mtime_nsec());
            let ctime = (data.ctime(), data.ctime_nsec());
            Some((data.dev(), data.ino(), data.size(), mtime.0, mtime.1, ctime.0, ctime.1))
        };
        let mut versions: Vec<_> = files
            .into_iter()
            .map(|file| {
                let version = version(&file);
                (file, version)
            })
            .collect();
        versions.sort();
        Fingerprint(versions)
    }
}

/// What was seen of some files.
#[derive(Debug)]
pub struct FileChanges {
    /// The version that was read last, successfully or not.
    read: Fingerprint,
    /// The version at the last poll.
    polled: Fingerprint,
}

impl FileChanges {
    /// The files are about to be read in this version. To be taken before reading, so that a write in the meantime counts as a
    /// change.
    pub fn since(version: Fingerprint) -> FileChanges {
        FileChanges { polled: version.clone(), read: version }
    }

    /// The files are in version `now`. Returns whether to read them: they have changed since they were read, but not since the
    /// last poll.
    pub fn poll(&mut self, now: Fingerprint) -> bool {
        let is_stable = now == self.polled;
        self.polled.clone_from(&now);
        if now == self.read || !is_stable {
            return false;
        }
        self.read = now;
        true
    }
}
