//! Many Pods at once, and one Pod by the clock.

use std::{collections::BTreeSet, ops::Range, time::Duration};

use anyhow::Context as _;
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, PostParams},
};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{Actor, is_running, pod, uid_of};
use crate::wait::{Seen, eventually};

/// How long a crowd may take: some ten seconds alone on 2 cores, many times that beside other tests.
const MANY: Duration = Duration::from_mins(4);

/// Time between two looks at a crowd.
const LOOK: Duration = Duration::from_millis(400);

/// Requests of a crowd's maker at once.
const HANDS: usize = 16;

/// Pods `<name>-0`, `<name>-1` and so on, with the label `crowd=<name>`, all in `default`.
#[derive(Clone, Copy)]
pub struct Crowd<'a> {
    tenant: &'a Actor,
    name: &'static str,
}

impl<'a> Crowd<'a> {
    /// None yet.
    pub fn new(tenant: &'a Actor, name: &'static str) -> Self {
        Self { tenant, name }
    }

    /// The selector of all of them.
    pub fn selector(&self) -> String {
        format!("crowd={}", self.name)
    }

    /// The tenant creates those of these numbers.
    pub async fn comes(&self, numbers: Range<usize>) -> anyhow::Result<()> {
        let api: Api<Pod> = self.tenant.above("default");
        let create = async |i: usize| {
            let object = pod(&format!("{}-{i}", self.name), &json!({ "crowd": self.name }), &json!({}));
            api.create(&PostParams::default(), &serde_json::from_value(object)?).await.context("could not create a Pod")?;
            anyhow::Ok(())
        };
        futures::stream::iter(numbers.map(create)).buffer_unordered(HANDS).try_collect::<Vec<_>>().await.map(drop)
    }

    /// The tenant deletes those of these numbers.
    pub async fn goes(&self, numbers: Range<usize>) -> anyhow::Result<()> {
        let api: Api<Pod> = self.tenant.above("default");
        let delete = async |i: usize| {
            api.delete(&format!("{}-{i}", self.name), &DeleteParams::default()).await.context("could not delete a Pod")?;
            anyhow::Ok(())
        };
        futures::stream::iter(numbers.map(delete)).buffer_unordered(HANDS).try_collect::<Vec<_>>().await.map(drop)
    }

    /// Waits until exactly `count` of them run, as the tenant sees it; gives the UIDs.
    pub async fn runs(&self, count: usize) -> anyhow::Result<BTreeSet<String>> {
        let api: Api<Pod> = self.tenant.above("default");
        eventually(format!("{}: {count} Pods {} run", self.tenant.name, self.name), MANY, async || {
            let pods = api.list(&ListParams::default().labels(&self.selector())).await?.items;
            let waiting: Vec<_> = pods.iter().filter(|pod| !is_running(pod)).map(ResourceExt::name_any).collect();
            if pods.len() == count && waiting.is_empty() {
                return Ok(Seen::Done(pods.iter().map(uid_of).collect()));
            }
            // A look at so many is not for nothing.
            sleep(LOOK).await;
            Ok(Seen::NotYet(format!("{} Pods; these do not run: {waiting:?}", pods.len())))
        })
        .await
    }

    /// Waits until the super cluster holds at least `count` of them.
    pub async fn below(&self, count: usize) -> anyhow::Result<()> {
        let api: Api<Pod> = self.tenant.below("default");
        eventually(format!("{count} of {} are in the super cluster", self.name), MANY, async || {
            let found = api.list_metadata(&ListParams::default()).await?.items;
            let found = found.iter().filter(|pod| pod.metadata.name.iter().any(|name| name.starts_with(self.name))).count();
            Ok(Seen::when(found >= count, found))
        })
        .await
        .map(drop)
    }
}

/// How long a new Pod of this name takes from its creation until the tenant sees it run.
pub async fn time_to_run(tenant: &Actor, name: &str) -> anyhow::Result<Duration> {
    let start = Instant::now();
    tenant.apply(&pod(name, &json!({}), &json!({}))).await?;
    tenant.sees::<Pod>("the Pod runs", "default", name, is_running).await?;
    Ok(start.elapsed())
}
