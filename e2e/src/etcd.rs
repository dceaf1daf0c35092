//! One etcd: a control plane's keys emptied, all of it saved and put back.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::Request;
use kube::Client;
use serde_json::{Value, json};

use crate::{
    port::Port,
    process::{Process, Spec},
    programs::Programs,
    wait::{Seen, eventually},
};

/// An etcd of one member, without encryption, on loopback.
pub struct Etcd {
    /// The server.
    pub process: Process,
    data: PathBuf,
    client: Client,
    port: Port,
    _peers: Port,
}

impl Etcd {
    /// Starts etcd with its data under `dir/<name>`, and waits until it answers.
    pub async fn start(name: &str, dir: &Path, programs: &Programs) -> anyhow::Result<Self> {
        let (port, peers) = (Port::claim()?, Port::claim()?);
        let [clients, peer] = [&port, &peers].map(|port| format!("http://127.0.0.1:{}", port.number()));
        let data = dir.join(name);
        let args = [
            format!("--data-dir={}", data.display()),
            // Nothing here outlives a power cut.
            "--unsafe-no-fsync".to_owned(),
            format!("--listen-client-urls={clients}"),
            format!("--advertise-client-urls={clients}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=default={peer}"),
            "--log-level=warn".to_owned(),
        ];
        let client = plain_client(&clients)?;
        let process = Process::start(Spec::new(name, &programs.etcd(), args, dir))?;
        let etcd = Self { process, data, client, port, _peers: peers };
        etcd.wait_ready().await?;
        Ok(etcd)
    }

    /// Where clients reach it.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port.number())
    }

    /// Waits until it answers.
    pub async fn wait_ready(&self) -> anyhow::Result<()> {
        eventually("etcd answers", Duration::from_secs(30), async || {
            self.process.check_running()?;
            let health = self.client.request_text(Request::get("/health").body(Vec::new())?).await?;
            Ok(Seen::when(health.contains("true"), health))
        })
        .await?;
        Ok(())
    }

    /// Deletes every key under `prefix`.
    ///
    /// # Caveats
    /// The API server that keeps its objects there must be down, and sees its watches end in surprise otherwise.
    pub async fn wipe(&self, prefix: &str) -> anyhow::Result<()> {
        self.call("deleterange", &range(prefix)).await.context("could not delete keys")?;
        Ok(())
    }

    /// Copies its files, as a backup does; it is down for that moment.
    pub async fn back_up(&self, to: &Path) -> anyhow::Result<()> {
        self.process.stop().await?;
        copy(&self.data, to)?;
        self.process.start_again()?;
        self.wait_ready().await
    }

    /// Goes back to the files of a backup: revisions too are what they were.
    pub async fn go_back(&self, to: &Path) -> anyhow::Result<()> {
        self.process.kill()?;
        std::fs::remove_dir_all(&self.data).with_context(|| format!("could not remove {}", self.data.display()))?;
        copy(to, &self.data)?;
        self.process.start_again()?;
        self.wait_ready().await
    }

    async fn call(&self, verb: &str, body: &Value) -> anyhow::Result<Value> {
        let request = Request::post(format!("/v3/kv/{verb}")).body(serde_json::to_vec(body)?)?;
        Ok(self.client.request(request).await?)
    }
}

/// A client for plain HTTP on loopback: what kube's client is without a Kubernetes server. It asks once: a probe's 503 is an answer.
pub(crate) fn plain_client(url: &str) -> anyhow::Result<Client> {
    let uri = url.parse().with_context(|| format!("{url} is no address"))?;
    let mut config = kube::Config::new(uri);
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    let step = || format!("could not copy {} to {}", from.display(), to.display());
    std::fs::create_dir_all(to).with_context(step)?;
    for entry in std::fs::read_dir(from).with_context(step)? {
        let from = entry?.path();
        let to = to.join(from.file_name().unwrap_or_default());
        if from.is_dir() {
            copy(&from, &to)?;
        } else {
            std::fs::copy(&from, &to).with_context(step)?;
        }
    }
    Ok(())
}

/// All keys that start with `prefix/`: up to the same text with `0`, the character after `/`.
fn range(prefix: &str) -> Value {
    let prefix = prefix.trim_end_matches('/');
    json!({ "key": STANDARD.encode(format!("{prefix}/")), "range_end": STANDARD.encode(format!("{prefix}0")) })
}
