//! Heads of requests that are huge, or never end.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures::future::join_all;
use tokio::{io::AsyncWriteExt as _, time::Instant};

use super::Scene;

/// A head may take a minute; more where other tests run at once.
const LONGEST: Duration = Duration::from_mins(3);

impl Scene<'_> {
    pub(crate) async fn huge(&self) -> anyhow::Result<()> {
        let agent = self.story.agent(0)?;
        let before = agent.process.rss_bytes();
        let huge = [
            format!("GET /{} HTTP/1.1\r\nHost: node\r\n\r\n", "a".repeat(1 << 20)),
            format!("GET /pods HTTP/1.1\r\nHost: node\r\nX: {}\r\n\r\n", "a".repeat(1 << 20)),
            format!("GET /pods HTTP/1.1\r\nHost: node\r\n{}\r\n", "X: a\r\n".repeat(20_000)),
            format!("GET /pods HTTP/1.1\r\nHost: node\r\n{}\r\n", "X: a\r\n".repeat(100)),
            format!("GET /exec/default/twin/main?{} HTTP/1.1\r\nHost: node\r\n\r\n", "command=a&".repeat(200_000)),
        ];
        let requests = huge.iter().cycle().take(60).map(|bytes| (bytes.chars().take(60).collect(), bytes.clone())).collect();
        self.all_refused(requests).await?;
        let grown = agent.process.peak_rss_bytes().saturating_sub(before);
        ensure!(grown < 32 << 20, "heads of a MiB cost {grown} bytes");
        Ok(())
    }

    /// A byte a second each, and nothing at all; meanwhile others are served.
    pub(crate) async fn slow(&self) -> anyhow::Result<()> {
        let begin = Instant::now();
        let slow = (0..40).map(|n| async move {
            let mut stream = self.caller.connect().await.context("could not dial")?;
            let line = if n % 2 == 0 {
                "GET /containerLogs/default/twin/main?tailLines=1000000000000000000000000000000 HTTP/1.1\r\nX: "
            } else {
                ""
            };
            for byte in line.bytes().chain(std::iter::repeat(b'a')) {
                let sent = async { if line.is_empty() { Ok(()) } else { stream.write_all(&[byte]).await } };
                if sent.await.is_err() || stream.flush().await.is_err() {
                    break;
                }
                let ended = tokio::time::timeout(Duration::from_secs(1), tokio::io::AsyncReadExt::read_u8(&mut stream)).await;
                if ended.is_ok() {
                    break;
                }
                ensure!(begin.elapsed() < LONGEST, "a slow head is waited for");
            }
            Ok(())
        });
        let served = async {
            let answer = self.caller.get("/containerLogs/default/twin/main").await?;
            ensure!(answer.status() == 200, "meanwhile: {}", answer.text);
            Ok(())
        };
        let (slow, served) = tokio::join!(join_all(slow), served);
        slow.into_iter().collect::<anyhow::Result<Vec<()>>>()?;
        served
    }
}
