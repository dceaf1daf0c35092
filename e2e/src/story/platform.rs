//! What is nobody's in the super cluster: Pods of whoever runs it.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{Api, Client, api::PostParams};
use serde_json::{Value, json};

use super::{is_running, pod};
use crate::wait::{Seen, eventually};

/// A namespace of the super cluster that is no tenant's.
pub const OF_THE_PLATFORM: &str = "of-the-platform";

/// For a namespace to take Pods, and for a Pod to run.
const SOON: Duration = Duration::from_mins(1);

/// Makes [`OF_THE_PLATFORM`].
pub async fn platform(sup: Client) -> anyhow::Result<()> {
    let space: Namespace = serde_json::from_value(json!({ "metadata": { "name": OF_THE_PLATFORM } }))?;
    Api::all(sup).create(&PostParams::default(), &space).await?;
    Ok(())
}

/// A Pod of one container in a namespace of the super cluster, by nobody's order there; it runs.
pub async fn platform_pod(sup: Client, namespace: &str, name: &str, container: &Value) -> anyhow::Result<()> {
    let pods: Api<Pod> = Api::namespaced(sup, namespace);
    let spec = json!({ "automountServiceAccountToken": false, "containers": [container] });
    let theirs: Pod = serde_json::from_value(pod(name, &json!({}), &spec))?;
    eventually(format!("{namespace} takes Pods"), SOON, async || Ok(Seen::Done(pods.create(&PostParams::default(), &theirs).await?)))
        .await?;
    eventually(format!("{name} runs"), SOON, async || {
        let pod = pods.get(name).await?;
        Ok(Seen::when(is_running(&pod), pod.status))
    })
    .await
    .map(drop)
}
