//! What people write to the mayor and how they nudge agents, and what becomes of it: no message is lost (a nudge expires), and
//! neither is said again after its delivery was written down.
//!
//! Each message has words of its own. What a process was really told stands in the container's ledger; what the town believes,
//! in its rows.

use gastown::town::command::Command;
use gastown::town::id::AgentId;
use gastown::town::time::Timestamp;
use gastown_host::world::World;

/// One message.
struct Letter {
    words: String,
    id: String,
    nudge: bool,
    /// A process was told it.
    heard: bool,
    /// Since when the rows say so, as far as was seen.
    delivered: Option<Timestamp>,
}

/// All that were written.
#[derive(Default)]
pub struct Letters {
    written: Vec<Letter>,
    told: usize,
}

impl Letters {
    /// A person's next message, as a command.
    #[must_use]
    pub fn next(&self) -> Command {
        Command::MessageMayor { message: self.words(), ui_context: None }
    }
    /// The next nudge, as a command.
    #[must_use]
    pub fn nudge(&self, target: AgentId, mode: &str) -> Command {
        Command::Nudge { target, message: self.words(), mode: Some(mode.to_owned()) }
    }
    fn words(&self) -> String {
        format!("[letter {}]", self.written.len())
    }

    /// It was given to the town; unless that refused it, it is kept in mind.
    pub fn given(&mut self, w: &World) {
        let words = self.words();
        let row = w.sql.peek(
            "SELECT id, 0 FROM mail WHERE body = ?1
             UNION ALL
             SELECT nudge_id, 1 FROM nudges WHERE message = ?1",
            &[words.as_str().into()],
        );
        if let Some((Ok(id), Ok(nudge))) = row.first().map(|r| (r.text(0), r.flag(1))) {
            self.written.push(Letter { words, id, nudge, heard: false, delivered: None });
        }
    }

    /// The mayor, as the town knows it.
    #[must_use]
    pub fn mayor(w: &World) -> Option<AgentId> {
        w.sql.peek("SELECT mayor_agent_id FROM town", &[]).first().and_then(|r| r.text(0).ok()).map(AgentId)
    }

    /// Looks at what has happened since the last time. `read`: an agent read its mail or its nudges by itself meanwhile.
    ///
    /// # Panics
    /// If a promise is broken.
    pub fn look(&mut self, w: &World, read: bool) {
        let told = w.container.told().get(self.told..).unwrap_or_default();
        for letter in &mut self.written {
            if told.iter().any(|t| t.prompt.contains(&letter.words)) {
                let known = letter.delivered.filter(|_| delivered(w, letter));
                let excused = known.is_none_or(|at| w.jolted_at.is_some_and(|jolt| jolt >= at));
                assert!(excused, "8: {} was said again after it was delivered\n{}", letter.words, w.journal());
                letter.heard = true;
            }
            if letter.delivered.is_none() && delivered(w, letter) {
                let by_hand = read || letter.heard;
                assert!(by_hand, "8: {} counts as delivered, and nobody was told\n{}", letter.words, w.journal());
                letter.delivered = Some(w.now());
            }
        }
        self.told = w.container.told().len();
    }

    fn messages(&self) -> impl Iterator<Item = &Letter> {
        self.written.iter().filter(|l| !l.nudge)
    }

    /// True if no message waits any more.
    #[must_use]
    pub fn all_delivered(&self, w: &World) -> bool {
        self.messages().all(|l| settled(w, l))
    }

    /// All is well again, for hours: whatever was written has arrived.
    ///
    /// # Panics
    /// If it has not.
    pub fn demand(&self, w: &World) {
        for letter in self.messages() {
            assert!(settled(w, letter), "14: {} never arrived\n{}", letter.words, w.journal());
        }
    }
}

fn delivered(w: &World, letter: &Letter) -> bool {
    let sql = if letter.nudge {
        "SELECT delivered_at FROM nudges WHERE nudge_id = ?1"
    } else {
        "SELECT delivered_at FROM mail WHERE id = ?1"
    };
    let rows = w.sql.peek(sql, &[letter.id.as_str().into()]);
    // What is gone was dropped with age; of a nudge, nobody says then that it was delivered.
    rows.first().map_or(!letter.nudge, |r| !matches!(r.opt_int(0), Ok(None)))
}

/// Delivered, or its mayor was destroyed: then it waits until somebody wakes that again.
fn settled(w: &World, letter: &Letter) -> bool {
    let woken = w.sql.peek("SELECT 1 FROM mail WHERE id = ?1 AND wakes = 1", &[letter.id.as_str().into()]);
    woken.is_empty() || delivered(w, letter)
}
