//! The thin path, end to end: what is slung is done, reviewed and merged.

use gastown_host::world::World;

#[test]
fn a_slung_bead_is_done_reviewed_and_merged() {
    let (mut w, rig) = World::founded(1);
    let bead = w.sling(&rig, "Say hello");
    w.run_for(10 * 60_000);
    assert_eq!(w.status(&bead), "closed", "{}", w.journal());
    let roles: Vec<_> = w.starts().iter().map(|s| s.role.clone()).collect();
    assert_eq!(roles, ["polecat", "refinery"]);
    assert_eq!(w.alarm(), None, "a town with nothing due has no alarm");
}
