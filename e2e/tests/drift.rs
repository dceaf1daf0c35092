//! Somebody's hand in the super cluster: what is ours is mended, what is not ours is never touched.

use std::{collections::BTreeSet, time::Duration};

use anyhow::Context as _;
use common::{Name, Super, Uid, keys};
use e2e::{
    bed::apply,
    story::{Actor, Ledger, PATIENCE, Plot, Story, chapter, everything, is_running, pod, reveals_nothing, uid_of, within},
    wait::{Seen, eventually, never},
};
use k8s_openapi::api::{
    authorization::v1::SubjectAccessReview,
    core::v1::{ConfigMap, Event, Namespace, Pod, Secret, Service},
    rbac::v1::{ClusterRole, RoleBinding, RoleRef, Subject},
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn drift_is_repaired_and_foreign_objects_are_left_alone() {
    let story = Story::play(Plot::new("drift", 1).flag("--patrol-interval").flag("2s")).await.unwrap();
    begin(&story).await.unwrap();
    let chapters = vec![
        chapter("a Service is what its tenant asked for", service(&story)),
        chapter("a ConfigMap, too, and one that is gone is made again", config_map(&story)),
        chapter("a Secret, too, though nobody watches Secrets", secret(&story)),
        chapter("what a Pod mounts of its tenant, too: changed, and gone", mounted(&story)),
        chapter("a Pod's labels, record and image, too", labels(&story)),
        chapter("the right of the tenant's writer, too, whoever got it and whatever it leads to", binding(&story)),
        chapter("what the super cluster adds stays", additions(&story)),
        chapter("a Namespace's labels, too: they say what its Pods may do", space(&story)),
        chapter("a foreign object of the same name is never touched, and the tenant is told", foreign(&story)),
        chapter("nor one that has the name of what a Pod mounts", foreign_secret(&story)),
        chapter("a foreign Namespace of the computed name, too, and the administrator is told which", foreign_namespace(&story)),
        chapter("an address that another Service has is waited for, and the tenant is told", address(&story)),
    ];
    story.tell(chapters).await.unwrap();
    story.tell(vec![chapter("a writer that may not write is told to whom it concerns", forbidden(&story))]).await.unwrap();
    story
        .tell(vec![chapter("of all that went wrong nothing of the super cluster stands in a tenant", reveals_nothing(&story, &[]))])
        .await
        .unwrap();
    story.tell(vec![chapter("what was changed or lost while no syncer ran is mended, too", unseen(&story))]).await.unwrap();
}

async fn begin(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    for name in ["web", "gone"] {
        tenant.apply(&map(name)).await?;
    }
    tenant.apply(&json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "web" }, "stringData": { "is": "right" } })).await?;
    for name in ["web", "gone"] {
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": name },
            "spec": { "selector": { "app": "web" }, "ports": [{ "port": 80 }] },
        });
        tenant.apply(&service).await?;
    }
    let from = |name: &str| json!({ "configMapRef": { "name": name } });
    let mounts = json!({
        "containers": [{ "name": "main", "image": "web", "envFrom": [from("web"), from("gone")] }],
        "volumes": [{ "name": "s", "secret": { "secretName": "web" } }],
    });
    tenant.apply(&pod("web", &json!({ "app": "web" }), &mounts)).await?;
    tenant.sees("the Pod runs", "default", "web", is_running).await?;
    Ok(())
}

fn map(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name }, "data": { "is": "right" } })
}

/// A change by an administrator.
async fn edit<K>(api: &Api<K>, name: &str, change: Value) -> anyhow::Result<()>
where
    K: Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    api.patch(name, &PatchParams::default(), &Patch::Merge(&change)).await?;
    Ok(())
}

async fn service(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    let below: Api<Service> = tenant.below("default");
    tenant.holds_below::<Service>("the Service is there", "default", "web", |_| true).await?;
    edit(&below, "web", json!({ "spec": { "selector": { "app": "evil" }, "ports": [{ "port": 81 }], "externalIPs": ["192.0.2.1"] } }))
        .await?;
    tenant
        .holds_below("it is as it was", "default", "web", |service: &Service| {
            let spec = service.spec.clone().unwrap_or_default();
            let port = spec.ports.iter().flatten().map(|port| port.port).collect::<Vec<_>>();
            spec.selector.is_some_and(|selector| selector.get("app").is_some_and(|app| app == "web"))
                && port == [80]
                && spec.external_ips.is_none_or(|ips| ips.is_empty())
        })
        .await?;
    let before = tenant.holds_below::<Service>("the other is there", "default", "gone", |_| true).await?;
    below.delete("gone", &DeleteParams::default()).await?;
    let after = tenant.holds_below("it is made again", "default", "gone", |service: &Service| uid_of(service) != uid_of(&before)).await?;
    let address = |service: &Service| service.spec.as_ref().and_then(|spec| spec.cluster_ip.clone());
    anyhow::ensure!(address(&after) == address(&before), "its address is {:?} and was {:?}", address(&after), address(&before));
    Ok(())
}

async fn config_map(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    let below: Api<ConfigMap> = tenant.below("default");
    let right = |map: &ConfigMap| map.data.as_ref().is_some_and(|data| data.len() == 1 && data.get("is").is_some_and(|is| is == "right"));
    edit(&below, "web", json!({ "data": { "is": "wrong", "more": "x" } })).await?;
    tenant.holds_below("it is as it was", "default", "web", right).await?;
    let before = uid_of(&below.get("gone").await?);
    below.delete("gone", &DeleteParams::default()).await?;
    tenant.holds_below("it is made again", "default", "gone", |map: &ConfigMap| uid_of(map) != before && right(map)).await?;
    Ok(())
}

async fn secret(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    edit(&tenant.below::<Secret>("default"), "web", json!({ "stringData": { "is": "wrong" } })).await?;
    let right = |secret: &Secret| secret.data.as_ref().is_some_and(|data| data.get("is").is_some_and(|is| is.0 == b"right"));
    tenant.holds_below("it is as it was", "default", "web", right).await?;
    Ok(())
}

/// The Secret that holds a Pod's token.
async fn mounted(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    let name = token(story).await?;
    let name = name.as_str();
    let before: Secret = tenant.holds_below("the token is there", "default", name, |_: &Secret| true).await?;
    let key = before.data.iter().flatten().map(|(key, _)| key.clone()).next().context("nothing is in it")?;
    let below: Api<Secret> = tenant.below("default");
    edit(&below, name, json!({ "stringData": { &key: "spoilt" } })).await?;
    let mended = tenant.holds_below("it is a token again", "default", name, is_token).await?;
    anyhow::ensure!(uid_of(&mended) == uid_of(&before), "it was made anew");
    below.delete(name, &DeleteParams::default()).await?;
    tenant
        .holds_below("it is made again", "default", name, |secret: &Secret| uid_of(secret) != uid_of(&before) && is_token(secret))
        .await?;
    Ok(())
}

/// The name of the Secret with the token of the Pod.
async fn token(story: &Story) -> anyhow::Result<Name<Super>> {
    let tenant = story.tenant(0)?;
    let above: Pod = tenant.above("default").get("web").await?;
    Ok(tenant.id.token_secret(Uid::parse(&uid_of(&above))?))
}

fn is_token(secret: &Secret) -> bool {
    secret.data.iter().flatten().all(|(_, content)| content.0.starts_with(b"eyJ"))
}

async fn labels(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    let below: Api<Pod> = tenant.below("default");
    let before = below.get("web").await?;
    let built = before.annotations().get(keys::GENERATION).cloned();
    let change = json!({ "metadata": { "labels": { "app": "evil", "more": "x" }, "annotations": { keys::GENERATION: "99" } } });
    edit(&below, "web", change).await?;
    tenant
        .holds_below("it is as it was", "default", "web", |pod: &Pod| {
            pod.labels().get("app").is_some_and(|app| app == "web")
                && !pod.labels().contains_key("more")
                && pod.annotations().get(keys::GENERATION) == built.as_ref()
        })
        .await?;
    // Of the spec of a running Pod only images can be changed.
    let image = json!({ "spec": { "containers": [{ "name": "main", "image": "evil" }] } });
    below.patch("web", &PatchParams::default(), &Patch::Strategic(&image)).await?;
    let images =
        |pod: &Pod| pod.spec.iter().flat_map(|spec| &spec.containers).filter_map(|container| container.image.clone()).collect::<Vec<_>>();
    tenant.holds_below("its image is as it was", "default", "web", |pod: &Pod| images(pod) == images(&before)).await?;
    let after = below.get("web").await?;
    anyhow::ensure!(uid_of(&after) == uid_of(&before), "the Pod was made anew");
    Ok(())
}

/// Without its binding the writer may write nothing in the namespace; it is put right by the next write that is refused for it.
async fn binding(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    tenant.make_namespace("bound").await?;
    tenant.apply(&bound_service("first")).await?;
    tenant.holds_below::<Service>("it goes down", "bound", "first", |_| true).await?;
    let below: Api<RoleBinding> = tenant.below("bound");
    let right = below.get(keys::WRITER_ROLE).await?;

    let eve = json!([{ "kind": "User", "name": "eve", "apiGroup": "rbac.authorization.k8s.io" }]);
    edit(&below, keys::WRITER_ROLE, json!({ "subjects": eve })).await?;
    written_until(story, "subjects", |binding| binding.subjects == right.subjects).await?;

    below.delete(keys::WRITER_ROLE, &DeleteParams::default()).await?;
    let view = RoleRef { name: "view".to_owned(), ..right.role_ref.clone() };
    let everybody = Subject { kind: "Group".to_owned(), name: "system:authenticated".to_owned(), ..Subject::default() };
    let mut other = RoleBinding { role_ref: view, subjects: Some(vec![everybody]), ..RoleBinding::default() };
    other.metadata.name = Some(keys::WRITER_ROLE.to_owned());
    below.create(&PostParams::default(), &other).await?;
    written_until(story, "role", |binding| binding.role_ref == right.role_ref && binding.subjects == right.subjects).await?;

    below.delete(keys::WRITER_ROLE, &DeleteParams::default()).await?;
    written_until(story, "none", |binding| binding.subjects == right.subjects).await
}

/// The role of all writers has lost its rights. Nobody but the administrator can mend that, who hears of it, as does the tenant.
async fn forbidden(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    let roles = Api::<ClusterRole>::all(story.bed.sup.client());
    // The role itself is what a controller makes of its parts.
    let part = format!("{}-kinds", keys::WRITER_ROLE);
    let rights = roles.get(&part).await?.rules;
    edit(&roles, &part, json!({ "rules": [] })).await?;
    let place = tenant.namespace_below("bound");
    let user = format!("system:serviceaccount:{}:{}", keys::WRITERS_NAMESPACE, tenant.id.writer());
    let ask = json!({ "spec": { "user": user, "resourceAttributes": { "namespace": place, "verb": "create", "resource": "services" } } });
    eventually("the writer has no rights", PATIENCE, async || {
        let reviews = Api::<SubjectAccessReview>::all(story.bed.sup.client());
        let status = reviews.create(&PostParams::default(), &serde_json::from_value(ask.clone())?).await?.status;
        Ok(Seen::when(status.as_ref().is_some_and(|status| !status.allowed), status))
    })
    .await?;
    let own = tenant.apply(&bound_service("late")).await?;
    let event = tenant.warned("bound", &uid_of(&own), "administrator").await?;
    anyhow::ensure!(event.reason.as_deref() == Some("WriterForbidden"), "{event:?}");
    let said = event.message.context("the Event says nothing")?;
    anyhow::ensure!(!said.contains(keys::WRITERS_NAMESPACE) && !said.contains(tenant.id.writer().as_str()), "the tenant reads {said:?}");
    let message = story.standing(0)?.says("Ready", "True", "WriterForbidden").await?;
    anyhow::ensure!(message.contains(&place) && message.contains(keys::WRITER_ROLE), "the condition does not say what to mend: {message}");
    edit(&roles, &part, json!({ "rules": rights })).await?;
    tenant.holds_below::<Service>("it goes down", "bound", "late", |_| true).await?;
    story.standing(0)?.says("Ready", "True", "Synced").await.map(drop)
}

/// The tenant makes Service after Service until the binding is right; all of them go down.
async fn written_until(story: &Story, what: &str, is_right: impl Fn(&RoleBinding) -> bool) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    let mut made = 0;
    eventually("the binding is put right", PATIENCE, async || {
        tenant.apply(&bound_service(&format!("{what}-{made}"))).await?;
        made += 1;
        let binding = tenant.below::<RoleBinding>("bound").get_opt(keys::WRITER_ROLE).await?;
        Ok(Seen::when(binding.as_ref().is_some_and(&is_right), binding))
    })
    .await?;
    for number in 0..made {
        tenant.holds_below::<Service>("it goes down", "bound", &format!("{what}-{number}"), |_| true).await?;
    }
    Ok(())
}

fn bound_service(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": name, "namespace": "bound" },
        "spec": { "clusterIP": "None", "selector": { "app": "web" }, "ports": [{ "port": 80 }] },
    })
}

/// Labels and annotations of other domains belong to the super cluster's own machinery.
async fn additions(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    let below: Api<ConfigMap> = tenant.below("default");
    let mark = json!({ "metadata": { "annotations": { "backup.example/last": "today" }, "labels": { "mesh.example/injected": "yes" } } });
    edit(&below, "web", mark).await?;
    never("the marks are taken away", Duration::from_secs(5), async || {
        let map = below.get("web").await?;
        let kept = map.annotations().contains_key("backup.example/last") && map.labels().contains_key("mesh.example/injected");
        Ok((!kept).then(|| format!("{:?} {:?}", map.annotations(), map.labels())))
    })
    .await
}

/// The super cluster has objects of its own in the place where the tenant's would be.
/// Said about what is not the tenant's.
const STRANGER: &str = "said about a stranger";

async fn foreign(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    let theirs = pod("theirs", &json!({ "app": "theirs", keys::TENANT: tenant.id.as_str() }), &json!({}));
    let before: Pod = apply(&tenant.below("default"), "theirs", &theirs).await?;
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "theirs" },
        "spec": { "selector": { "app": "theirs" }, "ports": [{ "port": 7 }] },
    });
    let service_before: Service = apply(&tenant.below("default"), "theirs", &service).await?;
    let own = tenant.apply(&pod("theirs", &json!({ "app": "own" }), &json!({}))).await?;
    let mut service = service.clone();
    if let Some(port) = service.pointer_mut("/spec/ports/0/port") {
        *port = json!(8);
    }
    let own_service = tenant.apply(&service).await?;
    for made in [&own, &own_service] {
        let event = tenant.warned("default", &uid_of(made), "metadata.name").await?;
        anyhow::ensure!(event.reason.as_deref() == Some("NameTaken"), "{event:?}");
    }
    // What is said of it, and of a Pod that the tenant's may have been before, is nothing to the tenant.
    for (name, uid) in [("theirs", uid_of(&before)), ("web", "11111111-2222-4333-8444-555555555555".to_owned())] {
        let namespace = tenant.namespace_below("default");
        let event = json!({
            "metadata": { "generateName": format!("{name}."), "namespace": namespace },
            "involvedObject": { "apiVersion": "v1", "kind": "Pod", "namespace": namespace, "name": name, "uid": uid },
            "type": "Warning", "reason": "Told", "message": STRANGER, "count": 1, "source": { "component": "kubelet", "host": "node-0" },
        });
        tenant.below::<Event>("default").create(&PostParams::default(), &serde_json::from_value(event)?).await?;
    }
    never("the foreign object is touched, or reported", Duration::from_secs(6), async || {
        let events = tenant.above::<Event>("default").list(&ListParams::default()).await?.items;
        if let Some(told) = events.iter().find(|event| event.message.as_deref().is_some_and(|text| text.contains(STRANGER))) {
            return Ok(Some(format!("the tenant is told {told:?}")));
        }
        let below = tenant.below::<Pod>("default").get("theirs").await?;
        let ours =
            below.metadata.managed_fields.iter().flatten().any(|entry| entry.manager.as_deref().is_some_and(|by| by.contains("vc-syncer")));
        let same = uid_of(&below) == uid_of(&before) && below.metadata.deletion_timestamp.is_none() && !ours;
        let other = tenant.below::<Service>("default").get("theirs").await?;
        let above = tenant.above::<Pod>("default").get("theirs").await?;
        let reported =
            above.spec.as_ref().is_some_and(|spec| spec.node_name.is_some()) || above.status.is_some_and(|status| status.pod_ip.is_some());
        let fine = same && other.resource_version() == service_before.resource_version() && !reported;
        Ok((!fine).then(|| format!("{below:?} {other:?}, reported: {reported}")))
    })
    .await?;
    // The tenant takes its own back; the other stays.
    tenant.above::<Pod>("default").delete("theirs", &DeleteParams::default()).await?;
    tenant.above::<Service>("default").delete("theirs", &DeleteParams::default()).await?;
    eventually("the tenant's is gone", PATIENCE, async || {
        let found = tenant.above::<Pod>("default").get_opt("theirs").await?;
        Ok(Seen::when(found.is_none(), found))
    })
    .await?;
    let after = tenant.below::<Pod>("default").get("theirs").await?;
    anyhow::ensure!(uid_of(&after) == uid_of(&before) && after.metadata.deletion_timestamp.is_none(), "the foreign Pod went: {after:?}");
    tenant.below::<Service>("default").get("theirs").await?;
    Ok(())
}

/// A Secret without a record stands where the token of a Pod is to be. The Pod goes on once it is gone.
async fn foreign_secret(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    let scheduler = story.bed.sup.scheduler.as_ref().context("nobody places Pods")?;
    // What a Pod mounts is made for it once it has a node.
    scheduler.pause()?;
    let own = tenant.apply(&pod("mounts", &json!({}), &json!({}))).await?;
    tenant.holds_below::<Pod>("the Pod is there", "default", "mounts", |_| true).await?;
    let name = tenant.id.token_secret(Uid::parse(&uid_of(&own))?);
    let name = name.as_str();
    let theirs = json!({
        "apiVersion": "v1", "kind": "Secret", "stringData": { "is": "theirs" },
        "metadata": { "name": name, "labels": { keys::TENANT: tenant.id.as_str() } },
    });
    let below: Api<Secret> = tenant.below("default");
    let before: Secret = apply(&below, name, &theirs).await?;
    scheduler.resume()?;
    let event = tenant.warned("default", &uid_of(&own), "an object without the record of this Pod").await?;
    anyhow::ensure!(event.reason.as_deref() == Some("NameTaken"), "{event:?}");
    let after = below.get(name).await?;
    let same = uid_of(&after) == uid_of(&before) && after.resource_version() == before.resource_version();
    anyhow::ensure!(same, "the foreign Secret was touched: {after:?}");
    // Nobody tells the syncer when it goes: the Pod is looked at again after minutes, or for a change of its own.
    below.delete(name, &DeleteParams::default()).await?;
    edit(&tenant.above::<Pod>("default"), "mounts", json!({ "metadata": { "labels": { "again": "yes" } } })).await?;
    tenant.holds_below("its own is made", "default", name, |secret: &Secret| uid_of(secret) != uid_of(&before)).await?;
    Ok(())
}

/// The super cluster has a Namespace of its own where the tenant's would be.
async fn foreign_namespace(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    let (sup, name) = (story.bed.sup.client(), tenant.namespace_below("taken"));
    let spaces = Api::<Namespace>::all(sup.clone());
    let labels = json!({ "team": "others", keys::TENANT: tenant.id.as_str() });
    let theirs = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "labels": labels } });
    let before: Namespace = apply(&spaces, &name, &theirs).await?;
    apply(&Api::<ConfigMap>::namespaced(sup.clone(), &name), "theirs", &map("theirs")).await?;
    let ledger = Ledger::open(&story.bed);
    tenant.make_namespace("taken").await?;
    let own = tenant.apply(&within("taken", pod("waits", &json!({ "app": "waits" }), &json!({})))).await?;
    let event = tenant.warned("taken", &uid_of(&own), "administrator").await?;
    anyhow::ensure!(event.reason.as_deref() == Some("NamespaceTaken"), "{event:?}");
    let message = story.standing(0)?.says("Ready", "True", "NamespaceTaken").await?;
    anyhow::ensure!(message.contains(&name), "the condition does not name {name}: {message}");
    never("the foreign Namespace is written into", Duration::from_secs(4), async || {
        let written = ledger.writes(&story.bed)?.sup.filter(|call| call.namespace == name && call.is_successful());
        let space = spaces.get(&name).await?;
        // Its own controllers write into it; whoever else does so is in the audit log.
        let fine = written.is_empty() && uid_of(&space) == uid_of(&before) && space.metadata.deletion_timestamp.is_none();
        Ok((!fine).then(|| format!("{written}{space:?}")))
    })
    .await?;
    let held: BTreeSet<_> = everything(&sup).await?.into_iter().map(|(place, _)| place).filter(|place| place.contains(&name)).collect();
    let expected = ["configmaps/{}/kube-root-ca.crt", "configmaps/{}/theirs", "namespaces//{}", "serviceaccounts/{}/default"];
    let expected: BTreeSet<_> = expected.iter().map(|place| place.replace("{}", &name)).collect();
    anyhow::ensure!(held == expected, "the foreign Namespace holds {held:?}");
    // The administrator does what the condition says.
    spaces.delete(&name, &DeleteParams::default()).await?;
    tenant.sees("the Pod runs", "taken", "waits", is_running).await?;
    story.standing(0)?.says("Ready", "True", "Synced").await?;
    Ok(())
}

/// The labels of a tenant's namespace in the super cluster are ours alone: no Pod Security level, no injection of somebody's.
async fn space(story: &Story) -> anyhow::Result<()> {
    let name = story.tenant(0)?.namespace_below("default");
    let spaces = Api::<Namespace>::all(story.bed.sup.client());
    edit(&spaces, &name, json!({ "metadata": { "labels": { ENFORCE: "privileged" } } })).await?;
    enforced(&spaces, &name).await
}

fn stranger() -> Value {
    json!({ "subjects": [{ "kind": "ServiceAccount", "namespace": "default", "name": "default" }] })
}

async fn bound(tenant: &Actor, namespace: &str) -> anyhow::Result<()> {
    let writer = tenant.id.writer();
    let ours = |binding: &RoleBinding| {
        let names: Vec<_> = binding.subjects.iter().flatten().map(|subject| subject.name.as_str()).collect();
        names == [writer.as_str()]
    };
    tenant.holds_below("the right to write is the writer's alone", namespace, keys::WRITER_ROLE, ours).await.map(drop)
}

const ENFORCE: &str = "pod-security.kubernetes.io/enforce";

async fn enforced(spaces: &Api<Namespace>, name: &str) -> anyhow::Result<()> {
    eventually("the Namespace enforces what it should", PATIENCE, async || {
        let level = spaces.get(name).await?.labels().get(ENFORCE).cloned();
        Ok(Seen::when(level.as_deref() == Some("baseline"), level))
    })
    .await
    .map(drop)
}

/// A Service of the super cluster has the address that the tenant's API server gave to another.
async fn address(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    let range = story.bed.tenant(0)?.service_cidr();
    // Of the low ones, which are given to nobody who did not ask.
    let address = format!("{}.9", range.rsplit_once('.').context("no range")?.0);
    let service = |name: &str| {
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": name },
            "spec": { "clusterIP": address, "selector": { "app": name }, "ports": [{ "port": 80 }] },
        })
    };
    let theirs: Api<Service> = Api::namespaced(story.bed.sup.client(), "default");
    apply(&theirs, "early", &service("early")).await?;
    let own = tenant.apply(&service("late")).await?;
    let event = tenant.warned("default", &uid_of(&own), "already allocated").await?;
    anyhow::ensure!(event.reason.as_deref() == Some("AddressTaken"), "{event:?}");
    let address_of =
        |service: &Service| service.spec.as_ref().and_then(|spec| spec.cluster_ip.clone()).filter(|address| !address.is_empty());
    let is_another = |service: &Service| address_of(service).is_some_and(|other| other != address);
    let above: Service = tenant.sees("it is given another", "default", "late", is_another).await?;
    let below = tenant.holds_below("the Service goes down", "default", "late", |_: &Service| true).await?;
    anyhow::ensure!(address_of(&above) == address_of(&below), "{above:?} {below:?}");
    let spec = above.spec.unwrap_or_default();
    anyhow::ensure!(spec.external_name.is_none() && spec.type_.as_deref() == Some("ClusterIP"), "{spec:?}");
    theirs.delete("early", &DeleteParams::default()).await.map(drop).map_err(Into::into)
}

/// Somebody was at work while no syncer was: nothing is heard of it, and what was built says the same as before.
async fn unseen(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    for namespace in ["unbound", "lost"] {
        tenant.make_namespace(namespace).await?;
        tenant.apply(&within(namespace, deployment())).await?;
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web" },
            "spec": { "selector": { "app": "web" }, "ports": [{ "port": 80 }] },
        });
        tenant.apply(&within(namespace, service)).await?;
        tenant.running(namespace, "app=web", 1).await?;
    }
    let lost = tenant.running("lost", "app=web", 1).await?.iter().map(uid_of).collect::<Vec<_>>();
    let token = token(story).await?;
    let token = token.as_str();
    story.syncer.process.stop().await?;
    let mounted: Secret = tenant.below("default").get(token).await?;
    let key = mounted.data.iter().flatten().map(|(key, _)| key.clone()).next().context("nothing is mounted")?;
    edit(&tenant.below::<Secret>("default"), token, json!({ "stringData": { key: "spoilt" } })).await?;
    edit(&tenant.below::<ConfigMap>("default"), "web", json!({ "data": { "is": "wrong" } })).await?;
    edit(&tenant.below::<Secret>("default"), "web", json!({ "stringData": { "is": "wrong" } })).await?;
    edit(&tenant.below::<Service>("default"), "web", json!({ "spec": { "selector": { "app": "evil" } } })).await?;
    edit(&tenant.below::<Pod>("default"), "web", json!({ "metadata": { "labels": { "app": "evil" } } })).await?;
    tenant.below::<Service>("default").delete("gone", &DeleteParams::default()).await?;
    let spaces = Api::<Namespace>::all(story.bed.sup.client());
    let name = tenant.namespace_below("default");
    edit(&spaces, &name, json!({ "metadata": { "labels": { ENFORCE: "privileged" } } })).await?;
    // As if the syncer had been killed between the two writes that make a Namespace usable.
    tenant.below::<RoleBinding>("unbound").delete(keys::WRITER_ROLE, &DeleteParams::default()).await?;
    edit(&tenant.below::<RoleBinding>("default"), keys::WRITER_ROLE, stranger()).await?;
    delete_space(&spaces, &tenant.namespace_below("lost")).await?;
    tenant.apply(&within("unbound", map("new"))).await?;
    let mounts = json!({ "volumes": [{ "name": "c", "configMap": { "name": "new" } }] });
    tenant.apply(&within("unbound", pod("new", &json!({}), &mounts))).await?;
    story.syncer.process.start_again()?;
    story.syncer.wait_ready(PATIENCE).await?;

    let is = |map: &ConfigMap| map.data.as_ref().is_some_and(|data| data.get("is").is_some_and(|is| is == "right"));
    tenant.holds_below("the ConfigMap is as it was", "default", "web", is).await?;
    let is = |secret: &Secret| secret.data.as_ref().is_some_and(|data| data.get("is").is_some_and(|is| is.0 == b"right"));
    tenant.holds_below("the Secret is as it was", "default", "web", is).await?;
    tenant.holds_below("what the Pod mounts is a token again", "default", token, is_token).await?;
    let selects = |service: &Service| service.spec.as_ref().is_some_and(|spec| spec.selector.iter().flatten().any(|(_, app)| app == "web"));
    tenant.holds_below("the Service is as it was", "default", "web", selects).await?;
    tenant.holds_below("the other one is there again", "default", "gone", selects).await?;
    tenant
        .holds_below("the Pod is as it was", "default", "web", |pod: &Pod| pod.labels().get("app").is_some_and(|app| app == "web"))
        .await?;
    enforced(&spaces, &name).await?;
    tenant.sees("a new Pod runs where the right to write was gone", "unbound", "new", is_running).await?;
    for namespace in ["unbound", "default"] {
        bound(tenant, namespace).await?;
    }
    // What ran there ended with it: the tenant's own controllers replace it.
    tenant.running_without("lost", "app=web", 1, &lost).await?;
    tenant.holds_below("the Service is there again", "lost", "web", selects).await.map(drop)
}

fn deployment() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web" },
        "spec": { "replicas": 1, "selector": { "matchLabels": { "app": "web" } }, "template": {
            "metadata": { "labels": { "app": "web" } },
            "spec": { "terminationGracePeriodSeconds": 1, "containers": [{ "name": "web", "image": "web" }] },
        } },
    })
}

/// Deletes a Namespace and waits until it is gone.
async fn delete_space(spaces: &Api<Namespace>, name: &str) -> anyhow::Result<()> {
    spaces.delete(name, &DeleteParams::default()).await?;
    eventually(format!("{name} is gone"), PATIENCE, async || {
        let found = spaces.get_opt(name).await?;
        Ok(Seen::when(found.is_none(), found))
    })
    .await
    .map(drop)
}
