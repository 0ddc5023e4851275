//! How a message reaches an agent: as a line of its inbox file, or as its next turn.
//!
//! Guarantees: a message is taken (`put` succeeds) only by an agent that will still see it: a box that takes turns closes
//! only while it is empty, under the same lock that takes messages. What a script does not read from its inbox is lost to
//! it, since a script has no second turn.

use crate::text;
use serde_json::json;
use std::{
    collections::VecDeque,
    fs::OpenOptions,
    io::{self, Write},
    path::PathBuf,
    sync::Mutex,
};
use tokio::sync::Notify;

/// How many messages may wait for their turn. A turn is a model's run: more than this is no conversation any more.
const WAITING: usize = 100;

/// Why a message was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// Nobody will read it.
    #[error("the agent takes no messages")]
    Closed,
    /// Too many wait.
    #[error("{WAITING} messages wait for their turn already; send this one when the agent has worked them off")]
    Full,
    /// The inbox cannot be written.
    #[error("the message could not be written: {0}")]
    Disk(#[from] io::Error),
}

#[derive(Debug, Default)]
enum Way {
    /// Not yet, or not any more.
    #[default]
    Closed,
    /// A file of JSON lines that the process reads when it likes.
    Inbox(PathBuf),
    /// Prompts, run one after another when the present one has ended.
    Turns(VecDeque<String>),
}

/// An agent's mailbox.
#[derive(Debug, Default)]
pub struct Mailbox {
    way: Mutex<Way>,
    bell: Notify,
}

impl Mailbox {
    /// Messages go to a file from now on.
    pub fn open_inbox(&self, path: PathBuf) {
        *text::lock(&self.way) = Way::Inbox(path);
    }

    /// Messages become turns from now on.
    pub fn open_turns(&self) {
        *text::lock(&self.way) = Way::Turns(VecDeque::new());
    }

    /// Takes a message.
    pub fn put(&self, prompt: &str) -> Result<(), Refused> {
        match &mut *text::lock(&self.way) {
            Way::Closed => return Err(Refused::Closed),
            Way::Inbox(path) => {
                let line = format!("{}\n", json!({ "at": text::now(), "prompt": prompt }));
                // One write per line: a reader never sees half of one.
                OpenOptions::new().append(true).open(path)?.write_all(line.as_bytes())?;
            }
            Way::Turns(waiting) if waiting.len() >= WAITING => return Err(Refused::Full),
            Way::Turns(waiting) => waiting.push_back(prompt.to_owned()),
        }
        self.bell.notify_one();
        Ok(())
    }

    /// The next turn's prompt, if one waits.
    pub fn take(&self) -> Option<String> {
        match &mut *text::lock(&self.way) {
            Way::Turns(waiting) => waiting.pop_front(),
            Way::Closed | Way::Inbox(_) => None,
        }
    }

    /// The next turn's prompt, once there is one. May be given up at any time.
    pub async fn next(&self) -> String {
        loop {
            if let Some(prompt) = self.take() {
                return prompt;
            }
            self.bell.notified().await;
        }
    }

    /// Waits until a message has come since the last time.
    pub async fn rung(&self) {
        self.bell.notified().await;
    }

    /// Takes no more messages, unless a turn waits; returns whether it is closed.
    pub fn close(&self) -> bool {
        let mut way = text::lock(&self.way);
        if matches!(&*way, Way::Turns(waiting) if !waiting.is_empty()) {
            return false;
        }
        *way = Way::Closed;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::{Mailbox, Refused, WAITING};

    #[tokio::test]
    async fn a_box_with_a_message_in_it_does_not_close() {
        let mailbox = Mailbox::default();
        assert!(matches!(mailbox.put("early"), Err(Refused::Closed)));
        mailbox.open_turns();
        mailbox.put("one").unwrap();
        assert!(!mailbox.close(), "it would be lost");
        assert_eq!(mailbox.next().await, "one");
        assert!(mailbox.close());
        assert!(matches!(mailbox.put("late"), Err(Refused::Closed)));
    }

    #[test]
    fn a_conversation_has_an_end() {
        let mailbox = Mailbox::default();
        mailbox.open_turns();
        for _ in 0..WAITING {
            mailbox.put("again").unwrap();
        }
        assert!(matches!(mailbox.put("and again"), Err(Refused::Full)));
    }
}
