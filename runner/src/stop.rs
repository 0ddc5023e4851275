//! The signal that ends an attempt early, and why it was given.

use tokio::sync::watch;

/// Why an attempt was told to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopCause {
    /// `POST /agents/:a/stop`.
    Stopped,
    /// Another dispatch of the same agent took its place.
    Replaced,
    /// The drain's time was up: save the work and say so.
    Evicted,
}

/// The end of the signal that an attempt listens to. Once given it stays given.
#[derive(Clone, Debug)]
pub struct Stop {
    /// `None` = nobody can give it.
    signal: Option<watch::Receiver<Option<StopCause>>>,
}

impl Stop {
    /// Listens to `sender`.
    #[must_use]
    pub fn listen(sender: &watch::Sender<Option<StopCause>>) -> Self {
        Self { signal: Some(sender.subscribe()) }
    }

    /// A signal that is never given: for the tidying up that must happen after a stop.
    #[must_use]
    pub const fn never() -> Self {
        Self { signal: None }
    }

    /// The cause, if the signal was given.
    #[must_use]
    pub fn cause(&self) -> Option<StopCause> {
        self.signal.as_ref().and_then(|signal| *signal.borrow())
    }

    /// Waits until the signal is given.
    pub async fn fired(&self) -> StopCause {
        if let Some(signal) = &self.signal {
            let mut signal = signal.clone();
            if let Ok(given) = signal.wait_for(Option::is_some).await
                && let Some(cause) = *given
            {
                return cause;
            }
        }
        // Nobody can give the signal (any more).
        std::future::pending().await
    }
}
