//! A watch: lines of JSON as they come.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use memchr::memchr;
use tokio::time::Instant;

use super::answer::Stream;
use super::{Bound, Step, TransportError};

/// The lines of a watch, without their line breaks.
///
/// # Guarantees
/// Memory is bounded by the longest line allowed. A line that lies within one frame is handed out without copying; it
/// holds the memory of its frame (16 KiB) for as long as it lives. Dropping ends the watch.
pub struct Lines {
    stream: Stream,
    /// What has come and has not been looked at.
    rest: Bytes,
    /// The beginning of a line whose end has not come.
    begun: BytesMut,
    silence: Duration,
    line_bytes: usize,
    is_over: bool,
}

impl std::fmt::Debug for Lines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lines").field("server", &self.stream.dialer.server).finish_non_exhaustive()
    }
}

impl Lines {
    pub(super) fn new(stream: Stream) -> Self {
        let limits = &stream.dialer.limits;
        let (silence, line_bytes) = (limits.silence, limits.line_bytes);
        Self { stream, rest: Bytes::new(), begun: BytesMut::new(), silence, line_bytes, is_over: false }
    }

    /// The next line that is not empty; nothing once the server has ended the watch, or after an error.
    ///
    /// Cancel-safe: dropping the future loses no byte.
    ///
    /// # Errors
    /// [`TransportError::Timeout`] if no whole line comes for too long, [`TransportError::TooLarge`] for a line that is too
    /// long, [`TransportError::Closed`] if the connection breaks.
    pub async fn next(&mut self) -> Option<Result<Bytes, TransportError>> {
        if self.is_over {
            return None;
        }
        let line = self.read().await.transpose();
        if !matches!(line, Some(Ok(_))) {
            self.is_over = true;
            self.rest = Bytes::new();
            self.begun = BytesMut::new();
        }
        line
    }

    async fn read(&mut self) -> Result<Option<Bytes>, TransportError> {
        // For a whole line, not for a piece of one: else a byte a minute would keep a watch alive for ever.
        let deadline = Instant::now() + self.silence;
        loop {
            while let Some(at) = memchr(b'\n', &self.rest) {
                self.within_limit(at)?;
                let end = self.rest.split_to(at);
                self.rest = self.rest.split_off(1);
                let line = if self.begun.is_empty() { end } else { self.completed(&end) };
                if !line.is_empty() {
                    self.stream.dialer.traffic.line();
                    return Ok(Some(line));
                }
            }
            self.within_limit(self.rest.len())?;
            self.begun.extend_from_slice(&self.rest);
            self.rest = Bytes::new();
            match self.stream.piece(deadline, Step::Line).await? {
                Some(piece) => self.rest = piece,
                // A line without its end is a line that was cut off.
                None => return Ok(None),
            }
        }
    }

    fn completed(&mut self, end: &[u8]) -> Bytes {
        self.begun.extend_from_slice(end);
        self.begun.split().freeze()
    }

    fn within_limit(&self, more: usize) -> Result<(), TransportError> {
        if more > self.line_bytes.saturating_sub(self.begun.len()) {
            return Err(self.stream.too_large(Bound::Line, self.line_bytes));
        }
        Ok(())
    }
}
