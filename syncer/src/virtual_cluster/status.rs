//! Saying it: the status of a `VirtualCluster`, written only when it says something new.

use std::sync::Arc;
use std::time::Duration;

use common::api::{Condition, ConditionType, VirtualCluster, VirtualClusterStatus, condition, set_condition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use runtime::log::Chain;
use serde_json::{Map, Value, json};
use tokio::time::Instant;
use tracing::{debug, warn};

use super::decide::{State, conditions};
use crate::metrics::SyncMetrics;
use crate::writer::Fence;

/// How often a number that moves all the time, or a message that only tells it in other words, is written at most.
const SELDOM: Duration = Duration::from_mins(1);

/// How long a passing state is kept to ourselves where something was said before: a restart of the syncer is no news.
const PASSING: Duration = Duration::from_secs(20);

/// What there is to say, beside the conditions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// Pods of the tenant in the super cluster, if known.
    pub pods: Option<u32>,
    /// The range recorded for its Services, if it has one.
    pub service_cidr: Option<String>,
}

/// Writes the status of one VirtualCluster.
pub(super) struct Speaker {
    client: Client,
    fence: Fence,
    metrics: Arc<SyncMetrics>,
    /// The object as our last write left it: our own echo may be on its way still.
    written: Option<Arc<VirtualCluster>>,
    written_at: Option<Instant>,
    /// The word of the state, and since when it holds.
    since: Option<(&'static str, Instant)>,
}

impl Speaker {
    pub(super) fn new(client: Client, fence: Fence, metrics: Arc<SyncMetrics>) -> Self {
        Self { client, fence, metrics, written: None, written_at: None, since: None }
    }

    /// The newest that we know of the object.
    pub(super) fn newest(&self, vc: &Arc<VirtualCluster>) -> Arc<VirtualCluster> {
        match &self.written {
            Some(written) if version(written) > version(vc) => written.clone(),
            Some(_) | None => vc.clone(),
        }
    }

    /// Says that the tenant is in `state`, if that is news.
    pub(super) async fn say(&mut self, vc: &Arc<VirtualCluster>, state: &State, facts: &Facts) {
        let since = self.note(state.reason());
        let vc = self.newest(vc);
        let before = vc.status.clone().unwrap_or_default();
        let is_early = state.is_passing() && since.elapsed() < PASSING && condition(&before.conditions, ConditionType::Ready).is_some();
        let wanted = if is_early { Vec::new() } else { conditions(state, &vc) };
        let is_seldom = self.written_at.is_none_or(|at| at.elapsed() >= SELDOM);
        let Some(patch) = patch(&before, &wanted, facts, is_seldom, &now()) else { return };
        self.write(&vc, patch).await;
    }

    /// The end of the object: its last word is not counted any more.
    pub(super) fn end(&mut self) {
        if let Some((reason, _)) = self.since.take() {
            self.metrics.tenant_moved(Some(reason), None);
        }
    }

    fn note(&mut self, reason: &'static str) -> Instant {
        match self.since {
            Some((known, at)) if known == reason => at,
            before => {
                let at = Instant::now();
                self.since = Some((reason, at));
                self.metrics.tenant_moved(before.map(|(reason, _)| reason), Some(reason));
                at
            }
        }
    }

    /// Writes it; not at all, or not any longer, where another process can lead.
    async fn write(&mut self, vc: &VirtualCluster, patch: Map<String, Value>) {
        let api: Api<VirtualCluster> = Api::namespaced(self.client.clone(), &vc.namespace().unwrap_or_default());
        let body = json!({"metadata": {"uid": vc.uid(), "resourceVersion": vc.resource_version()}, "status": patch});
        let (name, parameters, patch) = (vc.name_any(), PatchParams::default(), Patch::Merge(body));
        // Whoever leads next says it anew.
        let Ok(result) = self.fence.hold(api.patch_status(&name, &parameters, &patch)).await else { return };
        self.metrics.wrote_status(result.is_ok());
        match result {
            Ok(written) => {
                self.written = Some(Arc::new(written));
                self.written_at = Some(Instant::now());
            }
            // Somebody else wrote in between, or it is gone: the watch says so, and then this is said again.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => debug!(reason = status.reason, "status not written"),
            Err(error) => warn!(error = %Chain(&error), "status of the VirtualCluster not written"),
        }
    }
}

/// Drops the tenant from the count also when its task panics.
impl Drop for Speaker {
    fn drop(&mut self) {
        self.end();
    }
}

fn version(vc: &VirtualCluster) -> u64 {
    vc.resource_version().and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn now() -> Time {
    Time(k8s_openapi::jiff::Timestamp::from_second(k8s_openapi::jiff::Timestamp::now().as_second()).unwrap_or_default())
}

/// The part of the status that must be written, if any. What is only another number or another wording waits for `is_seldom`.
fn patch(before: &VirtualClusterStatus, wanted: &[Condition], facts: &Facts, is_seldom: bool, now: &Time) -> Option<Map<String, Value>> {
    let mut list = before.conditions.clone();
    let mut is_changed = false;
    let mut is_news = false;
    for wanted in wanted {
        let known = list.iter().find(|known| known.type_ == wanted.type_);
        is_news |= known.is_none_or(|known| {
            known.status != wanted.status || known.reason != wanted.reason || known.observed_generation != wanted.observed_generation
        });
        is_changed |= set_condition(&mut list, wanted.clone(), now.clone());
    }
    let cidr = facts.service_cidr.as_ref().filter(|cidr| before.service_cidr.as_ref() != Some(*cidr));
    let pods = facts.pods.map(i64::from).filter(|pods| before.pods != Some(*pods));
    if !is_news && cidr.is_none() && !(is_seldom && (is_changed || pods.is_some())) {
        return None;
    }
    let mut patch = Map::new();
    if is_changed {
        patch.insert("conditions".to_owned(), serde_json::to_value(&list).ok()?);
    }
    patch.extend(cidr.map(|cidr| ("serviceCidr".to_owned(), json!(cidr))));
    patch.extend(pods.map(|pods| ("pods".to_owned(), json!(pods))));
    (!patch.is_empty()).then_some(patch)
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::io;
    use std::net::SocketAddr;

    use common::api::VirtualClusterSpec;
    use futures::future::BoxFuture;
    use runtime::address::Resolve;
    use runtime::kubeconfig::{Identity, Kubeconfig, Secret};
    use runtime::transport::{Limits, Transport, TransportConfig};
    use testing::pki::Authority;
    use tokio::sync::watch;

    use super::*;
    use crate::writer::lease;

    /// Finds no server, and does not say so.
    #[derive(Debug)]
    struct Silent;

    impl Resolve for Silent {
        fn resolve(&self, _: String, _: u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
            Box::pin(pending())
        }
    }

    /// A client of a server that cannot be found, and is looked for for an hour.
    fn silent() -> Client {
        let kubeconfig = Kubeconfig {
            server: "https://silent.example".parse().unwrap(),
            ca_pem: Authority::new().pem().into(),
            identity: Identity::Token(Secret::new("t".to_owned())),
            tls_server_name: None,
        };
        let limits = Limits { connect: Duration::from_hours(1), ..Limits::trusted() };
        let config = TransportConfig { limits, resolver: Arc::new(Silent), ..TransportConfig::trusted(kubeconfig, "test") };
        Transport::new(config).unwrap().client("default")
    }

    #[tokio::test(start_paused = true)]
    async fn a_status_that_is_under_way_is_given_up_when_another_can_lead() {
        let (begun, term) = (Instant::now(), lease::term().await);
        let (_held, follows) = watch::channel(Some(term.held()));
        let mut speaker = Speaker::new(silent(), Fence::new(follows), Arc::default());
        let mut vc = VirtualCluster::new("a", VirtualClusterSpec::default());
        vc.metadata.namespace = Some("default".to_owned());
        let vc = Arc::new(vc);
        speaker.say(&vc, &State::Synced { note: None }, &Facts::default()).await;
        assert_eq!(begun.elapsed().as_secs(), lease::DURATION.as_secs());
        // Now it does not even begin.
        speaker.say(&vc, &State::Synced { note: None }, &Facts::default()).await;
        assert_eq!(begun.elapsed().as_secs(), lease::DURATION.as_secs());
        assert!(speaker.written.is_none());
    }

    fn at(second: i64) -> Time {
        Time(k8s_openapi::jiff::Timestamp::from_second(second).unwrap())
    }

    fn synced() -> (VirtualClusterStatus, Vec<Condition>) {
        let vc = VirtualCluster::new("a", VirtualClusterSpec::default());
        let wanted = conditions(&State::Synced { note: None }, &vc);
        let mut list = Vec::new();
        for condition in &wanted {
            set_condition(&mut list, condition.clone(), at(1));
        }
        (VirtualClusterStatus { conditions: list, pods: Some(3), ..VirtualClusterStatus::default() }, wanted)
    }

    #[test]
    fn what_stands_there_already_is_not_written() {
        let (status, wanted) = synced();
        assert_eq!(patch(&status, &wanted, &Facts { pods: Some(3), service_cidr: None }, true, &at(9)), None);
        assert_eq!(patch(&status, &[], &Facts::default(), true, &at(9)), None);
    }

    #[test]
    fn a_count_of_pods_waits_for_its_time_or_goes_along() {
        let (status, wanted) = synced();
        let facts = Facts { pods: Some(4), service_cidr: None };
        assert_eq!(patch(&status, &wanted, &facts, false, &at(9)), None);
        let alone = patch(&status, &wanted, &facts, true, &at(9)).unwrap();
        assert_eq!(Value::Object(alone), json!({"pods": 4}));
        let both = patch(&status, &wanted, &Facts { service_cidr: Some("10.128.0.0/20".to_owned()), ..facts }, false, &at(9)).unwrap();
        assert_eq!(Value::Object(both), json!({"pods": 4, "serviceCidr": "10.128.0.0/20"}));
    }

    #[test]
    fn another_reason_is_written_at_once_and_another_wording_later() {
        let (status, mut wanted) = synced();
        wanted[0].message = "in other words".to_owned();
        assert_eq!(patch(&status, &wanted, &Facts::default(), false, &at(9)), None);
        assert!(patch(&status, &wanted, &Facts::default(), true, &at(9)).is_some());
        wanted[0].reason = "Other".to_owned();
        assert!(patch(&status, &wanted, &Facts::default(), false, &at(9)).unwrap().contains_key("conditions"));
    }
}
