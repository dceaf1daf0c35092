//! `vn-agent issue`: makes the certificates that vn-agent, its callers and kubelets know each other by. The work is done by the crate `pki`.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::{Args, Subcommand};
use common::Uid;
use pki::{Authority, Identity, Leaf};
use runtime::args::duration;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::identity::serial;

/// Flags of `vn-agent issue`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct IssueArgs {
    /// Which certificate.
    #[command(subcommand)]
    what: What,
}

const EXAMPLES: &str = "\
Examples, in the order of setting up:

  # once: the agent CA
  vn-agent issue ca --out agent-ca

  # a node: what vn-agent shows its callers there, and what it shows the kubelet; n1 is then /etc/vn-agent on that node
  vn-agent issue agent --ca agent-ca --node n1 --address 192.0.2.11 --out n1/tls
  vn-agent issue kubelet-client --ca cluster-ca --node n1 --out n1/kubelet/client
  cp cluster-ca.crt n1/kubelet/ca.crt
  vn-agent issue kubelet-rights --node n1 | kubectl apply -f -

  # a tenant: for its API server (--kubelet-client-certificate, --kubelet-client-key) and its metrics-server
  uid=$(kubectl -n team-a get virtualcluster team-a -o jsonpath={.metadata.uid})
  vn-agent issue tenant --ca agent-ca --uid $uid --out team-a/agent-client
  vn-agent issue tenant --ca agent-ca --uid $uid --metrics --out team-a/metrics-client

The tenant's API server verifies vn-agent with --kubelet-certificate-authority=agent-ca.crt and dials it by
--kubelet-preferred-address-types=InternalIP.";

#[derive(Debug, Subcommand)]
enum What {
    /// A new agent CA
    Ca {
        /// Name of the CA
        #[arg(long, default_value = "vn-agent")]
        name: String,
        /// How long it is valid
        #[arg(long, value_name = "DURATION", default_value = "43800h", value_parser = duration)]
        life: Duration,
        #[command(flatten)]
        out: Out,
    },
    /// What a tenant's API server shows vn-agent
    Tenant {
        /// UID of the tenant's `VirtualCluster`
        #[arg(long, value_name = "UID", value_parser = Uid::parse)]
        uid: Uid,
        /// For metrics and stats alone: what the tenant's metrics-server shows
        #[arg(long)]
        metrics: bool,
        #[command(flatten)]
        signed: Signed,
        /// How long it is valid; before that, its tenant's `VirtualCluster` can name it as revoked
        #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = duration)]
        life: Duration,
    },
    /// What vn-agent on a node shows its callers
    Agent {
        #[command(flatten)]
        node: Node,
        #[command(flatten)]
        signed: Signed,
        /// How long it is valid
        #[arg(long, value_name = "DURATION", default_value = "2160h", value_parser = duration)]
        life: Duration,
    },
    /// What vn-agent shows the kubelet of a node
    KubeletClient {
        /// Name of the node
        #[arg(long, value_name = "NAME")]
        node: String,
        #[command(flatten)]
        signed: Signed,
        /// How long it is valid
        #[arg(long, value_name = "DURATION", default_value = "2160h", value_parser = duration)]
        life: Duration,
    },
    /// The rights of that certificate in the super cluster, as YAML: this node's Pods, streams and metrics
    KubeletRights {
        /// Name of the node
        #[arg(long, value_name = "NAME")]
        node: String,
    },
    /// The serial numbers of certificates, for the annotation tenancy.x-k8s.io/revoked-certificates of their tenant's `VirtualCluster`
    Serial {
        /// A certificate, PEM; in a file with several, the first
        #[arg(value_name = "FILE", required = true)]
        certificates: Vec<PathBuf>,
    },
    /// The list of revoked certificates, for --client-crl-file
    Revoked {
        /// A certificate that is revoked; name all that are and have not expired
        #[arg(value_name = "FILE")]
        certificates: Vec<PathBuf>,
        /// Number of the list: larger than the last one's
        #[arg(long)]
        number: u64,
        /// The authority: FILE.crt and FILE.key
        #[arg(long, value_name = "FILE")]
        ca: PathBuf,
    },
}

#[derive(Debug, Args)]
struct Node {
    /// Name of the node
    #[arg(long = "node", value_name = "NAME")]
    name: String,
    /// Address that callers dial: the node's `InternalIP`; may be given again
    #[arg(long = "address", value_name = "IP", required = true)]
    addresses: Vec<IpAddr>,
}

#[derive(Debug, Args)]
struct Signed {
    /// The authority that signs: FILE.crt and FILE.key
    #[arg(long, value_name = "FILE")]
    ca: PathBuf,
    #[command(flatten)]
    out: Out,
}

#[derive(Debug, Args)]
struct Out {
    /// Where to: FILE.crt and FILE.key
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Overwrite what is there
    #[arg(long)]
    force: bool,
}

/// Does what was asked.
pub fn run(args: &IssueArgs) -> anyhow::Result<()> {
    match &args.what {
        What::Ca { name, life, out } => {
            let authority = Authority::create(name, *life)?;
            write(out, &Identity { certificate: authority.certificate().to_owned(), key: authority.key().to_owned() })
        }
        What::Tenant { uid, metrics: false, signed, life } => issue(signed, &Leaf::Tenant(*uid), *life),
        What::Tenant { uid, metrics: true, signed, life } => issue(signed, &Leaf::TenantMetrics(*uid), *life),
        What::Agent { node, signed, life } => {
            issue(signed, &Leaf::Agent { node: node.name.clone(), addresses: node.addresses.clone() }, *life)
        }
        What::KubeletClient { node, signed, life } => issue(signed, &Leaf::KubeletClient { node: node.clone() }, *life),
        What::KubeletRights { node } => print(&rights(node)?),
        What::Serial { certificates } => {
            let serials: Vec<String> = certificates.iter().map(|path| serial_of(path)).collect::<anyhow::Result<_>>()?;
            print(&format!("{}\n", serials.join(",")))
        }
        What::Revoked { certificates, number, ca } => {
            let texts: Vec<String> = certificates.iter().map(|path| read(path)).collect::<Result<_, _>>()?;
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            print(&load(ca)?.revoked(&texts, *number, Duration::from_hours(24 * 365))?)
        }
    }
}

fn issue(signed: &Signed, leaf: &Leaf, life: Duration) -> anyhow::Result<()> {
    write(&signed.out, &load(&signed.ca)?.issue(leaf, life)?)
}

fn serial_of(path: &Path) -> anyhow::Result<String> {
    let certificate =
        CertificateDer::from_pem_slice(read(path)?.as_bytes()).with_context(|| format!("no certificate in {}", path.display()))?;
    serial(&certificate).with_context(|| format!("the serial number of the certificate in {} cannot be read", path.display()))
}

fn load(ca: &Path) -> anyhow::Result<Authority> {
    let (certificate, key) = (read(&with(ca, "crt"))?, read(&with(ca, "key"))?);
    Authority::load(&certificate, &key).with_context(|| format!("{} cannot sign", ca.display()))
}

fn read(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))
}

/// Writes both files whole, then gives each its name in one step: nobody ever reads half a file, or finds none where one was.
///
/// *Caveats*: two files have two names, so whoever reads between them finds a pair that does not belong together. TLS libraries refuse such a
/// pair, and what is read again fits.
fn write(out: &Out, identity: &Identity) -> anyhow::Result<()> {
    // The certificate last: whoever waits for it finds its key.
    let files = [("key", &identity.key), ("crt", &identity.certificate)].map(|(extension, text)| (with(&out.out, extension), text));
    let written: Vec<Unnamed> = files.iter().map(|(path, text)| Unnamed::write(path, text)).collect::<anyhow::Result<_>>()?;
    // Both or neither: a new key beside an old certificate would be no pair.
    if let Some((taken, _)) = files.iter().find(|(path, _)| !out.force && path.symlink_metadata().is_ok()) {
        bail!("could not write {}: it is there already (--force overwrites)", taken.display());
    }
    written.iter().try_for_each(|file| file.take_name(out.force))
}

/// A file that is written and has not got its name yet; gone when dropped.
struct Unnamed {
    here: PathBuf,
    name: PathBuf,
}

impl Unnamed {
    fn write(name: &Path, text: &str) -> anyhow::Result<Self> {
        if let Some(folder) = name.parent() {
            fs::create_dir_all(folder).with_context(|| format!("could not make {}", folder.display()))?;
        }
        let file = Self { here: with(name, &format!("{}.new", std::process::id())), name: name.to_owned() };
        // Left by an earlier process of this number that was ended at a bad moment.
        let _ = fs::remove_file(&file.here);
        let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file.here);
        opened
            .and_then(|mut opened| {
                opened.write_all(text.as_bytes())?;
                keep_owner(name, &opened)?;
                opened.sync_all()
            })
            .with_context(|| format!("could not write {}", file.here.display()))?;
        Ok(file)
    }

    fn take_name(&self, force: bool) -> anyhow::Result<()> {
        // A second name, unlike a new one, is not given where it is taken.
        let named = if force { fs::rename(&self.here, &self.name) } else { fs::hard_link(&self.here, &self.name) };
        named.with_context(|| format!("could not write {} (--force overwrites)", self.name.display()))
    }
}

/// Gives a file to the owner of the one that it replaces: who could read that reads this. By the open file and not by its name, which
/// whoever owns the folder may have given to another meanwhile.
fn keep_owner(old: &Path, new: &File) -> std::io::Result<()> {
    match fs::symlink_metadata(old) {
        Ok(old) => fchown(new, Some(old.uid()), Some(old.gid())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

impl Drop for Unnamed {
    fn drop(&mut self) {
        // Best effort: a file that was renamed is not here any more.
        let _ = fs::remove_file(&self.here);
    }
}

/// `path` with an extension put after its name, dots in it or not.
fn with(path: &Path, extension: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(extension);
    name.into()
}

fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("could not write to standard output")
}

/// What the certificate of a node may: that node's Pods, streams, statistics and metrics, nothing of any other node.
fn rights(node: &str) -> anyhow::Result<String> {
    ensure!(common::Name::<common::Tenant>::parse(node).is_ok(), "{node:?} is no name of a node");
    let user = pki::kubelet_user(node);
    let rule = |resource: &str, verbs: &str| {
        format!("- apiGroups: [\"\"]\n  resources: [{resource}]\n  resourceNames: [{node}]\n  verbs: [{verbs}]\n")
    };
    let rules =
        [rule("nodes/proxy", "get, create"), rule("nodes/pods", "get"), rule("nodes/stats", "get"), rule("nodes/metrics", "get")].concat();
    Ok(format!(
        "# What vn-agent may do at the kubelet of node {node}: nothing at any other.\n\
         apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata:\n  name: {user}\nrules:\n{rules}---\n\
         apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\nmetadata:\n  name: {user}\nroleRef:\n  \
         apiGroup: rbac.authorization.k8s.io\n  kind: ClusterRole\n  name: {user}\nsubjects:\n- apiGroup: rbac.authorization.k8s.io\n  \
         kind: User\n  name: {user}\n"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s62_the_rights_of_a_node_name_that_node_in_every_rule() {
        let text = rights("n1").unwrap();
        let rules: Vec<&str> = text.lines().filter(|line| line.trim_start().starts_with("resources:")).map(str::trim).collect();
        assert_eq!(
            rules,
            ["resources: [nodes/proxy]", "resources: [nodes/pods]", "resources: [nodes/stats]", "resources: [nodes/metrics]"]
        );
        let count = |needle: &str| text.matches(needle).count();
        assert_eq!(count("resourceNames: [n1]"), rules.len(), "{text}");
        assert_eq!((count("verbs: [get, create]"), count("verbs: [get]")), (1, 3), "{text}");
        assert_eq!(count("name: vn-agent:n1"), 4, "{text}");
        for bad in ["", "a]", "a b", "*", "n1\nverbs: [\"*\"]"] {
            assert!(rights(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn files_are_named_after_the_whole_name_and_not_overwritten() {
        let dir = std::env::temp_dir().join(format!("vn-agent-issue-{}", std::process::id()));
        let out = Out { out: dir.join("n1.example"), force: false };
        let identity = |text: &str| Identity { certificate: text.to_owned(), key: text.to_owned() };
        write(&out, &identity("first")).unwrap();
        assert!(write(&out, &identity("second")).is_err());
        assert_eq!(fs::read_to_string(dir.join("n1.example.crt")).unwrap(), "first");
        fs::remove_file(dir.join("n1.example.key")).unwrap();
        assert!(write(&out, &identity("second")).is_err());
        assert!(!dir.join("n1.example.key").exists(), "no key beside a certificate that is not its own");
        write(&Out { force: true, ..out }, &identity("third")).unwrap();
        assert_eq!(fs::read_to_string(dir.join("n1.example.key")).unwrap(), "third");
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn whoever_reads_meanwhile_finds_whole_files() {
        let dir = std::env::temp_dir().join(format!("vn-agent-issue-meanwhile-{}", std::process::id()));
        let out = Out { out: dir.join("tenant"), force: true };
        let identity = |n: u8| Identity { certificate: format!("{n} ").repeat(20_000), key: format!("{n} ").repeat(20_000) };
        write(&out, &identity(0)).unwrap();
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    for extension in ["crt", "key"] {
                        let text = fs::read_to_string(with(&out.out, extension)).unwrap();
                        assert_eq!(text.split_whitespace().count(), 20_000);
                    }
                }
            });
            for n in 1..100 {
                write(&out, &identity(n)).unwrap();
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            reader.join().unwrap();
        });
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 2, "nothing else is left");
        fs::remove_dir_all(dir).unwrap();
    }
}
