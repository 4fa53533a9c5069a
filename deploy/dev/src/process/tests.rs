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

#[tokio::test]
async fn its_end_is_told_and_its_output_logged() {
    let dir = scratch("output");
    let log = dir.join("log");
    let process = Process::start(&shell("echo out; echo err >&2; exit 3").log(&log)).unwrap();
    assert_eq!(process.exited().await.unwrap().code(), Some(3));
    assert_eq!(tail(&log, 5).unwrap(), "out\nerr");
    assert_eq!(tail(&log, 1).unwrap(), "err");
    std::fs::remove_dir_all(dir).unwrap();
}

#[tokio::test]
async fn what_does_not_heed_sigterm_is_killed() {
    let process = Process::start(&shell("trap '' TERM; while :; do sleep 0.1; done")).unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let status = process.stop(Duration::from_millis(300)).await.unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
}

#[tokio::test]
async fn grandchildren_go_with_the_child() {
    let dir = scratch("grandchild");
    let file = dir.join("pid");
    let script = format!("sleep 1000 & echo $! > {}; wait", file.display());
    let process = Process::start(&shell(&script)).unwrap();
    let grandchild: i32 = loop {
        if let Ok(pid) = std::fs::read_to_string(&file).unwrap_or_default().trim().parse() {
            break pid;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert!(alive(grandchild));
    drop(process);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!alive(grandchild));
    std::fs::remove_dir_all(dir).unwrap();
}

#[tokio::test]
async fn it_outlives_the_thread_that_asked_for_it() {
    let thread = std::thread::spawn(|| Process::start(&shell("exec sleep 1000")).unwrap());
    let process = thread.join().unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(process.status().is_none());
    process.kill().await.unwrap();
    assert!(!alive(process.id()));
}
