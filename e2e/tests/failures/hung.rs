//! A kubelet that hangs under a thousand sessions.

use std::{cell::Cell, time::Duration};

use anyhow::{Context as _, bail, ensure};
use e2e::{
    agents::AgentProcess,
    dial::{Caller, Channels, Connection},
    story::{PATIENCE, Story},
    wait::{Seen, eventually},
};
use futures::{
    StreamExt as _,
    future::{join_all, try_join_all},
    stream,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::{Instant, sleep, timeout},
};

use crate::agent_failures::ECHO;

const PORT: &str = "/portForward/default/echo";
const FOLLOW: &str = "/containerLogs/default/echo/main?follow=true";

/// How long new requests are begun while the kubelet hangs; each takes up to half a minute.
const ASKING: Duration = Duration::from_secs(20);

/// Who asks anew at once.
const ASKERS: u8 = 12;

/// A request may hold a connection to its caller, one to the kubelet and one for the list of Pods: three for each of thirteen callers, and
/// as much again for what is on its way out.
const MORE_DESCRIPTORS: usize = 80;

/// What twenty that push without end would fill at once if what waits were not bounded. A third of a MiB left by each of some fifty requests
/// would, too.
const MORE_KIB: u64 = 16 * 1024;

/// Memory and descriptors of vn-agent.
#[derive(Clone, Copy, Debug)]
struct Cost {
    kib: u64,
    descriptors: usize,
}

impl Cost {
    fn of(agent: &AgentProcess) -> Self {
        Self { kib: agent.process.rss_bytes() / 1024, descriptors: agent.process.descriptors() }
    }
}

/// What a request is answered by, and how soon; and how many there were.
async fn refused(n: u8, caller: &Caller) -> anyhow::Result<(Duration, usize)> {
    let begin = Instant::now();
    // Pages about the node have a bound of their own: a few at once.
    let paths = ["/containerLogs/default/echo/main?tailLines=1", "/pods"];
    let paths = paths.get(..if n < 4 { 2 } else { 1 }).unwrap_or_default();
    for path in paths {
        let answer = caller.get_within(path, PATIENCE).await?;
        ensure!(answer.status() == 504 && answer.text.contains("the kubelet did not answer within"), "{path}: {}", answer.text);
    }
    let Err(answer) = caller.stream(ECHO).await? else { bail!("a stream begins at a kubelet that hangs") };
    ensure!(answer.status() == 504 && answer.text.contains("\"reason\":\"Timeout\""), "{}", answer.text);
    Ok((begin.elapsed(), paths.len() + 1))
}

/// A thousand sessions.
struct Sessions {
    _idle: Vec<Connection>,
    execs: Vec<Channels>,
    floods: Vec<Channels>,
    logs: Vec<Connection>,
}

impl Sessions {
    async fn start(caller: &Caller) -> anyhow::Result<Self> {
        let idle: Vec<_> = stream::iter(0..955).map(|_| caller.idle(PORT)).buffer_unordered(16).collect().await;
        let execs: Vec<_> = stream::iter(0..40).map(|_| caller.open(ECHO)).buffer_unordered(4).collect().await;
        let (idle, mut execs) = (idle.into_iter().collect::<anyhow::Result<_>>()?, execs.into_iter().collect::<anyhow::Result<Vec<_>>>()?);
        for stream in &mut execs {
            stream.lives().await?;
        }
        let mut logs = Vec::new();
        // A kubelet that follows a log takes a watch of files, of which a machine has few.
        for _ in 0..5 {
            let mut log = caller.connect().await?;
            log.write_all(format!("GET {FOLLOW} HTTP/1.1\r\nHost: node\r\n\r\n").as_bytes()).await?;
            logs.push(log);
        }
        let floods = execs.split_off(20);
        let mut sessions = Self { _idle: idle, execs, floods, logs };
        sessions.live().await?;
        Ok(sessions)
    }

    /// All but those that push.
    async fn live(&mut self) -> anyhow::Result<()> {
        for stream in &mut self.execs {
            stream.lives().await?;
        }
        for log in &mut self.logs {
            ensure!(timeout(PATIENCE, log.read(&mut [0; 512])).await.context("a log says nothing")?? > 0, "a log has ended");
        }
        Ok(())
    }
}

/// What was seen while the kubelet hung.
#[derive(Debug)]
struct Hung {
    lasted: Duration,
    most: Cost,
    requests: usize,
    slowest: Duration,
}

pub(crate) async fn hung(story: &Story) -> anyhow::Result<()> {
    let (agent, node) = (story.agent(0)?, story.real.first().context("a node")?);
    let caller = agent.caller(&story.bed, 0)?;
    caller.open(ECHO).await?.lives().await?;
    let before = Cost::of(agent);
    let mut sessions = Sessions::start(&caller).await?;
    let full = Cost::of(agent);
    ensure!(agent.metric("vc_agent_sessions_running", "").await? >= 1000.0, "{}", agent.metrics().await?);
    node.kubelet.pause()?;
    let hung = press(agent, &caller, &mut sessions.floods, full).await;
    let judged = match &hung {
        Ok(hung) => judge(agent, full, hung).await,
        Err(_) => Ok(()),
    };
    node.kubelet.resume()?;
    let Hung { lasted, most, requests, slowest } = hung?;
    eprintln!(
        "    before {before:?}; at 1,000 {full:?}; hung for {lasted:.1?}: at most {most:?}; {requests} requests, slowest three {slowest:.1?}"
    );
    judged?;
    sessions.live().await.context("after the kubelet went on")?;
    caller.open(ECHO).await?.lives().await?;
    node.wait_ready(&story.bed).await?;
    drop(sessions);
    let after = eventually("all is given back", PATIENCE, async || {
        let now = Cost::of(agent);
        Ok(Seen::when(now.descriptors <= before.descriptors + 32, now))
    });
    eprintln!("    after {:?}", after.await?);
    Ok(())
}

/// Twenty push all they can, twelve ask anew and one follows a log, until all who ask are answered.
async fn press(agent: &AgentProcess, caller: &Caller, floods: &mut [Channels], full: Cost) -> anyhow::Result<Hung> {
    let (begin, over) = (Instant::now(), Cell::new(false));
    let (most, requests, slowest) = (Cell::new(full), Cell::new(1), Cell::new(Duration::ZERO));
    let (over, requests, slowest) = (&over, &requests, &slowest);
    let push = floods.iter_mut().map(|stream| async move {
        let block = vec![b'x'; 32 * 1024];
        while !over.get() {
            let _ = timeout(Duration::from_secs(1), stream.send(0, &block)).await;
        }
    });
    let ask = (0..ASKERS).map(|n| async move {
        while begin.elapsed() < ASKING {
            let (took, count) = refused(n, caller).await?;
            slowest.set(slowest.get().max(took));
            requests.set(requests.get() + count);
        }
        anyhow::Ok(())
    });
    // The log of a container that says nothing begins late: it is given up by what else the kubelet leaves unanswered.
    let follow = async {
        let answer = caller.get_within(FOLLOW, Duration::from_mins(2)).await?;
        ensure!(answer.status() == 504 && answer.text.contains("the kubelet did not answer within"), "{FOLLOW}: {}", answer.text);
        Ok(())
    };
    let asked = async {
        let asked = tokio::try_join!(try_join_all(ask), follow);
        over.set(true);
        asked
    };
    let watch = async {
        while !over.get() {
            let (now, last) = (Cost::of(agent), most.get());
            most.set(Cost { kib: last.kib.max(now.kib), descriptors: last.descriptors.max(now.descriptors) });
            sleep(Duration::from_millis(250)).await;
        }
    };
    let (asked, _, ()) = tokio::join!(asked, join_all(push), watch);
    asked?;
    Ok(Hung { lasted: begin.elapsed(), most: most.get(), requests: requests.get(), slowest: slowest.get() })
}

/// While it still hangs.
async fn judge(agent: &AgentProcess, full: Cost, hung: &Hung) -> anyhow::Result<()> {
    ensure!(hung.most.descriptors <= full.descriptors + MORE_DESCRIPTORS, "descriptors grow: {full:?}, then {hung:?}");
    ensure!(hung.most.kib <= full.kib + MORE_KIB, "memory grows: {full:?}, then {hung:?}");
    // One left by each request would be more.
    let few = hung.requests / 2;
    eventually("descriptors are given back", PATIENCE, async || {
        let now = Cost::of(agent);
        Ok(Seen::when(now.descriptors <= full.descriptors + few, (full, now)))
    })
    .await
    .map(drop)
}
