//! One tenant in the syncer: its index, always; its control plane, while attached.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use common::{Namespace, Tenant as TenantSide, TenantId, Uid};
use dashmap::DashMap;
use mirror::cx::{Cx, NoHandlers, NoPods, NothingPublished, Policy, Profile};
use parking_lot::{Mutex, RwLock};
use runtime::kubeconfig::Secret;
use runtime::transport::Failure;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::bounds::Counts;
use crate::brake::Brake;
use crate::breaker::Breaker;
use crate::bucket::{Bucket, Rate};
use crate::denials::Denials;
use crate::handlers::Handlers;
use crate::index::Index;
use crate::pod_addresses::PodAddresses;
use crate::remote::{CallError, Remote};
use crate::turn::Turn;
use crate::work::Lane;

/// A tenant, by the label on super objects. Exists as soon as the super cluster or a VirtualCluster speaks of it.
pub struct Tenant {
    /// Its 26-character id, which is its lane too.
    pub lane: Lane,
    /// What is known of its pairs.
    pub index: Mutex<Index>,
    /// Its control plane, once attached.
    pub attached: ArcSwapOption<Attached>,
    /// The super namespaces that are its own, with the incarnation in their record: super name → what is known.
    pub namespaces: Mutex<HashMap<Arc<str>, SuperNamespace>>,
    /// Super namespaces that would be its own and are somebody else's: super name → the tenant namespace that waits for it.
    pub taken: Mutex<BTreeMap<Arc<str>, Namespace<TenantSide>>>,
    /// Holds deletions that follow from absence.
    pub brake: Mutex<Brake>,
    /// Paces what is written for it into the super cluster.
    pub writes: Mutex<Bucket>,
    /// What its objects take of the super cluster.
    pub counts: Mutex<Counts>,
    /// Addresses of its Pods.
    pub pods: PodAddresses,
    /// Where the tenant's own API server and name server are in the super cluster.
    pub addresses: Mutex<Addresses>,
    /// When what is not watched is listed.
    pub turn: Mutex<Turn>,
}

/// Addresses of the Services that each Pod of a tenant is told of.
#[derive(Clone, Copy, Debug, Default)]
pub struct Addresses {
    /// `default/kubernetes`: address and port.
    pub kubernetes: Option<(IpAddr, u16)>,
    /// `kube-system/kube-dns`: address.
    pub dns: Option<IpAddr>,
}

/// What is known of one super namespace of a tenant.
#[derive(Clone, Debug)]
pub struct SuperNamespace {
    /// Its UID.
    pub uid: Uid,
    /// The tenant namespace that it stands for, by its record.
    pub tenant_namespace: Arc<str>,
    /// The UID of the tenant namespace, by its record.
    pub tenant_uid: Uid,
    /// The tenant incarnation (`kube-system` UID) in its record.
    pub incarnation: Option<Uid>,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Whether its RoleBinding is known to be there.
    pub bound: bool,
}

/// A tenant's control plane, attached.
pub struct Attached {
    /// The identity that names are made from.
    pub id: TenantId,
    /// Its API server.
    pub remote: Remote<TenantSide>,
    /// The UID of its `kube-system`: this life of the control plane.
    pub incarnation: Uid,
    /// What kinds may know of it.
    pub profile: RwLock<Arc<Profile>>,
    /// The vNodes that are in its node list.
    pub nodes: RwLock<Arc<BTreeSet<String>>>,
    /// Whether nothing may be written for it until it is known, or a person has decided, what its control plane is.
    pub halted: AtomicBool,
    /// Whether a person wants nothing to be written for it, but that its vNodes live (`spec.paused`).
    pub paused: AtomicBool,
    /// The writer's token for the super API server, and when to renew it.
    pub writer: tokio::sync::Mutex<Option<(Secret, Instant)>>,
    /// Ends everything that runs for this attachment.
    pub cancel: CancellationToken,
    /// UIDs of the tenant's namespaces, as far as they passed.
    pub tenant_namespaces: DashMap<Namespace<TenantSide>, Uid>,
    /// The highest version, built from what the control plane has forgotten, that a person has said may be followed back.
    pub accepted: AtomicU64,
    /// When it was attached.
    pub since: Instant,
    /// Holds keys while the API server does not answer, or does not take our credentials.
    pub breaker: Mutex<Breaker>,
    /// Told when the API server does not take our credentials, or another control plane answers.
    pub alarm: Notify,
    /// Tells its informers to list anew.
    pub relist: Notify,
    /// What its own `RuntimeClass`es stand for.
    pub handlers: Handlers,
    /// Whose turn it is to list its trust bundles.
    pub reading_bundles: tokio::sync::Mutex<()>,
    /// What the super cluster refuses to the tenant's writer.
    pub denied: Mutex<Denials>,
    /// One super namespace is made at a time.
    pub making_namespace: tokio::sync::Mutex<()>,
}

impl Attached {
    /// What kinds may know of the tenant, now.
    pub fn profile(&self) -> Arc<Profile> {
        self.profile.read().clone()
    }

    /// Whether a state of this version is older than what super copies were built from, and nobody has said that this is right.
    pub fn is_set_back(&self, version: u64, built: u64) -> bool {
        version < built && built > self.accepted.load(Ordering::Relaxed)
    }

    /// Decides on something that lies in no namespace, and depends on neither the tenant's Pods nor the super cluster's other nodes; who needs more
    /// puts it in.
    pub fn with_cx<T>(&self, policy: &Policy, decide: impl FnOnce(Cx<'_>) -> T) -> T {
        let (profile, nodes) = (self.profile(), self.nodes());
        decide(Cx {
            tenant: &self.id,
            policy,
            profile: &profile,
            namespace: None,
            super_namespace: None,
            nodes: &nodes,
            super_nodes: &*nodes,
            pods: &NoPods,
            published: &NothingPublished,
            handlers: &NoHandlers,
        })
    }

    /// Takes note of whether the tenant's API server answered a call, and knows us: while it does not, others wait.
    pub fn note_answer(&self, error: Option<&CallError>) {
        let mut breaker = self.breaker.lock();
        match error {
            // Too large an answer is an answer.
            Some(CallError::Transport { side: "tenant", source }) if source.kind() != Failure::TooLarge => breaker.failed(Instant::now()),
            Some(CallError::Status { side: "tenant", code: 401, .. }) => breaker.failed(Instant::now()),
            None | Some(CallError::Status { side: "tenant", .. }) => breaker.answered(),
            Some(
                CallError::Transport { .. }
                | CallError::Status { .. }
                | CallError::Unreadable { .. }
                | CallError::Endless { .. }
                | CallError::Fenced,
            ) => {}
        }
    }

    /// Changes what kinds may know; true if it was news.
    pub fn learn(&self, change: impl FnOnce(&mut Profile)) -> bool {
        let mut slot = self.profile.write();
        let mut profile = Profile::clone(&slot);
        change(&mut profile);
        let news = profile != **slot;
        *slot = Arc::new(profile);
        news
    }

    /// The vNodes in the tenant's node list.
    pub fn nodes(&self) -> Arc<BTreeSet<String>> {
        self.nodes.read().clone()
    }

    /// Changes the set of vNodes; copied only while somebody looks at it.
    pub fn change_nodes(&self, change: impl FnOnce(&mut BTreeSet<String>)) {
        change(Arc::make_mut(&mut self.nodes.write()));
    }

    /// Whether nothing may be written for the tenant.
    pub fn is_halted(&self) -> bool {
        self.paused.load(Ordering::Relaxed) || !self.is_trusted()
    }

    /// Whether its control plane is the one that was attached, as far as is known.
    pub fn is_trusted(&self) -> bool {
        !self.halted.load(Ordering::Relaxed) && !self.cancel.is_cancelled()
    }
}

/// Objects that are made or changed in the super cluster for one tenant: all of a large one at once, then fifty a second. A tenant that
/// flips a label, or makes and deletes namespaces, for ever, takes no more of the super cluster's etcd than that. Deletions and
/// statuses are never waited with.
pub const WRITES: Rate = Rate { burst: 20_000, refill: Duration::from_millis(20) };

impl Tenant {
    fn new(lane: Lane) -> Self {
        Self {
            lane,
            index: Mutex::default(),
            attached: ArcSwapOption::empty(),
            namespaces: Mutex::default(),
            taken: Mutex::default(),
            brake: Mutex::default(),
            writes: Mutex::new(Bucket::full(&WRITES)),
            counts: Mutex::default(),
            pods: PodAddresses::default(),
            addresses: Mutex::default(),
            turn: Mutex::default(),
        }
    }

    /// The attachment, if there is one.
    pub fn attached(&self) -> Option<Arc<Attached>> {
        self.attached.load_full()
    }
}

/// All tenants that anything is known of. Cheap to clone; hands out `Arc`s, never guards.
#[derive(Clone, Default)]
pub struct Tenants(Arc<DashMap<Lane, Arc<Tenant>>>);

impl Tenants {
    /// The tenant of this id, made if nothing was known of it.
    pub fn entry(&self, id: &str) -> Arc<Tenant> {
        if let Some(tenant) = self.get(id) {
            return tenant;
        }
        let lane: Lane = id.into();
        self.0.entry(lane.clone()).or_insert_with(|| Arc::new(Tenant::new(lane))).clone()
    }

    /// The tenant of this id.
    pub fn get(&self, id: &str) -> Option<Arc<Tenant>> {
        self.0.get(id).map(|entry| entry.value().clone())
    }

    /// Forgets a tenant.
    pub fn remove(&self, id: &str) {
        self.0.remove(id);
    }

    /// All tenants now.
    pub fn all(&self) -> Vec<Arc<Tenant>> {
        self.0.iter().map(|entry| entry.value().clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn s34_a_tenant_that_changes_all_the_time_is_written_for_at_a_steady_pace() {
        let tenant = Tenants::default().entry("acme");
        let written = || (0..100_000).take_while(|_| tenant.writes.lock().take(&WRITES, Instant::now()).is_ok()).count();
        assert_eq!(written(), 20_000);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(written(), 50);
    }
}
