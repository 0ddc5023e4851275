//! What an attempt's processes print: the last 4 KB in memory as the reason of a failure, and a log file with a size cap.
//!
//! Text is redacted line by line before it is kept anywhere.

use crate::{redact::Redactor, text};
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

/// The output of one attempt.
#[derive(Debug)]
pub struct Output {
    redactor: Arc<Redactor>,
    kept: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    tail: String,
    /// When the last line came.
    last_at: Option<String>,
    log: Option<File>,
    /// How many bytes the log may still take.
    room: u64,
}

impl Output {
    /// An output that is logged to `path`, readable by the runner alone.
    pub fn create(redactor: Arc<Redactor>, path: &Path, cap: u64) -> io::Result<Self> {
        let log = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        Ok(Self { redactor, kept: Mutex::new(Kept { tail: String::new(), last_at: None, log: Some(log), room: cap }) })
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

    /// When something was last printed.
    #[must_use]
    pub fn last_at(&self) -> Option<String> {
        text::lock(&self.kept).last_at.clone()
    }

    /// Keeps a piece of text: a line with its end, or a part of an overlong one.
    pub fn keep(&self, piece: &str) {
        let piece = self.redactor.clean(piece);
        let mut kept = text::lock(&self.kept);
        kept.last_at = Some(text::now());
        kept.tail.push_str(&piece);
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
        while let Ok(count @ 1..) = source.read(&mut buffer).await {
            pending.extend_from_slice(buffer.get(..count).unwrap_or_default());
            while let Some(end) = pending.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = pending.drain(..=end).collect();
                self.keep(&String::from_utf8_lossy(&line));
            }
            if pending.len() > LINE_BYTES {
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
    use crate::redact::Redactor;
    use std::sync::Arc;

    #[tokio::test]
    async fn the_tail_is_the_end_and_the_log_stops_at_its_cap() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("output.log");
        let secrets = [("X_TOKEN".to_owned(), "very-secret".to_owned())];
        let redactor = Arc::new(Redactor::new(secrets.iter().map(|(name, value)| (name, value))));
        let output = Arc::new(Output::create(redactor, &path, 1000).unwrap());
        let text = format!("very-secret\n{}\nlast ß", "x".repeat(3 * TAIL_BYTES));
        Arc::clone(&output).follow(text.as_bytes()).await;
        assert!(output.tail().ends_with("last ß") && output.tail().len() <= TAIL_BYTES);
        let log = std::fs::read_to_string(&path).unwrap();
        assert!(log.starts_with("***\n") && log.contains("size limit") && log.len() < 1100, "{}", log.len());
    }
}
