//! The keys that verify tokens: a directory of `<kid>.pem` files.

pub mod jwk;
mod pem;

use std::{collections::HashMap, fs, path::Path};

use blackhole_common::file_changes::Fingerprint;

use crate::{error::Error, reload::FromFiles};

pub use pem::{ASYMMETRIC, VerifyingKey};

/// Key files are much smaller: an RSA private key of 4096 bits has 3.2 KiB.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// The keys of a directory.
///
/// A token's `kid` is only looked up here, never used as a path. A broken file does not affect the other keys.
#[derive(Debug, Default)]
pub struct Keys {
    by_id: HashMap<String, VerifyingKey>,
    errors: Vec<Error>,
}

impl Keys {
    /// The key with this id.
    pub fn get(&self, id: &str) -> Option<&VerifyingKey> {
        self.by_id.get(id)
    }

    /// The number of keys.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// The errors of the files without a usable key.
    pub fn errors(&self) -> &[Error] {
        &self.errors
    }
}

impl FromFiles for Keys {
    const NAME: &'static str = "keys";

    fn fingerprint(directory: &Path) -> Fingerprint {
        let Ok(entries) = fs::read_dir(directory) else { return Fingerprint::default() };
        Fingerprint::of(entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| is_key_file(path)))
    }

    fn read(directory: &Path) -> Result<Keys, Error> {
        let mut keys = Keys::default();
        for entry in fs::read_dir(directory).map_err(|reason| Error::unreadable(directory, reason))? {
            let path = entry.map_err(|reason| Error::unreadable(directory, reason))?.path();
            if !is_key_file(&path) {
                continue;
            }
            let Some(id) = path.file_stem().and_then(|stem| stem.to_str()) else {
                keys.errors.push(Error::invalid(&path, "the file name, which is the key id, is not UTF-8"));
                continue;
            };
            match read_key(&path) {
                Ok(key) => {
                    if key.was_private() {
                        tracing::warn!(
                            file = %path.display(),
                            "a directory of keys contains a private key, the public key is enough"
                        );
                    }
                    keys.by_id.insert(id.to_owned(), key);
                }
                Err(error) => keys.errors.push(error),
            }
        }
        Ok(keys)
    }
}

/// Whether this is a `<kid>.pem`. Hidden files do not count: Kubernetes adds some to mounted directories.
fn is_key_file(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "pem")
        && path.file_name().is_some_and(|name| !name.as_encoded_bytes().starts_with(b"."))
}

fn read_key(path: &Path) -> Result<VerifyingKey, Error> {
    let metadata = fs::metadata(path).map_err(|reason| Error::unreadable(path, reason))?;
    // Reading a pipe would wait for its writer.
    if !metadata.is_file() && !metadata.is_dir() {
        return Err(Error::invalid(path, "is not a regular file"));
    }
    let size = metadata.len();
    if size > MAX_FILE_BYTES {
        return Err(Error::invalid(path, format!("is too large for a key: {size} bytes")));
    }
    let pem = fs::read(path).map_err(|reason| Error::unreadable(path, reason))?;
    VerifyingKey::from_pem(&pem).map_err(|reason| Error::invalid(path, reason))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, TempDir};

    #[test]
    fn the_file_name_is_the_key_id() {
        let dir = TempDir::new();
        dir.write("one.pem", testing::RSA_PUBLIC);
        dir.write("a.b.pem", testing::ED25519_PUBLIC);
        dir.write("README", "not a key");
        dir.write(".hidden.pem", "not a key");
        let keys = Keys::read(dir.path()).unwrap();
        assert_eq!((keys.len(), keys.is_empty()), (2, false));
        assert!(keys.get("one").is_some() && keys.get("a.b").is_some());
        assert!(keys.errors().is_empty());
    }

    #[test]
    fn broken_files_do_not_affect_other_keys() {
        let dir = TempDir::new();
        dir.write("good.pem", testing::P256_PUBLIC);
        dir.write("empty.pem", "");
        dir.write("huge.pem", &"x".repeat(70_000));
        std::fs::create_dir(dir.path().join("dir.pem")).unwrap();
        let keys = Keys::read(dir.path()).unwrap();
        assert!(keys.get("good").is_some());
        assert_eq!(keys.len(), 1);
        let mut errors: Vec<String> = keys.errors().iter().map(Error::to_string).collect();
        errors.sort();
        let [dir_error, empty_error, huge_error] = errors.as_slice() else { panic!("{errors:?}") };
        assert!(dir_error.contains("dir.pem: Is a directory"), "{dir_error}");
        assert!(empty_error.contains("empty.pem: is not a PEM file"), "{empty_error}");
        assert!(huge_error.contains("huge.pem: is too large for a key: 70000 bytes"), "{huge_error}");
    }

    #[test]
    fn a_pipe_is_an_error_and_is_not_waited_for() {
        let dir = TempDir::new();
        dir.write("good.pem", testing::P256_PUBLIC);
        let pipe = std::process::Command::new("mkfifo").arg(dir.path().join("pipe.pem")).status().unwrap();
        assert!(pipe.success());
        let keys = Keys::read(dir.path()).unwrap();
        assert_eq!(keys.len(), 1);
        let error = keys.errors().first().unwrap().to_string();
        assert!(error.contains("pipe.pem: is not a regular file"), "{error}");
    }

    #[test]
    fn an_empty_directory_has_no_keys() {
        let keys = Keys::read(TempDir::new().path()).unwrap();
        assert_eq!((keys.len(), keys.is_empty()), (0, true));
    }

    #[test]
    fn a_missing_directory_is_an_error() {
        assert_eq!(Keys::read(Path::new("/nonexistent/keys")).unwrap_err().kind(), "unreadable");
    }
}
