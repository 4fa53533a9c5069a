//! What the tests of the client packages need from npm and PyPI, below cargo's target directory.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

use blackhole_dev::{install, workspace};

/// What the Python package depends on; its `pyproject.toml` allows later ones.
const PYTHON_PACKAGES: &[&str] = &["websockets==15.0.1", "mypy==1.18.2"];

/// The folder of the client packages in the repository.
pub fn clients() -> PathBuf {
    workspace::root().unwrap().join("ws-edge/clients")
}

/// A folder with the `node_modules` of `tests/clients/package-lock.json`.
pub fn node_modules() -> &'static Path {
    static PLACE: LazyLock<PathBuf> = LazyLock::new(|| {
        let from = workspace::root().unwrap().join("tests/clients");
        let wanted = fs::read_to_string(from.join("package-lock.json")).unwrap();
        installed("node", &wanted, |place| {
            for file in ["package.json", "package-lock.json"] {
                fs::copy(from.join(file), place.join(file)).unwrap();
            }
            let mut npm = Command::new(install::find(install::NPM).unwrap());
            npm.args(["ci", "--no-audit", "--no-fund", "--ignore-scripts"]).current_dir(place);
            output(&mut npm);
        })
    });
    &PLACE
}

/// A folder of Python modules: what the Python package needs.
pub fn python_modules() -> &'static Path {
    static PLACE: LazyLock<PathBuf> = LazyLock::new(|| {
        installed("python", &PYTHON_PACKAGES.join("\n"), |place| {
            output(pip_install(place).args(PYTHON_PACKAGES));
        })
    });
    &PLACE
}

/// Python with the package and what it needs.
pub fn python() -> Command {
    let mut python = Command::new(install::find(install::PYTHON).unwrap());
    let path = [clients().join("python/src"), python_modules().to_owned()];
    python.env("PYTHONPATH", std::env::join_paths(path).unwrap()).env("PYTHONDONTWRITEBYTECODE", "1");
    python
}

/// Installs into a folder, which the system's Python does not refuse as it does elsewhere.
pub fn pip_install(folder: &Path) -> Command {
    let mut pip = Command::new(install::find(install::PYTHON).unwrap());
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target"]).arg(folder);
    pip
}

/// What a program prints; panics if it fails.
pub fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{command:?}: {}\n{printed}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    printed.into_owned()
}

/// A folder whose content was made for `wanted`; made anew if that has changed.
fn installed(name: &str, wanted: &str, make: impl FnOnce(&Path)) -> PathBuf {
    let parent = workspace::target_dir().unwrap().join("clients");
    let (place, mark) = (parent.join(name), parent.join(format!("{name}.made")));
    fs::create_dir_all(&place).unwrap();
    // Several test programs may run at once.
    let gate = fs::File::create(parent.join(format!("{name}.lock"))).unwrap();
    gate.lock().unwrap();
    if fs::read_to_string(&mark).is_ok_and(|made| made == wanted) {
        return place;
    }
    fs::remove_dir_all(&place).unwrap();
    fs::create_dir_all(&place).unwrap();
    make(&place);
    fs::write(mark, wanted).unwrap();
    place
}
