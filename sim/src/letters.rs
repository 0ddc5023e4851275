//! What people write to the mayor, and what becomes of it: no message is lost, and none is said again after its delivery was
//! written down.
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
    mail: String,
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
    fn words(&self) -> String {
        format!("[message {}]", self.written.len())
    }

    /// It was given to the town; unless that refused it, it is kept in mind.
    pub fn given(&mut self, w: &World) {
        let words = self.words();
        let row = w.sql.peek("SELECT id FROM mail WHERE body = ?1", &[words.as_str().into()]);
        if let Some(Ok(mail)) = row.first().map(|r| r.text(0)) {
            self.written.push(Letter { words, mail, heard: false, delivered: None });
        }
    }

    /// The mayor, as the town knows it.
    #[must_use]
    pub fn mayor(w: &World) -> Option<AgentId> {
        w.sql.peek("SELECT mayor_agent_id FROM town", &[]).first().and_then(|r| r.text(0).ok()).map(AgentId)
    }

    /// Looks at what has happened since the last time. `read`: somebody read the mayor's mail meanwhile.
    ///
    /// # Panics
    /// If a promise is broken.
    pub fn look(&mut self, w: &World, read: bool) {
        let told = w.container.told().get(self.told..).unwrap_or_default();
        for letter in self.written.iter_mut() {
            if told.iter().any(|t| t.prompt.contains(&letter.words)) {
                let known = letter.delivered.filter(|_| delivered(w, &letter.mail));
                let excused = known.is_none_or(|at| w.jolted_at.is_some_and(|jolt| jolt >= at));
                assert!(excused, "8: {} was said again after it was delivered\n{}", letter.words, w.journal());
                letter.heard = true;
            }
            if letter.delivered.is_none() && delivered(w, &letter.mail) {
                let by_hand = read || letter.heard;
                assert!(by_hand, "8: {} counts as delivered, and nobody was told\n{}", letter.words, w.journal());
                letter.delivered = Some(w.now());
            }
        }
        self.told = w.container.told().len();
    }

    /// True if nothing waits any more.
    #[must_use]
    pub fn all_delivered(&self, w: &World) -> bool {
        self.written.iter().all(|l| delivered(w, &l.mail))
    }

    /// All is well again, for hours: whatever was written has arrived.
    ///
    /// # Panics
    /// If it has not.
    pub fn demand(&self, w: &World) {
        for letter in &self.written {
            assert!(delivered(w, &letter.mail), "14: {} never arrived\n{}", letter.words, w.journal());
        }
    }
}

fn delivered(w: &World, mail: &str) -> bool {
    let rows = w.sql.peek("SELECT delivered_at FROM mail WHERE id = ?1", &[mail.into()]);
    // A mail that is gone was dropped with age.
    rows.first().is_none_or(|r| !matches!(r.opt_int(0), Ok(None)))
}
