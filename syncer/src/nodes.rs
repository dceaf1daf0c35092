//! vNodes: a tenant sees the nodes that its Pods run on, alive, and those that its administrator shows it in any case; no others.
//!
//! ```text
//! super Nodes (small, without heartbeats) ─┐
//! tenant's vNodes (informer) ──────────────┼──► home of a tenant ──► decide ──► its keeper writes
//! Pods of the tenant's index ──────────────┘
//! ```
//! Each attached tenant has one keeper, so that a slow one delays nobody else.

mod decide;
mod home;
mod seen;
mod sup;
mod write;

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use dashmap::DashMap;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt, stream};
use kube::core::Selector;
use mirror::cx::{NodeNames, Policy};
use runtime::log::{Chain, Escaped};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

use self::decide::Act;
use self::home::{Around, Grip, Home, needed};
use self::seen::{Ready, Seen};
use self::sup::{News, SuperNodes};
use crate::informer::Told;
use crate::metrics::SyncMetrics;
use crate::remote::CallError;
use crate::tenant::{Attached, Tenant, Tenants};
use crate::work::Lane;
use crate::writer::Fence;

/// How vNodes are kept.
#[derive(Clone, Debug)]
pub struct NodesOptions {
    /// What the administrator allows.
    pub policy: Arc<Policy>,
    /// How long a vNode without Pods stays.
    pub linger: Duration,
    /// The longest time between two renewals of a vNode's Lease. A node-lifecycle controller waits 50 s.
    pub heartbeat: Duration,
}

impl Default for NodesOptions {
    fn default() -> Self {
        Self { policy: Arc::default(), linger: Duration::from_mins(1), heartbeat: Duration::from_secs(20) }
    }
}

impl NodesOptions {
    /// How often the Pods of a tenant are looked through for the nodes that they need.
    fn scan(&self) -> Duration {
        (self.linger / 4).clamp(Duration::from_secs(1), Duration::from_secs(15))
    }
}

/// The vNodes of all tenants. Shared by `Arc`.
pub struct Nodes {
    fence: Fence,
    options: NodesOptions,
    sup: SuperNodes,
    homes: DashMap<Lane, Arc<Home>>,
    new_home: Notify,
    metrics: Arc<SyncMetrics>,
}

impl NodeNames for Nodes {
    fn is_node(&self, name: &str) -> bool {
        self.sup.get(name).is_some()
    }
}

impl fmt::Debug for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the nodes of the super cluster")
    }
}

/// How many vNodes of one tenant are written at once.
const AT_ONCE: usize = 4;
/// How many Leases of one tenant are renewed at once.
const BEATS_AT_ONCE: usize = 8;
/// How often Leases that are due are looked for, and whether writing is allowed again.
const BEAT_LOOK: Duration = Duration::from_secs(1);
/// How long a keeper rests after each pass, whatever wakes it: all keepers take turns.
const REST: Duration = Duration::from_millis(100);
/// How often tenants without a keeper are looked for, beside whenever one turns up.
const LOOK: Duration = Duration::from_secs(5);
/// How long a keeper that panicked rests.
const AFTER_PANIC: Duration = Duration::from_secs(5);

impl Nodes {
    /// Keeps vNodes as `options` say, while `fence` allows.
    pub fn new(fence: Fence, options: NodesOptions, metrics: Arc<SyncMetrics>) -> Self {
        Self { fence, options, sup: SuperNodes::default(), homes: DashMap::new(), new_home: Notify::new(), metrics }
    }

    /// Takes what the informer of the super cluster's Nodes tells.
    pub fn super_told(&self, told: Told) {
        let news = match told {
            Told::Opened | Told::Unreadable(_) | Told::Unserved => News::None,
            Told::ListBegins => {
                self.sup.list_begins();
                News::None
            }
            Told::Object(bytes) => self.sup.seen(&bytes),
            Told::Gone(bytes) => self.sup.gone(&bytes),
            Told::ListEnds(_) => self.sup.list_ends(),
            Told::Failed(error) => {
                tracing::warn!(kind = "Node", error = %Chain(&error), "super informer failed");
                News::None
            }
        };
        match news {
            News::None => {}
            News::Of(node) => self.homes.iter().filter(|home| home.cares_for(&node)).for_each(|home| home.wake.notify_one()),
            News::All => self.homes.iter().for_each(|home| home.wake.notify_one()),
        }
    }

    /// Takes what the informer of a tenant's vNodes tells.
    pub fn tenant_told(&self, tenant: &Tenant, attached: &Attached, told: Told) {
        if attached.cancel.is_cancelled() {
            return;
        }
        let home = self.home(attached);
        match told {
            Told::Opened | Told::Unreadable(_) | Told::Unserved => return,
            Told::ListBegins => home.list_begins(),
            Told::Object(bytes) => match Seen::of(&bytes) {
                Ok((name, seen)) if home.takes_in(&name, &self.sup) => see(attached, &home, &name, seen),
                Ok((name, _)) => {
                    tracing::debug!(tenant = %tenant.lane, node = %Escaped(&name), "a vNode is not looked at: there are too many that no node stands for");
                    return;
                }
                Err(error) => {
                    self.metrics.unreadable("tenant", "Node");
                    tracing::debug!(tenant = %tenant.lane, kind = "Node", error = %Chain(&error), "a vNode cannot be read");
                }
            },
            Told::Gone(bytes) => {
                if let Ok((name, seen)) = Seen::of(&bytes)
                    && home.gone(&name, seen.uid, seen.version)
                {
                    attached.change_nodes(|nodes| {
                        nodes.remove(&name);
                    });
                }
            }
            Told::ListEnds(_) => {
                let there = home.list_ends();
                attached.change_nodes(|nodes| *nodes = there);
            }
            Told::Failed(error) => {
                tracing::debug!(tenant = %tenant.lane, kind = "Node", error = %Chain(&error), "tenant informer failed");
                return;
            }
        }
        home.wake.notify_one();
    }

    /// From now on a tenant sees the nodes that a selector picks, whether its Pods run there or not; with none, only where they run.
    pub fn mirror(&self, attached: &Attached, selector: Option<Selector>) {
        if !attached.cancel.is_cancelled() {
            self.home(attached).mirror(selector);
        }
    }

    /// Shows a node to a tenant, before anything is bound to it: made with its status, then freed of the taint that admission puts on it.
    ///
    /// *Guarantees*: does nothing if the tenant has the vNode; one at a time for each vNode.
    ///
    /// *Errors*: status 503 while the super Node is not known; status 422 `NodeTaken` where the tenant has a Node of its own of this name.
    pub async fn show(&self, attached: &Attached, node: &str) -> Result<(), CallError> {
        if attached.nodes().contains(node) {
            return Ok(());
        }
        let home = self.home(attached);
        let gate = home.gate(node);
        let _one = gate.lock().await;
        if attached.nodes().contains(node) {
            return Ok(());
        }
        self.make(attached, &home, node).await
    }

    /// Makes a vNode. Asked behind its gate.
    async fn make(&self, attached: &Attached, home: &Home, node: &str) -> Result<(), CallError> {
        let grip = home.grip(node, &self.around(attached));
        let Some((content, wanted)) = grip.content else { return Err(write::unavailable(format!("the node {node} is not known yet"))) };
        let (seen, is_new) = write::make(attached, &self.fence, node, content.as_ref().clone(), &wanted).await?;
        if is_new {
            self.metrics.wrote_vnode("make", true);
        }
        see(attached, home, node, seen.clone());
        if seen.not_ready.is_some() && wanted.ready == Ready::True {
            // The vNode is there; where this fails the keeper tries again.
            match write::untaint(attached, &self.fence, node, &seen).await {
                Ok(seen) => {
                    self.metrics.wrote_vnode("untaint", true);
                    see(attached, home, node, seen);
                }
                Err(_) => home.failed(node, Act::Untaint),
            }
        }
        home.rescan();
        home.wake.notify_one();
        Ok(())
    }

    /// What is known of the vNodes of this attachment.
    fn home(&self, attached: &Attached) -> Arc<Home> {
        let mut entry = self.homes.entry(attached.id.as_str().into()).or_insert_with(|| Arc::new(Home::new(attached)));
        if entry.cancel.is_cancelled() && !attached.cancel.is_cancelled() {
            *entry = Arc::new(Home::new(attached));
        }
        let home = entry.value().clone();
        drop(entry);
        if !home.kept.load(Ordering::Relaxed) {
            self.new_home.notify_one();
        }
        home
    }

    /// Keeps the vNodes of all tenants, for ever: one keeper each.
    pub async fn run(&self, tenants: Tenants) {
        let mut keepers = FuturesUnordered::new();
        loop {
            self.homes.retain(|_, home| !home.cancel.is_cancelled());
            for (tenant, attached, home) in self.unkept(&tenants) {
                home.kept.store(true, Ordering::Relaxed);
                keepers.push(async move {
                    let keeper = async { tokio::join!(self.keep(&tenant, &attached, &home), self.beat(&tenant, &attached, &home)) };
                    let keeper = AssertUnwindSafe(Box::pin(keeper)).catch_unwind();
                    if let Some(Err(_)) = home.cancel.run_until_cancelled(keeper).await {
                        tracing::error!(tenant = %tenant.lane, "the keeper of vNodes panicked");
                        sleep(AFTER_PANIC).await;
                        home.kept.store(false, Ordering::Relaxed);
                    }
                });
            }
            tokio::select! {
                () = self.new_home.notified() => {}
                Some(()) = keepers.next() => {}
                () = sleep(LOOK) => {}
            }
        }
    }

    fn unkept(&self, tenants: &Tenants) -> Vec<(Arc<Tenant>, Arc<Attached>, Arc<Home>)> {
        let homes = self.homes.iter().filter(|home| !home.kept.load(Ordering::Relaxed)).map(|home| home.value().clone());
        let homes: Vec<_> = homes.collect();
        let with_tenant = homes.into_iter().filter_map(|home| {
            let tenant = tenants.get(&home.lane)?;
            let attached = tenant.attached().filter(|attached| !attached.cancel.is_cancelled())?;
            Some((tenant, attached, home))
        });
        with_tenant.collect()
    }

    /// Does what is due for one tenant, until dropped.
    async fn keep(&self, tenant: &Tenant, attached: &Attached, home: &Home) {
        loop {
            let pass = home.pass(tenant, &self.around(attached));
            let mut next = pass.next.unwrap_or_else(|| Instant::now() + LOOK);
            if self.may_write(attached) {
                let acts = stream::iter(pass.acts);
                acts.for_each_concurrent(AT_ONCE, |(node, act)| self.perform(tenant, attached, home, node, act)).await;
            } else {
                next = Instant::now() + BEAT_LOOK;
            }
            sleep(REST).await;
            tokio::select! {
                () = home.wake.notified() => {}
                () = sleep_until(next) => {}
            }
        }
    }

    /// Renews the Leases of one tenant's vNodes, until dropped; no other write delays them.
    async fn beat(&self, tenant: &Tenant, attached: &Attached, home: &Home) {
        loop {
            sleep(BEAT_LOOK).await;
            // Of a paused tenant too: else its node-lifecycle controller would declare its nodes dead, and its Pods not ready.
            if attached.is_trusted() && self.fence.check().is_ok() {
                let due = stream::iter(home.beats(&self.around(attached)));
                due.for_each_concurrent(BEATS_AT_ONCE, |node| self.perform(tenant, attached, home, node, Act::Beat)).await;
            }
        }
    }

    fn may_write(&self, attached: &Attached) -> bool {
        !attached.is_halted() && self.fence.check().is_ok()
    }

    async fn perform(&self, tenant: &Tenant, attached: &Attached, home: &Home, node: Arc<str>, act: Act) {
        let gate = home.gate(&node);
        // A beat is no write to the vNode itself.
        let _one = if act == Act::Beat { None } else { Some(gate.lock().await) };
        let Some(grip) = home.still(&node, act, &self.around(attached)) else { return };
        match Box::pin(self.act(tenant, attached, home, &node, act, grip)).await {
            Ok(()) => home.done(&node, act, &self.options),
            Err(error) => {
                self.metrics.wrote_vnode(step(act), false);
                tracing::debug!(tenant = %tenant.lane, node = %Escaped(&node), step = ?act, error = %Chain(&error), "a vNode could not be written");
                home.failed(&node, act);
            }
        }
    }

    async fn act(&self, tenant: &Tenant, attached: &Attached, home: &Home, node: &str, act: Act, grip: Grip) -> Result<(), CallError> {
        match (act, grip.seen, grip.content) {
            (Act::Forget, _, _) => home.forget(node),
            (Act::Make, _, _) => self.make(attached, home, node).await?,
            (Act::Rewrite, Some(seen), Some((content, wanted))) => {
                see(attached, home, node, write::rewrite(attached, &self.fence, node, &seen, &content, &wanted).await?);
                self.metrics.wrote_vnode("rewrite", true);
            }
            (Act::Untaint, Some(seen), _) => {
                see(attached, home, node, write::untaint(attached, &self.fence, node, &seen).await?);
                self.metrics.wrote_vnode("untaint", true);
            }
            (Act::Beat, Some(seen), _) => {
                write::beat(attached, &self.fence, node, seen.uid).await?;
                self.metrics.wrote_vnode("beat", true);
            }
            (Act::Delete, Some(seen), _) => self.delete(tenant, attached, home, node, &seen).await?,
            (Act::Rewrite | Act::Untaint | Act::Beat | Act::Delete, _, _) => {}
        }
        Ok(())
    }

    /// Deletes a vNode after its last Pod, or after its node. From the moment that it is not among the tenant's nodes, whoever binds a Pod to it shows it
    /// again first and waits for the gate; whoever looked before that has its Pod in the index already.
    async fn delete(&self, tenant: &Tenant, attached: &Attached, home: &Home, node: &str, seen: &Seen) -> Result<(), CallError> {
        attached.change_nodes(|nodes| {
            nodes.remove(node);
        });
        if !self.sup.is_lost(node) && (needed(tenant, node) || home.mirrors(node, &self.sup)) {
            attached.change_nodes(|nodes| {
                nodes.insert(node.to_owned());
            });
            return Ok(());
        }
        write::delete(attached, &self.fence, node, seen.uid).await?;
        self.metrics.wrote_vnode("delete", true);
        home.gone(node, seen.uid, seen.version);
        Ok(())
    }

    fn around<'a>(&'a self, attached: &'a Attached) -> Around<'a> {
        Around { attached, sup: &self.sup, options: &self.options }
    }
}

/// A vNode is there.
fn see(attached: &Attached, home: &Home, name: &str, seen: Seen) {
    if home.seen(name, seen) && !attached.nodes().contains(name) {
        attached.change_nodes(|nodes| {
            nodes.insert(name.to_owned());
        });
    }
}

/// An act as it stands in metrics.
fn step(act: Act) -> &'static str {
    match act {
        Act::Forget => "forget",
        Act::Make => "make",
        Act::Rewrite => "rewrite",
        Act::Untaint => "untaint",
        Act::Beat => "beat",
        Act::Delete => "delete",
    }
}
