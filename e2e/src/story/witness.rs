//! Somebody who watches the Pods of the super cluster all the time, to say afterwards whether any ran twice.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use common::keys;
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    runtime::{WatchStreamExt as _, watcher},
};
use parking_lot::Mutex;
use tokio::task::JoinSet;

use super::{owner_of, uid_of};

/// Super Pods by the UID of the tenant's Pod that each runs.
type Runs = Arc<Mutex<BTreeMap<String, BTreeSet<String>>>>;

/// Watches from its start until it is dropped.
pub struct Witness {
    runs: Runs,
    _task: JoinSet<()>,
}

impl Witness {
    /// Starts to watch the super cluster.
    pub fn start(sup: Client) -> Self {
        let runs = Runs::default();
        let mut task = JoinSet::new();
        task.spawn(watch(sup, Arc::clone(&runs)));
        Self { runs, _task: task }
    }

    /// How many Pods of tenants it has seen run.
    pub fn count(&self) -> usize {
        self.runs.lock().len()
    }

    /// Fails if a tenant's Pod ever had more than one Pod in the super cluster.
    pub fn nothing_ran_twice(&self) -> anyhow::Result<()> {
        let runs = self.runs.lock();
        let twice: Vec<_> = runs.iter().filter(|(_, pods)| pods.len() > 1).collect();
        anyhow::ensure!(twice.is_empty(), "these ran twice (UID in the tenant, UIDs in the super cluster): {twice:?}");
        Ok(())
    }
}

async fn watch(sup: Client, runs: Runs) {
    let pods = Api::<Pod>::all(sup);
    let ours = watcher::Config::default().labels(keys::TENANT);
    let mut events = std::pin::pin!(watcher(pods, ours).default_backoff());
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Apply(pod) | watcher::Event::InitApply(pod) | watcher::Event::Delete(pod)) => note(&pod, &runs),
            // The watcher comes back by itself.
            Ok(watcher::Event::Init | watcher::Event::InitDone) | Err(_) => {}
        }
    }
}

fn note(pod: &Pod, runs: &Runs) {
    if let Ok(owner) = owner_of(pod) {
        runs.lock().entry(owner.uid.to_string()).or_default().insert(uid_of(pod));
    }
}
