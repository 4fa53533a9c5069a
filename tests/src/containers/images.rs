//! What the images and their containers may not have: size, a shell, a named user, a writable root, capabilities.

use super::{Compose, SERVICES};
use crate::chaos::show;

/// The largest image, in bytes.
const MAX_IMAGE_BYTES: u64 = 40_000_000;

/// Checks the images and what their containers may do.
///
/// # Panics
/// If an image is too large, has a shell or a named user, or a container may write or has a capability.
pub async fn check(compose: &Compose) {
    for (service, image) in SERVICES {
        let image = format!("blackhole/{image}:{}", compose.version);
        let inspect = ["image", "inspect", "-f", "{{.Size}} {{.Config.User}}", &image];
        let text = compose.docker(&inspect).await.unwrap();
        let (size, user) = text.split_once(' ').unwrap();
        assert!(size.parse::<u64>().unwrap() < MAX_IMAGE_BYTES, "{image} has {size} bytes");
        let uid = user.split(':').next().unwrap();
        assert!(uid.parse::<u32>().is_ok_and(|uid| uid > 0), "{image} runs as {user:?}");
        for shell in ["sh", "bash", "/bin/sh", "/bin/busybox"] {
            let run = ["run", "--rm", "--network", "none", "--entrypoint", shell, &image, "-c", "true"];
            assert!(compose.docker(&run).await.is_err(), "{image} has {shell}");
        }
        for container in compose.containers(service).await {
            let state = ["inspect", "-f", "{{.State.Pid}} {{.HostConfig.ReadonlyRootfs}}", &container];
            let text = compose.docker(&state).await.unwrap();
            let (pid, read_only) = text.split_once(' ').unwrap();
            assert_eq!(read_only, "true", "{service}: the root file system");
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("needs root");
            let field = |name: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
                line.split_whitespace().next().unwrap().to_owned()
            };
            for set in ["CapPrm:", "CapEff:", "CapBnd:"] {
                assert_eq!(u64::from_str_radix(&field(set), 16), Ok(0), "{service}: {set}");
            }
            assert_eq!((field("NoNewPrivs:").as_str(), field("Uid:").as_str()), ("1", uid), "{service}");
        }
        show(format_args!(
            "{image}: {:.1} MB, user {user}, no shell, read-only, no capability",
            megabytes(size)
        ));
    }
}

fn megabytes(bytes: &str) -> f64 {
    bytes.parse::<f64>().unwrap() / 1e6
}
