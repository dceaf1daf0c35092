//! `cargo xtask manifests`: writes the generated parts of `manifests/` and `docs/kinds.md`, or checks them.
//!
//! Custom resource definitions come from the types in `common::api`, roles from the table of kinds in `mirror`: a kind that is
//! added there brings its rights along, and a right that no kind asks for goes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, bail};
use common::api::{ClusterVersion, SyncedResource, VirtualCluster};
use common::keys;
use kube::CustomResourceExt;
use mirror::kind::{Kind, Observe};
use serde::Serialize;
use serde_json::{Value, json};

/// What stands above every generated file.
const HEADER: &str = "# Written by `cargo xtask manifests`; changes made here by hand are lost.\n";

/// What a writer does to objects of its tenant. No `watch`: what is watched, the syncer watches for all. No `deletecollection`.
const WRITES: &[&str] = &["create", "delete", "get", "list", "patch", "update"];

/// What the syncer does to see them.
const READS: &[&str] = &["get", "list", "watch"];

/// Subresources that writers write, beside the plain resource: conditions of the tenant's readiness gates, ephemeral containers
/// and other resources go down to a super Pod.
const SUBRESOURCES: &[(&str, &str)] = &[("pods", "pods/status"), ("pods", "pods/ephemeralcontainers"), ("pods", "pods/resize")];

/// Writes the files, or with `check` fails if one of them differs.
pub(crate) fn run(check: bool) -> anyhow::Result<()> {
    let root = crate::root();
    let files = generated()?;
    let mut stale = strangers(&root, &files)?;
    for (name, wanted) in &files {
        let path = root.join(name);
        if fs::read_to_string(&path).is_ok_and(|held| held == *wanted) {
            continue;
        }
        if check {
            stale.push(path);
        } else {
            fs::create_dir_all(path.parent().unwrap_or(&root)).context("could not create the folder of the manifests")?;
            fs::write(&path, wanted).with_context(|| format!("could not write {}", path.display()))?;
            eprintln!("wrote {}", path.display());
        }
    }
    if stale.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = stale.iter().map(|path| path.display().to_string()).collect();
    bail!("not as `cargo xtask manifests` would write or leave it: {}", names.join(", "))
}

/// Definitions that lie in `crds/` and come from no type.
fn strangers(root: &std::path::Path, files: &BTreeMap<String, String>) -> anyhow::Result<Vec<PathBuf>> {
    let Ok(entries) = fs::read_dir(root.join("manifests/crds")) else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.context("could not list the definitions")?;
        if !files.contains_key(&format!("manifests/crds/{}", entry.file_name().to_string_lossy())) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Every generated file: where it lies, and what stands in it.
fn generated() -> anyhow::Result<BTreeMap<String, String>> {
    let rows = rows();
    Ok(BTreeMap::from([
        ("manifests/crds/virtualclusters.yaml".to_owned(), yaml(&[VirtualCluster::crd()])?),
        ("manifests/crds/clusterversions.yaml".to_owned(), yaml(&[ClusterVersion::crd()])?),
        ("manifests/crds/syncedresources.yaml".to_owned(), yaml(&[SyncedResource::crd()])?),
        ("manifests/rbac.yaml".to_owned(), yaml(&identities(&rows))?),
        ("manifests/rbac-vn-agent.yaml".to_owned(), yaml(&agent_identities())?),
        ("manifests/rbac-vn-agent-super.yaml".to_owned(), yaml(&agent_super_identities())?),
        ("docs/kinds.md".to_owned(), crate::kinds::page(mirror::KINDS)),
    ]))
}

/// Documents of one file.
fn yaml<T: Serialize>(documents: &[T]) -> anyhow::Result<String> {
    let mut text = HEADER.to_owned();
    for (n, document) in documents.iter().enumerate() {
        if n > 0 {
            text.push_str("---\n");
        }
        // Through a value: keys in one order, whatever the types say.
        let value = serde_json::to_value(document).context("could not serialize a manifest")?;
        text.push_str(&serde_saphyr::to_string(&value).context("could not write a manifest as YAML")?);
    }
    Ok(text)
}

/// What roles need to know of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Row {
    group: &'static str,
    plural: &'static str,
    /// Tenants create it, writers write it.
    down: bool,
    /// The syncer lists and watches it in the super cluster.
    watched: bool,
}

/// The table of kinds, as far as roles are concerned.
fn rows() -> Vec<Row> {
    mirror::KINDS.iter().map(row).collect()
}

fn row(kind: &Kind) -> Row {
    let (down, watched) = match kind {
        Kind::Down(kind) => (true, kind.observe() == Observe::Watched),
        Kind::Up(_) => (false, true),
    };
    let resource = kind.resource();
    Row { group: resource.group, plural: resource.plural, down, watched }
}

/// Who may do what in the super cluster.
fn identities(rows: &[Row]) -> Vec<Value> {
    let configured = format!("{}-configured", keys::SYNCER);
    vec![
        json!({
            "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": keys::SYNCER, "namespace": keys::SYSTEM_NAMESPACE},
        }),
        cluster_role(keys::SYNCER, &syncer_rules(rows)),
        cluster_role_binding(keys::SYNCER),
        aggregated(&configured, keys::AGGREGATE_TO_SYNCER),
        cluster_role_binding(&configured),
        aggregated(keys::WRITER_ROLE, keys::AGGREGATE_TO_WRITER),
        part_of_writers("kinds", &writer_rules(rows)),
        role(keys::SYSTEM_NAMESPACE, &lease_rules()),
        role_binding(keys::SYSTEM_NAMESPACE),
        role(keys::WRITERS_NAMESPACE, &mint_rules()),
        role_binding(keys::WRITERS_NAMESPACE),
    ]
}

/// What the syncer may do as itself, in the whole super cluster.
///
/// *Guarantees*: no wildcard, no `escalate`, no `impersonate`; `bind` on one `ClusterRole`; Secrets only by `get` on the one name
/// of kubeconfigs. What RBAC cannot say (which namespaces, which subjects), `admission.yaml` does.
fn syncer_rules(rows: &[Row]) -> Vec<Value> {
    let mut rules = vec![
        rule("tenancy.x-k8s.io", &["virtualclusters"], READS),
        rule("tenancy.x-k8s.io", &["virtualclusters/status"], &["patch"]),
        // What of custom resources goes down, and in which versions they are served.
        rule("tenancy.x-k8s.io", &["syncedresources"], READS),
        rule("tenancy.x-k8s.io", &["syncedresources/status"], &["patch"]),
        rule("apiextensions.k8s.io", &["customresourcedefinitions"], READS),
        rule("", &["namespaces"], &["create", "delete", "get", "list", "patch", "update", "watch"]),
        // Which ranges Services have addresses from: tenants' API servers are told of those.
        rule("networking.k8s.io", &["servicecidrs"], &["list"]),
        named("", "secrets", keys::ADMIN_KUBECONFIG_NAME, &["get"]),
        rule("rbac.authorization.k8s.io", &["rolebindings"], &["create"]),
        named("rbac.authorization.k8s.io", "rolebindings", keys::WRITER_ROLE, &["delete", "get", "update"]),
        named("rbac.authorization.k8s.io", "clusterroles", keys::WRITER_ROLE, &["bind"]),
    ];
    let watched = rows.iter().filter(|row| row.watched && row.plural != "namespaces");
    rules.extend(by_group(watched).into_iter().map(|(group, plurals)| rule(group, &plurals, READS)));
    rules
}

/// What a tenant's writer may do in the namespaces that it is bound in. Nothing on Namespaces.
fn writer_rules(rows: &[Row]) -> Vec<Value> {
    let written: Vec<&Row> = rows.iter().filter(|row| row.down && row.plural != "namespaces").collect();
    let mut rules: Vec<_> = by_group(written.iter().copied()).into_iter().map(|(group, plurals)| rule(group, &plurals, WRITES)).collect();
    for (plural, subresource) in SUBRESOURCES {
        if let Some(row) = written.iter().find(|row| row.plural == *plural) {
            rules.push(rule(row.group, &[subresource], &["patch", "update"]));
        }
    }
    rules
}

/// The Lease that one of the replicas holds.
fn lease_rules() -> Vec<Value> {
    vec![
        rule("coordination.k8s.io", &["leases"], &["create"]),
        named("coordination.k8s.io", "leases", keys::SYNCER, &["get", "patch", "update"]),
    ]
}

/// Making writers and their tokens; in the namespace that holds nothing else.
fn mint_rules() -> Vec<Value> {
    vec![rule("", &["serviceaccounts"], &["create", "delete", "get", "list"]), rule("", &["serviceaccounts/token"], &["create"])]
}

/// Who vn-agent is in the super cluster: it learns which tenants there are. What it may do at a kubelet is bound to the certificate of that
/// node (`vn-agent issue kubelet-rights`).
fn agent_identities() -> Vec<Value> {
    let subject = json!({"kind": "ServiceAccount", "name": keys::AGENT, "namespace": keys::AGENTS_NAMESPACE});
    vec![
        json!({
            "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": keys::AGENT, "namespace": keys::AGENTS_NAMESPACE},
        }),
        cluster_role(keys::AGENT, &agent_rules()),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": keys::AGENT},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": keys::AGENT},
            "subjects": [subject],
        }),
    ]
}

/// For `--backend=super` alone: tenants' identities stream too, which a policy in place of that of the same name in `admission.yaml` bounds, and
/// vn-agent may ask for their tokens.
fn agent_super_identities() -> Vec<Value> {
    let role = |kind: &str| json!({"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": keys::AGENT});
    let metadata = json!({"name": keys::AGENT, "namespace": keys::WRITERS_NAMESPACE});
    vec![
        part_of_writers("streams", &stream_rules()),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": metadata,
            "rules": [rule("", &["serviceaccounts/token"], &["create"])],
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": metadata,
            "roleRef": role("Role"),
            "subjects": [{"kind": "ServiceAccount", "name": keys::AGENT, "namespace": keys::AGENTS_NAMESPACE}],
        }),
        stream_policy(),
    ]
}

/// What RBAC cannot say of a tenant's identity: it streams only where the record is its own tenant's.
fn stream_policy() -> Value {
    let writers = format!("system:serviceaccount:{}:", keys::WRITERS_NAMESPACE);
    let is_own = format!(
        "request.userInfo.username.matches('^{writers}w-[a-z2-7]{{26}}$') && namespaceObject != null && \
         namespaceObject.metadata.?labels[?'{}'].orValue('') == request.userInfo.username.substring({}) && \
         namespaceObject.metadata.?annotations[?'{}'].orValue('') != ''",
        keys::TENANT,
        writers.len() + "w-".len(),
        keys::OWNER,
    );
    let is_stream = "request.resource.resource == 'pods' && request.?subResource.orValue('') in ['attach', 'exec', 'portforward']";
    let everything = json!({"apiGroups": ["*"], "apiVersions": ["*"], "operations": ["CONNECT"], "resources": ["*/*"], "scope": "*"});
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": "vc-tenant-writers-connect"},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [everything]},
            "matchConditions": [{"name": "a-writer", "expression": format!("request.userInfo.username.startsWith('{writers}')")}],
            "validations": [
                {"expression": is_stream, "message": "a tenant's writer opens exec, attach and port-forward, no other stream and no proxy"},
                {"expression": is_own, "message": "a tenant's writer opens streams only in namespaces whose record is its own tenant's"},
            ],
        },
    })
}

/// What a tenant's identity does to its Pods for `logs`, `exec`, `attach` and `port-forward`; a WebSocket comes by `get`.
fn stream_rules() -> Vec<Value> {
    vec![rule("", &["pods/log"], &["get"]), rule("", &["pods/attach", "pods/exec", "pods/portforward"], &["create", "get"])]
}

/// What vn-agent may do as itself, in the whole super cluster.
fn agent_rules() -> Vec<Value> {
    vec![rule("tenancy.x-k8s.io", &["virtualclusters"], READS)]
}

fn by_group<'a>(rows: impl Iterator<Item = &'a Row>) -> BTreeMap<&'static str, Vec<&'static str>> {
    let mut groups: BTreeMap<&'static str, BTreeSet<&'static str>> = BTreeMap::new();
    for row in rows {
        groups.entry(row.group).or_default().insert(row.plural);
    }
    groups.into_iter().map(|(group, plurals)| (group, plurals.into_iter().collect())).collect()
}

fn rule(group: &str, resources: &[&str], verbs: &[&str]) -> Value {
    json!({"apiGroups": [group], "resources": resources, "verbs": verbs})
}

fn named(group: &str, resource: &str, name: &str, verbs: &[&str]) -> Value {
    json!({"apiGroups": [group], "resources": [resource], "resourceNames": [name], "verbs": verbs})
}

fn cluster_role(name: &str, rules: &[Value]) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": name},
        "rules": rules,
    })
}

/// A role that has the rules of all that bear a label. API servers fill them in.
fn aggregated(name: &str, label: &str) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": name},
        "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {label: "true"}}]},
    })
}

/// Rules that are among those of a tenant's writer.
fn part_of_writers(what: &str, rules: &[Value]) -> Value {
    let mut role = cluster_role(&format!("{}-{what}", keys::WRITER_ROLE), rules);
    if let Some(metadata) = role.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("labels".to_owned(), json!({keys::AGGREGATE_TO_WRITER: "true"}));
    }
    role
}

/// Gives the syncer the role of this name.
fn cluster_role_binding(name: &str) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
        "subjects": [syncer()],
    })
}

fn role(namespace: &str, rules: &[Value]) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
        "metadata": {"name": keys::SYNCER, "namespace": namespace},
        "rules": rules,
    })
}

fn role_binding(namespace: &str) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": keys::SYNCER, "namespace": namespace},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": keys::SYNCER},
        "subjects": [syncer()],
    })
}

fn syncer() -> Value {
    json!({"kind": "ServiceAccount", "name": keys::SYNCER, "namespace": keys::SYSTEM_NAMESPACE})
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: &[Row] = &[
        Row { group: "", plural: "namespaces", down: true, watched: true },
        Row { group: "", plural: "pods", down: true, watched: true },
        Row { group: "", plural: "secrets", down: true, watched: false },
        Row { group: "networking.k8s.io", plural: "ingresses", down: true, watched: true },
        Row { group: "", plural: "nodes", down: false, watched: true },
    ];

    /// Every (resource, verb, names) that these rules grant.
    fn grants(rules: &[Value]) -> Vec<(String, String, bool)> {
        let mut all = Vec::new();
        for rule in rules {
            for resource in rule["resources"].as_array().unwrap() {
                for verb in rule["verbs"].as_array().unwrap() {
                    let (resource, verb) = (resource.as_str().unwrap(), verb.as_str().unwrap());
                    all.push((resource.to_owned(), verb.to_owned(), rule.get("resourceNames").is_some()));
                }
            }
        }
        all
    }

    /// Every document that lies in `manifests/`, with the name of its file.
    fn shipped() -> Vec<(String, Value)> {
        let mut found = Vec::new();
        for dir in ["manifests", "manifests/crds", "manifests/samples"] {
            for entry in fs::read_dir(crate::root().join(dir)).unwrap() {
                let path = entry.unwrap().path();
                if path.extension().is_some_and(|end| end == "yaml") {
                    let name = path.file_name().unwrap().to_string_lossy().into_owned();
                    let documents: Vec<Value> = serde_saphyr::from_multiple(&fs::read_to_string(&path).unwrap()).unwrap();
                    found.extend(documents.into_iter().map(|document| (name.clone(), document)));
                }
            }
        }
        found
    }

    #[test]
    fn nobody_has_a_wildcard_or_a_right_to_become_somebody_else() {
        let rows = rows();
        let generated = [identities(&rows), agent_identities()].concat().into_iter().map(|role| ("generated".to_owned(), role));
        let before_api_server = agent_super_identities().into_iter().map(|role| ("rbac-vn-agent-super.yaml".to_owned(), role));
        let mut checked = 0;
        for (place, role) in generated.chain(before_api_server).chain(shipped()) {
            let streams = place == "rbac-vn-agent-super.yaml";
            for rule in role["rules"].as_array().into_iter().flatten() {
                let text = rule.to_string();
                for word in ["*", "escalate", "impersonate", "deletecollection", "eviction", "nodes/proxy"] {
                    assert!(!text.contains(word), "{word} in {place}: {text}");
                }
                assert!(streams || !text.contains("pods/exec"), "pods/exec in {place}: {text}");
                checked += 1;
            }
        }
        assert!(checked > 40, "only {checked} rules");
    }

    #[test]
    fn the_syncer_is_deployed_twice_and_has_no_right_on_its_node() {
        let all = shipped();
        let [deployment] = all.iter().filter(|(_, document)| document["kind"] == "Deployment").collect::<Vec<_>>()[..] else {
            panic!("not one Deployment");
        };
        let spec = &deployment.1["spec"];
        assert_eq!(spec["replicas"], 2);
        let pod = &spec["template"]["spec"];
        assert_eq!((&pod["serviceAccountName"], &pod["securityContext"]["runAsNonRoot"]), (&json!(keys::SYNCER), &json!(true)));
        assert!(["hostNetwork", "hostPID", "hostIPC", "volumes", "initContainers"].iter().all(|field| pod[field].is_null()), "{pod}");
        let [container] = &pod["containers"].as_array().unwrap()[..] else { panic!("not one container") };
        let expected = json!({
            "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": { "drop": ["ALL"] },
        });
        assert_eq!(container["securityContext"], expected);
        assert_eq!(container["livenessProbe"]["httpGet"], json!({ "path": "/livez", "port": "http" }));
        assert_eq!(container["readinessProbe"]["httpGet"], json!({ "path": "/readyz", "port": "http" }));
        let requests = &container["resources"]["requests"];
        assert!(requests["cpu"].is_string() && requests["memory"].is_string(), "{requests}");
    }

    #[test]
    fn s47_nothing_shipped_opens_addresses_that_are_denied() {
        for (place, document) in shipped() {
            let text = document.to_string();
            for word in ["ALLOW_ADDRESSES", "allow-addresses", "127.0.0"] {
                assert!(!text.contains(word), "{word} in {place}");
            }
        }
    }

    #[test]
    fn the_syncer_binds_one_role_and_reads_one_name_of_secret() {
        let grants = grants(&syncer_rules(ROWS));
        let bind: Vec<_> = grants.iter().filter(|(_, verb, _)| verb == "bind").collect();
        assert_eq!(bind, [&("clusterroles".to_owned(), "bind".to_owned(), true)]);
        let secrets: Vec<_> = grants.iter().filter(|(resource, ..)| resource == "secrets").collect();
        assert_eq!(secrets, [&("secrets".to_owned(), "get".to_owned(), true)]);
    }

    #[test]
    fn the_syncer_only_reads_what_tenants_write() {
        for (resource, verb, _) in grants(&syncer_rules(ROWS)) {
            if ["pods", "ingresses", "nodes"].contains(&resource.as_str()) {
                assert!(READS.contains(&verb.as_str()), "{verb} {resource}");
            }
        }
    }

    #[test]
    fn roles_that_are_put_together_bear_their_labels() {
        let shipped = shipped();
        for (whole, label) in [("vc-tenant-writer", keys::AGGREGATE_TO_WRITER), ("vc-syncer-configured", keys::AGGREGATE_TO_SYNCER)] {
            let role = shipped.iter().find(|(_, document)| document["kind"] == "ClusterRole" && document["metadata"]["name"] == whole);
            let selector = &role.unwrap().1["aggregationRule"]["clusterRoleSelectors"];
            assert_eq!(selector, &json!([{"matchLabels": {label: "true"}}]), "{whole}");
            assert!(shipped.iter().any(|(_, document)| document["metadata"]["labels"][label] == "true"), "{whole}");
        }
    }

    #[test]
    fn a_writer_has_what_goes_down_and_nothing_else() {
        let grants = grants(&writer_rules(ROWS));
        let resources: BTreeSet<_> = grants.iter().map(|(resource, ..)| resource.as_str()).collect();
        assert_eq!(resources, BTreeSet::from(["ingresses", "pods", "pods/ephemeralcontainers", "pods/resize", "pods/status", "secrets"]));
        assert!(grants.iter().all(|(_, verb, _)| verb != "watch"));
    }

    /// What the file in the repository grants: a line a role and resource, and one a binding.
    fn rights(file: &str) -> Vec<String> {
        let text = fs::read_to_string(crate::root().join("manifests").join(file)).unwrap();
        let words = |value: &Value| value.as_array().map(|all| all.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","));
        let mut lines = Vec::new();
        for document in text.split("---\n") {
            let document: Value = serde_saphyr::from_str(document).unwrap();
            let of = |pointer: &str| document.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
            let who = format!("{} {}/{}", of("/kind"), of("/metadata/namespace"), of("/metadata/name"));
            for rule in document["rules"].as_array().into_iter().flatten() {
                let known = ["apiGroups", "resources", "resourceNames", "verbs"];
                assert!(rule.as_object().unwrap().keys().all(|key| known.contains(&key.as_str())), "{rule}");
                let names = words(&rule["resourceNames"]).map(|names| format!(" [{names}]")).unwrap_or_default();
                let verbs = words(&rule["verbs"]).unwrap();
                for resource in rule["resources"].as_array().unwrap() {
                    let group = words(&rule["apiGroups"]).unwrap();
                    lines.push(format!("{who}: {group}/{}{names}: {verbs}", resource.as_str().unwrap()));
                }
            }
            for subject in document["subjects"].as_array().into_iter().flatten() {
                let part = |field: &str| subject[field].as_str().unwrap_or_default().to_owned();
                let whom = format!("{} {}/{}", part("kind"), part("namespace"), part("name"));
                lines.push(format!("{who}: {} {} to {whom}", of("/roleRef/kind"), of("/roleRef/name")));
            }
        }
        lines
    }

    #[test]
    fn s62_vn_agent_as_itself_reads_virtual_clusters_and_nothing_else() {
        let expected = [
            "ClusterRole /vn-agent: tenancy.x-k8s.io/virtualclusters: get,list,watch",
            "ClusterRoleBinding /vn-agent: ClusterRole vn-agent to ServiceAccount vc-agents/vn-agent",
        ];
        assert_eq!(rights("rbac-vn-agent.yaml"), expected);
    }

    #[test]
    fn s62_before_the_api_server_vn_agent_asks_for_tokens_and_writers_stream_and_nothing_else() {
        let writer = "ClusterRole /vc-tenant-writer-streams: ";
        let (writers, agents): (Vec<_>, Vec<_>) = rights("rbac-vn-agent-super.yaml").into_iter().partition(|line| line.starts_with(writer));
        let expected = [
            "Role vc-writers/vn-agent: /serviceaccounts/token: create",
            "RoleBinding vc-writers/vn-agent: Role vn-agent to ServiceAccount vc-agents/vn-agent",
        ];
        assert_eq!(agents, expected);
        let expected = ["pods/log: get", "pods/attach: create,get", "pods/exec: create,get", "pods/portforward: create,get"];
        assert_eq!(writers, expected.map(|right| format!("{writer}/{right}")));
    }

    #[test]
    fn what_is_written_is_read_back_alike() {
        for document in identities(ROWS) {
            let text = yaml(&[&document]).unwrap();
            let read: Value = serde_saphyr::from_str(&text).unwrap();
            assert_eq!(read, document);
        }
    }

    #[test]
    fn the_files_in_the_repository_are_the_generated_ones() {
        run(true).unwrap();
    }
}
