//! The last look at the lease: right before bytes leave this process.
//!
//! Between the moment when a writer asks whether it may write and the moment when its request leaves lie queues: a process that is stopped
//! (SIGSTOP) just there would send the request when it goes on, long after another leads.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::lease::Held;

/// Lets everything out, until it is bound to a term of the lease; then only as long as that is held. Clones are one gate.
///
/// # Caveats
/// What lies in the kernel's buffers has left.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<OnceLock<Held>>);

impl Gate {
    /// Binds the gate, once and for all.
    pub fn bind(&self, held: Held) {
        // A second term in one process has nothing to say: the first one's end is the end.
        let _ = self.0.set(held);
    }

    fn check(&self) -> io::Result<()> {
        match self.0.get().map(Held::check) {
            None | Some(Ok(())) => Ok(()),
            Some(Err(lost)) => Err(io::Error::new(io::ErrorKind::BrokenPipe, lost)),
        }
    }
}

/// A connection behind a gate.
pub(super) struct Gated<S> {
    inner: S,
    gate: Gate,
}

impl<S> Gated<S> {
    pub(super) fn new(inner: S, gate: Gate) -> Self {
        Self { inner, gate }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gated<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gated<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.gate.check()?;
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, pieces: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.gate.check()?;
        Pin::new(&mut self.inner).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::time::{Instant, advance};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn nothing_leaves_after_the_term_and_all_before() {
        let (near, mut far) = tokio::io::duplex(64);
        let gate = Gate::default();
        let mut near = Gated::new(near, gate.clone());
        near.write_all(b"stands by, ").await.unwrap();
        gate.bind(Held::new(1, Instant::now() + Duration::from_secs(10), Duration::from_secs(5)));
        near.write_all(b"leads").await.unwrap();
        advance(Duration::from_secs(10)).await;
        let refused = near.write_all(b", wakes up").await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::BrokenPipe);
        drop(near);
        let mut heard = String::new();
        far.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "stands by, leads");
    }
}
