//! A value that is loaded from files, and reloaded when they change.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use blackhole_common::file_changes::{FileChanges, Fingerprint, POLL_INTERVAL};
use parking_lot::{Mutex, RwLock};
use tokio_util::sync::CancellationToken;

use crate::error::Error;

/// A value that can be loaded from a file or a directory.
pub trait FromFiles: Sized + Send + Sync + 'static {
    /// The name for logs and metrics.
    const NAME: &'static str;

    /// Identifies the current version of the files without reading them.
    fn fingerprint(path: &Path) -> Fingerprint;

    /// Loads the value.
    ///
    /// # Errors
    /// If the files are unusable.
    fn read(path: &Path) -> Result<Self, Error>;

    /// Finds what has changed since the value that it replaces.
    fn replace(&mut self, _previous: &Self) {}
}

/// A value that is reloaded when its files change.
#[derive(Debug)]
pub struct Reloaded<T> {
    path: PathBuf,
    current: RwLock<Arc<T>>,
    changes: Mutex<FileChanges>,
}

impl<T: FromFiles> Reloaded<T> {
    /// Loads the value for the first time.
    ///
    /// # Errors
    /// If it cannot be loaded.
    pub fn open(path: &Path) -> Result<Reloaded<T>, Error> {
        let changes = Mutex::new(FileChanges::since(T::fingerprint(path)));
        let current = RwLock::new(Arc::new(T::read(path)?));
        Ok(Reloaded { path: path.to_owned(), current, changes })
    }

    /// The current value.
    pub fn current(&self) -> Arc<T> {
        Arc::clone(&self.current.read())
    }

    /// Polls the files, and reloads the value if they have changed, but not since the last poll. If that fails, the
    /// previous value stays, and the files are not read again until they change.
    ///
    /// # Errors
    /// Why loading failed.
    pub fn poll(&self) -> Result<Option<Arc<T>>, Error> {
        let mut changes = self.changes.lock();
        if !changes.poll(T::fingerprint(&self.path)) {
            return Ok(None);
        }
        let mut value = T::read(&self.path)?;
        value.replace(&self.current());
        let value = Arc::new(value);
        *self.current.write() = Arc::clone(&value);
        Ok(Some(value))
    }

    /// Polls until `shutdown` is cancelled, and reports each reload and each failure.
    pub async fn watch(
        self: Arc<Self>,
        shutdown: CancellationToken,
        report: impl Fn(Result<Arc<T>, Error>) + Send,
    ) {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(POLL_INTERVAL) => {}
            }
            let reloaded = Arc::clone(&self);
            // File systems can be slow, or hang.
            let polled = tokio::select! {
                () = shutdown.cancelled() => return,
                polled = tokio::task::spawn_blocking(move || reloaded.poll()) => polled,
            };
            match polled {
                Ok(Ok(None)) => {}
                Ok(Ok(Some(value))) => report(Ok(value)),
                Ok(Err(error)) => report(Err(error)),
                // The runtime is shutting down.
                Err(_) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::testing::TempDir;

    #[derive(Debug)]
    struct Number(u32);

    impl FromFiles for Number {
        const NAME: &'static str = "number";

        fn fingerprint(path: &Path) -> Fingerprint {
            Fingerprint::of([path.to_owned()])
        }

        fn read(path: &Path) -> Result<Number, Error> {
            let text = fs::read_to_string(path).map_err(|reason| Error::unreadable(path, reason))?;
            text.trim().parse().map(Number).map_err(|_| Error::invalid(path, "not a number"))
        }
    }

    /// Polls twice: a change is loaded by the second poll.
    fn poll_twice(number: &Reloaded<Number>) -> Result<Option<u32>, &'static str> {
        assert!(matches!(number.poll(), Ok(None)), "loaded by the first poll");
        number.poll().map(|value| value.map(|number| number.0)).map_err(|error| error.kind())
    }

    #[test]
    fn changes_are_loaded_once_the_file_is_stable() {
        let dir = TempDir::new();
        let file = dir.write("n", "1");
        let number = Reloaded::<Number>::open(&file).unwrap();
        assert_eq!(poll_twice(&number), Ok(None));
        // Each version has a different length, as file times may be coarse.
        dir.write("n", "22");
        assert_eq!(poll_twice(&number), Ok(Some(22)));
        assert_eq!(poll_twice(&number), Ok(None));
        // Still being written: every poll sees another version.
        for partial in ["3", "345", "3456"] {
            dir.write("n", partial);
            assert!(number.poll().unwrap().is_none());
        }
        assert_eq!(number.poll().unwrap().unwrap().0, 3456);
    }

    #[test]
    fn a_broken_version_keeps_the_previous_value_and_is_reported_once() {
        let dir = TempDir::new();
        let file = dir.write("n", "1");
        let number = Reloaded::<Number>::open(&file).unwrap();
        dir.write("n", "xyz");
        assert_eq!(poll_twice(&number), Err("invalid"));
        assert_eq!(poll_twice(&number), Ok(None));
        assert_eq!(number.current().0, 1);
        fs::remove_file(&file).unwrap();
        assert_eq!(poll_twice(&number), Err("unreadable"));
        assert_eq!(poll_twice(&number), Ok(None));
        assert_eq!(number.current().0, 1);
        dir.write("n", "4");
        assert_eq!(poll_twice(&number), Ok(Some(4)));
        assert_eq!(number.current().0, 4);
    }

    #[test]
    fn replaced_files_and_swapped_symlinks_are_noticed() {
        let dir = TempDir::new();
        let file = dir.write("n", "1");
        let number = Reloaded::<Number>::open(&file).unwrap();
        // As editors do.
        let new = dir.write("n.new", "2");
        fs::rename(new, &file).unwrap();
        assert_eq!(poll_twice(&number), Ok(Some(2)));

        // As Kubernetes does: n -> ..data/n, ..data -> ..one, then ..data -> ..two in one step.
        for (directory, text) in [("..one", "5"), ("..two", "6")] {
            fs::create_dir(dir.path().join(directory)).unwrap();
            dir.write(&format!("{directory}/n"), text);
        }
        std::os::unix::fs::symlink("..one", dir.path().join("..data")).unwrap();
        std::os::unix::fs::symlink("..data/n", dir.path().join("mounted")).unwrap();
        let number = Reloaded::<Number>::open(&dir.path().join("mounted")).unwrap();
        assert_eq!(number.current().0, 5);
        std::os::unix::fs::symlink("..two", dir.path().join("..tmp")).unwrap();
        fs::rename(dir.path().join("..tmp"), dir.path().join("..data")).unwrap();
        assert_eq!(poll_twice(&number), Ok(Some(6)));
    }

    #[tokio::test]
    async fn watch_reports_reloads_and_failures() {
        let dir = TempDir::new();
        let file = dir.write("n", "1");
        let number = Arc::new(Reloaded::<Number>::open(&file).unwrap());
        let (sender, mut reports) = tokio::sync::mpsc::channel(8);
        let shutdown = CancellationToken::new();
        let watch = tokio::spawn(Arc::clone(&number).watch(shutdown.clone(), move |result| {
            sender.try_send(result.map(|number| number.0).map_err(|error| error.kind())).unwrap();
        }));
        dir.write("n", "22");
        assert_eq!(reports.recv().await, Some(Ok(22)));
        dir.write("n", "");
        assert_eq!(reports.recv().await, Some(Err("invalid")));
        shutdown.cancel();
        watch.await.unwrap();
    }
}
