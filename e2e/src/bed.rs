//! A super cluster and tenants, started together and ended together.

use std::{net::Ipv4Addr, path::PathBuf, sync::Arc};

use anyhow::Context as _;
use futures::future::try_join_all;
use indicatif::MultiProgress;
use k8s_openapi::api::{
    core::v1::{Namespace, Secret},
    networking::v1::ServiceCIDR,
};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
    core::{GroupVersionKind, NamespaceResourceScope},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::{
    agents, env,
    etcd::Etcd,
    left_out,
    machine::Network,
    plane::{ControlPlane, PlaneOptions, Role},
    programs::{Programs, Release},
};

/// Who writes for the bed, in managedFields.
pub(crate) const FIELD_MANAGER: &str = "bed";

/// Who the syncer is in a tenant, by the registered kubeconfig. Its calls are told from others' by it: with the identities in the
/// super cluster it has `vc-` in common, see [`Calls::by`](crate::audit::Calls::by).
pub const TENANT_USER: &str = "vc-syncer";

/// The range of the super cluster's own Services.
pub const SUPER_SERVICES: &str = "10.96.0.0/16";

/// What tenants may have by now, and what an older API server has only where somebody asks for it.
const NEWEST_DEFAULTS: [&str; 2] = [
    "--feature-gates=ClusterTrustBundle=true,ClusterTrustBundleProjection=true",
    "--runtime-config=certificates.k8s.io/v1beta1/clustertrustbundles=true",
];

/// Of which families the addresses of Services are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Families {
    /// Of one, everywhere.
    Ipv4,
    /// Of both in the tenants, of one in the super cluster.
    BothInTenants,
    /// Of both; those of the tenants from ranges that the super cluster serves.
    Both,
}

/// What a bed consists of.
#[derive(Clone, Debug)]
pub struct BedOptions {
    /// Names its folder, `target/e2e/<name>`, which is emptied first.
    pub name: String,
    /// How many tenants.
    pub tenants: usize,
    /// How the ranges of the tenants' Services begin: tenant `i` serves `<range>.<i>.0/<range_bits>`.
    pub range: String,
    /// How many bits of an address a range fixes; fewer than 24 are for one tenant alone.
    pub range_bits: u8,
    /// Of which families the addresses of Services are.
    pub families: Families,
    /// Whether each tenant has an etcd of its own.
    pub separate_etcd: bool,
    /// Whether the API servers stand on a network of machines, where Pods of real nodes reach them, and not on loopback. Needs root.
    pub network: bool,
    /// The version of the super cluster.
    pub super_release: Release,
    /// The version of the tenants.
    pub tenant_release: Release,
    /// Further flags of the super cluster's kube-apiserver.
    pub super_args: Vec<String>,
    /// Further flags of each tenant's.
    pub tenant_args: Vec<String>,
    /// Where the building of the programs shows.
    pub progress: MultiProgress,
}

impl BedOptions {
    /// One etcd, `tenants` tenants without care for Nodes, and the versions that the environment names.
    pub fn new(name: &str, tenants: usize) -> Self {
        Self {
            name: name.to_owned(),
            tenants,
            range: "10.128".to_owned(),
            range_bits: 24,
            families: Families::Ipv4,
            separate_etcd: false,
            network: false,
            super_release: release(env::SUPER_RELEASE),
            tenant_release: release(env::TENANT_RELEASE),
            super_args: Vec::new(),
            tenant_args: Vec::new(),
            progress: MultiProgress::new(),
        }
    }
}

/// The version that a variable names; the newest if it is not set.
#[expect(clippy::panic, reason = "a typing error in it would make a test of skew one of none")]
fn release(variable: &str) -> Release {
    env::var(variable).map_or(Release::Newest, |text| Release::parse(&text).unwrap_or_else(|error| panic!("{variable}: {error}")))
}

/// Real control planes, on loopback unless asked otherwise; all is ended when it is dropped.
///
/// Tenant 1 does not serve WatchList, all others do. The super cluster has a `ServiceCIDR` `virtualcluster-tenants` over the ranges of all
/// tenants, unless they begin otherwise than by default.
pub struct Bed {
    dir: PathBuf,
    programs: Programs,
    /// The super cluster.
    pub sup: ControlPlane,
    /// The tenants.
    pub tenants: Vec<ControlPlane>,
    /// The etcd of the super cluster, and of the tenants unless they have their own.
    pub etcd: Arc<Etcd>,
    /// The version of the tenants.
    pub tenant_release: Release,
    network: Option<Network>,
}

impl Bed {
    /// Starts everything and waits until it is ready.
    pub async fn start(options: BedOptions) -> anyhow::Result<Self> {
        let programs = Programs::locate_or_build(&options.progress).await?;
        let of_super = programs.of(options.super_release, &options.progress).await?;
        let of_tenants = programs.of(options.tenant_release, &options.progress).await?;
        // First, since it removes what a killed run of the same bed has left.
        let network = options.network.then(Network::claim).transpose()?;
        let dir = env::workspace().join("target/e2e").join(&options.name);
        if dir.exists() {
            std::fs::remove_dir_all(&dir).with_context(|| format!("could not empty {}", dir.display()))?;
        }
        std::fs::create_dir_all(&dir).with_context(|| format!("could not make {}", dir.display()))?;
        let address = network.as_ref().map_or(Ipv4Addr::LOCALHOST, Network::address);
        if network.is_some() {
            agents::make_authority(&dir).await?;
        }
        let etcd = Arc::new(Etcd::start("etcd", &dir, &programs).await?);
        let sup = async {
            let sup = PlaneOptions {
                name: "super".to_owned(),
                role: Role::Super,
                address,
                service_cidr: with(SUPER_SERVICES, (options.families == Families::Both).then(|| "fd00:96::/108".to_owned())),
                api_server_args: options.super_args.clone(),
            };
            let sup = ControlPlane::start(sup, Arc::clone(&etcd), &dir, &of_super).await?;
            serve_tenants_addresses(&sup, options.families == Families::Both).await?;
            anyhow::Ok(sup)
        };
        let tenants = (0..options.tenants).map(|i| start_tenant(i, address, &options, &etcd, &dir, &of_tenants));
        let (sup, tenants) = tokio::try_join!(sup, try_join_all(tenants))?;
        Ok(Self { dir, programs, sup, tenants, etcd, tenant_release: options.tenant_release, network })
    }

    /// Where its state and logs are.
    pub fn dir(&self) -> &std::path::Path {
        &self.dir
    }

    /// The Kubernetes programs.
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// The network of machines that the API servers stand on.
    ///
    /// # Errors
    /// If the bed was not started with [`BedOptions::network`].
    pub fn network(&self) -> anyhow::Result<&Network> {
        self.network.as_ref().context("the bed has no network")
    }

    /// Whether the tenants are of the newest version; if not, notes what a test leaves out and why. `cargo xtask skew` says and counts it.
    pub fn tenants_are_newest(&self, what: &str) -> bool {
        let newest = self.tenant_release == Release::Newest;
        if !newest {
            left_out::note(what);
        }
        newest
    }

    /// A tenant, from 0.
    pub fn tenant(&self, i: usize) -> anyhow::Result<&ControlPlane> {
        self.tenants.get(i).with_context(|| format!("the bed has no tenant {i}"))
    }

    /// Makes tenant `i` known to the super cluster as the `VirtualCluster` `ns/name`, with a kubeconfig in a Secret
    /// beside it that has every right in the tenant, as [`TENANT_USER`].
    ///
    /// # Errors
    /// If the custom resource definitions were not applied.
    pub async fn register(&self, i: usize, name: &str, ns: &str) -> anyhow::Result<DynamicObject> {
        let tenant = self.tenant(i)?;
        let (cidr, kubeconfig) = (tenant.service_cidr().to_owned(), tenant.kubeconfig_for(TENANT_USER, Some("system:masters"))?);
        self.register_with(name, ns, &json!({ "serviceCidr": cidr }), &kubeconfig).await
    }

    /// As [`Bed::register`], with any spec and kubeconfig.
    pub async fn register_with(&self, name: &str, ns: &str, spec: &Value, kubeconfig: &str) -> anyhow::Result<DynamicObject> {
        let client = self.sup.client();
        let space = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": ns } });
        apply(&Api::<Namespace>::all(client.clone()), ns, &space).await?;
        self.put_kubeconfig(ns, kubeconfig).await?;
        let object = json!({
            "apiVersion": "tenancy.x-k8s.io/v1alpha1",
            "kind": "VirtualCluster",
            "metadata": { "name": name, "namespace": ns },
            "spec": spec,
        });
        apply(&virtual_clusters(ns, client), name, &object).await
    }

    /// Writes the Secret `admin-kubeconfig` of a namespace: rotation is this once more.
    pub async fn put_kubeconfig(&self, ns: &str, kubeconfig: &str) -> anyhow::Result<()> {
        let secret = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": { "name": "admin-kubeconfig" },
            "stringData": { "admin-kubeconfig": kubeconfig },
        });
        apply(&namespaced::<Secret>(ns, self.sup.client()), "admin-kubeconfig", &secret).await?;
        Ok(())
    }
}

/// The `VirtualCluster` objects of a namespace.
pub fn virtual_clusters(ns: &str, client: Client) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("tenancy.x-k8s.io", "v1alpha1", "VirtualCluster");
    Api::namespaced_with(client, ns, &ApiResource::from_gvk_with_plural(&kind, "virtualclusters"))
}

/// Server-side apply of one object, taking over every field.
pub async fn apply<K>(api: &Api<K>, name: &str, object: &Value) -> anyhow::Result<K>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    let params = PatchParams::apply(FIELD_MANAGER).force();
    api.patch(name, &params, &Patch::Apply(object)).await.with_context(|| format!("could not apply {name}"))
}

fn namespaced<K>(ns: &str, client: Client) -> Api<K>
where
    K: kube::Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Serialize,
{
    Api::namespaced(client, ns)
}

async fn start_tenant(
    i: usize,
    address: Ipv4Addr,
    options: &BedOptions,
    shared: &Arc<Etcd>,
    dir: &std::path::Path,
    programs: &Programs,
) -> anyhow::Result<ControlPlane> {
    let name = format!("tenant-{i}");
    let etcd =
        if options.separate_etcd { Arc::new(Etcd::start(&format!("etcd-{name}"), dir, programs).await?) } else { Arc::clone(shared) };
    // Tenant 1 is an API server that streams no lists: what holds for two tenants holds with and without WatchList.
    let mut api_server_args = if i == 1 { vec!["--feature-gates=WatchList=false".to_owned()] } else { Vec::new() };
    if options.tenant_release == Release::Older {
        api_server_args.extend(NEWEST_DEFAULTS.map(str::to_owned));
    }
    api_server_args.extend(options.tenant_args.iter().cloned());
    if options.network {
        api_server_args.push(format!("--kubelet-certificate-authority={}.crt", agents::authority(dir).display()));
    }
    let plane = PlaneOptions {
        name,
        role: Role::Tenant,
        address,
        service_cidr: with(
            &format!("{}.{i}.0/{}", options.range, options.range_bits),
            (options.families != Families::Ipv4).then(|| format!("fd00:128::{:x}:0/112", i + 1)),
        ),
        api_server_args,
    };
    ControlPlane::start(plane, etcd, dir, programs).await
}

/// A range, and a second one behind a comma.
fn with(range: &str, second: Option<String>) -> String {
    second.map_or_else(|| range.to_owned(), |second| format!("{range},{second}"))
}

/// Lets the super cluster's Services have the tenants' addresses.
async fn serve_tenants_addresses(sup: &ControlPlane, is_dual: bool) -> anyhow::Result<()> {
    let name = "virtualcluster-tenants";
    let ranges: &[&str] = if is_dual { &["10.128.0.0/12", "fd00:128::/64"] } else { &["10.128.0.0/12"] };
    let object = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "ServiceCIDR",
        "metadata": { "name": name },
        "spec": { "cidrs": ranges },
    });
    apply(&Api::<ServiceCIDR>::all(sup.client()), name, &object).await?;
    Ok(())
}
