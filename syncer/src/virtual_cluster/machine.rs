//! One tenant from its first sight to its end: finds its kubeconfig, connects, attaches, watches over it, and clears up.
//!
//! ```text
//! kubeconfig ──► connection ──► claim on the control plane ──► same life? ──► attached ──► synced
//!     ▲ gone: detached               │ another's: refused         │ no: held      │ silent: asked again
//! ```
//! Each look starts from the top and goes as far as it can; where it stops is the state that people read. Up to the connection it is in [`reach`].

mod reach;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::api::{DeletionPolicy, VirtualCluster};
use common::{TenantId, Uid};
use kube::ResourceExt;
use mirror::cx::Profile;
use mirror::external::ExternalAddresses;
use mirror::host::Hosts;
use runtime::log::Chain;
use runtime::task::Tasks;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use self::reach::{Connection, ReadFor, Source};
use super::Shared;
use super::addresses::Claimable;
use super::claim::{Claim, Claimant, Slice, parse_slices};
use super::connect::Trouble;
use super::decide::{Accepted, Life, State, Why, life};
use super::hosts::Allotted;
use super::note::{self, About, Note};
use super::pace::Pace;
use super::status::{Facts, Speaker};
use crate::engine::AttachSpec;
use crate::remote::CallError;
use crate::tenant::Attached;

/// Time between two looks at a tenant that is on its way.
const SOON: Duration = Duration::from_secs(1);

/// Time between two looks at one that is well, or waits for a person.
const LATER: Duration = Duration::from_secs(5);

/// Whether there is still a VirtualCluster.
#[derive(Clone, Debug)]
pub(super) enum Presence {
    /// It is there.
    There(Arc<VirtualCluster>),
    /// It is gone, confirmed by a quorum read; this was the last of it.
    Gone(Arc<VirtualCluster>),
}

/// See the module.
pub(super) struct Machine {
    shared: Arc<Shared>,
    tasks: Arc<Tasks>,
    id: TenantId,
    created: i64,
    label: String,
    presence: watch::Receiver<Presence>,
    source: Source,
    /// What decides where the kubeconfig is, as it was at the last reading.
    read_for: Option<ReadFor>,
    read_at: Option<Instant>,
    reading: Pace,
    connection: Option<Connection>,
    asking: Pace,
    trouble: Option<Trouble>,
    /// When the first of the questions was asked that brought nothing but trouble.
    silent_since: Option<Instant>,
    attached: Option<(String, Arc<Attached>)>,
    weight: u8,
    /// How many namespaces were marked as to be left.
    marked: Option<usize>,
    speaker: Speaker,
}

impl Machine {
    pub(super) fn new(shared: Arc<Shared>, tasks: Arc<Tasks>, uid: Uid, presence: watch::Receiver<Presence>) -> Self {
        let vc = match &*presence.borrow() {
            Presence::There(vc) | Presence::Gone(vc) => vc.clone(),
        };
        let speaker = Speaker::new(shared.client.clone(), shared.engine.fence().clone(), shared.metrics.clone());
        Self {
            id: TenantId::new(uid, &vc.name_any()),
            created: created(&vc),
            label: label(&vc),
            shared,
            tasks,
            presence,
            source: Source::Unread,
            read_for: None,
            read_at: None,
            reading: Pace::new(Duration::from_secs(2)),
            connection: None,
            asking: Pace::new(Duration::from_secs(1)),
            trouble: None,
            silent_since: None,
            attached: None,
            weight: 0,
            marked: None,
            speaker,
        }
    }

    /// Whose it is.
    pub(super) fn id(&self) -> &TenantId {
        &self.id
    }

    /// Runs to the end of the VirtualCluster, or of this process' lead.
    pub(super) async fn run(mut self) {
        let stop = self.tasks.stop().clone();
        loop {
            let presence = self.presence.borrow_and_update().clone();
            let vc = match presence {
                Presence::There(vc) if vc.metadata.deletion_timestamp.is_none() => self.speaker.newest(&vc),
                Presence::There(vc) | Presence::Gone(vc) => {
                    tokio::select! {
                        () = self.end(&vc) => {}
                        () = stop.cancelled() => {}
                    }
                    return;
                }
            };
            let looked = Instant::now();
            let state = tokio::select! {
                state = self.look(&vc) => state,
                () = stop.cancelled() => return,
            };
            let facts = self.facts(&vc, &state);
            self.speaker.say(&vc, &state, &facts).await;
            let pause = if matches!(state, State::Synced { .. } | State::Paused | State::SameControlPlane { .. } | State::SuperCluster) {
                LATER
            } else {
                SOON
            };
            tokio::select! {
                changed = self.presence.changed() => if changed.is_err() { return },
                () = alarm(self.attached.as_ref().map(|(_, attached)| &attached.alarm), looked) => {}
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// One look: as far as it goes.
    async fn look(&mut self, vc: &Arc<VirtualCluster>) -> State {
        // Whatever the control plane does: no look at an Ingress is to decide by what is its tenant's no longer.
        if let (Some((_, attached)), Some((Allotted { hosts, .. }, Claimable { addresses, .. }))) = (&self.attached, self.registered()) {
            self.shared.engine.register(attached, &hosts, &addresses);
        }
        self.read_kubeconfig(vc).await;
        match self.advance(vc).await {
            Ok(state) | Err(state) => state,
        }
    }

    async fn advance(&mut self, vc: &Arc<VirtualCluster>) -> Result<State, State> {
        let connection = self.connected().await?;
        let connection = self.still_there(connection).await?;
        self.not_the_super_cluster(&connection).await?;
        self.claim(&connection)?;
        let Some((hosts, external)) = self.registered().filter(|_| self.shared.engine.super_synced()) else {
            return Err(State::Starting { connected: true });
        };
        let accepted = Accepted::of(vc);
        self.same_life(&connection, accepted).await?;
        self.not_set_back(&connection, accepted)?;
        let (slices, range) = self.slices(vc);
        let attached = self.attach(vc, &connection, &slices, &hosts.hosts, &external.addresses);
        let accepted_version =
            accepted.filter(|accepted| accepted.incarnation == connection.incarnation).and_then(|accepted| accepted.version);
        attached.accepted.store(accepted_version.unwrap_or_default(), Ordering::Relaxed);
        self.adjust(vc, &attached, slices).await;
        self.supervise(vc, &connection, accepted, [range, hosts.note, external.note])
    }

    /// Whatever address a kubeconfig names, and however it is spelled: who answers says that it is the super cluster.
    async fn not_the_super_cluster(&mut self, connection: &Connection) -> Result<(), State> {
        let own = self.shared.own_incarnation().await.map_err(|error| {
            debug!(tenant = %self.id, error = %Chain(&error), "could not ask the super cluster who it is");
            State::Starting { connected: true }
        })?;
        if connection.incarnation != own {
            return Ok(());
        }
        self.detach("the kubeconfig leads to the super cluster itself");
        // What it had before is anybody's.
        self.shared.planes.tried(self.created, self.id.uid());
        self.shared.planes.release(self.id.uid());
        Err(State::SuperCluster)
    }

    fn claim(&mut self, connection: &Connection) -> Result<(), State> {
        let newcomer = !self.recorded().contains(&connection.incarnation);
        let who = Claimant { newcomer, created: self.created, uid: self.id.uid(), name: self.label.clone() };
        match self.shared.planes.claim(&who, connection.incarnation) {
            Claim::Ours => Ok(()),
            Claim::Wait => Err(State::Starting { connected: true }),
            Claim::Theirs(other) => {
                self.detach("another VirtualCluster has this control plane");
                Err(State::SameControlPlane { other, incarnation: connection.incarnation })
            }
        }
    }

    /// The lives of the control plane that objects in the super cluster were made for.
    fn recorded(&self) -> BTreeSet<Uid> {
        let Some(tenant) = self.shared.engine.tenants().get(self.id.as_str()) else { return BTreeSet::new() };
        let namespaces = tenant.namespaces.lock();
        namespaces.values().filter(|namespace| !namespace.deleting).filter_map(|namespace| namespace.incarnation).collect()
    }

    async fn same_life(&mut self, connection: &Connection, accepted: Option<Accepted>) -> Result<(), State> {
        let now = connection.incarnation;
        let was = self.attached.as_ref().map(|(_, attached)| attached.incarnation).filter(|was| *was != now);
        match life(&self.recorded(), now, accepted) {
            Life::Same => {
                if was.is_some() {
                    self.detach("another life of the control plane");
                }
                Ok(())
            }
            Life::Replaced(before) => {
                self.detach("another life of the control plane");
                Err(State::Held(Why::Replaced { before, now }))
            }
            Life::Accepted => {
                self.detach("another life of the control plane");
                match self.shared.engine.remove_other_lives(self.id.uid(), self.id.as_str(), now).await {
                    Ok(true) => Ok(()),
                    Ok(false) => Err(State::Starting { connected: true }),
                    Err(error) => {
                        warn!(tenant = %self.id, error = %Chain(&error), "could not remove what an earlier life left");
                        Err(State::Starting { connected: true })
                    }
                }
            }
        }
    }

    /// The highest version of the tenant that a super copy was built from, as far as is known.
    fn built(&self) -> u64 {
        self.shared.engine.tenants().get(self.id.as_str()).map(|tenant| tenant.index.lock().built_high).unwrap_or_default()
    }

    /// Whether the control plane still knows all that objects in the super cluster were made from. One that does not is detached: its
    /// watches would wait in silence for versions that it had once, and what it forgot would count as deleted.
    fn not_set_back(&mut self, connection: &Connection, accepted: Option<Accepted>) -> Result<(), State> {
        // While nothing is attached nothing is built, so what is known by now counts; else only what was before the question.
        let built = if self.attached.is_some() { connection.built } else { self.built() };
        let (incarnation, at) = (connection.incarnation, connection.version);
        if at >= built || accepted.is_some_and(|accepted| accepted.covers_restore(incarnation, built)) {
            return Ok(());
        }
        self.detach("the control plane was set back");
        Err(State::Held(Why::Restored { incarnation, at, built }))
    }

    /// What is registered for the tenant; nothing is known before all VirtualClusters have been seen.
    fn registered(&self) -> Option<(Allotted, Claimable)> {
        let uid = self.id.uid();
        self.shared.hosts.of(uid).zip(self.shared.addresses.of(uid))
    }

    /// The ranges of service addresses, and what is wrong with those asked for.
    fn slices(&self, vc: &VirtualCluster) -> (Vec<Slice>, Option<Note>) {
        let Some(text) = wanted_cidr(vc) else {
            self.shared.slices.release(self.id.uid());
            return (Vec::new(), None);
        };
        let Some(slices) = parse_slices(&text) else {
            let message = format!(
                "spec.serviceCidr {text:?} is not a range such as 10.128.0.0/20, nor one of each family as in 10.128.0.0/20,fd00:128::/112: Services get addresses of the super cluster's choice"
            );
            return (Vec::new(), Some(("ServiceCidrInvalid", message)));
        };
        match self.shared.slices.allot(self.id.uid(), &self.label, &slices) {
            Ok(()) => (slices, None),
            Err(other) => {
                let message = format!(
                    "spec.serviceCidr {text} overlaps the range of VirtualCluster {other}: Services get addresses of the super cluster's choice; give it a range of its own"
                );
                (Vec::new(), Some(("ServiceCidrTaken", message)))
            }
        }
    }

    /// Attaches the control plane, or anew with a new kubeconfig; nothing is forgotten of the super side.
    fn attach(
        &mut self,
        vc: &VirtualCluster,
        connection: &Connection,
        slices: &[Slice],
        hosts: &Arc<Hosts>,
        external: &Arc<ExternalAddresses>,
    ) -> Arc<Attached> {
        if let Some((fingerprint, attached)) = &self.attached
            && *fingerprint == connection.fingerprint
            && attached.incarnation == connection.incarnation
        {
            return attached.clone();
        }
        info!(tenant = %self.id, virtual_cluster = self.label, incarnation = %connection.incarnation, server = connection.remote.transport().server(), "attaching");
        let spec = AttachSpec {
            id: self.id.clone(),
            remote: connection.remote.clone(),
            incarnation: connection.incarnation,
            profile: Profile {
                cluster_domain: cluster_domain(vc),
                service_slices: slices.to_vec(),
                server: connection.remote.transport().server().parse().ok(),
                agent_port: self.shared.agent_port,
                hosts: hosts.clone(),
                external: external.clone(),
                ..Profile::default()
            },
            weight: vc.spec.weight.clamp(1, 100),
            paused: vc.spec.paused,
        };
        self.weight = spec.weight;
        let attached = self.shared.engine.attach(spec, &self.tasks);
        self.shared.metrics.attached();
        self.attached = Some((connection.fingerprint.clone(), attached.clone()));
        attached
    }

    /// Takes over what may change while attached.
    async fn adjust(&mut self, vc: &VirtualCluster, attached: &Attached, slices: Vec<Slice>) {
        let weight = vc.spec.weight.clamp(1, 100);
        if self.weight != weight {
            self.weight = weight;
            self.shared.engine.weigh(self.id.as_str(), weight);
        }
        attached.learn(|profile| {
            profile.cluster_domain = cluster_domain(vc);
            profile.service_slices = slices;
        });
        // A selector that cannot be read picks none; the condition says so.
        self.shared.engine.mirror_nodes(attached, note::mirrored(&vc.spec.nodes).unwrap_or_default());
        let namespaces = self.shared.engine.tenants().get(self.id.as_str()).map(|tenant| tenant.namespaces.lock().len());
        let orphan = vc.spec.deletion_policy == DeletionPolicy::Orphan;
        if orphan && namespaces.is_some() && self.marked != namespaces {
            match self.shared.engine.mark_orphan(self.id.uid(), self.id.as_str(), true).await {
                Ok(()) => self.marked = namespaces,
                Err(error) => warn!(tenant = %self.id, error = %Chain(&error), "namespaces could not be marked to be left"),
            }
        } else if !orphan && self.marked.is_some() {
            match self.shared.engine.mark_orphan(self.id.uid(), self.id.as_str(), false).await {
                Ok(()) => self.marked = None,
                Err(error) => warn!(tenant = %self.id, error = %Chain(&error), "marks to be left could not be removed"),
            }
        }
    }

    /// Watches over the attached control plane.
    fn supervise(
        &mut self,
        vc: &VirtualCluster,
        connection: &Connection,
        accepted: Option<Accepted>,
        asked: [Option<Note>; 3],
    ) -> Result<State, State> {
        let id = self.id.as_str();
        let Some(health) = self.shared.engine.health(id) else {
            self.attached = None;
            return Err(State::Starting { connected: true });
        };
        if let Some((at, built)) = health.regression
            && !accepted.is_some_and(|accepted| accepted.covers_restore(connection.incarnation, built))
        {
            self.shared.engine.halt(id);
            return Err(State::Held(Why::Restored { incarnation: connection.incarnation, at, built }));
        }
        if health.other_life {
            // Halted until it has been asked; a server that says now this and now that is not followed in between.
            return Err(State::Starting { connected: true });
        }
        self.shared.engine.go_on(id, vc.spec.paused);
        if vc.spec.paused {
            return Err(State::Paused);
        }
        if !health.synced {
            return Err(State::Starting { connected: true });
        }
        let taken = self.shared.engine.tenants().get(id).map(|tenant| tenant.taken.lock().clone()).unwrap_or_default();
        let about = About { id: &self.id, health: &health, taken: &taken, asked, spec: &vc.spec };
        Ok(State::Synced { note: note::of(about) })
    }

    fn facts(&self, vc: &VirtualCluster, state: &State) -> Facts {
        let health = matches!(state, State::Synced { .. }).then(|| self.shared.engine.health(self.id.as_str())).flatten();
        let has_slice = self.attached.as_ref().is_some_and(|(_, attached)| !attached.profile().service_slices.is_empty());
        Facts { pods: health.map(|health| health.pods), service_cidr: has_slice.then(|| wanted_cidr(vc)).flatten() }
    }

    fn detach(&mut self, reason: &'static str) {
        if self.attached.take().is_some() {
            info!(tenant = %self.id, virtual_cluster = self.label, reason, "detaching");
            self.shared.engine.detach(self.id.as_str());
        }
    }

    /// The VirtualCluster is gone or going: clears up.
    async fn end(&mut self, vc: &VirtualCluster) {
        self.detach("the VirtualCluster is deleted");
        self.shared.planes.tried(self.created, self.id.uid());
        self.shared.planes.release(self.id.uid());
        self.shared.slices.release(self.id.uid());
        self.speaker.end();
        let orphan = vc.spec.deletion_policy == DeletionPolicy::Orphan;
        info!(tenant = %self.id, virtual_cluster = self.label, orphan, "VirtualCluster deleted, clearing up");
        clear_up(&self.shared, &self.id, orphan).await;
        // Only now is there nothing of its own with them.
        self.shared.hosts.release(self.id.uid());
        self.shared.addresses.release(self.id.uid());
        info!(tenant = %self.id, virtual_cluster = self.label, orphan, "cleared up");
    }
}

/// Removes what a tenant left until nothing is left; ends early only when this process may not write any more.
pub(super) async fn clear_up(shared: &Shared, id: &TenantId, orphan: bool) {
    let mut pace = Pace::new(Duration::from_secs(1));
    loop {
        match shared.engine.remove_all(id.uid(), id.as_str(), orphan).await {
            Ok(true) => break,
            Ok(false) => tokio::time::sleep(SOON).await,
            Err(CallError::Fenced) => return,
            Err(error) => {
                warn!(tenant = %id, error = %Chain(&error), "could not clear up after a tenant");
                pace.failed();
                pace.wait().await;
            }
        }
    }
    shared.engine.tenants().remove(id.as_str());
}

/// Waits until the control plane does not take our credentials, and at least a moment since the last look: how often it says so is its
/// own to choose.
async fn alarm(bell: Option<&Notify>, looked: Instant) {
    match bell {
        Some(bell) => bell.notified().await,
        None => std::future::pending().await,
    }
    tokio::time::sleep_until(looked + SOON).await;
}

/// The range that is asked for, else the one that was recorded.
fn wanted_cidr(vc: &VirtualCluster) -> Option<String> {
    let asked = vc.spec.service_cidr.clone().filter(|text| !text.is_empty());
    asked.or_else(|| vc.status.as_ref().and_then(|status| status.service_cidr.clone()))
}

fn cluster_domain(vc: &VirtualCluster) -> String {
    vc.spec.cluster_domain.clone().filter(|domain| !domain.is_empty()).unwrap_or_else(|| "cluster.local".to_owned())
}

/// Namespace and name, for people.
pub(super) fn label(vc: &VirtualCluster) -> String {
    format!("{}/{}", vc.namespace().unwrap_or_default(), vc.name_any())
}

/// When it was made, in seconds since 1970.
pub(super) fn created(vc: &VirtualCluster) -> i64 {
    vc.creation_timestamp().map(|time| time.0.as_second()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn s34_an_alarm_without_end_leads_to_one_look_a_second() {
        let (bell, begun) = (Notify::new(), Instant::now());
        for _ in 0..5 {
            let looked = Instant::now();
            bell.notify_one();
            alarm(Some(&bell), looked).await;
        }
        assert_eq!(begun.elapsed(), 5 * SOON);
        // After a while of quiet it counts at once.
        bell.notify_one();
        let now = Instant::now();
        alarm(Some(&bell), begun).await;
        assert_eq!(now.elapsed(), Duration::ZERO);
    }
}
