//! vn-agent, the kubelet behind it and the credentials of both fail, change and end while sessions run.

use std::{collections::BTreeSet, time::Duration};

use crate::failures::{self, processes_in, sockets_to};
use anyhow::{Context as _, bail, ensure};
use e2e::{
    agents::{AgentOptions, AgentProcess, SessionLine},
    dial::Channels,
    images::TOOLS,
    kubectl::{Kubectl, Running},
    machine,
    story::{PATIENCE, Plot, Story, chapter, is_running, pod},
    wait::{Seen, eventually},
};
use futures::{StreamExt as _, future::try_join_all, stream};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;
use tokio::{
    io::AsyncReadExt as _,
    time::{Instant, timeout},
};

/// How soon whoever has a session must know that it is over.
const PROMPT: Duration = Duration::from_secs(20);

/// How long nothing may move before it counts as standing still.
const STILL: Duration = Duration::from_secs(1);

/// What vn-agent has to end in: time for some kubectls to start, on a busy machine.
const DRAIN: Duration = Duration::from_secs(30);

/// When it cuts what is left, to have time to close it.
const CUT: Duration = Duration::from_secs(28);

/// Says again what it hears.
pub(crate) const ECHO: &str = "/exec/default/echo/main?command=cat&input=1&output=1";

#[tokio::test(flavor = "multi_thread")]
async fn r53_sessions_end_cleanly_with_vn_agent() {
    if machine::skipped() {
        return;
    }
    let mut plot = Plot::with_agents("agent-ends", 2, 1);
    plot.agents.as_mut().unwrap().args = vec![format!("--drain-timeout={}s", DRAIN.as_secs())];
    let mut story = Story::play(plot).await.unwrap();
    echoes(&story).await.unwrap();
    story
        .tell(vec![chapter(
            "killed under 50 sessions: all end, as with a kubelet that is killed, and nothing is left of them",
            killed(&story),
        )])
        .await
        .unwrap();
    story
        .tell(vec![chapter("asked to end: who ends in time ends well, the rest is cut, nobody new comes in", drained(&story))])
        .await
        .unwrap();
    story.agents.clear();
    story.tell(vec![chapter("sessions are counted: a tenant's, and all", counted(&story))]).await.unwrap();
    story.tell(vec![chapter("one that is silent ends, one that is not goes on", silent(&story))]).await.unwrap();
    story.tell(vec![chapter("none lasts longer than it may", lasted(&story))]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kubelet_that_hangs_under_a_thousand_sessions_costs_nothing() {
    if machine::skipped() {
        return;
    }
    let mut plot = Plot::with_agents("agent-hangs", 1, 1);
    plot.agents.as_mut().unwrap().args = vec!["--tenant-sessions=2000".to_owned(), "--sessions=3000".to_owned()];
    let story = Story::play(plot).await.unwrap();
    echoes(&story).await.unwrap();
    story.tell(vec![chapter("a kubelet hangs under 1,000 sessions", failures::hung(&story))]).await.unwrap();
}

/// A Pod `default/echo` of each tenant that says something now and then and serves a page.
async fn echoes(story: &Story) -> anyhow::Result<()> {
    let script = "httpd -p 8080 -h /; while :; do echo tick; sleep 1; done";
    let container = json!({ "name": "main", "image": TOOLS, "command": ["sh", "-c", script] });
    for tenant in &story.tenants {
        tenant.apply(&pod("echo", &json!({}), &json!({ "terminationGracePeriodSeconds": 1, "containers": [container] }))).await?;
    }
    for tenant in &story.tenants {
        tenant.sees("it runs", "default", "echo", is_running).await?;
    }
    Ok(())
}

/// Waits until the stream has ended.
async fn ended(stream: &mut Channels, patience: Duration) -> anyhow::Result<String> {
    timeout(patience, stream.rest()).await.with_context(|| format!("the stream does not end within {patience:?}"))
}

/// Descriptors that a kubelet may open meanwhile for what it does by itself; sessions left open would be many more.
const OF_ITS_OWN: usize = 5;

/// What is open for sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Open {
    /// Connections of the tenant's API server to vn-agent.
    to_agent: usize,
    /// Descriptors of the kubelet.
    kubelet: usize,
    /// What [`ECHO`] has started in containers and that has not ended.
    echoes: usize,
}

impl Open {
    fn now(story: &Story) -> anyhow::Result<Self> {
        let api_server = story.bed.tenant(0)?.api_server.pid().context("no API server")?;
        let to_agent = sockets_to(api_server, story.agent(0)?.address())?;
        let node = story.real.first().context("a node")?;
        Ok(Self { to_agent, kubelet: node.kubelet_descriptors()?, echoes: processes_in(node.machine.cgroup(), "cat")? })
    }

    /// Once no session runs and nothing moves.
    async fn at_rest(story: &Story) -> anyhow::Result<Self> {
        let agent = story.agent(0)?;
        let (mut last, mut since) = (None, Instant::now());
        eventually("all is at rest", PATIENCE, async || {
            let (running, now) = (agent.metric("vc_agent_sessions_running", "").await?, Self::now(story)?);
            if running > 0.0 || last.replace(now) != Some(now) {
                since = Instant::now();
            }
            Ok(if since.elapsed() >= STILL { Seen::Done(now) } else { Seen::NotYet(format!("{running} sessions, {now:?}")) })
        })
        .await
    }
}

/// What kubectl says of a stream that broke off.
const BROKEN: [(&str, &[&str]); 3] = [
    ("exec", &["websocket: close 1006 (abnormal closure): unexpected EOF", "connection reset by peer", "broken pipe"]),
    // It takes the end for the log's own.
    ("logs", &[""]),
    ("port-forward", &["error: lost connection to pod"]),
];

/// How each kind of kubectl ended: with which code.
type Ends = BTreeSet<(&'static str, Option<i32>)>;

async fn ends(sessions: Vec<(&'static str, Running)>) -> anyhow::Result<Ends> {
    let mut ends = BTreeSet::new();
    for (what, session) in sessions {
        let (status, _, said) = timeout(PROMPT, session.ends()).await.with_context(|| format!("{what} does not end"))??;
        let last = said.lines().last().unwrap_or_default();
        let known = BROKEN.iter().find(|(kind, _)| *kind == what).map_or(&[""][..], |(_, known)| known);
        ensure!(known.iter().any(|known| last.contains(known) && known.is_empty() == last.is_empty()), "{what} complains of {said:?}");
        ends.insert((what, status.code()));
    }
    Ok(ends)
}

/// Starts one of three kinds.
async fn start(n: usize, kubectl: &Kubectl) -> anyhow::Result<(&'static str, Running)> {
    Ok(match n % 7 {
        0..=2 => ("exec", echo(kubectl).await?),
        3..=5 => ("logs", log(kubectl).await?),
        _ => ("port-forward", kubectl.forward("echo", 8080).await?.0),
    })
}

/// An exec that says what it hears.
async fn echo(kubectl: &Kubectl) -> anyhow::Result<Running> {
    let mut exec = kubectl.start(&["exec", "-i", "echo", "--", "cat"])?;
    exec.types("ping\n").await?;
    exec.writes("ping\n").await?;
    Ok(exec)
}

async fn log(kubectl: &Kubectl) -> anyhow::Result<Running> {
    let mut log = kubectl.start(&["logs", "-f", "--tail=1", "echo"])?;
    log.writes("tick\n").await?;
    Ok(log)
}

async fn killed(story: &Story) -> anyhow::Result<()> {
    let (kubectl, agent) = (story.kubectl(0)?, story.agent(0)?);
    let caller = agent.caller(&story.bed, 0)?;
    kubectl.says(&["exec", "echo", "--", "true"]).await?;
    let before = Open::at_rest(story).await?;
    let sessions: Vec<_> = stream::iter((0..35).map(|n| start(n, &kubectl))).buffer_unordered(4).collect().await;
    let sessions = sessions.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    let mut raw = try_join_all((0..15).map(|_| caller.open(ECHO))).await?;
    for stream in &mut raw {
        stream.lives().await?;
    }
    let during = Open::now(story)?;
    let seen = during.to_agent >= 35 && during.kubelet >= before.kubelet + 50 && during.echoes >= 30;
    ensure!(seen && before.echoes == 0, "sessions are not seen: {before:?}, then {during:?}");
    agent.process.kill()?;
    let killed = Instant::now();
    for stream in &mut raw {
        let last = ended(stream, PROMPT).await?;
        ensure!(last.is_empty(), "a stream that broke off says {last:?}");
    }
    let ends = ends(sessions).await?;
    eprintln!("    all ended within {:.1} s: {ends:?}", killed.elapsed().as_secs_f64());
    eventually("nothing is left open", PATIENCE, async || {
        let after = Open::now(story)?;
        let given_back = after.to_agent == 0 && after.echoes == 0 && after.kubelet <= before.kubelet + OF_ITS_OWN;
        Ok(Seen::when(given_back, (before, during, after)))
    })
    .await?;
    let refused = kubectl.fails(&["exec", "echo", "--", "true"]).await?;
    ensure!(refused.contains("connection refused"), "{refused}");
    agent.process.start_again()?;
    agent.wait_ready().await?;
    ensure!(kubectl.says(&["exec", "echo", "--", "echo", "again"]).await? == "again\n");
    ensure!(kubectl.says(&["logs", "--tail=1", "echo"]).await? == "tick\n");
    caller.open(ECHO).await?.lives().await?;
    let expected = of_a_kubelet(story).await?;
    ensure!(ends == expected, "through vn-agent {ends:?}, without it {expected:?}");
    let failed = [("exec", Some(1)), ("port-forward", Some(1))];
    ensure!(failed.iter().all(|end| ends.contains(end)) && ends.len() == 3, "{ends:?}");
    Ok(())
}

/// How kubectl ends where there is no vn-agent and the kubelet itself is killed.
async fn of_a_kubelet(story: &Story) -> anyhow::Result<Ends> {
    let (kubectl, node) = (below(story)?, story.real.first().context("a node")?);
    let sessions = try_join_all([0, 3, 6].map(|n| start(n, &kubectl))).await?;
    node.kubelet.kill()?;
    let ends = ends(sessions).await?;
    node.kubelet.start_again()?;
    // The node counts as Ready all the while.
    let caller = story.agent(0)?.caller(&story.bed, 0)?;
    eventually("the kubelet knows the Pod again", PATIENCE, async || {
        let answer = caller.get("/pods").await?;
        Ok(Seen::when(answer.status() == 200 && answer.text.contains("\"echo\""), answer))
    })
    .await?;
    Ok(ends)
}

/// Past vn-agent.
fn below(story: &Story) -> anyhow::Result<Kubectl> {
    Ok(story.bed.sup.kubectl(story.bed.programs()).within(&story.tenant(0)?.namespace_below("default")))
}

async fn drained(story: &Story) -> anyhow::Result<()> {
    let (kubectl, agent) = (story.kubectl(0)?, story.agent(0)?);
    let caller = agent.caller(&story.bed, 0)?;
    let earlier = Open::at_rest(story).await.and_then(|_| Ok(agent.sessions()?.len()))?;
    let wait = "echo begun; while [ ! -e end ]; do sleep 0.1; done; echo done; exit 7";
    let mut told = kubectl.start(&["exec", "echo", "--", "sh", "-c", wait])?;
    told.writes("begun\n").await?;
    let (stays, logs) = (echo(&kubectl).await?, log(&kubectl).await?);
    let mut raw = caller.open(ECHO).await?;
    raw.lives().await?;
    let mut idle = caller.connect().await?;
    let begin = Instant::now();
    kill(Pid::from_raw(i32::try_from(agent.process.pid().context("no vn-agent")?)?), Signal::SIGTERM)?;
    eventually("nobody new comes in", DRAIN, async || Ok(Seen::when(caller.connect().await.is_err(), ()))).await?;
    let said = timeout(DRAIN, idle.read(&mut [0])).await.context("a connection without a session is kept")?;
    ensure!(!matches!(said, Ok(1..)), "something was said");
    let refused = kubectl.fails(&["exec", "echo", "--", "true"]).await?;
    ensure!(refused.contains("connection refused"), "{refused}");
    raw.lives().await.context("a session goes on")?;
    below(story)?.says(&["exec", "echo", "--", "touch", "end"]).await?;
    let (status, output, said) = told.ends().await?;
    ensure!(status.code() == Some(7) && output == "done\n", "{status} {output:?} {said:?}");
    raw.lives().await.context("others go on")?;
    ended(&mut raw, DRAIN).await?;
    let cut = begin.elapsed();
    ensure!(cut >= CUT, "the rest is cut after {cut:?}");
    let ends = ends(vec![("exec", stays), ("logs", logs)]).await?;
    eprintln!("    cut after {cut:.1?}: {ends:?}");
    // As one whose kubelet is killed.
    ensure!(ends == BTreeSet::from([("exec", Some(1)), ("logs", Some(0))]), "{ends:?}");
    let status = eventually("vn-agent ends", PROMPT, async || {
        Ok(agent.process.exit_status().map_or_else(|| Seen::NotYet("it runs".to_owned()), Seen::Done))
    });
    let status = status.await?;
    ensure!(status.success(), "vn-agent ended with {status}");
    let sessions = agent.sessions()?.split_off(earlier);
    let is_cut = |one: &SessionLine| one.outcome == "cut" && u128::from(one.duration_ms) >= CUT.as_millis();
    let (finished, rest) = sessions.split_first().context("no session is logged")?;
    ensure!(finished.verb == "exec" && finished.is_fine() && rest.len() == 3 && rest.iter().all(is_cut), "{sessions:?}");
    Ok(())
}

async fn with(story: &Story, args: &[&str]) -> anyhow::Result<AgentProcess> {
    let args = args.iter().map(|arg| (*arg).to_owned()).collect();
    AgentProcess::start(&story.bed, story.real.first().context("a node")?, &AgentOptions { args, ..AgentOptions::default() }).await
}

async fn counted(story: &Story) -> anyhow::Result<()> {
    let agent = with(story, &["--tenant-sessions=2", "--sessions=3"]).await?;
    let (a, b) = (agent.caller(&story.bed, 0)?, agent.caller(&story.bed, 1)?);
    let mut own = [a.open(ECHO).await?, a.open(ECHO).await?];
    let Err(third) = a.stream(ECHO).await? else { bail!("a third session of a tenant") };
    ensure!(third.status() == 429 && third.text.contains("of sessions on this node: this tenant has as many"), "{}", third.text);
    let said = story.kubectl(0)?.fails(&["exec", "echo", "--", "true"]).await?;
    ensure!(said.contains("of sessions on this node: this tenant has as many as one may have (2)"), "{said}");
    let mut other = b.open(ECHO).await?;
    let Err(fourth) = b.stream(ECHO).await? else { bail!("a fourth session of all") };
    ensure!(
        fourth.status() == 429 && fourth.text.contains("of sessions on this node: there are as many as there may be"),
        "{}",
        fourth.text
    );
    for stream in own.iter_mut().chain([&mut other]) {
        stream.lives().await?;
    }
    drop(own);
    eventually("there is room again", PATIENCE, async || Ok(Seen::when(a.stream(ECHO).await?.is_ok(), ()))).await
}

/// Waits until that many sessions more have ended, and gives them.
async fn later(agent: &AgentProcess, earlier: usize, more: usize) -> anyhow::Result<Vec<SessionLine>> {
    eventually("sessions are logged", PROMPT, async || {
        let sessions = agent.sessions()?.split_off(earlier);
        Ok(Seen::when(sessions.len() >= more, sessions))
    })
    .await
}

async fn silent(story: &Story) -> anyhow::Result<()> {
    const IDLE: Duration = Duration::from_secs(10);
    let agent = with(story, &[&format!("--session-idle={}s", IDLE.as_secs())]).await?;
    let (caller, earlier) = (agent.caller(&story.bed, 0)?, agent.sessions()?.len());
    let begin = Instant::now();
    let (mut silent, mut lively) = (caller.open(ECHO).await?, caller.open(ECHO).await?);
    {
        let mut end = std::pin::pin!(ended(&mut silent, PATIENCE));
        let mut pings = tokio::time::interval(Duration::from_millis(500));
        loop {
            tokio::select! {
                end = &mut end => break end?,
                _ = pings.tick() => lively.lives().await.context("one that is not silent")?,
            };
        }
    };
    ensure!(begin.elapsed() >= IDLE, "silence ended after {:?}", begin.elapsed());
    lively.lives().await.context("one that is not silent")?;
    let sessions = later(&agent, earlier, 1).await?;
    ensure!(sessions.len() == 1 && sessions.iter().all(|one| one.outcome == "idle"), "{sessions:?}");
    Ok(())
}

async fn lasted(story: &Story) -> anyhow::Result<()> {
    const TOTAL: Duration = Duration::from_secs(5);
    let agent = with(story, &[&format!("--session-total={}s", TOTAL.as_secs())]).await?;
    let (caller, earlier) = (agent.caller(&story.bed, 0)?, agent.sessions()?.len());
    let begin = Instant::now();
    let mut stream = caller.open(ECHO).await?;
    ended(&mut stream, PATIENCE).await?;
    ensure!(begin.elapsed() >= TOTAL, "its life ended after {:?}", begin.elapsed());
    let sessions = later(&agent, earlier, 1).await?;
    ensure!(sessions.len() == 1 && sessions.iter().all(|one| one.outcome == "total"), "{sessions:?}");
    caller.open(ECHO).await?.lives().await
}
