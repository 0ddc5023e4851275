//! The seeded bugs of `make sim-check`: whether the simulator finds them takes minutes; whether they still apply, nothing.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test code: a broken promise must stop the test"
)]

use std::path::{Path, PathBuf};
use std::process::Command;

fn patches() -> Vec<PathBuf> {
    let files = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("bugs")).expect("sim/bugs exists");
    let mut patches: Vec<PathBuf> = files.map(|f| f.expect("a file").path()).collect();
    patches.retain(|p| p.extension().is_some_and(|e| e == "patch"));
    patches.sort();
    patches
}

#[test]
fn each_of_the_ten_bugs_still_applies_to_the_town_and_to_nothing_else() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let patches = patches();
    assert_eq!(patches.len(), 10);
    for patch in patches {
        let text = std::fs::read_to_string(&patch).expect("a patch is text");
        let seeds: Vec<&str> = text.lines().filter_map(|l| l.strip_prefix("Seed: ")).collect();
        assert!(matches!(seeds[..], [seed] if seed.parse::<u64>().is_ok()), "{patch:?} says where to begin");
        let touched: Vec<&str> = text.lines().filter_map(|l| l.strip_prefix("+++ b/")).collect();
        assert!(!touched.is_empty() && touched.iter().all(|f| f.starts_with("src/town/")), "{patch:?}: {touched:?}");
        let applied = Command::new("git").args(["apply", "--check"]).arg(&patch).current_dir(root).output();
        let applied = applied.expect("git runs");
        assert!(applied.status.success(), "{patch:?}: {}", String::from_utf8_lossy(&applied.stderr));
    }
}
