//! The program of all targets, for `cargo dev fuzz`. With the feature `libfuzzer` it is a libFuzzer, which runs the target
//! named by the environment variable `DEV_FUZZ_TARGET`. Without, it lists the targets.

#![cfg_attr(feature = "libfuzzer", no_main)]

#[cfg(feature = "libfuzzer")]
mod libfuzzer {
    use std::sync::LazyLock;

    use blackhole_fuzz::Target;

    /// The target that was named.
    static TARGET: LazyLock<&Target> = LazyLock::new(|| {
        let name = std::env::var("DEV_FUZZ_TARGET").unwrap_or_default();
        blackhole_fuzz::find(&name).unwrap_or_else(|| {
            eprintln!("DEV_FUZZ_TARGET names no target: {name:?}");
            std::process::exit(2);
        })
    });

    libfuzzer_sys::fuzz_target!(|input: &[u8]| {
        (TARGET.run)(input);
    });
}

#[cfg(not(feature = "libfuzzer"))]
fn main() {
    for target in blackhole_fuzz::TARGETS {
        println!("{}\t{}", target.name, target.reads);
    }
}
