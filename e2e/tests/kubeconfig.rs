//! Kubeconfigs change while the syncer runs, and those that ask for more than a connection are refused by name.
//!
//! *Sources*: row R51 of the reliability matrix; invariants I6 and I7.

use std::{collections::BTreeSet, path::Path, time::Duration};

use anyhow::Context as _;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use common::keys;
use e2e::{
    bed::{TENANT_USER, apply, virtual_clusters},
    files::files,
    manifests::install_sample,
    plane::ControlPlane,
    story::{
        Actor, Collector, Crowd, Inventory, Plot, Standing, Story, chapter, difference, everything, is_running, pod, quiet, time_to_run,
    },
    syncer::{SyncerOptions, SyncerProcess},
    wait::{Seen, eventually, never},
};
use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::{Namespace, Pod, Secret, Service, ServiceAccount},
    discovery::v1::EndpointSlice,
    rbac::v1::ClusterRoleBinding,
};
use kube::{
    Api,
    api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams},
    core::GroupVersionKind,
};
use serde_json::{Value, json};
use tokio::time::sleep;

/// Stands in every refused kubeconfig wherever a credential can stand; no honest text holds it.
const SENTINEL: &str = "SENTINEL-7f3a9c";
/// How often kubeconfigs are read here.
const INTERVAL: Duration = Duration::from_secs(20);
const CALM: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_mins(2);
/// How long a Pod may take while both the old and the new credentials are good.
const PROMPT: Duration = Duration::from_secs(15);
/// How long after the old ones were revoked before their time: the syncer is refused, reads again, and attaches anew.
const GAP: Duration = Duration::from_secs(40);
/// How long one waits for what must not happen.
const NEVER: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn kubeconfigs_rotate_without_a_gap_and_dangerous_ones_are_refused_by_name() {
    let plot = Plot::new("kubeconfig", 2).flag(&format!("--kubeconfig-interval={}s", INTERVAL.as_secs()));
    let plot = Plot { syncer: SyncerOptions { log: Some("trace".to_owned()), ..plot.syncer }, ..plot };
    let story = Story::play(plot).await.unwrap();
    let seen = Collector::start(story.bed.sup.client());
    for tenant in &story.tenants {
        Crowd::new(tenant, "crowd").comes(0..5).await.unwrap();
        Crowd::new(tenant, "crowd").runs(5).await.unwrap();
    }
    let together = vec![
        chapter("rotated while it runs, and the old one revoked: no gap, no Pod noticed", rotated(&story, &seen)),
        chapter("each refused form: a condition that names the field, nothing executed", refused(&story)),
        chapter("each that leads nowhere: a condition that says what is in the way, and what to do", led_nowhere(&story)),
        chapter("one that leads to the super cluster itself is refused", led_to_the_super_cluster(&story)),
    ];
    story.tell_alive(together).await.unwrap();
    story
        .tell_alive(vec![chapter("a working kubeconfig becomes a refused one and comes back: its Pods run on", refused_later(&story))])
        .await
        .unwrap();
    story
        .tell_alive(vec![chapter(
            "no credential stands in a log, a metric, a status or an event",
            kept_secret(&story, &story.syncer, &seen),
        )])
        .await
        .unwrap();
    // One control plane, under one VirtualCluster after the other.
    story.standing(1).unwrap().delete().await.unwrap();
    story
        .tell(vec![chapter(
            "in the root namespace, if that says whose it is; without a range of its own; gone and back: nothing is deleted",
            in_the_root_namespace(&story),
        )])
        .await
        .unwrap();
    story.tell_alive(vec![chapter("in a Secret of another name, once its Role is there", in_a_named_secret(&story))]).await.unwrap();
    story.tell_alive(vec![chapter("the original's manifests are taken as they are", originals(&story))]).await.unwrap();
    story
        .tell(vec![chapter("in an annotation, where that is allowed, and no credential stands in a log", in_the_annotation(&story, &seen))])
        .await
        .unwrap();
}

async fn rotated(story: &Story, seen: &Collector) -> anyhow::Result<()> {
    let (tenant, plane) = (story.tenant(0)?, story.bed.tenant(0)?);
    quiet(&story.bed, CALM, PATIENCE).await?;
    let before = Inventory::take(&story.bed.sup.client()).await?.of(&tenant.id);
    // Another certificate: taken up at the next reading.
    let known = shown(plane)?;
    story.bed.put_kubeconfig(&tenant.name, &plane.kubeconfig_for(TENANT_USER, Some("system:masters"))?).await?;
    no_gap("rotated", tenant, PROMPT, async || Ok(shown(plane)?.difference(&known).count() > 0)).await?;
    // Tokens: the second takes over when the first is revoked, before its time.
    let first = credentials("syncer-a", plane).await?;
    story.bed.put_kubeconfig(&tenant.name, &plane.kubeconfig_with_token(&first)).await?;
    let by = |account: &str| -> anyhow::Result<bool> {
        let calls = plane.audit().since(e2e::audit::Mark::default())?.by(&format!("kube-system:{account}"));
        Ok(!calls.filter(|call| call.verb == "watch" && call.is_successful()).is_empty())
    };
    no_gap("token", tenant, PROMPT, async || by("syncer-a")).await?;
    let second = credentials("syncer-b", plane).await?;
    story.bed.put_kubeconfig(&tenant.name, &plane.kubeconfig_with_token(&second)).await?;
    let accounts: Api<ServiceAccount> = Api::namespaced(plane.client(), "kube-system");
    accounts.delete("syncer-a", &DeleteParams::default()).await?;
    no_gap("revoked", tenant, GAP, async || by("syncer-b")).await?;
    let seen = seen.found();
    anyhow::ensure!([&first, &second].iter().all(|token| seen.knows(token)), "a token that was rotated away is not looked for");

    let after = Inventory::take(&story.bed.sup.client()).await?.of(&tenant.id);
    let lost: Vec<_> = difference(&before, &after).into_iter().filter(|line| !line.starts_with("new: ")).collect();
    anyhow::ensure!(lost.is_empty(), "objects in the super cluster changed: {lost:?}");
    story.standing(0)?.is_ready().await
}

/// Pods come one after another and run within `most` each, until `done`.
async fn no_gap(name: &str, tenant: &Actor, most: Duration, done: impl AsyncFn() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let until = tokio::time::Instant::now() + PATIENCE;
    let mut is_last = false;
    for i in 0.. {
        let took = time_to_run(tenant, &format!("{name}-{i}")).await?;
        anyhow::ensure!(took < most, "{name}-{i} took {took:?}");
        if is_last {
            break;
        }
        is_last = done().await?;
        anyhow::ensure!(tokio::time::Instant::now() < until, "the new credentials of {name} were never shown");
        sleep(Duration::from_millis(500)).await;
    }
    Ok(())
}

/// Which credentials the syncer has shown to a tenant.
fn shown(plane: &ControlPlane) -> anyhow::Result<BTreeSet<String>> {
    let calls = plane.audit().since(e2e::audit::Mark::default())?.by(TENANT_USER);
    Ok(calls.0.into_iter().map(|call| call.credential).collect())
}

/// A token of a new `ServiceAccount` with every right.
async fn credentials(name: &str, plane: &ControlPlane) -> anyhow::Result<String> {
    let client = plane.client();
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "kube-system");
    apply(&accounts, name, &json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": name } })).await?;
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": { "name": name },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin" },
        "subjects": [{ "kind": "ServiceAccount", "namespace": "kube-system", "name": name }],
    });
    apply(&Api::<ClusterRoleBinding>::all(client), name, &binding).await?;
    let spec = TokenRequestSpec { expiration_seconds: Some(3600), ..TokenRequestSpec::default() };
    let request = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
    let answer = accounts.create_token_request(name, &PostParams::default(), &request).await?;
    answer.status.and_then(|status| status.token).context("no token")
}

/// A form of kubeconfig that is refused: its name, the field that the condition must name, and what is changed in a good one.
struct Form {
    name: &'static str,
    field: &'static str,
    /// Merged into the user, and into the cluster; null removes.
    user: Value,
    cluster: Value,
}

fn forms(marker: &Path) -> Vec<Form> {
    let user = |name, field, user| Form { name, field, user, cluster: json!({}) };
    let cluster = |name, field, cluster| Form { name, field, user: json!({}), cluster };
    let file = marker.with_extension("file").display().to_string();
    let run = format!("echo $0 > {}; echo '{{}}'", marker.display());
    let exec = json!({
        "apiVersion": "client.authentication.k8s.io/v1", "command": "/bin/sh", "args": ["-c", run, SENTINEL],
        "env": [{ "name": "SECRET", "value": SENTINEL }], "interactiveMode": "Never",
    });
    let provider =
        json!({ "name": "gcp", "config": { "cmd-path": "/bin/sh", "cmd-args": format!("-c '{run}'"), "access-token": SENTINEL } });
    vec![
        user("exec", "users[].user.exec", json!({ "token": null, "exec": exec })),
        user("auth-provider", "users[].user.auth-provider", json!({ "token": null, "auth-provider": provider })),
        user("token-file", "users[].user.tokenFile", json!({ "token": null, "tokenFile": file })),
        user("certificate-path", "client-certificate", json!({ "token": null, "client-certificate": file, "client-key": file })),
        user("key-path", "client-key", json!({ "token": null, "client-key": file })),
        user("as", "users[].user.as", json!({ "as": format!("admin-{SENTINEL}") })),
        user("as-groups", "users[].user.as-groups", json!({ "as-groups": ["system:masters"] })),
        user("username", "users[].user.username", json!({ "username": "admin", "password": SENTINEL })),
        user("password", "users[].user.password", json!({ "password": SENTINEL })),
        user("nobody", "users[].user", json!({ "token": null })),
        cluster("ca-path", "certificate-authority", json!({ "certificate-authority-data": null, "certificate-authority": file })),
        cluster("no-ca", "certificate-authority-data", json!({ "certificate-authority-data": null })),
        cluster("proxy-url", "clusters[].cluster.proxy-url", json!({ "proxy-url": format!("http://{SENTINEL}:p@127.0.0.1:1") })),
        cluster("insecure", "insecure-skip-tls-verify", json!({ "insecure-skip-tls-verify": true })),
        cluster("http", "clusters[].cluster.server", json!({ "server": "http://127.0.0.1:1" })),
        cluster("user-in-url", "clusters[].cluster.server", json!({ "server": format!("https://admin:{SENTINEL}@127.0.0.1:1") })),
    ]
}

async fn refused(story: &Story) -> anyhow::Result<()> {
    let marker = story.bed.dir().join("executed");
    std::fs::write(marker.with_extension("file"), format!("{SENTINEL}-in-a-file\n"))?;
    let good: Value = serde_json::from_str(&story.bed.tenant(1)?.kubeconfig_with_token(&format!("{SENTINEL}-token")))?;
    for form in forms(&marker) {
        let text = changed(&good, &form).to_string();
        story.bed.register_with("refused", &format!("refused-{}", form.name), &json!({}), &text).await?;
    }
    for form in forms(&marker) {
        let standing = Standing::of(&format!("refused-{}", form.name), "refused", story.bed.sup.client());
        let message = standing.says("Ready", "False", "KubeconfigRefused").await?;
        anyhow::ensure!(message.contains(form.field), "{}: the condition does not name {}: {message}", form.name, form.field);
    }
    for tenant in &story.tenants {
        let took = time_to_run(tenant, "beside-the-refused").await?;
        anyhow::ensure!(took < PROMPT, "a Pod of {} took {took:?}", tenant.name);
    }
    anyhow::ensure!(!marker.exists(), "a command of a kubeconfig was executed");
    Ok(())
}

/// A good kubeconfig with what makes the form.
fn changed(good: &Value, form: &Form) -> Value {
    let mut config = good.clone();
    for (pointer, change) in [("/users/0/user", &form.user), ("/clusters/0/cluster", &form.cluster)] {
        let Some(part) = config.pointer_mut(pointer).and_then(Value::as_object_mut) else { continue };
        for (key, value) in change.as_object().into_iter().flatten() {
            if value.is_null() {
                part.remove(key)
            } else {
                part.insert(key.clone(), value.clone())
            };
        }
    }
    config
}

/// Kubeconfigs of a good form that are of no use: what is in the way, and what the condition says of it.
async fn led_nowhere(story: &Story) -> anyhow::Result<()> {
    let (plane, other) = (story.bed.tenant(1)?, story.bed.tenant(0)?);
    let wrong = plane.kubeconfig_with_token(&format!("{SENTINEL}-wrong"));
    let of_other: Value = serde_json::from_str(&other.kubeconfig_with_token("none"))?;
    let authority = of_other.pointer("/clusters/0/cluster/certificate-authority-data").context("no authority")?;
    let cluster = |name, cluster: Value| -> anyhow::Result<String> {
        Ok(changed(&serde_json::from_str(&wrong)?, &Form { name, field: "", user: json!({}), cluster }).to_string())
    };
    let useless = [
        ("Unauthorized", "put valid ones into it", wrong.clone()),
        ("Forbidden", "cluster-admin", plane.kubeconfig_for("somebody", None)?),
        ("TlsFailed", "certificate-authority-data", cluster("tls", json!({ "certificate-authority-data": authority }))?),
        ("AddressDenied", "let the administrator", cluster("address", json!({ "server": "https://169.254.169.254:6443" }))?),
        ("Unreachable", "see that the API server runs", cluster("port", json!({ "server": "https://127.0.0.1:1" }))?),
    ];
    for (reason, _, kubeconfig) in &useless {
        story.bed.register_with("useless", &format!("useless-{}", reason.to_lowercase()), &json!({}), kubeconfig).await?;
    }
    for (reason, advice, _) in &useless {
        let standing = Standing::of(&format!("useless-{}", reason.to_lowercase()), "useless", story.bed.sup.client());
        let message = standing.says("ControlPlaneReachable", "False", reason).await?;
        anyhow::ensure!(message.contains(advice), "{reason}: the condition does not say {advice:?}: {message}");
        standing.says("Ready", "False", reason).await?;
    }
    Ok(())
}

/// A kubeconfig that leads to the super cluster itself, with every right there.
async fn led_to_the_super_cluster(story: &Story) -> anyhow::Result<()> {
    let kubeconfig = story.bed.sup.kubeconfig_for("somebody", Some("system:masters"))?;
    story.bed.register_with("looped", "looped", &json!({}), &kubeconfig).await?;
    let standing = Standing::of("looped", "looped", story.bed.sup.client());
    let message = standing.says("Ready", "False", "SuperCluster").await?;
    anyhow::ensure!(message.contains("its own control plane"), "the condition does not say what to do: {message}");
    never("it is written to", NEVER, async || {
        let namespaces = Api::<Namespace>::all(story.bed.sup.client()).list(&ListParams::default()).await?;
        let made = namespaces.items.iter().map(kube::ResourceExt::name_any).find(|name| name.starts_with("vc-looped-"));
        Ok(made)
    })
    .await
}

async fn refused_later(story: &Story) -> anyhow::Result<()> {
    let (tenant, plane) = (story.tenant(1)?, story.bed.tenant(1)?);
    quiet(&story.bed, CALM, PATIENCE).await?;
    let before = Inventory::take(&story.bed.sup.client()).await?.of(&tenant.id);
    let good = plane.kubeconfig_for(TENANT_USER, Some("system:masters"))?;
    let form = forms(&story.bed.dir().join("executed")).into_iter().next().context("no form")?;
    story.bed.put_kubeconfig(&tenant.name, &changed(&serde_json::from_str(&good)?, &form).to_string()).await?;
    let message = story.standing(1)?.says("Ready", "False", "KubeconfigRefused").await?;
    anyhow::ensure!(message.contains(form.field), "the condition does not name {}: {message}", form.field);
    never("something of the tenant's moves in the super cluster", NEVER, async || {
        let changed = difference(&before, &Inventory::take(&story.bed.sup.client()).await?.of(&tenant.id));
        Ok((!changed.is_empty()).then(|| format!("{changed:?}")))
    })
    .await?;
    time_to_run(story.tenant(0)?, "beside-the-later").await?;

    story.bed.put_kubeconfig(&tenant.name, &good).await?;
    story.standing(1)?.is_ready().await?;
    time_to_run(tenant, "taken-back").await?;
    let after = Inventory::take(&story.bed.sup.client()).await?.of(&tenant.id);
    let lost: Vec<_> = difference(&before, &after).into_iter().filter(|line| !line.starts_with("new: ")).collect();
    anyhow::ensure!(lost.is_empty(), "objects in the super cluster changed: {lost:?}");
    Ok(())
}

/// Reads every log of the bed, the audit logs among them, and what people can read of the syncer's work.
async fn kept_secret(story: &Story, syncer: &SyncerProcess, seen: &Collector) -> anyhow::Result<()> {
    let mut wanted = seen.found();
    // How tokens and keys begin, whosever they are; and those that stand in no Secret: the syncer's own token, and what signs.
    for word in [SENTINEL, "eyJhbGciOi", "PRIVATE KEY"] {
        wanted.add(word);
    }
    let own = [files(story.bed.dir(), ".kubeconfig")?, files(story.bed.dir(), ".key")?].concat();
    for path in own {
        wanted.add_from(&std::fs::read_to_string(path)?);
    }
    anyhow::ensure!(wanted.count() > 40, "only {} credentials to look for", wanted.count());
    let mut texts = vec![("/metrics".to_owned(), syncer.metrics().await?)];
    for path in files(story.bed.dir(), ".log")? {
        texts.push((path.display().to_string(), String::from_utf8_lossy(&std::fs::read(&path)?).into_owned()));
    }
    let own = syncer.process.log_path().display().to_string();
    anyhow::ensure!(texts.iter().any(|(place, text)| *place == own && text.contains("TRACE")), "{own} is not the most talkative one");
    anyhow::ensure!(texts.iter().all(|(place, text)| text.len() > 1000 || *place != own && place != "/metrics"), "a text is empty");
    let planes = [&story.bed.sup].into_iter().chain(&story.bed.tenants);
    for plane in planes {
        let pages = everything(&plane.client()).await?;
        let told =
            pages.into_iter().filter(|(place, _)| ["virtualclusters/", "events/", "pods/"].iter().any(|start| place.starts_with(start)));
        texts.extend(told.map(|(place, text)| (format!("{place} of {}", plane.name()), text)));
    }
    for (place, text) in &texts {
        let found = wanted.found_in(text);
        anyhow::ensure!(found.is_none(), "{place} holds a credential at byte {found:?}");
    }
    let bytes: usize = texts.iter().map(|(_, text)| text.len()).sum();
    eprintln!("    {} credentials are in none of {} texts, {bytes} bytes", wanted.count(), texts.len());
    Ok(())
}

/// A `VirtualCluster` of this spec and these annotations, without a kubeconfig, alone in a namespace of its name.
async fn virtual_cluster(story: &Story, name: &str, spec: &Value, annotations: &Value) -> anyhow::Result<(Actor, Standing)> {
    let sup = story.bed.sup.client();
    apply(&Api::<Namespace>::all(sup.clone()), name, &space(name, &json!({}))).await?;
    let object = json!({
        "apiVersion": "tenancy.x-k8s.io/v1alpha1", "kind": "VirtualCluster",
        "metadata": { "name": name, "annotations": annotations }, "spec": spec,
    });
    let made = apply(&virtual_clusters(name, sup.clone()), name, &object).await?;
    Ok((Actor::of(&story.bed, 1, &made)?, Standing::of(name, name, sup)))
}

fn space(name: &str, annotations: &Value) -> Value {
    json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "annotations": annotations } })
}

/// Whoever changes a `VirtualCluster` has its kubeconfig read at once; else it takes some seconds more after each failure.
async fn look_again(standing: &Standing, why: &str) -> anyhow::Result<()> {
    standing.change(&json!({ "metadata": { "annotations": { "example.com/touched": why } } })).await
}

async fn in_the_root_namespace(story: &Story) -> anyhow::Result<()> {
    let (sup, plane, root) = (story.bed.sup.client(), story.bed.tenant(1)?, "rooted-root");
    story.syncer.process.stop().await?;
    let (tenant, standing) = virtual_cluster(story, "rooted", &json!({}), &json!({})).await?;
    let status = json!({ "status": { "clusterNamespace": root } });
    virtual_clusters("rooted", sup.clone()).patch_status("rooted", &PatchParams::default(), &Patch::Merge(&status)).await?;
    let spaces = Api::<Namespace>::all(sup.clone());
    apply(&spaces, root, &space(root, &json!({}))).await?;
    let good = plane.kubeconfig_for(TENANT_USER, Some("system:masters"))?;
    story.bed.put_kubeconfig(root, &good).await?;
    story.syncer.process.start_again()?;
    let rest = async {
        // Anybody may write a namespace's name into a status; the namespace itself must say so too.
        let message = standing.says("Ready", "False", "KubeconfigMissing").await?;
        anyhow::ensure!(message.contains(keys::ROOT_NAMESPACE_OF) && message.contains(root), "{message}");
        apply(&spaces, root, &space(root, &json!({ keys::ROOT_NAMESPACE_OF: tenant.id.uid().to_string() }))).await?;
        look_again(&standing, "claimed").await?;
        standing.is_ready().await?;
        without_a_range(story, &tenant).await?;
        gone_and_back(story, &tenant, &standing, root, &good).await
    };
    story.syncer.kept_alive(rest).await?;
    standing.delete().await
}

/// Nobody recorded a range for its Services: the super cluster gives them addresses, and what they lead to is the same.
async fn without_a_range(story: &Story, tenant: &Actor) -> anyhow::Result<()> {
    tenant.apply(&pod("served", &json!({ "app": "served" }), &json!({}))).await?;
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "served" },
        "spec": { "selector": { "app": "served" }, "ports": [{ "port": 80 }] },
    });
    let above: Service = apply(&tenant.above("default"), "served", &service).await?;
    tenant.sees("the Pod runs", "default", "served", is_running).await?;
    let below = tenant.holds_below::<Service>("the Service is there", "default", "served", |_| true).await?;
    let address = |service: &Service| service.spec.as_ref().and_then(|spec| spec.cluster_ip.clone());
    anyhow::ensure!(
        address(&below).is_some() && address(&below) != address(&above),
        "{:?} below, {:?} above",
        address(&below),
        address(&above)
    );
    let kubernetes: Service = tenant.below("default").get("kubernetes").await?;
    let pod: Pod = tenant.below("default").get("served").await?;
    let told = pod.spec.context("no spec")?.containers.into_iter().flat_map(|container| container.env.unwrap_or_default());
    let told: Vec<_> = told.filter(|env| env.name == "KUBERNETES_SERVICE_HOST").map(|env| env.value).collect();
    anyhow::ensure!(told == [address(&kubernetes)], "the Pod is told {told:?}, its API server is {:?}", address(&kubernetes));
    let slices: Api<EndpointSlice> = Api::namespaced(story.bed.sup.client(), &tenant.namespace_below("default"));
    let address = pod.status.and_then(|status| status.pod_ip).context("no address")?;
    eventually("the Service leads to the Pod", PATIENCE, async || {
        let found = slices.list(&ListParams::default().labels("kubernetes.io/service-name=served")).await?;
        let leads: Vec<_> = found.iter().flat_map(|slice| slice.endpoints.iter()).flatten().flat_map(|end| end.addresses.clone()).collect();
        Ok(Seen::when(leads == [address.clone()], leads))
    })
    .await
    .map(drop)
}

/// A kubeconfig that is gone detaches the tenant; what runs goes on running, and it goes on where it was.
async fn gone_and_back(story: &Story, tenant: &Actor, standing: &Standing, root: &str, good: &str) -> anyhow::Result<()> {
    // What Pods refer to stays too, when the tenant is attached anew and nobody has asked them yet.
    for i in 0..5 {
        let name = format!("kept-{i}");
        let map = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name }, "data": { "is": "kept" } });
        tenant.apply(&map).await?;
        let mounts = json!({ "volumes": [{ "name": "c", "configMap": { "name": name } }] });
        tenant.apply(&pod(&name, &json!({}), &mounts)).await?;
        tenant.sees("the Pod runs", "default", &name, is_running).await?;
    }
    quiet(&story.bed, CALM, PATIENCE).await?;
    let held = async || anyhow::Ok(Inventory::take(&story.bed.sup.client()).await?.of(&tenant.id));
    let before = held().await?;
    let secrets: Api<Secret> = Api::namespaced(story.bed.sup.client(), root);
    secrets.delete(keys::ADMIN_KUBECONFIG_NAME, &DeleteParams::default()).await?;
    look_again(standing, "gone").await?;
    standing.says("ControlPlaneReachable", "False", "KubeconfigMissing").await?;
    tenant.apply(&pod("meanwhile", &json!({}), &json!({}))).await?;
    never("something of the tenant's moves in the super cluster", NEVER, async || {
        let changed = difference(&before, &held().await?);
        Ok((!changed.is_empty()).then(|| format!("{changed:?}")))
    })
    .await?;
    story.bed.put_kubeconfig(root, good).await?;
    look_again(standing, "back").await?;
    standing.is_ready().await?;
    tenant.sees("what was asked for meanwhile runs", "default", "meanwhile", is_running).await?;
    let lost: Vec<_> = difference(&before, &held().await?).into_iter().filter(|line| !line.starts_with("new: ")).collect();
    anyhow::ensure!(lost.is_empty(), "objects in the super cluster changed: {lost:?}");
    Ok(())
}

/// As Cluster API leaves it, with the annotations and the spec that the original's sample has.
async fn in_a_named_secret(story: &Story) -> anyhow::Result<()> {
    let (sup, secret) = (story.bed.sup.client(), "cluster-sample-kubeconfig");
    let annotations = json!({ "cluster.x-k8s.io/name": "cluster-sample", keys::ADMIN_KUBECONFIG_SECRET: secret });
    let spec = json!({ "clusterVersionName": "capi", "opaqueMetaPrefixes": [keys::GROUP], "transparentMetaPrefixes": ["k8s.net.status"] });
    let (tenant, standing) = virtual_cluster(story, "named", &spec, &annotations).await?;
    let good = story.bed.tenant(1)?.kubeconfig_for(TENANT_USER, Some("system:masters"))?;
    let object = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": secret }, "stringData": { "value": good } });
    apply(&Api::<Secret>::namespaced(sup.clone(), "named"), secret, &object).await?;
    let message = standing.says("Ready", "False", "KubeconfigForbidden").await?;
    let sample = "role-for-kubeconfig.yaml";
    anyhow::ensure!(
        [secret, "named", sample].iter().all(|word| message.contains(word)),
        "the condition does not say what to do: {message}"
    );
    install_sample(sample, &[("NAMESPACE", "named"), ("NAME", secret)], &sup).await?;
    look_again(&standing, "allowed").await?;
    standing.is_ready().await?;
    time_to_run(&tenant, "by-name").await?;
    standing.delete().await
}

/// What the original's users have in their files, as its samples write it.
async fn originals(story: &Story) -> anyhow::Result<()> {
    let sup = story.bed.sup.client();
    let part = |name: &str, image: &str| {
        json!({
            "metadata": { "name": name },
            "statefulset": {
                "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": { "name": name },
                "spec": {
                    "replicas": 1, "revisionHistoryLimit": 10, "serviceName": name, "updateStrategy": { "type": "OnDelete" },
                    "selector": { "matchLabels": { "component-name": name } },
                    "template": {
                        "metadata": { "labels": { "component-name": name } },
                        "spec": {
                            "subdomain": name,
                            "containers": [{ "name": name, "image": image, "args": ["--name=$(HOSTNAME)"],
                                "livenessProbe": { "tcpSocket": { "port": 6443 }, "failureThreshold": 8 } }],
                            "volumes": [{ "name": "root-ca", "secret": { "defaultMode": 420, "secretName": "root-ca" } }],
                        },
                    },
                },
            },
            "service": {
                "apiVersion": "v1", "kind": "Service", "metadata": { "name": name },
                "spec": { "type": "NodePort", "selector": { "component-name": name }, "ports": [{ "port": 6443, "targetPort": "api" }] },
            },
        })
    };
    // It says twice what it is, which no schema of a template foresees.
    let mut manager = part("controller-manager", "kube-controller-manager");
    manager
        .as_object_mut()
        .context("no object")?
        .extend([("apiVersion".to_owned(), json!("apps/v1")), ("kind".to_owned(), json!("StatefulSet"))]);
    let version = json!({
        "apiVersion": "tenancy.x-k8s.io/v1alpha1", "kind": "ClusterVersion",
        "metadata": { "name": "cv-sample-np", "labels": { "controller-tools.k8s.io": "1.0" } },
        "spec": {
            "etcd": part("etcd", "etcd"), "apiServer": part("apiserver", "kube-apiserver"),
            "controllerManager": manager,
        },
    });
    let kind = GroupVersionKind::gvk("tenancy.x-k8s.io", "v1alpha1", "ClusterVersion");
    let versions: Api<DynamicObject> = Api::all_with(sup.clone(), &ApiResource::from_gvk_with_plural(&kind, "clusterversions"));
    let kept = apply(&versions, "cv-sample-np", &version).await?;
    anyhow::ensure!(kept.data.get("spec") == version.get("spec"), "the template was changed: {}", kept.data);
    install_sample("virtualcluster.yaml", &[], &sup).await?;
    let kept = virtual_clusters("default", sup.clone()).get("vc-sample-1").await?;
    let spec = kept.data.get("spec").context("no spec")?;
    let asked = json!({ "clusterDomain": "cluster.local", "clusterVersionName": "cv-sample-np", "pkiExpireDays": 365,
        "opaqueMetaPrefixes": [keys::GROUP], "transparentMetaPrefixes": ["k8s.net.status"] });
    for (key, value) in asked.as_object().into_iter().flatten() {
        anyhow::ensure!(spec.get(key) == Some(value), "{key} was changed: {spec}");
    }
    let standing = Standing::of("default", "vc-sample-1", sup);
    standing.says("Ready", "False", "KubeconfigMissing").await?;
    standing.delete().await
}

async fn in_the_annotation(story: &Story, seen: &Collector) -> anyhow::Result<()> {
    let good = story.bed.tenant(1)?.kubeconfig_for(TENANT_USER, Some("system:masters"))?;
    let annotations = json!({ keys::ADMIN_KUBECONFIG: STANDARD.encode(good) });
    let (tenant, standing) = virtual_cluster(story, "annotated", &json!({}), &annotations).await?;
    let message = story.syncer.kept_alive(standing.says("Ready", "False", "KubeconfigAnnotationNotAllowed")).await?;
    anyhow::ensure!(message.contains("--allow-kubeconfig-annotation"), "the condition does not name the flag: {message}");
    story.syncer.process.stop().await?;
    let args = vec!["--allow-kubeconfig-annotation".to_owned()];
    let allowing = SyncerOptions { args, log: Some("trace".to_owned()), ..Plot::syncer("allowing") };
    let syncer = SyncerProcess::start_installed(&story.bed, allowing).await?;
    let rest = async {
        standing.is_ready().await?;
        time_to_run(&tenant, "by-annotation").await?;
        // The one place that its administrator chose for it.
        standing.delete().await?;
        kept_secret(story, &syncer, seen).await
    };
    syncer.kept_alive(rest).await
}
