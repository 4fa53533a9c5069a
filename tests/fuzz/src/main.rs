//! The program of all targets, for `cargo dev fuzz`. With the feature `libfuzzer` it is a libFuzzer, which runs the target
//! named by the environment variable `DEV_FUZZ_TARGET`. Without the feature or the variable, it lists the targets.

#![cfg_attr(feature = "libfuzzer", no_main)]

#[cfg(feature = "libfuzzer")]
mod libfuzzer {
    use std::{process::exit, sync::OnceLock};

    use blackhole_fuzz::Target;

    /// The target that was named.
    static TARGET: OnceLock<&Target> = OnceLock::new();

    fn choose() -> &'static Target {
        let Ok(name) = std::env::var("DEV_FUZZ_TARGET") else {
            super::list();
            exit(0);
        };
        blackhole_fuzz::find(&name).unwrap_or_else(|| {
            eprintln!("there is no target {name}");
            exit(2);
        })
    }

    libfuzzer_sys::fuzz_target!(
        init: {
            let _ = TARGET.set(choose());
        },
        |input: &[u8]| {
            if let Some(target) = TARGET.get() {
                (target.run)(input);
            }
        }
    );
}

#[cfg(not(feature = "libfuzzer"))]
fn main() {
    list();
}

fn list() {
    for target in blackhole_fuzz::TARGETS {
        println!("{}\t{}", target.name, target.reads);
    }
}
