//! What a kind is: a row of facts, and pure functions from one side to the other.

use std::collections::BTreeMap;
use std::net::IpAddr;

use common::{InSuper, InTenant, Name, Super, Tenant, keys};
use serde_json::{Map, Value, json};

use crate::bound::Bound;
use crate::cx::{Cx, Profile};
use crate::hold::Hold;
use crate::metadata;
use crate::mounts::Mounts;
use crate::object::{Content, Object};
use crate::shape::Table;
use crate::shown;

/// How a kind is called in the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resource {
    /// The API group, empty for the core group.
    pub group: &'static str,
    /// The version within the group.
    pub version: &'static str,
    /// Group and version as they stand in an object: `v1`, `apps/v1`.
    pub api_version: &'static str,
    /// The kind: `ConfigMap`.
    pub kind: &'static str,
    /// The plural: `configmaps`.
    pub plural: &'static str,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// Whether there is a `/status` that is written upward.
    pub status: bool,
}

impl Resource {
    /// The URL path of the collection, of one namespace or of all.
    pub fn collection(&self, namespace: Option<&str>) -> String {
        let root = if self.group.is_empty() { format!("/api/{}", self.version) } else { format!("/apis/{}/{}", self.group, self.version) };
        match namespace {
            Some(namespace) if self.namespaced => {
                format!("{root}/namespaces/{namespace}/{}", self.plural)
            }
            _ => format!("{root}/{}", self.plural),
        }
    }

    /// Whether what an object says of itself, if anything, is that it is one of these.
    pub(crate) fn may_say(&self, api_version: &str, kind: &str) -> Result<(), serde_json::Error> {
        let is_it = (kind.is_empty() || kind == self.kind) && (api_version.is_empty() || api_version == self.api_version);
        if is_it { Ok(()) } else { Err(serde::de::Error::custom("it is of another kind than the one that was asked for")) }
    }

    /// The URL path of one object.
    pub fn path(&self, namespace: Option<&str>, name: &str) -> String {
        format!("{}/{name}", self.collection(namespace))
    }
}

/// When a tenant's object goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// As soon as it exists.
    Always,
    /// When an object that went down refers to it (a Pod's Secret), or when everything is asked for by configuration.
    Referenced,
    /// When something goes down into it (a Namespace).
    Contents,
}

/// How the copies in the super cluster are seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observe {
    /// By a watch over all namespaces, selected by the tenant label.
    Watched,
    /// Never read as a whole: listed metadata-only, a namespace at a time, with the tenant's own writer (Secrets).
    Patrolled,
}

/// How much a tenant reads of what is said in the super cluster of the copies of its objects (Events).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hearsay {
    /// What happened, and the message, scrubbed: what is said is about this object, by those who run it.
    Message,
    /// What happened, without the message. Who says it serves all tenants at once, and may name hosts, addresses and objects of others, which
    /// nothing here could tell from the tenant's own.
    Reason,
}

/// What the administrator registers for one tenant, and takes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registered {
    /// Hosts to publish under ([`Profile::hosts`](crate::cx::Profile::hosts)).
    Hosts,
    /// Addresses from outside to claim ([`Profile::external`](crate::cx::Profile::external)).
    Addresses,
}

impl Registered {
    /// Whether two profiles differ in it.
    pub fn moved(self, before: &Profile, now: &Profile) -> bool {
        match self {
            Self::Hosts => before.hosts != now.hosts,
            Self::Addresses => before.external != now.external,
        }
    }
}

/// An object that another one needs in its own namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    /// The kind, as in [`Resource::kind`].
    pub kind: &'static str,
    /// The name, in the tenant.
    pub name: String,
}

/// What is added to a super copy by a subresource.
#[derive(Clone, Debug, PartialEq)]
pub struct Addition {
    /// The subresource.
    pub subresource: &'static str,
    /// The fields of the spec to be merged into it: lists with a key hold what is new alone.
    pub spec: Map<String, Value>,
    /// Annotations that say of what is added whose it is, written before it is there.
    pub annotations: BTreeMap<String, String>,
}

/// What the super copy reports to the tenant.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The node that the object runs on, once it has one.
    pub node: Option<String>,
    /// The whole new `status` of the tenant's copy.
    pub status: Value,
}

impl Report {
    /// The addresses of the load balancer of what has one.
    pub(crate) fn of_balancer(sup: &Object) -> Self {
        let balancer = sup.at("/status/loadBalancer").filter(|balancer| balancer.is_object()).cloned().unwrap_or_else(|| json!({}));
        Self { node: None, status: json!({"loadBalancer": balancer}) }
    }

    /// The report, with these conditions beside those that it has.
    pub(crate) fn with_conditions(mut self, conditions: Vec<Value>) -> Self {
        if let Some(status) = self.status.as_object_mut().filter(|_| !conditions.is_empty()) {
            let slot = status.entry("conditions").or_insert_with(|| Value::Array(Vec::new()));
            if let Some(list) = slot.as_array_mut() {
                list.extend(conditions);
            }
        }
        self
    }
}

/// What the super cluster chose and the tenant's copy says too (a Service's node ports): how that copy is to be changed. A tenant's API server
/// may say no to it, which a condition then tells.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// The type of the condition that says so where the tenant's API server does not take it.
    pub condition: &'static str,
    /// The reason of the Event that says so, one upper-camel-case word.
    pub reason: &'static str,
    /// The field that it is about.
    pub field: &'static str,
    /// What is chosen, as one says it to people.
    pub said: String,
    /// The addresses that the tenant's API server must serve before, if any are chosen.
    pub addresses: Vec<IpAddr>,
    /// JSON patches (RFC 6902) of the tenant's copy, each a write of its own on what the one before left.
    pub patches: Vec<Value>,
}

/// A kind that tenants create and the super cluster runs.
pub trait Downward: Sync {
    /// How the kind is called.
    fn resource(&self) -> Resource;

    /// The fields of a tenant's object with their verdicts: where each table begins (`""`, `spec`), and the table. For people
    /// (`docs/kinds.md`); what is not in here is refused.
    fn fields(&self) -> &'static [(&'static str, &'static Table)] {
        &[]
    }

    /// What of the super cluster objects of this kind take that there is only so much of.
    fn bounds(&self) -> &'static [Bound] {
        &[]
    }

    /// How much the tenant reads of Events about its copies. Override for kinds of which nobody but the super cluster's own components speaks, or
    /// whose messages a tenant cannot do without.
    fn hearsay(&self) -> Hearsay {
        Hearsay::Reason
    }

    /// What comes back to the tenant, in a sentence for people.
    fn returns(&self) -> &'static str {
        "Nothing."
    }

    /// What comes back, by its own table, if there is one, and where that begins.
    fn returned(&self) -> &'static [(&'static str, &'static Table)] {
        &[]
    }

    /// What the tenant's object asks of the super cluster.
    fn down(&self, tenant: &InTenant<Object>, cx: &Cx<'_>) -> Result<InSuper<Content>, Hold>;

    /// A label selector of the tenant's objects that are looked at; all if there is none. What a hostile API server sends beside them is looked
    /// at as well.
    fn tenant_selector(&self) -> Option<&'static str> {
        None
    }

    /// A label selector of the copies in the super cluster, beside the label of tenants: where controllers there make objects of this kind that
    /// bear that label too.
    fn super_selector(&self) -> Option<&'static str> {
        None
    }

    /// Whether `down` depends on the addresses of the tenant's Pods ([`Cx::pods`]): it is asked again when they move.
    fn depends_on_pods(&self) -> bool {
        false
    }

    /// An object of the tenant's in no namespace that `down` depends on and that nobody has looked at lately: it is to be read before.
    fn unread(&self, _tenant: &InTenant<Object>, _cx: &Cx<'_>) -> Option<Reference> {
        None
    }

    /// What of that which is registered for the tenant `down` depends on: it is asked again when that moves, and what went down with what is the
    /// tenant's no longer may not stay ([`Downward::may_stay`]).
    fn depends_on(&self) -> Option<Registered> {
        None
    }

    /// Whether what went down before may stay although what is asked now is refused. Where it may not, it ends. Asked of kinds that depend on
    /// what is taken from a tenant and given to another; also where the tenant's copy cannot be looked at, so of `cx` it reads what is registered alone.
    fn may_stay(&self, _sup: &InSuper<Object>, _cx: &Cx<'_>) -> bool {
        true
    }

    /// What takes out of a super copy that may not stay that which is the tenant's no longer, as a merge patch (RFC 7386), where the rest may stay.
    /// The whole copy ends where there is none.
    fn without_taken(&self, _sup: &InSuper<Object>, _cx: &Cx<'_>) -> Option<Value> {
        None
    }

    /// What of the tenant's object the super copy is without, and the tenant should hear of; it holds nothing back. `sup` is at hand when that was
    /// looked at and is as it is asked to be.
    fn left_out(&self, _tenant: &InTenant<Object>, _sup: Option<&InSuper<Object>>, _cx: &Cx<'_>) -> Option<Hold> {
        None
    }

    /// What the existing super copy should become: `asked` as far as the kind can still change, what the super cluster added kept.
    /// The default keeps foreign labels and annotations and replaces the whole body. Equal to the current content means: nothing to
    /// write.
    fn amend(&self, InSuper(asked): InSuper<Content>, current: &InSuper<Object>, cx: &Cx<'_>) -> InSuper<Content> {
        InSuper(metadata::merge(asked, &current.meta, cx.policy))
    }

    /// What the super copy reports to the tenant; `None` if the kind reports nothing. `tenant` is at hand when
    /// [`Downward::report_needs_tenant`] says so.
    fn up(&self, _sup: &InSuper<Object>, _tenant: Option<&InTenant<Object>>, _cx: &Cx<'_>) -> Result<Option<InTenant<Report>>, Hold> {
        Ok(None)
    }

    /// What of the tenant's copy the super copy still lacks and takes only by a subresource of its own (a Pod's ephemeral containers,
    /// other resources); and what of that is refused, which holds nothing else back. Asked when [`Downward::adds`] says so.
    fn additions(&self, _tenant: &InTenant<Object>, _sup: &InSuper<Object>, _cx: &Cx<'_>) -> (Vec<Addition>, Option<Hold>) {
        (Vec::new(), None)
    }

    /// Whether the tenant's copy has anything that goes down so.
    fn adds(&self, _tenant: &InTenant<Object>) -> bool {
        false
    }

    /// Whether a report is looked at again when this copy of the tenant's moves: a Pod with readiness gates, a claim that the tenant's own
    /// controller binds. Override with [`Downward::report_needs_tenant`].
    fn report_follows(&self, _tenant: &InTenant<Object>) -> bool {
        false
    }

    /// Whether a report depends on the tenant's copy too (readiness gates). Override if it can.
    fn report_needs_tenant(&self, _sup: &InSuper<Object>) -> bool {
        false
    }

    /// Whether the super cluster chooses anything that the tenant's copy says too. Override with [`Downward::choices`].
    fn chooses(&self) -> bool {
        false
    }

    /// What the super copy has of the super cluster's choice and the tenant's copy says otherwise. Asked when either moved.
    ///
    /// *Guarantees*: once a choice is taken it is not made again.
    fn choices(&self, _tenant: &InTenant<Object>, _sup: &InSuper<Object>, _cx: &Cx<'_>) -> Vec<InTenant<Choice>> {
        Vec::new()
    }

    /// A change of the tenant's copy in several writes that was begun and not ended: the rest of it.
    fn unfinished(&self, _tenant: &InTenant<Object>) -> Option<InTenant<Choice>> {
        None
    }

    /// Where the super cluster has given what is claimed ([`Downward::without_claims`]) to another: how the tenant's copy comes to claim something else.
    fn other_claim(&self, _tenant: &InTenant<Object>, _cx: &Cx<'_>) -> Option<InTenant<Choice>> {
        None
    }

    /// What of the tenant's status belongs into the super copy's status (conditions of the tenant's readiness gates): the whole new
    /// list of conditions, or `None` if nothing is to be written.
    fn conditions_down(&self, _tenant: &InTenant<Object>, _sup: &InSuper<Object>) -> Option<InSuper<Value>> {
        None
    }

    /// Whether objects of this kind claim what the super cluster may have given to another. Override with [`Downward::without_claims`] and
    /// [`Downward::other_claim`].
    fn claims(&self) -> bool {
        false
    }

    /// What is asked, without something that the super API server may not have to give (a Service's own address, a family). `None` if nothing such is
    /// left.
    fn without_claims(&self, _asked: Content) -> Option<Content> {
        None
    }

    /// The objects that must go down with this one.
    fn references(&self, _tenant: &InTenant<Object>) -> Vec<Reference> {
        Vec::new()
    }

    /// Whether objects of this kind may refer to others, so that nothing counts as unwanted before all of them were asked.
    fn refers(&self) -> bool {
        false
    }

    /// The objects that what went down before needs, by their names in the tenant, while what is asked now is refused.
    fn references_below(&self, _sup: &InSuper<Object>) -> Vec<Reference> {
        Vec::new()
    }

    /// What this object mounts that its tenant's API server gives.
    fn mounts(&self, _tenant: &InTenant<Object>) -> Mounts {
        Mounts::default()
    }

    /// The super name of a tenant's object.
    fn rename(&self, name: &Name<Tenant>) -> Name<Super> {
        name.same()
    }

    /// Whether the tenant's copy outlives the super one: deleted with a grace period, and only after the super copy is gone (Pod).
    fn graceful(&self) -> bool {
        false
    }

    /// When a tenant's object goes down.
    fn demand(&self) -> Demand {
        Demand::Always
    }

    /// How super copies are seen.
    fn observe(&self) -> Observe {
        Observe::Watched
    }

    /// Whether an API server may lack the kind: see [`Kind::is_optional`].
    fn is_optional(&self) -> bool {
        false
    }
}

/// Who sees an object of the super cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Audience {
    /// The tenants that have a Pod on the node of this name.
    OnNode(String),
    /// The tenant that owns this super object: kind, super namespace, name and, if known, UID.
    OwnerOf {
        /// The kind of the owned object, as in [`Resource::kind`].
        kind: String,
        /// Its namespace in the super cluster.
        namespace: String,
        /// Its name in the super cluster.
        name: String,
        /// Its UID in the super cluster, as text; empty if not said.
        uid: String,
    },
    /// Every tenant.
    Everybody,
    /// Nobody.
    Nobody,
}

/// The tenant's object that an upward object is about (an Event's).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About<'a> {
    /// Its namespace in the tenant.
    pub namespace: &'a str,
    /// Its name in the tenant.
    pub name: &'a str,
    /// Its UID in the tenant, as text.
    pub uid: &'a str,
    /// The node that it is on, as far as is known.
    pub node: Option<&'a str>,
}

/// A kind that the super cluster owns and tenants see.
pub trait Upward: Sync {
    /// How the kind is called.
    fn resource(&self) -> Resource;

    /// Who sees it, and what of it, in sentences for people (`docs/kinds.md`).
    fn shows(&self) -> &'static str;

    /// The label, of the value `true`, that tenants' copies bear and are found again by. Kinds with one need nothing beside their row; what is
    /// shown of the others, each in its own way, a part of the syncer of their own decides.
    fn mark(&self) -> Option<&'static str> {
        None
    }

    /// Whether the administrator says which of them every tenant gets, by that very label.
    fn is_published(&self) -> bool {
        self.mark() == Some(keys::PUBLIC)
    }

    /// Whether a tenant's copy that bears the mark says what it should. The default: that and nothing else.
    fn is_right(&self, wanted: &Content, seen: &Object) -> bool {
        shown::says_only(wanted, seen)
    }

    /// Whether an API server may lack the kind: see [`Kind::is_optional`].
    fn is_optional(&self) -> bool {
        false
    }

    /// Who sees it.
    fn audience(&self, sup: &InSuper<Object>) -> Audience;

    /// The tenant's copy: name, and content with `status` in the body if there is one.
    fn up(&self, sup: &InSuper<Object>, about: Option<&About<'_>>, cx: &Cx<'_>) -> Result<InTenant<(String, Content)>, Hold>;
}

/// A row of the table of kinds.
#[derive(Clone, Copy)]
pub enum Kind {
    /// The tenant creates, the super cluster runs.
    Down(&'static dyn Downward),
    /// The super cluster owns, tenants see.
    Up(&'static dyn Upward),
}

impl Kind {
    /// How the kind is called.
    pub fn resource(&self) -> Resource {
        match self {
            Self::Down(kind) => kind.resource(),
            Self::Up(kind) => kind.resource(),
        }
    }

    /// Whether an API server may lack the kind: it is older, has it switched off, or nobody has defined it there. Where one does not serve it,
    /// everything else goes on, and it is asked for again now and then. That says nothing of the objects: what is known of them stays.
    pub fn is_optional(&self) -> bool {
        match self {
            Self::Down(kind) => kind.is_optional(),
            Self::Up(kind) => kind.is_optional(),
        }
    }

    /// The row, if tenants' copies bear a mark.
    pub fn marked(&self) -> Option<&'static dyn Upward> {
        match self {
            Self::Up(kind) if kind.mark().is_some() => Some(*kind),
            Self::Up(_) | Self::Down(_) => None,
        }
    }
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.resource().kind)
    }
}

/// A row: one of [`crate::KINDS`], or one that was made at run time ([`KindId::made`]). Each is itself and no other.
#[derive(Clone, Copy)]
pub struct KindId(&'static Kind);

impl KindId {
    /// The row of the table that has this kind's name, for example `Pod`.
    pub fn named(kind: &str) -> Option<Self> {
        Self::all().find(|id| id.kind().resource().kind == kind)
    }

    /// All rows of the table in order.
    pub fn all() -> impl Iterator<Item = Self> {
        crate::KINDS.iter().map(Self)
    }

    /// A row beside the table, as configuration asks for it.
    ///
    /// *Caveats*: it stays until the process ends, some kilobytes, so that keys may name it for ever. Administrators make rows, no tenant does.
    pub fn made(row: impl Downward + 'static) -> Self {
        Self(Box::leak(Box::new(Kind::Down(Box::leak(Box::new(row))))))
    }

    /// Whether configuration made it.
    pub fn is_made(self) -> bool {
        Self::all().all(|id| id != self)
    }

    /// The row.
    pub fn kind(self) -> Kind {
        *self.0
    }

    /// The row, if it goes down.
    pub fn downward(self) -> Option<&'static dyn Downward> {
        match self.kind() {
            Kind::Down(kind) => Some(kind),
            Kind::Up(_) => None,
        }
    }
}

impl PartialEq for KindId {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.0, other.0)
    }
}

impl Eq for KindId {}

impl std::hash::Hash for KindId {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        std::ptr::from_ref(self.0).hash(state);
    }
}

impl std::fmt::Debug for KindId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}
