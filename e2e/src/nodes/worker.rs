//! The life of one Pod on a fake node.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Pod, Secret};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};

use super::{
    Agent,
    status::{Life, Needed, Stage, ending, needed, status},
};

/// How soon a missing Secret or `ConfigMap` is looked for again, and a failed write repeated.
const AGAIN: Duration = Duration::from_millis(300);

/// A kubelet's own writes carry its own name.
const FIELD_MANAGER: &str = "kubelet";

struct Worker {
    agent: Arc<Agent>,
    pods: Api<Pod>,
    name: String,
    uid: String,
    life: Life,
    stage: Stage,
    /// When the stage may be left.
    due: Instant,
    /// The status that was written last.
    written: Value,
    complained: bool,
}

/// Lives a Pod's life until it is gone.
pub(super) async fn run(mut states: watch::Receiver<Arc<Pod>>, node: Ipv4Addr, agent: Arc<Agent>) {
    let first = Arc::clone(&states.borrow_and_update());
    let mut worker = Worker::new(&first, node, agent);
    drop(first);
    loop {
        let pod = Arc::clone(&states.borrow_and_update());
        if pod.metadata.deletion_timestamp.is_some() {
            return worker.end(&pod).await;
        }
        if worker.may_advance() {
            worker.advance(&pod).await;
        }
        let written = worker.write(&pod).await;
        let wake = if written { worker.due } else { Instant::now() + AGAIN };
        let waits = !written || worker.has_next(&pod);
        tokio::select! {
            changed = states.changed() => if changed.is_err() { return },
            () = sleep_until(wake), if waits => {}
        }
    }
}

impl Worker {
    fn new(pod: &Pod, node: Ipv4Addr, agent: Arc<Agent>) -> Self {
        let address = agent.next_pod_address();
        let life = Life { node, address, begun: Timestamp::now(), transitions: std::collections::HashMap::new() };
        let pods = Api::namespaced(agent.client.clone(), &pod.namespace().unwrap_or_default());
        let due = Instant::now() + agent.options.start_delay;
        let (name, uid) = (pod.name_any(), super::uid(pod));
        Self { agent, pods, name, uid, life, stage: Stage::Creating, due, written: Value::Null, complained: false }
    }

    /// Creating is shown before it is left, as a kubelet does.
    fn may_advance(&self) -> bool {
        !self.written.is_null() && Instant::now() >= self.due
    }

    fn has_next(&self, pod: &Pod) -> bool {
        match self.stage {
            Stage::Creating => true,
            Stage::Running => ending(pod).is_some(),
            Stage::Ended(_) => false,
        }
    }

    async fn advance(&mut self, pod: &Pod) {
        match (self.stage, ending(pod)) {
            (Stage::Creating, _) => {
                if let Some(missing) = self.missing(pod).await {
                    self.due = Instant::now() + AGAIN;
                    return self.complain(pod, &missing).await;
                }
                self.stage = Stage::Running;
                self.due = Instant::now() + self.agent.options.start_delay;
                self.event(pod, "Normal", "Started", "Started container").await;
            }
            (Stage::Running, Some(code)) => self.stage = Stage::Ended(code),
            (Stage::Running, None) | (Stage::Ended(_), _) => {}
        }
    }

    /// Whether what the stage asks for stands.
    async fn write(&mut self, pod: &Pod) -> bool {
        let wanted = status(self.stage, pod, &mut self.life, Timestamp::now());
        if wanted == self.written {
            return true;
        }
        let done = self.patch(&wanted).await;
        if done {
            self.written = wanted;
        }
        done
    }

    async fn patch(&self, status: &Value) -> bool {
        let patch = json!({ "metadata": { "uid": self.uid }, "status": status });
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        self.pods.patch_status(&self.name, &params, &Patch::Strategic(&patch)).await.is_ok()
    }

    /// Ends the containers, says so, and removes the Pod.
    async fn end(&mut self, pod: &Pod) {
        let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or_default();
        let grace = Duration::from_secs(u64::try_from(grace).unwrap_or_default());
        sleep(grace.min(self.agent.options.stop_delay)).await;
        let code = if let Stage::Ended(code) = self.stage { code } else { 0 };
        let status = status(Stage::Ended(code), pod, &mut self.life, Timestamp::now());
        if status != self.written {
            self.patch(&status).await;
        }
        let own = Preconditions { uid: Some(self.uid.clone()), resource_version: None };
        let delete = DeleteParams::default().grace_period(0).preconditions(own);
        loop {
            match self.pods.delete(&self.name, &delete).await {
                Ok(_) => return,
                // Gone, or another Pod of that name.
                Err(kube::Error::Api(error)) if [404, 409].contains(&error.code) => return,
                Err(_) => sleep(AGAIN).await,
            }
        }
    }

    async fn missing(&self, pod: &Pod) -> Option<String> {
        let (client, ns) = (&self.agent.client, pod.namespace().unwrap_or_default());
        for needed in needed(pod) {
            let (kind, name, found) = match &needed {
                Needed::Secret(name) => {
                    ("secret", name, Api::<Secret>::namespaced(client.clone(), &ns).get_metadata_opt(name).await.map(|o| o.is_some()))
                }
                Needed::ConfigMap(name) => {
                    let api = Api::<ConfigMap>::namespaced(client.clone(), &ns);
                    ("configmap", name, api.get_metadata_opt(name).await.map(|o| o.is_some()))
                }
            };
            if !matches!(found, Ok(true)) {
                return Some(format!("{kind} \"{name}\" not found"));
            }
        }
        None
    }

    async fn complain(&mut self, pod: &Pod, missing: &str) {
        if !std::mem::replace(&mut self.complained, true) {
            self.event(pod, "Warning", "FailedMount", &format!("MountVolume.SetUp failed: {missing}")).await;
        }
    }

    async fn event(&self, pod: &Pod, kind: &str, reason: &str, message: &str) {
        if !self.agent.options.events {
            return;
        }
        let ns = pod.namespace().unwrap_or_default();
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
        let now = super::second(Timestamp::now());
        let event = json!({
            "metadata": { "generateName": format!("{}.", pod.name_any()), "namespace": ns },
            "involvedObject": { "apiVersion": "v1", "kind": "Pod", "namespace": ns, "name": pod.name_any(), "uid": self.uid },
            "type": kind, "reason": reason, "message": message, "count": 1,
            "firstTimestamp": now, "lastTimestamp": now,
            "source": { "component": FIELD_MANAGER, "host": node }, "reportingComponent": FIELD_MANAGER, "reportingInstance": node,
        });
        let Ok(event) = serde_json::from_value::<Event>(event) else { return };
        // Events are by best effort.
        let _ = Api::<Event>::namespaced(self.agent.client.clone(), &ns).create(&PostParams::default(), &event).await;
    }
}
