//! Bytes in both directions between two connections, as they are.
//!
//! *Guarantees*: what one side has not taken is not read from the other: per direction at most [`WINDOW_BYTES`] wait here. While nothing
//! moves, no buffer is held. Each side may end its half; the other goes on. Dropping the future closes both.

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

/// Carries bytes until both directions have ended, or one has broken.
pub async fn relay<C, B>(client: &mut C, backend: &mut B, counters: &Counters) -> io::Result<()>
where
    C: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut up, mut down) = (Direction::default(), Direction::default());
    poll_fn(|cx| {
        let up = up.poll(cx, Pin::new(&mut *client), Pin::new(&mut *backend), &counters.sent)?;
        let down = down.poll(cx, Pin::new(&mut *backend), Pin::new(&mut *client), &counters.received)?;
        if up.is_ready() && down.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
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
    /// The reader has ended.
    Ending,
    Ended,
}

impl Direction {
    fn poll<R: AsyncRead, W: AsyncWrite>(
        &mut self,
        cx: &mut Context<'_>,
        mut reader: Pin<&mut R>,
        mut writer: Pin<&mut W>,
        count: &AtomicU64,
    ) -> Poll<io::Result<()>> {
        let mut turn = 0;
        loop {
            ready!(self.poll_waiting(cx, writer.as_mut()))?;
            match self.stage {
                Stage::Ended => return Poll::Ready(Ok(())),
                Stage::Ending => {
                    ready!(end(cx, writer.as_mut()))?;
                    self.stage = Stage::Ended;
                    continue;
                }
                Stage::Open | Stage::Unflushed => {}
            }
            if turn >= TURN_BYTES {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            // On the stack: an idle direction holds no memory.
            let mut space = [MaybeUninit::uninit(); WINDOW_BYTES];
            let mut buffer = ReadBuf::uninit(&mut space);
            match reader.as_mut().poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => self.stage = Stage::Ending,
                Poll::Ready(Ok(())) => {
                    turn += buffer.filled().len();
                    count.fetch_add(buffer.filled().len() as u64, Ordering::Relaxed);
                    self.stage = Stage::Unflushed;
                    self.take(cx, writer.as_mut(), buffer.filled())?;
                }
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

/// Ends the half of a connection that we write; one that is gone already has ended.
fn end<W: AsyncWrite>(cx: &mut Context<'_>, writer: Pin<&mut W>) -> Poll<io::Result<()>> {
    match ready!(writer.poll_shutdown(cx)) {
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
        result => Poll::Ready(result),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

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
        result.unwrap();
        assert_eq!(texts, ("question".to_owned(), "a late answer".to_owned()));
        assert_eq!((counters.sent.into_inner(), counters.received.into_inner()), (8, 13));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_taken_is_not_read() {
        let (mut client, mut near) = duplex(1024);
        let (mut far, _backend) = duplex(1024);
        let counters = Counters::default();
        let flood = async {
            let block = [7_u8; 4096];
            loop {
                client.write_all(&block).await.unwrap();
            }
        };
        tokio::select! {
            _ = relay(&mut near, &mut far, &counters) => unreachable!("nobody ends"),
            () = flood => unreachable!("nobody ends"),
            // Time is paused: it moves on when nothing else can.
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
        let sent = counters.sent.into_inner();
        assert!(sent >= 1024 && sent <= (1024 + WINDOW_BYTES) as u64, "{sent}");
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
