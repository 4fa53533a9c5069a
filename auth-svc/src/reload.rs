//! A value that is read from files, and read again when they change.
//!
//! Files are looked at (`stat`) rather than watched: that follows the symlinks that Kubernetes swaps, sees editors
//! that replace the file, works on every file system, and costs nothing worth counting. What changed is read only
//! when it has stood still for one look, since a file that is being written may well make sense half-way, with
//! half of the accounts gone.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use parking_lot::{Mutex, RwLock};
use tokio_util::sync::CancellationToken;

use crate::error::Error;

/// The time between two looks; a change is in force after two to three of them.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// A value that can be read from a file or a directory.
pub trait FromFiles: Sized + Send + Sync + 'static {
    /// What it is, for logs and metrics.
    const NAME: &'static str;

    /// Tells versions of the files apart, without reading them.
    fn look(path: &Path) -> Fingerprint;

    /// Reads it.
    ///
    /// # Errors
    /// When there is nothing that could be in force.
    fn read(path: &Path) -> Result<Self, Error>;
}

/// Tells versions of some files apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fingerprint(Vec<(PathBuf, Option<Version>)>);

/// Device, inode, length, and time of the last change to content or inode: the latter also moves where a tool puts
/// back the former.
type Version = (u64, u64, u64, i64, i64, i64, i64);

impl Fingerprint {
    /// The files as they are now, symlinks followed.
    pub fn of(files: impl IntoIterator<Item = PathBuf>) -> Fingerprint {
        let version = |file: &Path| {
            let data = fs::metadata(file).ok()?;
            let content = (data.mtime(), data.mtime_nsec());
            let inode = (data.ctime(), data.ctime_nsec());
            Some((data.dev(), data.ino(), data.size(), content.0, content.1, inode.0, inode.1))
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

/// The value in force, and how to renew it.
#[derive(Debug)]
pub struct Reloaded<T> {
    path: PathBuf,
    current: RwLock<Arc<T>>,
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    /// The version that was read last, with or without success.
    read: Fingerprint,
    /// The version at the last look.
    last: Fingerprint,
}

impl<T: FromFiles> Reloaded<T> {
    /// Reads the value for the first time.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn open(path: &Path) -> Result<Reloaded<T>, Error> {
        // Looked at first: what is written while it is read counts as a change.
        let read = T::look(path);
        let current = RwLock::new(Arc::new(T::read(path)?));
        let seen = Mutex::new(Seen { last: read.clone(), read });
        Ok(Reloaded { path: path.to_owned(), current, seen })
    }

    /// The value in force.
    pub fn current(&self) -> Arc<T> {
        Arc::clone(&self.current.read())
    }

    /// Looks at the files, and reads them if they have changed and stood still since the last look. When they
    /// cannot be read the former value stays in force, and they are not read again before they change.
    ///
    /// # Errors
    /// Why they cannot be read.
    pub fn look_again(&self) -> Result<Option<Arc<T>>, Error> {
        let mut seen = self.seen.lock();
        let now = T::look(&self.path);
        let stood_still = now == seen.last;
        seen.last.clone_from(&now);
        if now == seen.read || !stood_still {
            return Ok(None);
        }
        seen.read = now;
        let renewed = Arc::new(T::read(&self.path)?);
        *self.current.write() = Arc::clone(&renewed);
        Ok(Some(renewed))
    }

    /// Keeps looking until `shutdown`, and tells each renewal and each failure.
    pub async fn watch(
        self: Arc<Self>,
        shutdown: CancellationToken,
        tell: impl Fn(Result<Arc<T>, Error>) + Send,
    ) {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            let looking = Arc::clone(&self);
            // A file system may take its time.
            match tokio::task::spawn_blocking(move || looking.look_again()).await {
                Ok(Ok(None)) => {}
                Ok(Ok(Some(renewed))) => tell(Ok(renewed)),
                Ok(Err(error)) => tell(Err(error)),
                // The runtime is shutting down.
                Err(_) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[derive(Debug)]
    struct Number(u32);

    impl FromFiles for Number {
        const NAME: &'static str = "number";

        fn look(path: &Path) -> Fingerprint {
            Fingerprint::of([path.to_owned()])
        }

        fn read(path: &Path) -> Result<Number, Error> {
            let text = fs::read_to_string(path).map_err(|reason| Error::unreadable(path, reason))?;
            text.trim().parse().map(Number).map_err(|_| Error::invalid(path, "no number"))
        }
    }

    /// What two looks give: a change is taken at the second one only.
    fn settle(number: &Reloaded<Number>) -> Result<Option<u32>, &'static str> {
        assert!(matches!(number.look_again(), Ok(None)), "read before it stood still");
        number.look_again().map(|renewed| renewed.map(|number| number.0)).map_err(|error| error.kind())
    }

    #[test]
    fn changes_are_taken_when_they_stand_still() {
        let dir = TempDir::new();
        let file = dir.write("n", "1");
        let number = Reloaded::<Number>::open(&file).unwrap();
        assert_eq!(settle(&number), Ok(None));
        // Of another length each time: times of files may be coarse.
        dir.write("n", "22");
        assert_eq!(settle(&number), Ok(Some(22)));
        assert_eq!(settle(&number), Ok(None));
        // Still being written: every look sees another version.
        for half in ["3", "345", "3456"] {
            dir.write("n", half);
            assert!(number.look_again().unwrap().is_none());
        }
        assert_eq!(number.look_again().unwrap().unwrap().0, 3456);
    }

    #[test]
    fn a_broken_version_keeps_the_old_one_and_is_told_once() {
        let dir = TempDir::new();
        let file = dir.write("n", "1");
        let number = Reloaded::<Number>::open(&file).unwrap();
        dir.write("n", "xyz");
        assert_eq!(settle(&number), Err("invalid"));
        assert_eq!(settle(&number), Ok(None));
        assert_eq!(number.current().0, 1);
        fs::remove_file(&file).unwrap();
        assert_eq!(settle(&number), Err("unreadable"));
        assert_eq!(settle(&number), Ok(None));
        assert_eq!(number.current().0, 1);
        dir.write("n", "4");
        assert_eq!(settle(&number), Ok(Some(4)));
        assert_eq!(number.current().0, 4);
    }

    #[test]
    fn replaced_files_and_swapped_symlinks_are_changes() {
        let dir = TempDir::new();
        let file = dir.write("n", "1");
        let number = Reloaded::<Number>::open(&file).unwrap();
        // As editors do.
        let new = dir.write("n.new", "2");
        fs::rename(new, &file).unwrap();
        assert_eq!(settle(&number), Ok(Some(2)));

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
        assert_eq!(settle(&number), Ok(Some(6)));
    }

    #[tokio::test]
    async fn watching_tells_what_happens() {
        let dir = TempDir::new();
        let file = dir.write("n", "1");
        let number = Arc::new(Reloaded::<Number>::open(&file).unwrap());
        let (sender, mut told) = tokio::sync::mpsc::channel(8);
        let shutdown = CancellationToken::new();
        let watch = tokio::spawn(Arc::clone(&number).watch(shutdown.clone(), move |renewed| {
            sender.try_send(renewed.map(|number| number.0).map_err(|error| error.kind())).unwrap();
        }));
        dir.write("n", "22");
        assert_eq!(told.recv().await, Some(Ok(22)));
        dir.write("n", "");
        assert_eq!(told.recv().await, Some(Err("invalid")));
        shutdown.cancel();
        watch.await.unwrap();
    }
}
