//! The scenes on a real node: what tenants do in their containers, and what they do not reach.

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use e2e::{
    agents::{self, AgentProcess},
    dial::Caller,
    images::{KUBECTL, TOOLS},
    kubectl::Kubectl,
    metrics_server,
    story::is_running,
    wait::{Seen, eventually},
};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{
    act::pods,
    stage::{NAMESPACE, Stage, Tenant},
    tell,
};

/// What is copied into a container and back.
const COPIED_BYTES: usize = 1 << 20;

/// Shows the command line of the process that it is beside.
const DEBUGGER: &str = "tr '\\0' ' ' < /proc/1/cmdline";

/// All of them.
pub(super) async fn tell(agent: &AgentProcess, stage: &Stage) -> anyhow::Result<()> {
    each_asks_for_its_own(stage).await?;
    // Its first figures take half a minute.
    metrics_server::install(&stage.bed, &first(stage)?.actor).await?;
    a_client_in_a_container(stage).await?;
    ports_and_files(stage).await?;
    attached_and_debugged(stage).await?;
    another_tenants_pod(agent, stage).await?;
    usage(stage).await
}

/// One Pod of one name in every tenant.
async fn each_asks_for_its_own(stage: &Stage) -> anyhow::Result<()> {
    tell::scene("Every tenant runs a Pod called client; kubectl logs and exec lead each to its own");
    let script = "echo client of $WHO is here; while read line; do echo $WHO heard $line; done";
    for tenant in &stage.tenants {
        let (cluster, account) =
            ("rbac.authorization.k8s.io", json!({ "kind": "ServiceAccount", "name": "default", "namespace": NAMESPACE }));
        let objects = [
            json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "who" }, "data": { "WHO": tenant.name } }),
            json!({
                "apiVersion": format!("{cluster}/v1"), "kind": "ClusterRoleBinding", "metadata": { "name": "client" },
                "roleRef": { "apiGroup": cluster, "kind": "ClusterRole", "name": "view" }, "subjects": [account],
            }),
            json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "client" },
                "spec": { "containers": [{
                    "name": "client", "image": KUBECTL, "command": ["sh", "-c", script], "stdin": true,
                    "envFrom": [{ "configMapRef": { "name": "who" } }],
                }], "terminationGracePeriodSeconds": 1 },
            }),
        ];
        for object in objects {
            tenant.actor.apply(&object).await?;
        }
    }
    for tenant in &stage.tenants {
        tenant.actor.sees("its client runs", NAMESPACE, "client", is_running).await?;
        let said = says(tenant, &["logs", "client"], stage).await?;
        ensure!(said == format!("client of {} is here", tenant.name), "{}: the log is {said:?}", tenant.name);
        let ask = "echo $(hostname) of $WHO, whose API server is $KUBERNETES_SERVICE_HOST";
        let said = says(tenant, &["exec", "client", "--", "sh", "-c", ask], stage).await?;
        let own = stage.plane(tenant)?.service_cidr().replace(".0/24", ".1");
        ensure!(said == format!("client of {}, whose API server is {own}", tenant.name), "{}: exec says {said:?}", tenant.name);
    }
    tell::so("the same command, the same name, on the same node: each tenant got its own container");
    Ok(())
}

/// An unmodified client, as it is in any image, finds the tenant's API server and no other takes its token.
async fn a_client_in_a_container(stage: &Stage) -> anyhow::Result<()> {
    tell::scene("A program in a container asks Kubernetes: its own tenant's answers");
    for tenant in &stage.tenants {
        let ask = ["exec", "client", "--", "kubectl", "get", "pods", "-o", "name"];
        let kubectl = stage.kubectl(tenant)?;
        // Its Service's endpoints go their own way.
        eventually("the API server answers inside", stage.patience, async || Ok(Seen::Done(kubectl.says(&ask).await?))).await?;
        let said = says(tenant, &ask, stage).await?;
        let inside: BTreeSet<_> = said.lines().map(str::to_owned).collect();
        let api = stage.above::<Pod>(tenant)?;
        let own: BTreeSet<_> =
            api.list(&kube::api::ListParams::default()).await?.iter().map(|pod| format!("pod/{}", pod.name_any())).collect();
        ensure!(inside == own, "{}: inside {inside:?}, outside {own:?}", tenant.name);
        let server = stage.bed.sup.server();
        let token = "$(cat /var/run/secrets/kubernetes.io/serviceaccount/token)";
        let knock = format!("kubectl --server={server} --insecure-skip-tls-verify --token={token} get pods");
        let said = kubectl.fails(&["exec", "client", "--", "sh", "-c", &knock]).await?;
        ensure!(said.contains("You must be logged in to the server"), "{}: the super cluster's API server says {said:?}", tenant.name);
    }
    tell::so("it sees its own tenant's Pods and nothing else; the super cluster's API server answers its token with 401");
    Ok(())
}

/// port-forward and cp, of the first tenant.
async fn ports_and_files(stage: &Stage) -> anyhow::Result<()> {
    tell::scene("Ports and files");
    let tenant = first(stage)?;
    let said = says(tenant, &["exec", "client", "--", "sh", "-c", "wget -qO- $WEB_SERVICE_HOST"], stage).await?;
    let names: Vec<_> = pods(&stage.above(tenant)?).await?.iter().map(kube::ResourceExt::name_any).collect();
    let is_of_web = |said: &str| names.iter().any(|name| said.trim().ends_with(&format!("from {name}")));
    ensure!(is_of_web(&said), "Service web answers {said:?}");
    tell::so("Service web answers in a container");
    let said = forwarded(&stage.kubectl(tenant)?).await?;
    tell::typed(&tenant.name, "kubectl port-forward deployment/web :80  (and GET / from the port that it names)", said.trim());
    ensure!(is_of_web(&said), "through port-forward web answers {said:?}");
    tell::so("and through kubectl port-forward");
    let (file, back) = (stage.bed.dir().join("copied"), stage.bed.dir().join("copied-back"));
    let content: Vec<u8> = (0..COPIED_BYTES).map(|n| u8::try_from(n * n % 251).unwrap_or_default()).collect();
    std::fs::write(&file, &content)?;
    let (here, there) = (file.display().to_string(), back.display().to_string());
    let kubectl = stage.kubectl(tenant)?;
    kubectl.says(&["cp", &here, "client:copied"]).await?;
    kubectl.says(&["cp", "client:copied", &there]).await?;
    ensure!(std::fs::read(&back)? == content, "kubectl cp changes what it copies");
    tell::so("kubectl cp takes a file of 1 MiB into a container and brings it back unchanged");
    Ok(())
}

/// The answer of `web` through `kubectl port-forward`.
async fn forwarded(kubectl: &Kubectl) -> anyhow::Result<String> {
    let (_running, port) = kubectl.forward("deployment/web", 80).await?;
    let (_, body) = get(TcpStream::connect(("127.0.0.1", port)).await?, "/").await?;
    Ok(body)
}

/// attach to what runs, and a debugger beside it.
async fn attached_and_debugged(stage: &Stage) -> anyhow::Result<()> {
    tell::scene("Somebody types into a container that runs, and looks at it from beside");
    let tenant = first(stage)?;
    let kubectl = stage.kubectl(tenant)?;
    let mut attached = kubectl.start(&["attach", "-i", "client"])?;
    attached.types("hello\n").await?;
    let heard = format!("{} heard hello", tenant.name);
    attached.writes(&heard).await?;
    attached.killed().await?;
    tell::typed(&tenant.name, "kubectl attach -i client   (and types hello)", &heard);
    tell::so("kubectl attach reaches the process that runs");
    let image = format!("--image={TOOLS}");
    // What it lists goes into its log: a debugger without a terminal is not waited for.
    let debug = ["debug", "client", &image, "--target=client", "-c", "debugger", "--profile=baseline", "--", "sh", "-c", DEBUGGER];
    says(tenant, &debug, stage).await?;
    let seen = eventually("the debugger has looked", stage.patience, async || {
        let log = kubectl.says(&["logs", "client", "-c", "debugger"]).await?;
        Ok(Seen::when(log.contains("heard $line"), log))
    })
    .await?;
    tell::typed(&tenant.name, "kubectl logs client -c debugger", seen.trim());
    tell::so("kubectl debug puts a container beside it that sees its process");
    Ok(())
}

/// What a metrics-server of the tenant's own has measured.
async fn usage(stage: &Stage) -> anyhow::Result<()> {
    tell::scene("What do the Pods use? An unmodified metrics-server in the tenant asks vn-agent");
    let tenant = first(stage)?;
    let kubectl = stage.kubectl(tenant)?;
    let own: BTreeSet<_> = pods(&stage.above(tenant)?).await?.iter().map(kube::ResourceExt::name_any).collect();
    let ask = ["top", "pod", "--no-headers"];
    eventually("metrics-server has figures of all Pods", stage.patience, async || {
        let said = kubectl.says(&ask).await?;
        let found: BTreeSet<_> = said.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect();
        Ok(Seen::when(own.is_subset(&found), said))
    })
    .await?;
    says(tenant, &["top", "pod"], stage).await?;
    tell::so("kubectl top shows what the tenant's own Pods use");
    Ok(())
}

fn first(stage: &Stage) -> anyhow::Result<&Tenant> {
    stage.tenants.first().context("there is no tenant")
}

/// With a tenant's own certificate, past its API server: what a tenant does that has taken it over.
async fn another_tenants_pod(agent: &AgentProcess, stage: &Stage) -> anyhow::Result<()> {
    tell::scene("A hostile tenant dials vn-agent itself, with the certificate of its API server");
    let [tenant, other, ..] = stage.tenants.as_slice() else {
        tell::line("    (with one tenant there is nobody else; try --tenants 2)");
        return Ok(());
    };
    let (own, others) = (one_of(tenant, stage).await?, one_of(other, stage).await?);
    let identity = stage.plane(tenant)?.kubelet_client();
    let authority = agents::authority(stage.bed.dir()).with_extension("crt");
    let caller = Caller::new(agent.address(), &authority, Some(&identity))?;
    let mut rows = Vec::new();
    for (whose, namespace, pod, expected) in [
        ("its own", NAMESPACE, &own, 200),
        ("another tenant's", NAMESPACE, &others, 404),
        ("by its name in the super cluster", other.below.as_str(), &others, 404),
    ] {
        let path = format!("/containerLogs/{namespace}/{pod}/web");
        let (status, said) = get(caller.connect().await?, &path).await?;
        ensure!(status == expected, "{path} of {whose} Pod: {status}: {said}");
        rows.push(vec![status.to_string(), whose.to_owned(), path]);
    }
    tell::table(&rows);
    tell::so(&format!("{} reaches its own Pod and none of {}", tenant.name, other.name));
    Ok(())
}

/// The name of a Pod of the Deployment.
async fn one_of(tenant: &Tenant, stage: &Stage) -> anyhow::Result<String> {
    let pods = pods(&stage.above(tenant)?).await?;
    Ok(pods.first().with_context(|| format!("{} has no Pod", tenant.name))?.name_any())
}

/// A tenant types a command of kubectl; what it wrote.
async fn says(tenant: &Tenant, args: &[&str], stage: &Stage) -> anyhow::Result<String> {
    let said = stage.kubectl(tenant)?.says(args).await?.trim().to_owned();
    let words: Vec<_> = args.iter().map(|word| if word.contains(' ') { format!("'{word}'") } else { (*word).to_owned() }).collect();
    tell::typed(&tenant.name, &format!("kubectl {}", words.join(" ")), &said);
    Ok(said)
}

/// Asks for a path on a connection that nothing was said on; status and body.
async fn get(mut connection: impl AsyncRead + AsyncWrite + Unpin, path: &str) -> anyhow::Result<(u16, String)> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").with_context(|| format!("{path} is answered with {answer:?}"))?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).with_context(|| format!("no status: {head:?}"))?;
    Ok((status, body.to_owned()))
}
