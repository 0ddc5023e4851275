//! Completion and help.

use crate::world::World;

#[test]
fn every_shell_gets_a_completion_that_knows_the_commands() {
    let world = World::stranger();
    for (shell, part) in [("bash", "complete -F _gt"), ("zsh", "#compdef gt"), ("fish", "complete -c gt")] {
        let script = world.run(&["completions", shell]).ok().out;
        for word in [part, "sling", "escalate", "redrive"] {
            assert!(script.contains(word), "{shell} lacks {word}");
        }
    }
    assert!(world.run(&["completions", "ed"]).ends(2).err.contains("possible values"));
}

#[test]
fn help_shows_examples_and_the_exit_codes() {
    let world = World::stranger();
    let help = world.run(&["--help"]).ok().out;
    assert!(help.contains("Exit codes: 0 done") && help.contains("gt watch --bead"), "{help}");
    assert!(world.run(&["sling", "--help"]).ok().out.contains("Examples:\n  gt sling"));
    assert!(world.run(&["--version"]).ok().out.starts_with("gt 0."));
}
