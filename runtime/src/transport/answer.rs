//! A response whose body has not been read yet, and the bounded ways to read it.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_ENCODING, RETRY_AFTER};
use http::{HeaderMap, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use tokio::time::{Instant, timeout_at};

use super::dial::Dialer;
use super::link::Slot;
use super::{Bound, Reply, Step, TransportError};

/// Memory set aside for a body at most before any of it has come: a length is only a claim.
const FIRST_RESERVE_BYTES: usize = 256 * 1024;

/// Headers judged, body to come.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    retry_after: Option<Duration>,
    pub(super) stream: Stream,
}

impl Answer {
    /// Judges the headers: no redirect, nothing compressed.
    pub(super) fn new(response: Response<Incoming>, slot: Slot, dialer: Arc<Dialer>) -> Result<Self, TransportError> {
        let (head, body) = response.into_parts();
        if head.status.is_redirection() {
            return Err(TransportError::Redirect { server: dialer.server.clone(), status: head.status });
        }
        if head.headers.get_all(CONTENT_ENCODING).iter().any(|coding| coding != "identity") {
            return Err(TransportError::Encoded { server: dialer.server.clone() });
        }
        let retry_after = retry_after(&head.headers, dialer.limits.retry_after);
        Ok(Self { status: head.status, retry_after, stream: Stream { body, dialer, _slot: slot } })
    }

    /// Reads the whole body.
    pub(super) async fn reply(mut self, most: usize, within: Duration) -> Result<Reply, TransportError> {
        let (most, within) = if self.status.is_success() {
            (most, within)
        } else {
            (self.stream.dialer.limits.error_bytes, self.stream.dialer.limits.unary)
        };
        let body = self.stream.collect(most, within).await?;
        Ok(Reply { status: self.status, body, retry_after: self.retry_after })
    }
}

/// Seconds to wait, as asked but at most `most`; the form with a date is not used by API servers and ignored.
fn retry_after(headers: &HeaderMap, most: Duration) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().map_or(most, Duration::from_secs).min(most))
}

/// The body of a response, with the place on the connection that it takes.
pub(super) struct Stream {
    body: Incoming,
    pub(super) dialer: Arc<Dialer>,
    _slot: Slot,
}

impl Stream {
    /// The next piece with content, or nothing at the end. Trailers are skipped.
    pub(super) async fn piece(&mut self, deadline: Instant, step: Step) -> Result<Option<Bytes>, TransportError> {
        loop {
            let frame = timeout_at(deadline, self.body.frame()).await.map_err(|_| self.dialer.late(step))?;
            let Some(frame) = frame else { return Ok(None) };
            let frame = frame.map_err(|source| self.dialer.broken(source))?;
            if let Ok(piece) = frame.into_data()
                && !piece.is_empty()
            {
                self.dialer.traffic.received(piece.len());
                return Ok(Some(piece));
            }
        }
    }

    /// The whole body: not more than `most` bytes, not after `within`, not slower than the limits say.
    async fn collect(&mut self, most: usize, within: Duration) -> Result<Bytes, TransportError> {
        let pace = Pace::new(within, self);
        let promised = usize::try_from(self.body.size_hint().lower()).unwrap_or(usize::MAX);
        if promised > most {
            return Err(self.too_large(Bound::Body, most));
        }
        let Some(first) = self.piece(pace.deadline(0), Step::Body).await? else { return Ok(Bytes::new()) };
        if first.len() > most {
            return Err(self.too_large(Bound::Body, most));
        }
        let Some(second) = self.piece(pace.deadline(first.len()), Step::Body).await? else { return Ok(first) };
        let mut whole = BytesMut::with_capacity(promised.min(FIRST_RESERVE_BYTES));
        whole.extend_from_slice(&first);
        drop(first);
        let mut next = Some(second);
        while let Some(piece) = next {
            if piece.len() > most.saturating_sub(whole.len()) {
                return Err(self.too_large(Bound::Body, most));
            }
            whole.extend_from_slice(&piece);
            next = self.piece(pace.deadline(whole.len()), Step::Body).await?;
        }
        Ok(whole.freeze())
    }

    pub(super) fn too_large(&self, bound: Bound, limit_bytes: usize) -> TransportError {
        TransportError::TooLarge { server: self.dialer.server.clone(), bound, limit_bytes }
    }
}

/// When the next piece of a body must have come.
struct Pace {
    start: Instant,
    end: Instant,
    grace: Duration,
    bytes_per_second: u64,
}

impl Pace {
    fn new(within: Duration, stream: &Stream) -> Self {
        let start = Instant::now();
        let limits = &stream.dialer.limits;
        Self { start, end: start + within, grace: limits.grace, bytes_per_second: limits.bytes_per_second.max(1) }
    }

    /// With so many bytes here, the next may take until the average would fall below the slowest allowed.
    fn deadline(&self, received: usize) -> Instant {
        let received = u64::try_from(received).unwrap_or(u64::MAX);
        let millis = received.saturating_mul(1000).checked_div(self.bytes_per_second).unwrap_or(0);
        let allowance = self.grace.saturating_add(Duration::from_millis(millis));
        self.start.checked_add(allowance).map_or(self.end, |due| due.min(self.end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Option<Duration> {
        let headers = HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]);
        retry_after(&headers, Duration::from_mins(1))
    }

    #[test]
    fn p4_p5_s36_a_wait_is_capped_however_large_the_number() {
        for text in ["60", "61", "31536000", "18446744073709551615", "18446744073709551616", &"9".repeat(5000)] {
            assert_eq!(parsed(text), Some(Duration::from_mins(1)), "{text}");
        }
        assert_eq!(parsed("1"), Some(Duration::from_secs(1)));
    }

    #[test]
    fn s36_a_wait_that_is_no_number_is_none() {
        for text in ["", "-1", "1.5", "1e9", "Wed, 21 Oct 2015 07:28:00 GMT", "soon"] {
            assert_eq!(parsed(text), None, "{text}");
        }
    }
}
