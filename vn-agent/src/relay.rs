//! Bytes in both directions between two connections, as they are.
//!
//! *Guarantees*: what one side has not taken is not read from the other: per direction at most [`WINDOW_BYTES`] wait here. While nothing
//! moves, no buffer is held. Each side may end its half; the other goes on. What a side sent before it went away reaches the other, also where
//! that one does not read any more what it is sent itself. Dropping the future closes both.
//!
//! *Caveats*: API servers and kubelets often close a connection that they are done with while something is still on its way to them. So a
//! session that is over as it should be may look like one whose caller was killed.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The most that waits in one direction: a record of TLS, which is what one read gives.
pub const WINDOW_BYTES: usize = 16 * 1024;

/// After so many bytes others get a turn on this thread.
const TURN_BYTES: usize = 1024 * 1024;

/// What has passed, from the client's view.
#[derive(Debug, Default)]
pub struct Counters {
    /// From the client.
    pub sent: AtomicU64,
    /// To the client.
    pub received: AtomicU64,
}

impl Counters {
    /// Bytes in both directions.
    pub fn total(&self) -> u64 {
        self.sent.load(Ordering::Relaxed).wrapping_add(self.received.load(Ordering::Relaxed))
    }
}

/// How a relay came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// One side said that it is done, or both did.
    Ended,
    /// One side went away without a word.
    Cut,
}

/// Carries bytes until both directions have ended, or one side is gone.
///
/// # Errors
/// If a side breaks otherwise than by going away.
pub async fn relay<C, B>(client: &mut C, backend: &mut B, counters: &Counters) -> io::Result<Finish>
where
    C: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut up, mut down) = (Direction::default(), Direction::default());
    poll_fn(|cx| {
        let up = up.poll(cx, Pin::new(&mut *client), Pin::new(&mut *backend), &counters.sent)?;
        let down = down.poll(cx, Pin::new(&mut *backend), Pin::new(&mut *client), &counters.received)?;
        match (up, down) {
            (Poll::Ready(Half::Ended), Poll::Ready(_)) | (Poll::Ready(_), Poll::Ready(Half::Ended)) => Poll::Ready(Ok(Finish::Ended)),
            // Who is gone has no use for what the other still says.
            (Poll::Ready(Half::Gone), _) | (_, Poll::Ready(Half::Gone)) | (Poll::Ready(_), Poll::Ready(_)) => Poll::Ready(Ok(Finish::Cut)),
            (Poll::Pending, _) | (_, Poll::Pending) => Poll::Pending,
        }
    })
    .await
}

/// One direction.
#[derive(Default)]
struct Direction {
    /// Read, and not yet taken by the writer.
    waiting: Vec<u8>,
    written: usize,
    stage: Stage,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Open,
    /// Something was written since the last flush.
    Unflushed,
    /// Nothing more comes; the writer is to be told.
    Ending(Half),
    Finished(Half),
}

/// How a direction came to its end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Half {
    /// The reader's side said that nothing more comes.
    Ended,
    /// The reader's side is gone.
    Gone,
    /// The writer's side takes nothing more. What it says itself is yet to be read.
    Untaken,
}

impl Direction {
    fn poll<R: AsyncRead, W: AsyncWrite>(
        &mut self,
        cx: &mut Context<'_>,
        reader: Pin<&mut R>,
        writer: Pin<&mut W>,
        count: &AtomicU64,
    ) -> Poll<io::Result<Half>> {
        let half = match ready!(self.poll_open(cx, reader, writer, count)) {
            Err(error) if is_gone(&error) => Half::Untaken,
            other => other?,
        };
        self.stage = Stage::Finished(half);
        Poll::Ready(Ok(half))
    }

    /// An error that says that somebody is gone is about the writer.
    fn poll_open<R: AsyncRead, W: AsyncWrite>(
        &mut self,
        cx: &mut Context<'_>,
        mut reader: Pin<&mut R>,
        mut writer: Pin<&mut W>,
        count: &AtomicU64,
    ) -> Poll<io::Result<Half>> {
        let mut turn = 0;
        loop {
            if let Stage::Finished(half) = self.stage {
                return Poll::Ready(Ok(half));
            }
            ready!(self.poll_waiting(cx, writer.as_mut()))?;
            if let Stage::Ending(half) = self.stage {
                // Who is gone already has nothing to be told.
                return ready!(writer.poll_shutdown(cx))
                    .or_else(|error| if is_gone(&error) { Ok(()) } else { Err(error) })
                    .map(|()| half)
                    .into();
            }
            if turn >= TURN_BYTES {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            // On the stack: an idle direction holds no memory.
            let mut space = [MaybeUninit::uninit(); WINDOW_BYTES];
            let mut buffer = ReadBuf::uninit(&mut space);
            match reader.as_mut().poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => self.stage = Stage::Ending(Half::Ended),
                Poll::Ready(Ok(())) => {
                    turn += buffer.filled().len();
                    count.fetch_add(buffer.filled().len() as u64, Ordering::Relaxed);
                    self.stage = Stage::Unflushed;
                    self.take(cx, writer.as_mut(), buffer.filled())?;
                }
                Poll::Ready(Err(error)) if is_gone(&error) => self.stage = Stage::Ending(Half::Gone),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    if self.stage == Stage::Unflushed {
                        ready!(writer.as_mut().poll_flush(cx))?;
                        self.stage = Stage::Open;
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    /// Writes what was read; keeps what the writer does not take now.
    fn take<W: AsyncWrite>(&mut self, cx: &mut Context<'_>, mut writer: Pin<&mut W>, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match writer.as_mut().poll_write(cx, bytes) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(n)) => bytes = bytes.get(n..).unwrap_or_default(),
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => {
                    self.waiting = bytes.to_vec();
                    self.written = 0;
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Writes what waits; ready once nothing does.
    fn poll_waiting<W: AsyncWrite>(&mut self, cx: &mut Context<'_>, mut writer: Pin<&mut W>) -> Poll<io::Result<()>> {
        while let Some(bytes) = self.waiting.get(self.written..).filter(|bytes| !bytes.is_empty()) {
            let n = ready!(writer.as_mut().poll_write(cx, bytes))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += n;
        }
        self.waiting = Vec::new();
        self.written = 0;
        Poll::Ready(Ok(()))
    }
}

/// Whether the other end of the connection is gone, or gone as far as this half is concerned. TLS ends by a message; an end without it is
/// the end of the connection under it.
fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::NotConnected
            | io::ErrorKind::UnexpectedEof
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    /// A side of which a half may be broken.
    struct Side {
        inner: DuplexStream,
        /// What is written to it is taken.
        takes: bool,
        /// It ends by saying so.
        ends: bool,
    }

    impl AsyncRead for Side {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            let before = buffer.filled().len();
            ready!(Pin::new(&mut self.inner).poll_read(cx, buffer))?;
            let is_end = buffer.filled().len() == before;
            Poll::Ready(if is_end && !self.ends { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) })
        }
    }

    impl AsyncWrite for Side {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            if self.takes { Pin::new(&mut self.inner).poll_write(cx, bytes) } else { Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())) }
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.inner).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.inner).poll_shutdown(cx)
        }
    }

    #[tokio::test]
    async fn bytes_pass_both_ways_and_a_half_that_has_ended_leaves_the_other() {
        let (mut client, mut near) = duplex(100);
        let (mut far, mut backend) = duplex(100);
        let counters = Counters::default();
        let story = async {
            client.write_all(b"question").await.unwrap();
            client.shutdown().await.unwrap();
            let mut question = String::new();
            backend.read_to_string(&mut question).await.unwrap();
            backend.write_all(b"a late answer").await.unwrap();
            backend.shutdown().await.unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            (question, answer)
        };
        let (result, texts) = tokio::join!(relay(&mut near, &mut far, &counters), story);
        assert_eq!(result.unwrap(), Finish::Ended);
        assert_eq!(texts, ("question".to_owned(), "a late answer".to_owned()));
        assert_eq!((counters.sent.into_inner(), counters.received.into_inner()), (8, 13));
    }

    #[tokio::test]
    async fn a_side_that_reads_no_more_is_heard_to_its_end() {
        let (mut client, mut near) = duplex(100);
        let (far, mut backend) = duplex(100);
        let mut far = Side { inner: far, takes: false, ends: true };
        let counters = Counters::default();
        let story = async {
            client.write_all(b"nobody reads this").await.unwrap();
            // The relay has tried.
            tokio::task::yield_now().await;
            backend.write_all(b"the last word").await.unwrap();
            drop(backend);
            let mut heard = String::new();
            client.read_to_string(&mut heard).await.unwrap();
            heard
        };
        let (result, heard) = tokio::join!(relay(&mut near, &mut far, &counters), story);
        assert_eq!(result.unwrap(), Finish::Ended);
        assert_eq!(heard, "the last word");
    }

    #[tokio::test]
    async fn a_side_that_is_done_and_gone_has_ended() {
        let (mut client, mut near) = duplex(100);
        let (mut far, mut backend) = duplex(100);
        let counters = Counters::default();
        let story = async {
            client.write_all(b"bye").await.unwrap();
            drop(client);
            let mut heard = String::new();
            backend.read_to_string(&mut heard).await.unwrap();
            backend.write_all(b"nobody hears this").await.unwrap();
            heard
        };
        let (result, heard) = tokio::join!(relay(&mut near, &mut far, &counters), story);
        assert_eq!(result.unwrap(), Finish::Ended);
        assert_eq!(heard, "bye");
    }

    #[tokio::test]
    async fn what_a_side_sent_before_it_was_cut_off_arrives() {
        let (mut client, near) = duplex(100);
        let mut near = Side { inner: near, takes: true, ends: false };
        client.write_all(b"last").await.unwrap();
        drop(client);
        let (mut far, mut backend) = duplex(2);
        let counters = Counters::default();
        let mut heard = String::new();
        let (result, read) = tokio::join!(relay(&mut near, &mut far, &counters), backend.read_to_string(&mut heard));
        read.unwrap();
        assert_eq!(result.unwrap(), Finish::Cut);
        assert_eq!(heard, "last");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_taken_is_not_read() {
        for is_upward in [false, true] {
            let (client, mut near) = duplex(1024);
            let (mut far, backend) = duplex(1024);
            // Whoever takes nothing stays.
            let (mut speaks, _silent) = if is_upward { (backend, client) } else { (client, backend) };
            let counters = Counters::default();
            let flood = async {
                let block = [7_u8; 4096];
                loop {
                    speaks.write_all(&block).await.unwrap();
                }
            };
            tokio::select! {
                _ = relay(&mut near, &mut far, &counters) => unreachable!("nobody ends"),
                () = flood => unreachable!("nobody ends"),
                // Time is paused: it moves on when nothing else can.
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
            }
            let (sent, received) = (counters.sent.into_inner(), counters.received.into_inner());
            let (passed, other) = if is_upward { (received, sent) } else { (sent, received) };
            assert!((1024..=(1024 + WINDOW_BYTES) as u64).contains(&passed) && other == 0, "{is_upward}: {passed}, {other}");
        }
    }

    #[tokio::test]
    async fn a_stream_of_many_bytes_arrives_as_it_was() {
        let (mut client, mut near) = duplex(5000);
        let (mut far, mut backend) = duplex(777);
        let counters = Counters::default();
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
        let story = async {
            let write = async {
                client.write_all(&bytes).await.unwrap();
                client.shutdown().await.unwrap();
            };
            let mut read = Vec::new();
            let ((), result) = tokio::join!(write, backend.read_to_end(&mut read));
            result.unwrap();
            backend.shutdown().await.unwrap();
            read
        };
        let (result, read) = tokio::join!(relay(&mut near, &mut far, &counters), story);
        result.unwrap();
        assert!(read == bytes);
    }
}
