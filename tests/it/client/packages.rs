//! The packages: what they contain, that they install, and that their types are right.

use super::*;

/// Programs that use the types; lines that must be errors say so.
const TYPES: &str = include_str!("types.ts");
const TYPES_PY: &str = include_str!("types.py");

#[test]
fn the_npm_package_contains_what_it_exports() {
    let npm = install::find(install::NPM).unwrap();
    let packed =
        tools::output(Command::new(npm).args(["pack", "--dry-run", "--json"]).current_dir(package()));
    let packed: Value = serde_json::from_str(&packed).unwrap();
    // An older npm lists packages, a newer one has them by name.
    let packed = packed.get(0).or_else(|| packed.get("blackhole-events")).unwrap();
    let mut files: Vec<&str> =
        packed["files"].as_array().unwrap().iter().map(|file| file["path"].as_str().unwrap()).collect();
    files.sort_unstable();
    assert_eq!(
        files,
        [
            "LICENSE-APACHE",
            "LICENSE-MIT",
            "README.md",
            "client.d.ts",
            "client.js",
            "events.d.ts",
            "node-websocket.js",
            "node.js",
            "package.json"
        ]
    );
    let manifest: Value =
        serde_json::from_str(&std::fs::read_to_string(package().join("package.json")).unwrap()).unwrap();
    assert_eq!(manifest["version"], env!("CARGO_PKG_VERSION"));
    assert!(manifest.get("dependencies").is_none());
    for target in manifest["exports"]["."].as_object().unwrap().values() {
        assert!(files.contains(&&target.as_str().unwrap()[2..]), "{target}");
    }
    for license in ["LICENSE-APACHE", "LICENSE-MIT"] {
        let text = |folder: &str| std::fs::read_to_string(package().join(folder).join(license)).unwrap();
        assert_eq!(text("../../.."), text("."));
        assert_eq!(text("../../.."), text("../python"));
    }
}

#[test]
fn the_types_of_the_npm_package_are_right() {
    let (dir, tools) = (RunDir::create("types").unwrap(), tools::node_modules().join("node_modules"));
    let modules = dir.path().join("node_modules");
    std::fs::create_dir(&modules).unwrap();
    std::os::unix::fs::symlink(package(), modules.join("blackhole-events")).unwrap();
    for package in ["react", "@types"] {
        std::os::unix::fs::symlink(tools.join(package), modules.join(package)).unwrap();
    }
    let (types, react) = (dir.path().join("types.ts"), dir.path().join("Calls.tsx"));
    std::fs::write(&types, TYPES).unwrap();
    let example = std::fs::read_to_string(package().join("../../../docs/recipes/Calls.tsx")).unwrap();
    assert!(example.lines().count() <= 40, "an example of forty lines");
    let page = std::fs::read_to_string(package().join("../../../docs/client.md")).unwrap();
    assert!(page.contains(example.trim_end()), "docs/client.md does not show the example as it is");
    std::fs::write(&react, example).unwrap();
    let flags =
        "--noEmit --strict --target es2022 --module nodenext --jsx react-jsx --lib es2022,dom --types react";
    let compiler = tools.join("typescript/bin/tsc");
    tools::output(
        Command::new(node())
            .arg(compiler)
            .args(flags.split(' '))
            .args([types, react])
            .current_dir(dir.path()),
    );
    dir.remove().unwrap();
}

#[test]
fn pip_installs_the_python_package() {
    let dir = RunDir::create("pip").unwrap();
    let place = dir.path().join("installed");
    tools::output(tools::pip_install(&place).arg(tools::clients().join("python")));
    let mut python = Command::new(install::find(install::PYTHON).unwrap());
    python.env("PYTHONPATH", &place).current_dir(dir.path());
    let check = "import blackhole_events, importlib.metadata as m; from importlib.resources import files; \
                 print(m.version('blackhole-events'), blackhole_events.__version__, files(blackhole_events).joinpath('py.typed').is_file())";
    let version = env!("CARGO_PKG_VERSION");
    let printed = tools::output(python.args(["-c", check]));
    assert_eq!(printed.trim(), format!("{version} {version} True"));
    dir.remove().unwrap();
}

#[test]
fn the_types_of_the_python_package_are_right() {
    let dir = RunDir::create("mypy").unwrap();
    let file = dir.path().join("types_of_events.py");
    std::fs::write(&file, TYPES_PY).unwrap();
    let settings = "[mypy]\nstrict = true\n[mypy-websockets.*]\nfollow_imports = silent\n";
    std::fs::write(dir.path().join("mypy.ini"), settings).unwrap();
    let flags = ["-m", "mypy", "--cache-dir", "cache"];
    let (source, modules) = (tools::clients().join("python/src"), dir.path().join("modules"));
    std::fs::create_dir(&modules).unwrap();
    std::os::unix::fs::symlink(tools::python_modules().join("websockets"), modules.join("websockets"))
        .unwrap();
    let path = std::env::join_paths([&source, &modules]).unwrap();
    let mut mypy = tools::python();
    mypy.args(flags).arg(&file).arg(source.join("blackhole_events")).env("MYPYPATH", path);
    tools::output(mypy.current_dir(dir.path()));
    dir.remove().unwrap();
}

/// The React example as its users build it, in a browser.
#[tokio::test]
async fn the_react_example_shows_the_calls_that_live() {
    let (stack, account) = (Stack::shared(), Account::fresh());
    let dir = RunDir::create("react").unwrap();
    let tools = tools::node_modules().join("node_modules");
    let bundle = dir.path().join("bundle.js");
    let main = "import { createRoot } from 'react-dom/client'; import { Calls } from 'example'; \
                createRoot(document.body.firstElementChild).render(<Calls {...window.given} />);";
    let (main_file, example) =
        (dir.path().join("main.jsx"), package().join("../../../docs/recipes/Calls.tsx"));
    std::fs::write(&main_file, main).unwrap();
    tools::output(
        Command::new(tools.join("@esbuild").join(esbuild_platform()).join("bin/esbuild"))
            .arg(&main_file)
            .args([
                "--bundle",
                "--jsx=automatic",
                "--define:process.env.NODE_ENV=\"production\"",
                "--log-level=warning",
            ])
            .arg(format!("--alias:example={}", example.display()))
            .arg(format!("--alias:blackhole-events={}", package().join("client.js").display()))
            .arg(format!("--outfile={}", bundle.display()))
            .env("NODE_PATH", &tools),
    );
    let given = json!({ "url": stack.edge.url("view=args"), "token": account.token() });
    let page = format!(
        "<!doctype html><body><main></main><script>window.given = {given}</script><script src=\"bundle.js\"></script>"
    );
    let file = dir.path().join("page.html");
    std::fs::write(&file, page).unwrap();
    let publisher = stack.publisher().await;
    events::call(&account, "CHANNEL_CREATE", "first").publish(&publisher).await;
    events::call(&account, "CHANNEL_ANSWER", "second").publish(&publisher).await;
    let browser = Browser::open().await;
    browser.goto_file(&file, None).await;
    browser.until("document.querySelectorAll('li').length === 2").await;
    events::call(&account, "CHANNEL_DESTROY", "first").publish(&publisher).await;
    browser.until("document.querySelectorAll('li').length === 1").await;
    assert!(browser.text("document.querySelector('li').textContent").await.contains("Zoë Ångström"));
    browser.close().await;
}

/// esbuild's program is in a package for each platform.
fn esbuild_platform() -> String {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "x64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("{}-{architecture}", std::env::consts::OS)
}
