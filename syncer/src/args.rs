//! What can be said to `vc-syncer` on the command line or in its environment.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args as ClapArgs, Parser};
use mirror::cx::Policy;
use runtime::address::{AddressArgs, Cidr};
use runtime::args::duration;
use runtime::lease::LeaseArgs;
use runtime::log::LogArgs;
use runtime::serve::ServeArgs;
use runtime::shutdown::ShutdownArgs;
use runtime::transport::Limits;

use crate::engine::EngineOptions;

/// Keeps the control planes of tenants and the super cluster that runs their Pods consistent
///
/// Reads the `VirtualCluster` objects of the super cluster, attaches each tenant whose kubeconfig is there, sends down what its users
/// ask for and reports back what became of it. Every flag can be given as the environment variable that stands beside it.
#[derive(Debug, Clone, Parser)]
#[command(name = "vc-syncer", version)]
pub struct Args {
    /// The super cluster.
    #[command(flatten)]
    pub sup: SuperArgs,

    /// How tenants are found and reached.
    #[command(flatten)]
    pub tenants: TenantArgs,

    /// What tenants may ask for.
    #[command(flatten)]
    pub policy: PolicyArgs,

    /// How the engine works.
    #[command(flatten)]
    pub engine: EngineArgs,

    /// Leader election.
    #[command(flatten)]
    pub lease: LeaseArgs,

    /// Probes and metrics.
    #[command(flatten)]
    pub serve: ServeArgs,

    /// Logging.
    #[command(flatten)]
    pub log: LogArgs,

    /// Shutdown.
    #[command(flatten)]
    pub shutdown: ShutdownArgs,

    /// Threads that run the program
    #[arg(long, env = "VC_THREADS", value_name = "NUMBER", default_value = "2", help_heading = "Engine")]
    pub threads: NonZeroUsize,
}

/// Flags about the super cluster.
#[derive(Debug, Clone, ClapArgs)]
#[command(next_help_heading = "Super cluster")]
pub struct SuperArgs {
    /// Kubeconfig of the super cluster [default: the ServiceAccount of this Pod]
    #[arg(long, env = "VC_SUPER_KUBECONFIG", value_name = "FILE")]
    pub super_kubeconfig: Option<PathBuf>,
}

/// Flags about finding and reaching tenants.
#[derive(Debug, Clone, ClapArgs)]
#[command(next_help_heading = "Tenants")]
pub struct TenantArgs {
    /// Accept a kubeconfig in the annotation tenancy.x-k8s.io/admin-kubeconfig of a VirtualCluster, where everybody who may
    /// read VirtualClusters reads it
    #[arg(long, env = "VC_ALLOW_KUBECONFIG_ANNOTATION", action = ArgAction::Set, default_value_t = false,
          num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub allow_kubeconfig_annotation: bool,

    /// How often a tenant's kubeconfig is read again, beside whenever its VirtualCluster changes or its API server refuses us;
    /// spread by a fifth either way
    #[arg(long, env = "VC_KUBECONFIG_INTERVAL", value_name = "DURATION", default_value = "3m", value_parser = duration)]
    pub kubeconfig_interval: Duration,

    /// Longest silence on a tenant's watch before it is opened anew; API servers send a bookmark about every minute
    #[arg(long, env = "VC_TENANT_WATCH_SILENCE", value_name = "DURATION", default_value = "90s", value_parser = duration)]
    pub tenant_watch_silence: Duration,

    /// Calls to one tenant's API server in flight at once
    #[arg(long, env = "VC_TENANT_CALLS", value_name = "NUMBER", default_value = "8")]
    pub tenant_calls: NonZeroUsize,

    /// Accept TLS 1.2 from tenants' API servers too
    #[arg(long, env = "VC_TENANT_TLS12", action = ArgAction::Set, default_value_t = false,
          num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub tenant_tls12: bool,

    /// Which addresses a tenant's API server may have.
    #[command(flatten)]
    pub addresses: AddressArgs,
}

impl TenantArgs {
    /// What a tenant's API server may do.
    pub fn limits(&self) -> Limits {
        Limits { silence: self.tenant_watch_silence, calls: self.tenant_calls.get(), tls12: self.tenant_tls12, ..Limits::default() }
    }
}

/// Flags about what tenants may ask for.
#[derive(Debug, Clone, ClapArgs)]
#[command(next_help_heading = "Policy")]
pub struct PolicyArgs {
    /// Label keys with a domain that go down unhashed, beside app.kubernetes.io/: whole keys, or prefixes ending in a slash
    #[arg(long, env = "VC_LABELS_DOWN", value_name = "KEYS", default_value = "", hide_default_value = true, value_parser = set)]
    pub labels_down: BTreeSet<String>,

    /// Annotation keys that go down: whole keys, or prefixes ending in a slash
    #[arg(long, env = "VC_ANNOTATIONS_DOWN", value_name = "KEYS", default_value = "", hide_default_value = true, value_parser = set)]
    pub annotations_down: BTreeSet<String>,

    /// Taints that Pods of tenants may tolerate, beside node.kubernetes.io/not-ready and unreachable, never of node-role.kubernetes.io/:
    /// whole keys, or prefixes ending in a slash; tolerations of others are left out
    #[arg(long, env = "VC_TOLERATIONS_DOWN", value_name = "KEYS", default_value = "", hide_default_value = true, value_parser = set)]
    pub tolerations_down: BTreeSet<String>,

    /// Carry fields that this version does not know instead of refusing the object
    #[arg(long, env = "VC_PASS_UNKNOWN_FIELDS", action = ArgAction::Set, default_value_t = false,
          num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub pass_unknown_fields: bool,

    /// Longest terminationGracePeriodSeconds that goes down; a longer one is shortened to it
    #[arg(long, env = "VC_MAX_GRACE_SECONDS", value_name = "SECONDS", default_value = "3600")]
    pub max_grace_seconds: u32,

    /// Runtime class of every tenant's Pods, whatever they ask for
    #[arg(long, env = "VC_RUNTIME_CLASS", value_name = "NAME")]
    pub runtime_class: Option<String>,

    /// Let tenants run privileged containers and use host ports: only where all of them are trusted
    #[arg(long, env = "VC_ALLOW_PRIVILEGED", action = ArgAction::Set, default_value_t = false,
          num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub allow_privileged: bool,

    /// Ranges in which the endpoints of a tenant's default/kubernetes may lie, beside the address and port that its kubeconfig names:
    /// where Pods reach API servers. Never a range of Pods, Services or nodes
    #[arg(long, env = "VC_API_SERVER_ENDPOINTS", value_delimiter = ',', value_name = "CIDR")]
    pub api_server_endpoints: Vec<Cidr>,

    /// Ranges where a tenant's Services without a selector may lead, beside the tenant's own Pods: what lies outside and belongs to all
    /// tenants. Never a range of Pods, Services or nodes
    #[arg(long, env = "VC_EXTERNAL_ENDPOINTS", value_delimiter = ',', value_name = "CIDR")]
    pub external_endpoints: Vec<Cidr>,

    /// Ranges that no network policy of a tenant's opens: those of the super cluster's Pods, nodes and Services, and what else is the platform's.
    /// Without them a tenant's policy that allows all addresses allows these too, whatever another policy in its namespaces denies
    #[arg(long, env = "VC_PLATFORM_RANGES", value_delimiter = ',', value_name = "CIDR")]
    pub platform_ranges: Vec<Cidr>,
}

impl PolicyArgs {
    /// The policy that the flags ask for.
    pub fn policy(&self) -> Policy {
        Policy {
            labels_down: self.labels_down.clone(),
            annotations_down: self.annotations_down.clone(),
            tolerations_down: self.tolerations_down.clone(),
            pass_unknown_fields: self.pass_unknown_fields,
            max_grace_seconds: self.max_grace_seconds,
            runtime_class: self.runtime_class.clone(),
            allow_privileged: self.allow_privileged,
            api_server_endpoints: self.api_server_endpoints.iter().map(|range| range.parts()).collect(),
            external_endpoints: self.external_endpoints.iter().map(|range| range.parts()).collect(),
            platform_ranges: self.platform_ranges.iter().map(|range| range.parts()).collect(),
        }
    }
}

/// Flags about how the engine works.
#[derive(Debug, Clone, ClapArgs)]
#[command(next_help_heading = "Engine")]
pub struct EngineArgs {
    /// Objects worked on at once, over all tenants
    #[arg(long, env = "VC_WORKERS", value_name = "NUMBER", default_value = "32")]
    pub workers: NonZeroUsize,

    /// Objects of one tenant worked on at once
    #[arg(long, env = "VC_WORKERS_PER_TENANT", value_name = "NUMBER", default_value = "8")]
    pub workers_per_tenant: NonZeroUsize,

    /// How often pairs that do not agree are looked at again although nothing was heard of them
    #[arg(long, env = "VC_PATROL_INTERVAL", value_name = "DURATION", default_value = "60s", value_parser = duration)]
    pub patrol_interval: Duration,

    /// Share of a token's life after which it is renewed, between 0 and 1
    #[arg(long = "token-renewal-share", env = "VC_TOKEN_RENEWAL_SHARE", value_name = "SHARE", default_value = "0.8", value_parser = share)]
    pub renew_share: f64,

    /// Send down every ConfigMap and Secret, not only those that a Pod refers to
    #[arg(long, env = "VC_SYNC_UNREFERENCED", action = ArgAction::Set, default_value_t = false,
          num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub sync_unreferenced: bool,

    /// Namespaces of tenants from which nothing goes down, separated by commas; what went down before is left as it is: not changed, not
    /// reported on, not removed, and its tokens are not renewed
    #[arg(long, env = "VC_EXCLUDE_NAMESPACES", value_name = "NAMES", default_value = "", hide_default_value = true, value_parser = set)]
    pub exclude_namespaces: BTreeSet<String>,

    /// Port on which the vn-agent of a node listens, as the tenants' API servers are told
    #[arg(long = "vn-agent-port", env = "VC_VN_AGENT_PORT", value_name = "PORT", default_value = "10550")]
    pub agent_port: u16,
}

impl EngineArgs {
    /// What the engine needs to know of it.
    pub fn options(&self) -> EngineOptions {
        EngineOptions {
            workers: self.workers.get(),
            patrol_interval: self.patrol_interval,
            renew_share: self.renew_share,
            sync_unreferenced: self.sync_unreferenced,
            exclude_namespaces: self.exclude_namespaces.clone(),
        }
    }
}

/// Words separated by commas, as a set.
#[expect(clippy::unnecessary_wraps, reason = "the form of a clap value parser")]
fn set(text: &str) -> Result<BTreeSet<String>, std::convert::Infallible> {
    Ok(text.split(',').map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect())
}

/// A share of a whole.
fn share(text: &str) -> Result<f64, String> {
    let share: f64 = text.parse().map_err(|_| format!("{text:?} is not a number: write one such as 0.8"))?;
    // Below, tokens are asked for all the time; above, a slow renewal comes too late.
    if (0.01..=0.95).contains(&share) { Ok(share) } else { Err(format!("{text} is not between 0.01 and 0.95")) }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_flags_fit_together_and_have_defaults() {
        Args::command().debug_assert();
        let args = Args::try_parse_from(["vc-syncer"]).unwrap();
        assert!(args.engine.exclude_namespaces.is_empty() && !args.engine.sync_unreferenced && !args.policy.allow_privileged);
        assert_eq!(args.policy.policy(), Policy::default());
    }

    #[test]
    fn s47_without_flags_no_kubeconfig_leads_to_this_machine() {
        let args = Args::try_parse_from(["vc-syncer"]).unwrap();
        let policy = args.tenants.addresses.policy();
        for address in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "0.0.0.0", "169.254.169.254"] {
            assert!(!policy.allows(address.parse().unwrap()), "{address}");
        }
        assert!(!args.tenants.allow_kubeconfig_annotation && !args.tenants.tenant_tls12);
    }

    #[test]
    fn without_flags_a_token_is_renewed_at_four_fifths_of_its_life() {
        let options = Args::try_parse_from(["vc-syncer"]).unwrap().engine.options();
        assert!((options.renew_share - 0.8).abs() < f64::EPSILON, "{}", options.renew_share);
    }

    #[test]
    fn every_flag_has_a_variable_and_a_sentence() {
        for arg in Args::command().get_arguments().filter(|arg| arg.get_long().is_some_and(|name| name != "help" && name != "version")) {
            let name = arg.get_long().unwrap();
            assert!(arg.get_env().is_some_and(|env| env.to_string_lossy().starts_with("VC_")), "--{name}");
            assert!(arg.get_help().is_some_and(|help| help.to_string().len() > 10), "--{name}");
        }
    }

    #[test]
    fn sets_are_separated_by_commas() {
        let args = Args::try_parse_from(["vc-syncer", "--exclude-namespaces", "kube-system, a,,b", "--sync-unreferenced"]).unwrap();
        let names: Vec<_> = args.engine.exclude_namespaces.iter().map(String::as_str).collect();
        assert_eq!(names, ["a", "b", "kube-system"]);
        assert!(args.engine.sync_unreferenced);
    }

    #[test]
    fn a_share_outside_the_whole_is_refused() {
        for text in ["0", "1", "1.5", "-1", "NaN", "x"] {
            assert!(share(text).is_err(), "{text}");
        }
        assert!(share("0.8").is_ok());
    }
}
