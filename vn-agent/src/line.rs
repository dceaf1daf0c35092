//! One caller's connection while it speaks HTTP: what is under way on it ends in time, though the caller takes nothing of it.
//!
//! hyper asks a body for more once what it has was taken. A caller who stops reading stops that, and with it everything that a body could find
//! out by being asked: so the ends of sessions are waited for here too, beside the connection and not through it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::debug;

use crate::guard::Guard;
use crate::session::Tunnel;

/// For a session that must end to say so itself.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// For the rest of an answer to be taken whose session is over.
const STALL: Duration = Duration::from_mins(1);

/// What requests leave with the connection that they came on.
#[derive(Clone)]
pub struct Line {
    sessions: UnboundedSender<Watched>,
    tunnel: Arc<Mutex<Option<Tunnel>>>,
}

struct Watched {
    guard: Guard,
    done: CancellationToken,
}

/// The ends that are waited for.
pub struct Ends {
    sessions: UnboundedReceiver<Watched>,
    stall: Stall,
}

impl Line {
    /// For a connection whose writes `stall` knows.
    pub fn new(stall: Stall) -> (Self, Ends) {
        let (sender, sessions) = mpsc::unbounded_channel();
        (Self { sessions: sender, tunnel: Arc::default() }, Ends { sessions, stall })
    }

    /// A session has begun; it is over when what this gives is dropped.
    pub fn watch(&self, guard: Guard) -> DropGuard {
        let done = CancellationToken::new();
        // Nobody listens once the connection has ended, and then nothing is left to be ended.
        let _ = self.sessions.send(Watched { guard, done: done.clone() });
        done.drop_guard()
    }

    /// Leaves the stream that the connection becomes.
    pub fn becomes(&self, tunnel: Tunnel) {
        *self.tunnel.lock() = Some(tunnel);
    }

    /// Takes the stream that was left.
    pub fn tunnel(&self) -> Option<Tunnel> {
        self.tunnel.lock().take()
    }
}

impl Ends {
    /// Waits until the connection must be cut.
    pub async fn must_be_cut(mut self) {
        loop {
            let Watched { guard, done } = tokio::select! {
                Some(watched) = self.sessions.recv() => watched,
                () = self.stall.longer_than(STALL) => {
                    debug!("a caller did not take the rest of an answer");
                    return;
                }
            };
            tokio::select! {
                () = done.cancelled() => continue,
                _ = guard.ended() => {}
            }
            tokio::select! {
                () = done.cancelled() => {}
                () = sleep(LAST_WORDS) => return,
            }
        }
    }
}

/// Since when a connection takes nothing.
#[derive(Clone)]
pub struct Stall(Arc<Since>);

struct Since {
    began: Instant,
    /// Milliseconds after `began`, plus one; 0 while it takes what is written.
    stalled: AtomicU64,
}

impl Default for Stall {
    fn default() -> Self {
        Self(Arc::new(Since { began: Instant::now(), stalled: AtomicU64::new(0) }))
    }
}

impl Stall {
    async fn longer_than(&self, limit: Duration) {
        loop {
            match self.0.stalled.load(Ordering::Relaxed) {
                0 => sleep(limit).await,
                millis => {
                    let end = self.0.began + Duration::from_millis(millis - 1) + limit;
                    if Instant::now() >= end {
                        return;
                    }
                    sleep_until(end).await;
                }
            }
        }
    }

    fn note<T>(&self, result: Poll<T>) -> Poll<T> {
        let stalled = &self.0.stalled;
        if result.is_ready() {
            stalled.store(0, Ordering::Relaxed);
        } else if stalled.load(Ordering::Relaxed) == 0 {
            let millis = u64::try_from(self.0.began.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
            stalled.store(millis + 1, Ordering::Relaxed);
        }
        result
    }
}

/// A connection that notes when it takes nothing.
pub struct Noted<S> {
    inner: S,
    stall: Stall,
}

impl<S> Noted<S> {
    /// Notes in `stall`.
    pub fn new(inner: S, stall: Stall) -> Self {
        Self { inner, stall }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Noted<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Noted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.stall.note(result)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write_vectored(cx, bytes);
        self.stall.note(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.inner).poll_flush(cx);
        self.stall.note(result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.stall.note(result)
    }
}
