use super::*;

fn shell(script: &str) -> Spec {
    Spec::new("sh").args(["-c", script])
}

fn alive(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn scratch(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("blackhole-dev-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(10), async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(waited.await.is_ok(), "no sign of {what}");
}

#[tokio::test]
async fn the_exit_status_is_reported_and_the_output_logged() {
    let dir = scratch("output");
    let log = dir.join("log");
    let process = Process::start(&shell("echo out; echo err >&2; exit 3").log(&log)).unwrap();
    assert_eq!(process.exited().await.unwrap().code(), Some(3));
    assert_eq!(tail(&log, 5).unwrap(), "out\nerr");
    assert_eq!(tail(&log, 1).unwrap(), "err");
    std::fs::remove_dir_all(dir).unwrap();
}

#[tokio::test]
async fn a_child_that_ignores_sigterm_is_killed_after_the_grace_period() {
    let dir = scratch("trap");
    let trapped = dir.join("trapped");
    let script = format!("trap '' TERM; touch {}; while :; do sleep 0.1; done", trapped.display());
    let process = Process::start(&shell(&script)).unwrap();
    until("the trap", || trapped.exists()).await;
    let status = process.stop(Duration::from_millis(300)).await.unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
    std::fs::remove_dir_all(dir).unwrap();
}

#[tokio::test]
async fn grandchildren_die_with_the_child() {
    let dir = scratch("grandchild");
    let file = dir.join("pid");
    let script = format!("sleep 1000 & echo $! > {}; wait", file.display());
    let process = Process::start(&shell(&script)).unwrap();
    let pid = || std::fs::read_to_string(&file).ok()?.trim().parse::<i32>().ok();
    until("the grandchild's pid", || pid().is_some()).await;
    let grandchild = pid().unwrap();
    assert!(alive(grandchild));
    drop(process);
    until("the grandchild's end", || !alive(grandchild)).await;
    std::fs::remove_dir_all(dir).unwrap();
}

#[tokio::test]
async fn a_child_outlives_the_thread_that_started_it() {
    let dir = scratch("thread");
    let (go, went) = (dir.join("go"), dir.join("went"));
    let script = format!(
        "until test -e {}; do sleep 0.02; done; touch {}; exec sleep 1000",
        go.display(),
        went.display()
    );
    let thread = std::thread::spawn(move || Process::start(&shell(&script)).unwrap());
    let process = thread.join().unwrap();
    std::fs::write(&go, "").unwrap();
    until("a sign of life", || went.exists()).await;
    assert!(process.status().is_none());
    process.kill().await.unwrap();
    assert!(!alive(process.id()));
    std::fs::remove_dir_all(dir).unwrap();
}
