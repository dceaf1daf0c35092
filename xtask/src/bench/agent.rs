//! `cargo xtask bench agent`: what vn-agent adds to a session, against the same kubelet dialled directly.
//!
//! Pairs are interleaved in one run, the order within a pair alternates. Both ways begin with a new connection and its TLS handshake, as an API
//! server's do. Pods run in real containers on a real node, and everything shares the cores of this machine.

mod figures;
mod scenes;
mod way;

use anyhow::{Context as _, bail};
use e2e::agents::AgentOptions;
use e2e::images::TOOLS;
use e2e::machine;
use e2e::programs::Programs;
use e2e::shipped::AGENT;
use e2e::story::{Plot, Story, is_running, pod};
use indicatif::MultiProgress;
use serde_json::json;

use crate::program::{self, Build};
use scenes::Scene;
use way::Way;

/// The Pod that is talked to: it has a log, a large file behind a port and an echo behind another.
const POD: &str = "bench";

/// Sessions of one tenant that are held at once.
const SESSIONS: usize = 1000;

/// Measures vn-agent on a real node.
pub(crate) async fn run() -> anyhow::Result<()> {
    if let Some(lacking) = machine::lacking() {
        bail!("{lacking}");
    }
    // Both ends of each session are here.
    runtime::limit::raise_descriptors().context("could not raise the limit of descriptors")?;
    Programs::locate_or_build(&MultiProgress::new()).await?;
    let program = program::build(&AGENT, Build::Release).await?;
    let plot = Plot::with_agents("bench-agent", 1, 1);
    let args = vec![format!("--tenant-sessions={}", SESSIONS + 100)];
    let story =
        Story::play(Plot { agents: Some(AgentOptions { program: Some(program), args, ..AgentOptions::default() }), ..plot }).await?;
    let tenant = story.tenant(0)?;
    tenant.apply(&pod(POD, &json!({}), &json!({ "containers": [container()] }))).await?;
    tenant.sees("it runs", "default", POD, is_running).await?;

    let agent = story.agent(0)?;
    let scene = Scene { direct: Way::direct(&story)?, through: Way::through(&story)?, agent };
    scene.wait_for_log().await?;
    println!("measuring: pairs, direct and through vn-agent, in turns");
    let mut table = figures::Table::default();
    scene.parts(&mut table).await?;
    scene.first_bytes(&mut table).await?;
    scene.ping_pong(&mut table).await?;
    scene.throughput(&mut table).await?;
    scene.sessions(SESSIONS, &mut table).await?;
    println!("{table}");
    Ok(())
}

fn container() -> serde_json::Value {
    let script = format!(
        "head -c {} /dev/zero > /big; \
         nc -ll -p {} -e cat /big & nc -ll -p {} -e cat & \
         head -c {} /dev/zero | tr '\\0' x | fold -w 127; exec sleep 1000000",
        scenes::FORWARDED_BYTES,
        scenes::FILE_PORT,
        scenes::ECHO_PORT,
        scenes::LOG_BYTES,
    );
    json!({
        "name": way::CONTAINER, "image": TOOLS, "command": ["sh", "-c", script],
        "readinessProbe": { "tcpSocket": { "port": scenes::ECHO_PORT }, "periodSeconds": 1 },
    })
}
