//! What is done both ways, in turns.

use std::time::Duration;

use anyhow::Context as _;
use e2e::agents::AgentProcess;
use e2e::wait::{Seen, eventually};
use futures::StreamExt as _;
use futures::stream;
use tokio::time::{Instant, sleep};

use super::figures::{Cost, MachineTime, Pairs, Table};
use super::way::{self, Port, Way};

/// Size of the container's log: with what the container runtime writes before each line, below the size at which a kubelet rotates it (10 MiB).
pub(super) const LOG_BYTES: usize = 6_000_000;
/// Size of the file behind [`FILE_PORT`].
pub(super) const FORWARDED_BYTES: usize = 64 * 1024 * 1024;
/// Each connection gets the file.
pub(super) const FILE_PORT: u16 = 9000;
/// Each connection gets back what it sends.
pub(super) const ECHO_PORT: u16 = 9001;

const FIRST_BYTES: usize = 200;
const PINGS: usize = 2000;
const STREAMS: usize = 24;
const STREAM_BYTES: usize = 128 * 1024 * 1024;
/// Logs of one measurement: one alone takes too little time.
const LOGS: usize = 8;
/// What the agent is left alone for before its memory is read.
const QUIET: Duration = Duration::from_secs(5);

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Direct,
    Through,
}

pub(super) struct Scene<'a> {
    pub(super) direct: Way,
    pub(super) through: Way,
    pub(super) agent: &'a AgentProcess,
}

impl Scene<'_> {
    fn way(&self, side: Side) -> &Way {
        match side {
            Side::Direct => &self.direct,
            Side::Through => &self.through,
        }
    }

    /// The same on either side `count` times, in turns; who begins alternates. The times, and what it cost meanwhile.
    async fn pairs(&self, count: usize, act: impl AsyncFn(&Way) -> anyhow::Result<Duration>) -> anyhow::Result<(Pairs, Cost)> {
        let (cpu, machine) = (self.agent.process.cpu(), MachineTime::now()?);
        let mut pairs = Pairs::default();
        for i in 0..count {
            let order = if i % 2 == 0 { [Side::Direct, Side::Through] } else { [Side::Through, Side::Direct] };
            for side in order {
                pairs.add(side, act(self.way(side)).await.with_context(|| format!("{side:?}"))?);
            }
        }
        let cost = Cost { agent: self.agent.process.cpu().saturating_sub(cpu), busy: MachineTime::now()?.busy_since(machine) };
        Ok((pairs, cost))
    }

    pub(super) async fn wait_for_log(&self) -> anyhow::Result<()> {
        eventually("the log is written", Duration::from_mins(1), async || {
            let count = self.direct.log_bytes().await?;
            Ok(Seen::when(count >= LOG_BYTES, count))
        })
        .await
        .map(drop)
    }

    /// From before the connection until the head of the answer, and until the first byte of the process.
    pub(super) async fn first_bytes(&self, table: &mut Table) -> anyhow::Result<()> {
        let (heads, _) = self
            .pairs(FIRST_BYTES, async |way| {
                let begin = Instant::now();
                let mut process = way.exec("true", false).await?;
                let took = begin.elapsed();
                process.first().await?;
                Ok(took)
            })
            .await?;
        table.latency("exec true: until the stream is open", heads);
        let (firsts, _) = self
            .pairs(FIRST_BYTES, async |way| {
                let begin = Instant::now();
                way.exec("true", false).await?.first().await?;
                Ok(begin.elapsed())
            })
            .await?;
        table.latency("exec true: until its first byte", firsts);
        Ok(())
    }

    /// What the kubelet itself takes for that of which the beginning of a session through vn-agent consists.
    pub(super) async fn parts(&self, table: &mut Table) -> anyhow::Result<()> {
        let (mut handshakes, mut lists) = (Vec::new(), Vec::new());
        let mut connection = self.direct.connect().await?;
        for _ in 0..FIRST_BYTES {
            let begin = Instant::now();
            self.direct.connect().await?;
            handshakes.push(begin.elapsed().as_secs_f64());
            let begin = Instant::now();
            way::list(&mut connection).await?;
            lists.push(begin.elapsed().as_secs_f64());
        }
        table.part("a connection with its handshake", handshakes);
        table.part("a list of the node's Pods, on a connection that is there", lists);
        Ok(())
    }

    /// Question and answer over one forwarded connection.
    pub(super) async fn ping_pong(&self, table: &mut Table) -> anyhow::Result<()> {
        let mut ports = [self.direct.port(ECHO_PORT).await?, self.through.port(ECHO_PORT).await?];
        let mut pairs = Pairs::default();
        for i in 0..PINGS {
            let order = if i % 2 == 0 { [Side::Direct, Side::Through] } else { [Side::Through, Side::Direct] };
            for side in order {
                let [direct, through] = &mut ports;
                let port = match side {
                    Side::Direct => direct,
                    Side::Through => through,
                };
                let begin = Instant::now();
                port.ping().await?;
                pairs.add(side, begin.elapsed());
            }
        }
        table.latency("port-forward: question and answer", pairs);
        Ok(())
    }

    pub(super) async fn throughput(&self, table: &mut Table) -> anyhow::Result<()> {
        let (logs, cpu) = self
            .pairs(STREAMS, async |way| {
                let begin = Instant::now();
                for _ in 0..LOGS {
                    let count = way.log_bytes().await?;
                    anyhow::ensure!(count >= LOG_BYTES, "the log has {count} bytes");
                }
                Ok(begin.elapsed())
            })
            .await?;
        table.stream("logs", LOG_BYTES * LOGS, logs, cpu);
        let (stdin, cpu) = self
            .pairs(STREAMS, async |way| {
                let process = way.exec(&format!("head -c {STREAM_BYTES} | wc -c"), true).await?;
                let begin = Instant::now();
                let said = process.feed(STREAM_BYTES).await?;
                let took = begin.elapsed();
                let said = String::from_utf8_lossy(&said).trim().to_owned();
                anyhow::ensure!(said == STREAM_BYTES.to_string(), "of {STREAM_BYTES} bytes came {said}");
                Ok(took)
            })
            .await?;
        table.stream("exec, stdin", STREAM_BYTES, stdin, cpu);
        let (stdout, cpu) = self
            .pairs(STREAMS, async |way| {
                let process = way.exec(&format!("head -c {STREAM_BYTES} /dev/zero"), false).await?;
                let begin = Instant::now();
                let count = process.read().await?.len();
                anyhow::ensure!(count == STREAM_BYTES, "{count} bytes came");
                Ok(begin.elapsed())
            })
            .await?;
        table.stream("exec, stdout", STREAM_BYTES, stdout, cpu);
        let (forwarded, cpu) = self
            .pairs(STREAMS, async |way| {
                let begin = Instant::now();
                way.port(FILE_PORT).await?.read(FORWARDED_BYTES).await?;
                Ok(begin.elapsed())
            })
            .await?;
        table.stream("port-forward", FORWARDED_BYTES, forwarded, cpu);
        Ok(())
    }

    /// Holds many sessions through vn-agent, each of which has carried something, and looks at its memory.
    pub(super) async fn sessions(&self, count: usize, table: &mut Table) -> anyhow::Result<()> {
        sleep(QUIET).await;
        let process = &self.agent.process;
        let before = (process.rss_bytes(), process.descriptors());
        let opened = stream::iter(0..count).map(|_| async {
            let mut port = self.through.port(ECHO_PORT).await?;
            port.ping().await?;
            anyhow::Ok(port)
        });
        let held: Vec<anyhow::Result<Port>> = opened.buffer_unordered(16).collect().await;
        let held = held.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
        sleep(QUIET).await;
        let with = (process.rss_bytes(), process.descriptors());
        drop(held);
        eventually("no session is left", Duration::from_secs(30), async || {
            let left = self.agent.metric("vc_agent_sessions_running", "").await?;
            Ok(Seen::when(left < 0.5, left))
        })
        .await?;
        sleep(QUIET).await;
        table.sessions(count, before, with, (process.rss_bytes(), process.descriptors()));
        Ok(())
    }
}
