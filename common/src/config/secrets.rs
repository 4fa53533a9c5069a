//! Settings from files, one each: a mounted Secret of Kubernetes, `/run/secrets`, or systemd's credentials.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use figment::{
    Error, Metadata, Profile, Provider,
    util::nest,
    value::{Dict, Map, Value},
};

/// The variable that names the directory.
pub(super) const DIRECTORY_VARIABLE: &str = "BLACKHOLE_SECRETS";
/// Lists of brokers are the largest; this is thousands of them.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// What figment calls such a file.
const NAME: &str = "a file of secrets";

/// Whether a value comes from such a file.
pub(super) fn is_origin(metadata: &Metadata) -> bool {
    metadata.name == NAME
}

/// A file whose name is a key, such as `amqp.url`, and whose text is its value.
#[derive(Debug)]
pub(super) struct SecretFile {
    path: PathBuf,
    key: String,
    value: Value,
}

/// The files of a directory, in the order of their names. Files whose names have no dot, or begin with one, are no settings.
///
/// # Errors
/// If the directory or one of the files cannot be read, or a file is no text or too large. The error names it.
pub(super) fn read(directory: &Path) -> Result<Vec<SecretFile>, String> {
    let failed = |path: &Path, error: &dyn std::fmt::Display| {
        format!("{}: {error} (in the directory of {DIRECTORY_VARIABLE})", path.display())
    };
    let entries = fs::read_dir(directory).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let mut paths: Vec<PathBuf> = entries
        .map_err(|error| failed(directory, &error))?
        .into_iter()
        .map(|entry| entry.path())
        // Kubernetes has links there, `..data` among them, to directories.
        .filter(|path| path.file_name().is_some_and(|name| is_key(&name.to_string_lossy())))
        .collect();
    paths.sort();
    let file = |path: PathBuf| {
        let metadata = fs::metadata(&path).map_err(|error| failed(&path, &error))?;
        if !metadata.is_file() {
            return Err(failed(&path, &"is not a regular file"));
        }
        if metadata.len() > MAX_FILE_BYTES {
            return Err(failed(&path, &format!("is too large for a setting: {} bytes", metadata.len())));
        }
        let text = fs::read_to_string(&path).map_err(|error| failed(&path, &error))?;
        let key = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Ok(SecretFile { path, key, value: value(text.trim_end_matches(['\r', '\n'])) })
    };
    paths.into_iter().map(file).collect()
}

fn is_key(name: &str) -> bool {
    name.contains('.') && !name.starts_with('.')
}

/// A text, which may look like a number; or a list, as a variable has it.
fn value(text: &str) -> Value {
    if text.starts_with('[')
        && let Ok(list @ Value::Array(..)) = text.parse::<Value>()
    {
        return list;
    }
    Value::from(text)
}

impl Provider for SecretFile {
    fn metadata(&self) -> Metadata {
        Metadata::from(NAME, self.path.as_path())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, Error> {
        let nested = nest(&self.key, self.value.clone());
        Ok(nested.into_dict().map(|dict| Profile::Default.collect(dict)).unwrap_or_default())
    }
}
