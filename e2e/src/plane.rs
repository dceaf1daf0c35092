//! One control plane: a real kube-apiserver and kube-controller-manager, and a kube-scheduler where Pods are placed.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use http::Request;
use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::ServiceAccount,
};
use kube::{Api, Client, api::PostParams, config::KubeConfigOptions, config::Kubeconfig};

use crate::{
    etcd::Etcd,
    kubectl::Kubectl,
    pki::{Authority, Credentials, kubeconfig, write},
    port::Port,
    process::{Process, Spec},
    programs::Programs,
    wait::{Seen, eventually},
};

/// How long an API server may take to become ready: 2.5 s alone on 2 cores, many times that when several tests start at once.
const READY: Duration = Duration::from_mins(2);

/// Every request, without bodies, once: see [`Audit`](crate::audit::Audit).
const AUDIT_POLICY: &str = "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n- level: Metadata\n";

/// How an API server calls itself towards the servers that it hands requests on to.
const FRONT_PROXY: &str = "front-proxy-client";

/// What a control plane is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Runs Pods: it has a scheduler and all controllers.
    Super,
    /// A tenant's: no scheduler, and no controllers that care for Nodes.
    Tenant,
}

/// How to start a control plane.
#[derive(Clone, Debug)]
pub struct PlaneOptions {
    /// Its name: its folder, its prefix in etcd, the name in messages.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// Where its API server listens: on loopback, or where Pods of real nodes reach it.
    pub address: Ipv4Addr,
    /// The range of its Services' addresses, or two with a comma between.
    pub service_cidr: String,
    /// Further flags of kube-apiserver.
    pub api_server_args: Vec<String>,
}

/// A running control plane; ended when dropped. Its servers can be stopped, killed and paused one by one.
pub struct ControlPlane {
    options: PlaneOptions,
    dir: PathBuf,
    server: String,
    authority: Authority,
    kubeconfig: PathBuf,
    client: Client,
    /// Its etcd, perhaps shared.
    pub etcd: Arc<Etcd>,
    /// kube-apiserver. After starting it again, [`ControlPlane::wait_ready`].
    pub api_server: Process,
    /// kube-controller-manager.
    pub controller_manager: Process,
    /// kube-scheduler, in a super cluster.
    pub scheduler: Option<Process>,
    _ports: [Port; 3],
}

impl ControlPlane {
    /// Starts the servers in `dir/<name>` and waits until the API server is ready.
    pub async fn start(options: PlaneOptions, etcd: Arc<Etcd>, dir: &Path, programs: &Programs) -> anyhow::Result<Self> {
        let dir = dir.join(&options.name);
        std::fs::create_dir_all(&dir).with_context(|| format!("could not make {}", dir.display()))?;
        let ports = [Port::claim()?, Port::claim()?, Port::claim()?];
        let numbers = [&ports[0], &ports[1], &ports[2]].map(Port::number);
        let server = format!("https://{}:{}", options.address, numbers[0]);
        let authority = credentials(&options, &server, &dir)?;
        let kubeconfig = dir.join("admin.kubeconfig");
        let client = client(&kubeconfig).await?;
        let api_server = Process::start(api_server(&options, numbers[0], &etcd, &dir, programs))?;
        ready(&client, &api_server).await.with_context(|| format!("{} did not start", options.name))?;
        let controller_manager = Process::start(controller_manager(&options, numbers[1], &dir, programs))?;
        let scheduler = match options.role {
            Role::Super => Some(Process::start(scheduler(numbers[2], &dir, programs))?),
            Role::Tenant => None,
        };
        Ok(Self { options, dir, server, authority, kubeconfig, client, etcd, api_server, controller_manager, scheduler, _ports: ports })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.options.name
    }

    /// Where its API server is.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// A client with every right.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The file of a kubeconfig with every right and inline credentials.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// A kubeconfig of a `ServiceAccount`, by a token for a day.
    pub async fn kubeconfig_of(&self, ns: &str, name: &str) -> anyhow::Result<String> {
        let api: Api<ServiceAccount> = Api::namespaced(self.client(), ns);
        let spec = TokenRequestSpec { expiration_seconds: Some(24 * 3600), ..TokenRequestSpec::default() };
        let request = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
        let answer = api.create_token_request(name, &PostParams::default(), &request).await;
        let answer = answer.with_context(|| format!("could not get a token for {ns}/{name}"))?;
        let token = answer.status.and_then(|status| status.token).context("a token request was answered without a token")?;
        Ok(self.kubeconfig_with_token(&token))
    }

    /// A kubeconfig that authenticates by `token`.
    pub fn kubeconfig_with_token(&self, token: &str) -> String {
        kubeconfig(&self.server, &self.authority.pem(), &Credentials::Token(token))
    }

    /// A kubeconfig of its own for `user` in `group`, by a certificate made now.
    pub fn kubeconfig_for(&self, user: &str, group: Option<&str>) -> anyhow::Result<String> {
        let file: String = user.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let identity = self.authority.client(&file, user, group)?;
        Ok(kubeconfig(&self.server, &self.authority.pem(), &Credentials::Certificate(&identity)))
    }

    /// What its API server shows to kubelets: this, with `.crt` and `.key`.
    pub fn kubelet_client(&self) -> PathBuf {
        self.dir.join("kubelet-client")
    }

    /// kubectl with every right.
    pub fn kubectl(&self, programs: &Programs) -> Kubectl {
        Kubectl::new(programs.kubectl(), &self.kubeconfig)
    }

    /// Its certificate authority.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Its certificate authority, as PEM.
    pub fn ca(&self) -> String {
        self.authority.pem()
    }

    /// The range of its Services' addresses, or two with a comma between.
    pub fn service_cidr(&self) -> &str {
        &self.options.service_cidr
    }

    /// The file of the audit log.
    pub fn audit_log(&self) -> PathBuf {
        self.dir.join("audit.log")
    }

    /// The audit log.
    pub fn audit(&self) -> crate::audit::Audit {
        crate::audit::Audit::new(self.audit_log())
    }

    /// Waits until the API server says that it is ready.
    pub async fn wait_ready(&self) -> anyhow::Result<()> {
        ready(&self.client, &self.api_server).await
    }

    /// Stops the API server and the controllers.
    pub async fn stop(&self) -> anyhow::Result<()> {
        if let Some(scheduler) = &self.scheduler {
            scheduler.kill()?;
        }
        self.controller_manager.kill()?;
        self.api_server.stop().await
    }

    /// Starts what was stopped, and waits until it is ready.
    pub async fn start_again(&self) -> anyhow::Result<()> {
        self.api_server.start_again()?;
        self.wait_ready().await?;
        self.controller_manager.start_again()?;
        self.scheduler.iter().try_for_each(Process::start_again)
    }

    /// Stops it, empties its etcd, and starts it: what a lost etcd looks like.
    pub async fn wipe(&self) -> anyhow::Result<()> {
        self.stop().await?;
        self.etcd.wipe(&self.prefix()).await?;
        self.start_again().await
    }

    /// Copies the files of its etcd, for [`ControlPlane::go_back`]; gives their folder.
    ///
    /// # Errors
    /// If its etcd is shared: see [`BedOptions::separate_etcd`](crate::bed::BedOptions::separate_etcd).
    pub async fn back_up(&self) -> anyhow::Result<PathBuf> {
        anyhow::ensure!(Arc::strong_count(&self.etcd) == 1, "the etcd of {} is shared", self.name());
        let backup = self.dir.join("backup");
        if backup.exists() {
            std::fs::remove_dir_all(&backup).context("could not remove an earlier backup")?;
        }
        self.etcd.back_up(&backup).await?;
        self.wait_ready().await?;
        Ok(backup)
    }

    /// Stops it, gives its etcd the files of a backup, and starts it: resourceVersions too are what they were.
    pub async fn go_back(&self, backup: &Path) -> anyhow::Result<()> {
        self.stop().await?;
        self.etcd.go_back(backup).await?;
        self.start_again().await
    }

    fn prefix(&self) -> String {
        format!("/{}", self.options.name)
    }
}

/// A client with the kubeconfig of a file.
pub async fn client(kubeconfig: &Path) -> anyhow::Result<Client> {
    Ok(Client::try_from(config(kubeconfig).await?)?)
}

/// The same, but asks once: for whom an answer like 429 is what counts, not what comes of it after minutes.
pub async fn client_that_asks_once(kubeconfig: &Path) -> anyhow::Result<Client> {
    let mut config = config(kubeconfig).await?;
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}

async fn config(kubeconfig: &Path) -> anyhow::Result<kube::Config> {
    let parsed = Kubeconfig::read_from(kubeconfig)?;
    Ok(kube::Config::from_custom_kubeconfig(parsed, &KubeConfigOptions::default()).await?)
}

async fn ready(client: &Client, api_server: &Process) -> anyhow::Result<()> {
    let waited = eventually("the API server is ready", READY, async || {
        let answer = client.request_text(Request::get("/readyz").body(Vec::new())?).await?;
        Ok(Seen::when(answer == "ok", answer))
    });
    let waited = async { waited.await.map(drop).with_context(|| format!("the log is {}", api_server.log_path().display())) };
    api_server.while_running(waited).await
}

fn credentials(options: &PlaneOptions, server: &str, dir: &Path) -> anyhow::Result<Authority> {
    let authority = Authority::create(&format!("{}-ca", options.name), dir)?;
    authority.server(options.address, first_service(&options.service_cidr)?)?;
    authority.service_account_key()?;
    let users = [
        ("admin", "admin", Some("system:masters")),
        ("controller-manager", "system:kube-controller-manager", None),
        ("scheduler", "system:kube-scheduler", None),
    ];
    for (file, user, group) in users {
        let identity = authority.client(file, user, group)?;
        let text = kubeconfig(server, &authority.pem(), &Credentials::Certificate(&identity));
        write(&dir.join(format!("{file}.kubeconfig")), &text)?;
    }
    authority.client("kubelet-client", "kube-apiserver-kubelet-client", Some("system:masters"))?;
    // Who may say for whom a request is, where an API server hands it on to another server: an authority that does nothing else.
    let front = front_proxy(dir);
    std::fs::create_dir_all(&front).with_context(|| format!("could not make {}", front.display()))?;
    Authority::create(&format!("{}-front-proxy-ca", options.name), &front)?.client("client", FRONT_PROXY, None)?;
    write(&dir.join("audit.yaml"), AUDIT_POLICY)?;
    Ok(authority)
}

/// The address that the API server gives the Service `kubernetes`.
fn first_service(cidr: &str) -> anyhow::Result<Ipv4Addr> {
    let network = cidr.split('/').next().unwrap_or_default();
    let network: Ipv4Addr = network.parse().with_context(|| format!("{cidr} is no IPv4 range"))?;
    Ok(Ipv4Addr::from(u32::from(network) + 1))
}

fn api_server(options: &PlaneOptions, port: u16, etcd: &Etcd, dir: &Path, programs: &Programs) -> Spec {
    let file = |name: &str| dir.join(name).display().to_string();
    let args = [
        format!("--etcd-servers={}", etcd.url()),
        format!("--etcd-prefix=/{}", options.name),
        format!("--secure-port={port}"),
        format!("--bind-address={}", options.address),
        format!("--service-cluster-ip-range={}", options.service_cidr),
        format!("--client-ca-file={}", file("ca.crt")),
        format!("--tls-cert-file={}", file("apiserver.crt")),
        format!("--tls-private-key-file={}", file("apiserver.key")),
        format!("--kubelet-client-certificate={}", file("kubelet-client.crt")),
        format!("--kubelet-client-key={}", file("kubelet-client.key")),
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
        format!("--service-account-key-file={}", file("sa.pub")),
        format!("--service-account-signing-key-file={}", file("sa.key")),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--allow-privileged=true".to_owned(),
        format!("--audit-policy-file={}", file("audit.yaml")),
        format!("--audit-log-path={}", file("audit.log")),
        // Never rotated: marks are places in the file.
        "--audit-log-maxsize=4000".to_owned(),
        "--profiling=false".to_owned(),
    ];
    let placed = if options.address.is_loopback() {
        // The address to advertise may not be a loopback one.
        vec!["--endpoint-reconciler-type=none".to_owned()]
    } else {
        aggregation(dir)
    };
    let args = args.into_iter().chain(placed).chain(options.api_server_args.iter().cloned());
    Spec::new("kube-apiserver", &programs.kube_apiserver(), args, dir)
}

/// Lets Pods serve APIs: metrics-server does. No kube-proxy runs where API servers stand, so they dial the Pods themselves.
fn aggregation(dir: &Path) -> Vec<String> {
    let file = |name: &str| front_proxy(dir).join(name).display().to_string();
    vec![
        format!("--requestheader-client-ca-file={}", file("ca.crt")),
        format!("--requestheader-allowed-names={FRONT_PROXY}"),
        "--requestheader-username-headers=X-Remote-User".to_owned(),
        "--requestheader-group-headers=X-Remote-Group".to_owned(),
        "--requestheader-extra-headers-prefix=X-Remote-Extra-".to_owned(),
        format!("--proxy-client-cert-file={}", file("client.crt")),
        format!("--proxy-client-key-file={}", file("client.key")),
        "--enable-aggregator-routing=true".to_owned(),
    ]
}

fn front_proxy(dir: &Path) -> PathBuf {
    dir.join("front-proxy")
}

fn controller_manager(options: &PlaneOptions, port: u16, dir: &Path, programs: &Programs) -> Spec {
    let file = |name: &str| dir.join(name).display().to_string();
    let own = file("controller-manager.kubeconfig");
    let mut args = vec![
        format!("--kubeconfig={own}"),
        format!("--authentication-kubeconfig={own}"),
        format!("--authorization-kubeconfig={own}"),
        "--leader-elect=false".to_owned(),
        format!("--root-ca-file={}", file("ca.crt")),
        format!("--service-account-private-key-file={}", file("sa.key")),
        "--use-service-account-credentials=true".to_owned(),
        format!("--cluster-signing-cert-file={}", file("ca.crt")),
        format!("--cluster-signing-key-file={}", file("ca.key")),
        format!("--secure-port={port}"),
        "--bind-address=127.0.0.1".to_owned(),
        // The defaults (20 a second) are what a test of hundreds of Pods would measure.
        "--kube-api-qps=300".to_owned(),
        "--kube-api-burst=600".to_owned(),
    ];
    if options.role == Role::Tenant {
        let off = "--controllers=*,-node-lifecycle-controller,-node-ipam-controller,-taint-eviction-controller";
        args.push(off.to_owned());
    }
    Spec::new("kube-controller-manager", &programs.kube_controller_manager(), args, dir)
}

fn scheduler(port: u16, dir: &Path, programs: &Programs) -> Spec {
    let own = dir.join("scheduler.kubeconfig").display().to_string();
    let args = [
        format!("--kubeconfig={own}"),
        format!("--authentication-kubeconfig={own}"),
        format!("--authorization-kubeconfig={own}"),
        "--leader-elect=false".to_owned(),
        format!("--secure-port={port}"),
        "--bind-address=127.0.0.1".to_owned(),
    ];
    Spec::new("kube-scheduler", &programs.kube_scheduler(), args, dir)
}
