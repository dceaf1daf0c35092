//! What a `VirtualCluster` says of itself, and what a person does to it.

use std::time::Duration;

use anyhow::Context as _;
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, DynamicObject, Patch, PatchParams},
};
use serde_json::Value;

use super::PATIENCE;
use crate::{
    bed::virtual_clusters,
    wait::{Seen, eventually},
};

/// A `VirtualCluster` by namespace and name.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Its objects' namespace and its own name.
    pub label: String,
    name: String,
    api: Api<DynamicObject>,
}

impl Standing {
    /// That of `namespace` and `name`, there or not.
    pub fn of(namespace: &str, name: &str, sup: Client) -> Self {
        Self { label: format!("{namespace}/{name}"), name: name.to_owned(), api: virtual_clusters(namespace, sup) }
    }

    /// The object.
    pub async fn object(&self) -> anyhow::Result<DynamicObject> {
        self.api.get(&self.name).await.with_context(|| format!("could not read {}", self.label))
    }

    /// Waits for a condition of that status and reason; gives its message. An empty reason is any.
    pub async fn says(&self, kind: &str, status: &str, reason: &str) -> anyhow::Result<String> {
        self.says_within(kind, status, reason, PATIENCE).await
    }

    /// As [`Standing::says`], within a time of the caller's.
    pub async fn says_within(&self, kind: &str, status: &str, reason: &str, patience: Duration) -> anyhow::Result<String> {
        eventually(format!("{} says {kind}={status} {reason}", self.label), patience, async || {
            let object = self.object().await?;
            let conditions = object.data.pointer("/status/conditions").cloned().unwrap_or_default();
            let text = |condition: &Value, key: &str| condition.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
            let is = |condition: &&Value| {
                text(condition, "type") == kind
                    && text(condition, "status") == status
                    && (reason.is_empty() || text(condition, "reason") == reason)
            };
            let found = conditions.as_array().into_iter().flatten().find(is).map(|condition| text(condition, "message"));
            Ok(found.map_or_else(|| Seen::NotYet(conditions.to_string()), Seen::Done))
        })
        .await
    }

    /// Waits until it says that these ranges are recorded for the tenant's Services.
    pub async fn records(&self, service_cidr: &str) -> anyhow::Result<()> {
        eventually(format!("{} records {service_cidr}", self.label), PATIENCE, async || {
            let object = self.object().await?;
            let recorded = object.data.pointer("/status/serviceCidr").and_then(Value::as_str).unwrap_or_default().to_owned();
            Ok(Seen::when(recorded == service_cidr, recorded))
        })
        .await
        .map(drop)
    }

    /// Waits until it is Ready.
    pub async fn is_ready(&self) -> anyhow::Result<()> {
        self.says("Ready", "True", "").await.map(drop)
    }

    /// A person changes it.
    pub async fn change(&self, patch: &Value) -> anyhow::Result<()> {
        let changed = self.api.patch(&self.name, &PatchParams::default(), &Patch::Merge(patch)).await;
        changed.map(drop).with_context(|| format!("could not change {}", self.label))
    }

    /// A person deletes it; returns when it is gone.
    pub async fn delete(&self) -> anyhow::Result<()> {
        let uid = self.object().await?.uid();
        self.api.delete(&self.name, &DeleteParams::default()).await.with_context(|| format!("could not delete {}", self.label))?;
        eventually(format!("{} is gone", self.label), PATIENCE, async || {
            let found = self.api.get_opt(&self.name).await?.and_then(|object| object.uid());
            Ok(Seen::when(found.is_none() || found != uid, found))
        })
        .await
        .map(drop)
    }
}
