//! What an attempt's processes print: the last 4 KB in memory as the reason of a failure, a log file with a size cap, and
//! events for whoever watches.
//!
//! Text is redacted line by line before it is kept anywhere.

use crate::{
    dialect::{Dialect, Said, refusal},
    redact::Redactor,
    text,
    transcript::Feed,
};
use serde_json::json;
use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::{Arc, Mutex},
};
use tokio::io::{AsyncRead, AsyncReadExt};

/// How much of the end is kept: the reason of a failure.
pub const TAIL_BYTES: usize = 4096;

/// A line longer than this is kept in pieces.
const LINE_BYTES: usize = 16 * 1024;

/// A line of a tool's JSON may be longer: it holds whole files.
const JSON_LINE_BYTES: usize = 2_000_000;

/// The output of one attempt.
#[derive(Debug)]
pub struct Output {
    redactor: Arc<Redactor>,
    dialect: Dialect,
    feed: Arc<Feed>,
    kept: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    tail: String,
    /// What a model answered at the end of its last turn.
    answer: Option<String>,
    log: Option<File>,
    /// How many bytes the log may still take.
    room: u64,
}

impl Output {
    /// An output that is logged to `path`, readable by the runner alone.
    pub fn create(
        redactor: Arc<Redactor>,
        dialect: Dialect,
        feed: Arc<Feed>,
        path: &Path,
        cap: u64,
    ) -> io::Result<Self> {
        let log = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        let kept = Kept { tail: String::new(), answer: None, log: Some(log), room: cap };
        Ok(Self { redactor, dialect, feed, kept: Mutex::new(kept) })
    }

    /// The last 4 KB, trimmed.
    #[must_use]
    pub fn tail(&self) -> String {
        let kept = text::lock(&self.kept);
        text::tail(kept.tail.trim(), TAIL_BYTES).to_owned()
    }

    /// Forgets what was said so far, but not the log: the next gate's failure must not be explained by the last one's output.
    pub fn forget(&self) {
        text::lock(&self.kept).tail.clear();
    }

    /// The answer of a model's last turn; of a program that is no model, the last it said.
    #[must_use]
    pub fn summary(&self) -> String {
        let answer = text::lock(&self.kept).answer.clone().filter(|answer| !answer.trim().is_empty());
        answer.unwrap_or_else(|| self.tail())
    }

    /// Keeps a piece of text: a line with its end, or a part of an overlong one.
    pub fn keep(&self, piece: &str) {
        if let Some(said) = self.dialect.read(piece) {
            for said in said {
                self.understand(said);
            }
        } else {
            let piece = self.redactor.clean(piece);
            self.write(&piece, true);
            self.feed.tell("output", json!({ "text": piece }));
        }
    }

    /// What a model's tool said in its own JSON.
    fn understand(&self, said: Said) {
        match said {
            Said::Text(words) => {
                let words = self.redactor.clean(&words);
                self.write(&format!("{words}\n"), true);
                self.feed.tell("text", json!({ "text": words }));
            }
            Said::Trouble(words) => {
                let words = self.redactor.clean(&words);
                self.write(&format!("{words}\n"), true);
                self.feed.refused(refusal(&words));
                self.feed.tell("error", json!({ "text": words }));
            }
            Said::Answer(words) => {
                text::lock(&self.kept).answer = Some(self.redactor.clean(&words));
                // Whatever went wrong before, the tool got over it.
                self.feed.refused(None);
            }
            Said::Tool { id, tool, input } => {
                self.write(&format!("[{tool}]\n"), false);
                self.feed.tool_started(&id, &tool);
                let input = self.redactor.clean_value(&input);
                self.feed.tell("tool", json!({ "id": id, "tool": tool, "input": input }));
            }
            Said::ToolEnd { id, failed } => {
                self.feed.tool_ended(&id);
                self.feed.tell("tool.result", json!({ "id": id, "failed": failed }));
            }
            Said::Noise => {}
        }
    }

    /// Writes clean text to the log and, if it may explain a failure, to the tail.
    fn write(&self, piece: &str, explains: bool) {
        let mut kept = text::lock(&self.kept);
        if explains {
            kept.tail.push_str(piece);
        }
        // Cutting at twice the size makes the cost of a line independent of the tail's length.
        if kept.tail.len() > 2 * TAIL_BYTES {
            let cut = text::tail(&kept.tail, TAIL_BYTES).to_owned();
            kept.tail = cut;
        }
        let size = u64::try_from(piece.len()).unwrap_or(u64::MAX);
        if let Some(mut log) = kept.log.take() {
            if size > kept.room {
                let _ = log.write_all(b"\n[the log has reached its size limit]\n");
            } else if log.write_all(piece.as_bytes()).is_ok() {
                kept.room -= size;
                kept.log = Some(log);
            }
        }
    }

    /// Keeps what `source` says until it ends.
    pub async fn follow(self: Arc<Self>, mut source: impl AsyncRead + Unpin) {
        let mut pending: Vec<u8> = Vec::new();
        let mut buffer = vec![0; 8192];
        let longest = if self.dialect == Dialect::Plain { LINE_BYTES } else { JSON_LINE_BYTES };
        while let Ok(count @ 1..) = source.read(&mut buffer).await {
            pending.extend_from_slice(buffer.get(..count).unwrap_or_default());
            while let Some(end) = pending.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = pending.drain(..=end).collect();
                self.keep(&String::from_utf8_lossy(&line));
            }
            if pending.len() > longest {
                self.keep(&String::from_utf8_lossy(&pending));
                pending.clear();
            }
        }
        if !pending.is_empty() {
            self.keep(&String::from_utf8_lossy(&pending));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Output, TAIL_BYTES};
    use crate::{
        dialect::Dialect,
        redact::Redactor,
        transcript::{Feed, Transcripts},
    };
    use std::sync::Arc;

    #[tokio::test]
    async fn the_tail_is_the_end_and_the_log_stops_at_its_cap() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("output.log");
        let secrets = [("X_TOKEN".to_owned(), "very-secret".to_owned())];
        let redactor = Arc::new(Redactor::new(secrets.iter().map(|(name, value)| (name, value))));
        let feed = Arc::new(Feed::new("a1", Arc::new(Transcripts::default())));
        let output = Arc::new(Output::create(redactor, Dialect::Plain, feed, &path, 1000).unwrap());
        let text = format!("very-secret\n{}\nlast ß", "x".repeat(3 * TAIL_BYTES));
        Arc::clone(&output).follow(text.as_bytes()).await;
        assert!(output.tail().ends_with("last ß") && output.tail().len() <= TAIL_BYTES);
        let log = std::fs::read_to_string(&path).unwrap();
        assert!(log.starts_with("***\n") && log.contains("size limit") && log.len() < 1100, "{}", log.len());
    }
}
