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
///
/// A line that is too long costs itself alone: it is passed over, and the watch goes on behind it.
pub struct Lines {
    stream: Stream,
    /// What has come and has not been looked at.
    rest: Bytes,
    /// The beginning of a line whose end has not come.
    begun: BytesMut,
    /// How much of a line that is too long was passed over, until its end.
    passed_over: Option<usize>,
    silence: Duration,
    line_bytes: usize,
    is_over: bool,
}

/// A line so many times longer than the longest allowed ends the watch: its server says nothing else any more.
const ENDLESS: usize = 4;

/// Empty lines before a line at most. API servers send none; a server that sends nothing else would be looked at without a pause.
const EMPTY_LINES: usize = 100;

impl std::fmt::Debug for Lines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lines").field("server", &self.stream.dialer.server).finish_non_exhaustive()
    }
}

impl Lines {
    pub(super) fn new(stream: Stream) -> Self {
        let limits = &stream.dialer.limits;
        let (silence, line_bytes) = (limits.silence, limits.line_bytes);
        Self { stream, rest: Bytes::new(), begun: BytesMut::new(), passed_over: None, silence, line_bytes, is_over: false }
    }

    /// The next line that is not empty; nothing once the server has ended the watch, or after an error but [`TransportError::TooLarge`].
    ///
    /// Cancel-safe: dropping the future loses no byte.
    ///
    /// # Errors
    /// [`TransportError::Timeout`] if no whole line comes for too long, [`TransportError::Closed`] if the connection breaks.
    /// [`TransportError::TooLarge`] for a line that is too long: the next call hands out the line after it, or nothing if that does
    /// not come within a few times the limit.
    pub async fn next(&mut self) -> Option<Result<Bytes, TransportError>> {
        if self.is_over {
            return None;
        }
        let line = self.read().await.transpose();
        if !matches!(line, Some(Ok(_) | Err(TransportError::TooLarge { .. }))) {
            self.is_over = true;
            self.rest = Bytes::new();
            self.begun = BytesMut::new();
        }
        line
    }

    async fn read(&mut self) -> Result<Option<Bytes>, TransportError> {
        // For a whole line, not for a piece of one: else a byte a minute would keep a watch alive for ever.
        let deadline = Instant::now() + self.silence;
        let mut empty = 0;
        loop {
            while let Some(at) = memchr(b'\n', &self.rest) {
                let end = self.rest.split_to(at);
                self.rest = self.rest.split_off(1);
                if self.passed_over.take().is_some() {
                    continue;
                }
                if end.len() > self.room() {
                    self.begun = BytesMut::new();
                    return Err(self.stream.too_large(Bound::Line, self.line_bytes));
                }
                let line = if self.begun.is_empty() { end } else { self.completed(&end) };
                if !line.is_empty() {
                    self.stream.dialer.traffic.line();
                    return Ok(Some(line));
                }
                empty += 1;
                if empty > EMPTY_LINES {
                    return Ok(None);
                }
            }
            let piece = std::mem::take(&mut self.rest);
            if let Some(passed_over) = &mut self.passed_over {
                *passed_over = passed_over.saturating_add(piece.len());
                if *passed_over > self.line_bytes.saturating_mul(ENDLESS) {
                    return Ok(None);
                }
            } else if piece.len() > self.room() {
                self.passed_over = Some(self.begun.len().saturating_add(piece.len()));
                self.begun = BytesMut::new();
                return Err(self.stream.too_large(Bound::Line, self.line_bytes));
            } else {
                self.begun.extend_from_slice(&piece);
            }
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

    /// How much longer the line that has begun may become.
    fn room(&self) -> usize {
        self.line_bytes.saturating_sub(self.begun.len())
    }
}
