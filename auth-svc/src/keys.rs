//! The keys that tokens are verified with: a directory of `<kid>.pem`.

mod pem;

use std::{collections::HashMap, fs, path::Path};

use crate::{
    error::Error,
    reload::{Fingerprint, FromFiles},
};

pub use pem::VerifyingKey;

/// A key file is smaller than this: 4096 bits of RSA with everything private are 3.2 KiB.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// The keys of a directory.
///
/// A token's `kid` is looked up here and never made a path. Every file stands for itself: one that is broken
/// leaves the others in force, and its own key is not.
#[derive(Debug, Default)]
pub struct Keys {
    by_id: HashMap<String, VerifyingKey>,
    broken: Vec<Error>,
}

impl Keys {
    /// The key with this id.
    pub fn get(&self, id: &str) -> Option<&VerifyingKey> {
        self.by_id.get(id)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// The files that hold no usable key.
    pub fn broken(&self) -> &[Error] {
        &self.broken
    }
}

impl FromFiles for Keys {
    const NAME: &'static str = "keys";

    fn look(directory: &Path) -> Fingerprint {
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
                keys.broken.push(Error::invalid(&path, "the name, which is the key's id, is not UTF-8"));
                continue;
            };
            match read_key(&path) {
                Ok(key) => {
                    if key.was_private() {
                        tracing::warn!(
                            file = %path.display(),
                            "a private key lies in auth.jwt.keys_dir, its public half is enough"
                        );
                    }
                    keys.by_id.insert(id.to_owned(), key);
                }
                Err(error) => keys.broken.push(error),
            }
        }
        Ok(keys)
    }
}

/// `<kid>.pem`. Kubernetes keeps hidden directories beside the files that it mounts.
fn is_key_file(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "pem")
        && path.file_name().is_some_and(|name| !name.as_encoded_bytes().starts_with(b"."))
}

fn read_key(path: &Path) -> Result<VerifyingKey, Error> {
    let size = fs::metadata(path).map_err(|reason| Error::unreadable(path, reason))?.len();
    if size > MAX_FILE_BYTES {
        return Err(Error::invalid(path, format!("{size} bytes are too many for a key")));
    }
    let pem = fs::read(path).map_err(|reason| Error::unreadable(path, reason))?;
    VerifyingKey::from_pem(&pem).map_err(|reason| Error::invalid(path, reason))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, TempDir};

    #[test]
    fn files_are_keys_by_their_name() {
        let dir = TempDir::new();
        dir.write("one.pem", testing::RSA_PUBLIC);
        dir.write("a.b.pem", testing::ED25519_PUBLIC);
        dir.write("README", "not a key");
        dir.write(".hidden.pem", "not a key");
        let keys = Keys::read(dir.path()).unwrap();
        assert_eq!(keys.len(), 2);
        assert!(keys.get("one").is_some() && keys.get("a.b").is_some());
        assert!(keys.broken().is_empty());
    }

    #[test]
    fn a_broken_file_leaves_the_others() {
        let dir = TempDir::new();
        dir.write("good.pem", testing::P256_PUBLIC);
        dir.write("empty.pem", "");
        dir.write("huge.pem", &"x".repeat(70_000));
        std::fs::create_dir(dir.path().join("dir.pem")).unwrap();
        let keys = Keys::read(dir.path()).unwrap();
        assert!(keys.get("good").is_some());
        assert_eq!((keys.len(), keys.broken().len()), (1, 3));
        assert!(keys.broken().iter().all(|error| error.to_string().contains(".pem: ")));
    }

    #[test]
    fn an_absent_directory_is_an_error() {
        assert_eq!(Keys::read(Path::new("/nonexistent/keys")).unwrap_err().kind(), "unreadable");
    }
}
