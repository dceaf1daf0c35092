//! Where the programs of a bed are: found, or built once from the Go module proxy.
//!
//! Four sets: those of a control plane, which every bed needs; the servers of an older minor version, those of a real node and those of
//! Kubernetes' own tests, which are looked for when somebody asks for them.

mod module;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use indicatif::MultiProgress;

use self::module::{
    CONFORMANCE_MODULE, CONTAINERD, COREDNS, KUBERNETES_MODULE, KUBERNETES_OLDER_MODULE, LOCAL_PATH_PROVISIONER, METRICS_SERVER, Module,
    Program, RUNC,
};
use crate::env;

/// Major, minor and patch.
type Version = (u32, u32, u32);

/// The version that the module under `e2e/kubernetes` asks for; the servers call themselves so.
pub const KUBERNETES: Version = (1, 37, 2);

/// The version that the module under `e2e/kubernetes-older` asks for: one minor earlier, the newest patch of it.
pub const KUBERNETES_OLDER: Version = (1, 36, 3);

/// Which of the two versions a control plane is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Release {
    /// [`KUBERNETES`].
    #[default]
    Newest,
    /// [`KUBERNETES_OLDER`].
    Older,
}

impl Release {
    /// Reads a minor version, as people name it: `1.36`.
    ///
    /// # Errors
    /// If it is none of the two.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let all = [Self::Newest, Self::Older];
        let found = all.into_iter().find(|release| release.minor() == text);
        found.with_context(|| format!("there is no Kubernetes {text} here, only {}", all.map(Self::minor).join(" and ")))
    }

    /// Its minor version, as people name it: `1.36`.
    pub fn minor(self) -> String {
        let (major, minor, _) = match self {
            Self::Newest => KUBERNETES,
            Self::Older => KUBERNETES_OLDER,
        };
        format!("{major}.{minor}")
    }
}

const ASSETS: &str = "VIRTUALCLUSTER_ASSETS";

const fn program(name: &'static str, module: &'static Module, package: &'static str, seconds: u64) -> Program {
    Program { name, module, package, took: Duration::from_secs(seconds), tests: false }
}

/// In this order: the later ones share much with the earlier ones.
const CONTROL_PLANE: &[Program] = &[
    program("etcd", &KUBERNETES_MODULE, "go.etcd.io/etcd/server/v3", 45),
    program("kube-apiserver", &KUBERNETES_MODULE, "k8s.io/kubernetes/cmd/kube-apiserver", 280),
    program("kube-controller-manager", &KUBERNETES_MODULE, "k8s.io/kubernetes/cmd/kube-controller-manager", 105),
    program("kube-scheduler", &KUBERNETES_MODULE, "k8s.io/kubernetes/cmd/kube-scheduler", 12),
    program("kubectl", &KUBERNETES_MODULE, "k8s.io/kubernetes/cmd/kubectl", 25),
];

/// What differs from release to release; etcd and kubectl are the same for both.
const OLDER: &[Program] = &[
    program("kube-apiserver", &KUBERNETES_OLDER_MODULE, "k8s.io/kubernetes/cmd/kube-apiserver", 280),
    program("kube-controller-manager", &KUBERNETES_OLDER_MODULE, "k8s.io/kubernetes/cmd/kube-controller-manager", 105),
    program("kube-scheduler", &KUBERNETES_OLDER_MODULE, "k8s.io/kubernetes/cmd/kube-scheduler", 12),
];

/// After those of a control plane.
const NODE: &[Program] = &[
    program("kubelet", &KUBERNETES_MODULE, "k8s.io/kubernetes/cmd/kubelet", 31),
    program("kube-proxy", &KUBERNETES_MODULE, "k8s.io/kubernetes/cmd/kube-proxy", 15),
    program("containerd", &CONTAINERD, "github.com/containerd/containerd/v2/cmd/containerd", 57),
    program("containerd-shim-runc-v2", &CONTAINERD, "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2", 3),
    program("ctr", &CONTAINERD, "github.com/containerd/containerd/v2/cmd/ctr", 3),
    program("bridge", &CONTAINERD, "github.com/containernetworking/plugins/plugins/main/bridge", 2),
    program("loopback", &CONTAINERD, "github.com/containernetworking/plugins/plugins/main/loopback", 1),
    program("host-local", &CONTAINERD, "github.com/containernetworking/plugins/plugins/ipam/host-local", 1),
    program("portmap", &CONTAINERD, "github.com/containernetworking/plugins/plugins/meta/portmap", 1),
    program("runc", &RUNC, "github.com/opencontainers/runc", 12),
    program("coredns", &COREDNS, "github.com/coredns/coredns", 128),
    program("metrics-server", &METRICS_SERVER, "sigs.k8s.io/metrics-server/cmd/metrics-server", 60),
    program("local-path-provisioner", &LOCAL_PATH_PROVISIONER, "github.com/rancher/local-path-provisioner", 60),
];

/// Small ones first: the tests are what most of the time goes into.
const CONFORMANCE: &[Program] = &[
    program("ginkgo", &CONFORMANCE_MODULE, "github.com/onsi/ginkgo/v2/ginkgo", 13),
    program("agnhost", &CONFORMANCE_MODULE, "k8s.io/kubernetes/test/images/agnhost", 10),
    program("nnp", &CONFORMANCE_MODULE, "k8s.io/kubernetes/test/images/nonewprivs", 1),
    program("sample-apiserver", &CONFORMANCE_MODULE, "k8s.io/sample-apiserver", 12),
    Program { tests: true, ..program("e2e.test", &CONFORMANCE_MODULE, "k8s.io/kubernetes/test/e2e", 516) },
];

/// The programs of a control plane.
#[derive(Clone, Debug)]
pub struct Programs {
    /// Where the servers of Kubernetes are.
    dir: PathBuf,
    /// Where etcd and kubectl are.
    beside: PathBuf,
}

impl Programs {
    /// Finds the programs, or builds them into our cache.
    ///
    /// Looks into `$VIRTUALCLUSTER_ASSETS` (which must be complete if set), `$KUBEBUILDER_ASSETS` (which often lacks the
    /// controllers, and then is passed over), and our cache.
    pub async fn locate_or_build(progress: &MultiProgress) -> anyhow::Result<Self> {
        if let Some(programs) = Self::locate()? {
            return Ok(programs);
        }
        module::build("the Kubernetes programs", CONTROL_PLANE, progress).await?;
        Ok(Self::newest(KUBERNETES_MODULE.cache()?))
    }

    /// Finds the programs; `None` if they must be built.
    pub fn locate() -> anyhow::Result<Option<Self>> {
        let kubebuilder = env::var("KUBEBUILDER_ASSETS").map(PathBuf::from);
        let candidates = kubebuilder.into_iter().chain([KUBERNETES_MODULE.cache()?]);
        Ok(located(CONTROL_PLANE, ours(), candidates)?.map(Self::newest))
    }

    fn newest(dir: PathBuf) -> Self {
        Self { beside: dir.clone(), dir }
    }

    /// The same with the servers of a release: finds them in the folder `1.36` of `$VIRTUALCLUSTER_ASSETS` or our cache, or builds them
    /// into our cache.
    pub async fn of(&self, release: Release, progress: &MultiProgress) -> anyhow::Result<Self> {
        if release == Release::Newest {
            return Ok(self.clone());
        }
        let cache = KUBERNETES_OLDER_MODULE.cache()?;
        let candidates = ours().map(|dir| dir.join(release.minor())).into_iter().chain([cache.clone()]);
        let dir = if let Some(dir) = located(OLDER, None, candidates)? {
            dir
        } else {
            module::build("the servers of an older Kubernetes", OLDER, progress).await?;
            cache
        };
        Ok(Self { dir, beside: self.beside.clone() })
    }

    /// The folder that holds the servers of Kubernetes.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// etcd.
    pub fn etcd(&self) -> PathBuf {
        self.beside.join("etcd")
    }

    /// kube-apiserver.
    pub fn kube_apiserver(&self) -> PathBuf {
        self.dir.join("kube-apiserver")
    }

    /// kube-controller-manager.
    pub fn kube_controller_manager(&self) -> PathBuf {
        self.dir.join("kube-controller-manager")
    }

    /// kube-scheduler.
    pub fn kube_scheduler(&self) -> PathBuf {
        self.dir.join("kube-scheduler")
    }

    /// kubectl.
    pub fn kubectl(&self) -> PathBuf {
        self.beside.join("kubectl")
    }
}

/// The programs of a real node, and those that run on it in images of ours.
#[derive(Clone, Debug)]
pub struct NodePrograms {
    /// kubelet.
    pub kubelet: PathBuf,
    /// kube-proxy.
    pub kube_proxy: PathBuf,
    /// containerd; its shim lies beside it.
    pub containerd: PathBuf,
    /// containerd's client.
    pub ctr: PathBuf,
    /// runc.
    pub runc: PathBuf,
    /// The folder of the network plugins `bridge`, `loopback`, `host-local` and `portmap`.
    pub network_plugins: PathBuf,
    /// `CoreDNS`.
    pub coredns: PathBuf,
    /// metrics-server.
    pub metrics_server: PathBuf,
    /// local-path-provisioner.
    pub local_path_provisioner: PathBuf,
}

impl NodePrograms {
    /// Finds the programs in `$VIRTUALCLUSTER_ASSETS` and our cache, or builds what is in neither into our cache.
    pub async fn locate_or_build(progress: &MultiProgress) -> anyhow::Result<Self> {
        let (folder, mut missing) = (|module: &Module| Self::folder(module, ours()), Vec::new());
        for program in NODE {
            if !folder(program.module)?.join(program.name).is_file() {
                missing.push(*program);
            }
        }
        if !missing.is_empty() {
            module::build("the programs of a node", &missing, progress).await?;
        }
        Self::find(folder)
    }

    /// Whether runc, which takes a C compiler to build, is there already.
    pub fn has_runc() -> bool {
        Self::folder(&RUNC, ours()).is_ok_and(|folder| folder.join("runc").is_file())
    }

    /// Where a module's programs are, or are to be built: they stay together.
    fn folder(module: &Module, named: Option<PathBuf>) -> anyhow::Result<PathBuf> {
        let own = || NODE.iter().filter(|program| program.module == module);
        let whole = named.filter(|dir| own().all(|program| dir.join(program.name).is_file()));
        whole.map_or_else(|| module.cache(), Ok)
    }

    fn find(folder: impl Fn(&Module) -> anyhow::Result<PathBuf>) -> anyhow::Result<Self> {
        let (kubernetes, containerd) = (folder(&KUBERNETES_MODULE)?, folder(&CONTAINERD)?);
        Ok(Self {
            kubelet: kubernetes.join("kubelet"),
            kube_proxy: kubernetes.join("kube-proxy"),
            ctr: containerd.join("ctr"),
            runc: folder(&RUNC)?.join("runc"),
            coredns: folder(&COREDNS)?.join("coredns"),
            metrics_server: folder(&METRICS_SERVER)?.join("metrics-server"),
            local_path_provisioner: folder(&LOCAL_PATH_PROVISIONER)?.join("local-path-provisioner"),
            containerd: containerd.join("containerd"),
            network_plugins: containerd,
        })
    }
}

/// Kubernetes' own end-to-end tests, and what they need.
#[derive(Clone, Debug)]
pub struct ConformancePrograms {
    /// What runs tests, several at once.
    pub ginkgo: PathBuf,
    /// The tests.
    pub e2e_test: PathBuf,
    /// What runs in most Pods of the tests.
    pub agnhost: PathBuf,
    /// Says as whom it runs.
    pub nnp: PathBuf,
    /// An API server that is aggregated.
    pub sample_apiserver: PathBuf,
}

impl ConformancePrograms {
    /// Finds the programs in `$VIRTUALCLUSTER_ASSETS` (passed over if it lacks one) or our cache, or builds them into our cache.
    pub async fn locate_or_build(progress: &MultiProgress) -> anyhow::Result<Self> {
        let dir = match located(CONFORMANCE, None, ours())? {
            Some(dir) => dir,
            None => CONFORMANCE_MODULE.cache()?,
        };
        if first_missing(CONFORMANCE, &dir).is_some() {
            module::build("Kubernetes' own tests", CONFORMANCE, progress).await?;
        }
        Ok(Self {
            ginkgo: dir.join("ginkgo"),
            e2e_test: dir.join("e2e.test"),
            agnhost: dir.join("agnhost"),
            nnp: dir.join("nnp"),
            sample_apiserver: dir.join("sample-apiserver"),
        })
    }
}

/// The folder that somebody names for our programs alone. What it must hold are those of a control plane.
fn ours() -> Option<PathBuf> {
    env::var(ASSETS).map(PathBuf::from)
}

/// Where a set is: in the folder named for it, which must then hold all of it; else in the first candidate that does.
fn located(set: &[Program], named: Option<PathBuf>, candidates: impl IntoIterator<Item = PathBuf>) -> anyhow::Result<Option<PathBuf>> {
    if let Some(dir) = named {
        if let Some(name) = first_missing(set, &dir) {
            bail!("{ASSETS} is {}, and {name} is not there", dir.display());
        }
        return Ok(Some(dir));
    }
    Ok(candidates.into_iter().find(|dir| first_missing(set, dir).is_none()))
}

fn first_missing(set: &[Program], dir: &Path) -> Option<&'static str> {
    set.iter().map(|program| program.name).find(|name| !dir.join(name).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with these programs.
    fn folder(names: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in names {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        dir
    }

    fn all() -> Vec<&'static str> {
        CONTROL_PLANE.iter().map(|program| program.name).collect()
    }

    #[test]
    fn a_folder_that_is_named_must_hold_every_program() {
        let (whole, part, cache) = (folder(&all()), folder(&["etcd", "kube-apiserver"]), folder(&all()));
        let located = |named: &tempfile::TempDir| located(CONTROL_PLANE, Some(named.path().into()), [cache.path().to_owned()]);
        assert_eq!(located(&whole).unwrap().as_deref(), Some(whole.path()));
        let error = located(&part).unwrap_err().to_string();
        assert!(error.contains("VIRTUALCLUSTER_ASSETS") && error.contains("kube-controller-manager is not there"), "{error}");
    }

    #[test]
    fn a_release_is_named_by_its_minor_version() {
        assert_eq!(Release::parse("1.37").unwrap(), Release::Newest);
        assert_eq!(Release::parse("1.36").unwrap(), Release::Older);
        assert_eq!(Release::parse("1.2").unwrap_err().to_string(), "there is no Kubernetes 1.2 here, only 1.37 and 1.36");
    }

    #[test]
    fn a_candidate_without_the_controllers_is_passed_over() {
        let (kubebuilder, cache) = (folder(&["etcd", "kube-apiserver", "kubectl"]), folder(&all()));
        let among = |dirs: &[&tempfile::TempDir]| {
            located(CONTROL_PLANE, None, dirs.iter().map(|dir| dir.path().to_owned()).collect::<Vec<_>>()).unwrap()
        };
        assert_eq!(among(&[&kubebuilder, &cache]).as_deref(), Some(cache.path()));
        assert_eq!(among(&[&cache, &kubebuilder]).as_deref(), Some(cache.path()));
        assert_eq!(among(&[&kubebuilder]), None);
    }

    #[test]
    fn a_nodes_programs_that_are_not_in_the_named_folder_are_in_our_cache() {
        let (control_plane, all) = (folder(&all()), folder(&NODE.iter().map(|program| program.name).collect::<Vec<_>>()));
        let kubelet_alone = folder(&["kubelet"]);
        for module in [&KUBERNETES_MODULE, &CONTAINERD, &RUNC] {
            let place = |named: &tempfile::TempDir| NodePrograms::folder(module, Some(named.path().into())).unwrap();
            assert_eq!(place(&control_plane), module.cache().unwrap());
            // What belongs together stays together.
            assert_eq!(place(&kubelet_alone), module.cache().unwrap());
            assert_eq!(place(&all), all.path());
        }
    }

    /// Tells the inner run where to write what it found.
    const INNER: &str = "E2E_PROGRAMS_TEST_FILE";

    /// What a process finds that has these variables and neither programs nor anything in its cache: those of a control plane and of a node.
    fn told(variables: &[(&str, &Path)]) -> Vec<String> {
        let nothing = tempfile::tempdir().unwrap();
        let file = nothing.path().join("told");
        let mut own = std::process::Command::new(std::env::current_exe().unwrap());
        own.args(["programs::tests::inner", "--exact"])
            .env_clear()
            .env(INNER, &file)
            .env("PATH", nothing.path())
            .env("HOME", nothing.path());
        let ended = own.envs(variables.iter().copied()).output().unwrap();
        assert!(ended.status.success(), "{ended:?}");
        std::fs::read_to_string(file).unwrap().lines().map(str::to_owned).collect()
    }

    #[tokio::test]
    async fn inner() {
        let Some(file) = env::var(INNER) else { return };
        let progress = MultiProgress::new();
        let control_plane = Programs::locate_or_build(&progress).await.map(|programs| programs.dir().display().to_string());
        let node = NodePrograms::locate_or_build(&progress).await.map(|programs| programs.kubelet.display().to_string());
        let said = [control_plane, node].map(|found| found.unwrap_or_else(|error| format!("{error:#}")));
        std::fs::write(file, said.join("\n")).unwrap();
    }

    #[test]
    fn without_go_and_programs_one_line_says_what_to_install() {
        let said = told(&[]);
        let [control_plane, node] = &said[..] else { panic!("not one line each: {said:?}") };
        let go = "are missing, and there is no Go to build them with: install Go ";
        assert!(control_plane.starts_with(&format!("the Kubernetes programs {go}")), "{control_plane}");
        assert!(control_plane.ends_with(&format!("or set VIRTUALCLUSTER_ASSETS to a folder with {}", all().join(", "))), "{control_plane}");
        assert!(node.starts_with(&format!("the programs of a node {go}")) && node.contains("kubelet"), "{node}");
    }

    #[test]
    fn folders_are_named_by_the_environment() {
        let (whole, part) = (folder(&all()), folder(&["etcd", "kube-apiserver", "kubectl"]));
        let found = whole.path().display().to_string();
        for name in ["VIRTUALCLUSTER_ASSETS", "KUBEBUILDER_ASSETS"] {
            let said = told(&[(name, whole.path())]);
            assert_eq!(said[0], found, "{name}");
            assert!(said[1].contains("the programs of a node are missing"), "{name}: {said:?}");
        }
        assert_eq!(told(&[("VIRTUALCLUSTER_ASSETS", whole.path()), ("KUBEBUILDER_ASSETS", part.path())])[0], found);
        assert!(told(&[("KUBEBUILDER_ASSETS", part.path())])[0].contains("install Go"));
        let said = told(&[("VIRTUALCLUSTER_ASSETS", part.path()), ("KUBEBUILDER_ASSETS", whole.path())]);
        assert!(said[0].contains("kube-controller-manager is not there"), "{said:?}");
    }
}
