//! What agents are told about their role: the texts in `prompts/`, in our own words.

use super::agent::Role;

/// The role's instructions.
#[must_use]
pub const fn of(role: Role) -> &'static str {
    match role {
        Role::Polecat => include_str!("../../prompts/polecat.md"),
        Role::Refinery => include_str!("../../prompts/refinery.md"),
        Role::Mayor => include_str!("../../prompts/mayor.md"),
    }
}

/// Those of a triage agent, which is a polecat without a repository.
pub const TRIAGE: &str = include_str!("../../prompts/triage.md");

/// The first prompt of a mayor whose container may ignore it: a session that goes on where it stopped does not read the
/// prompt of its start (`protocol.md` 7, point 19). What people wrote follows by message.
pub const READY: &str = "You are awake. What people wrote to you follows as a message; wait for it.";

/// The prompt of a mayor that goes on in another container. Its own was read, and must not be acted on once more.
pub const RESUMED: &str = "Your container was replaced, and your session goes on. If something that people asked for is not \
                           finished, finish it; do nothing twice. Then wait.";

/// What a mayor is told that was woken for nothing in particular.
pub const REPORT: &str = "You were woken. Say in one sentence that you are ready and what the town is busy with.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_prompt_is_short_and_names_both_kinds_of_tools() {
        for text in [of(Role::Polecat), of(Role::Refinery), of(Role::Mayor), TRIAGE] {
            assert!(text.len() < 1_536 && text.contains("gt_") && text.contains("`gt "), "{text}");
        }
    }
}
