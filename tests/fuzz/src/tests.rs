use std::{collections::BTreeSet, fs, path::PathBuf};

use super::*;

/// The corpora together, which are in the repository.
const MAX_BYTES: u64 = 500_000;
/// As much as the main thread has, in which libFuzzer runs the targets.
const STACK_BYTES: usize = 8 << 20;

fn corpus() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

fn inputs(target: &Target) -> Vec<PathBuf> {
    let files =
        fs::read_dir(corpus().join(target.name)).unwrap_or_else(|error| panic!("{}: {error}", target.name));
    let mut files: Vec<PathBuf> = files.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// Some inputs were found by fuzzing and are what made a target fail once.
#[test]
fn no_input_of_a_corpus_breaks_a_promise_and_every_target_accepts_one() {
    let run = || {
        for target in TARGETS {
            let mut accepted = 0;
            for file in inputs(target) {
                let input = fs::read(&file).unwrap();
                println!("{}", file.display());
                accepted += usize::from((target.run)(&input));
            }
            // Else its promises about what is accepted are not checked.
            assert!(accepted > 0, "{} accepts no input of its corpus", target.name);
        }
    };
    std::thread::Builder::new().stack_size(STACK_BYTES).spawn(run).unwrap().join().unwrap();
}

#[test]
fn each_folder_of_the_corpus_is_that_of_a_target_and_all_are_small() {
    let folders: BTreeSet<String> = fs::read_dir(corpus())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(folders, TARGETS.iter().map(|target| target.name.to_owned()).collect());
    let files = TARGETS.iter().flat_map(inputs);
    let bytes: u64 = files.map(|file| fs::metadata(file).unwrap().len()).sum();
    assert!(bytes <= MAX_BYTES, "{bytes} bytes: merge the corpora (`cargo dev fuzz --keep`)");
}
