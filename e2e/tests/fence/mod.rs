//! Tries requests of several identities and notes which did not end as they should.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail so, its helpers too")]
#![expect(clippy::needless_pass_by_value, reason = "values are made where they are given")]

pub(crate) mod addresses;
mod in_force;
pub(crate) mod ingresses;
pub(crate) mod pods;
pub(crate) mod tenant;

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use e2e::bed::Bed;
use e2e::wait::{Seen, eventually};
use http::Request;
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicy;
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, PostParams},
};
use serde_json::{Value, json};

/// Who tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Who {
    /// `system:masters`.
    Admin,
    /// Bound to `cluster-admin`, but no member of `system:masters`.
    Platform,
    /// `vc-system/vc-syncer`, as the manifests make it.
    Syncer,
    /// The writer of tenant A.
    WriterA,
    /// The writer of tenant B.
    WriterB,
    /// Another account beside the writers.
    Imposter,
}

/// How a try must end.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Verdict {
    /// It succeeds.
    Allowed,
    /// A policy of ours refuses, with a message that contains this.
    Policy(&'static str),
    /// RBAC refuses.
    Rbac,
    /// The definition of the kind refuses, with a message that contains this.
    Invalid(&'static str),
}

/// A super cluster with the manifests installed, and identities to try it with.
pub(crate) struct Fence<'a> {
    bed: &'a Bed,
    clients: HashMap<Who, Client>,
    tried: usize,
    wrong: Vec<String>,
}

impl<'a> Fence<'a> {
    /// Installs the manifests and waits until the policies are in force.
    pub(crate) async fn start(bed: &'a Bed) -> anyhow::Result<Self> {
        e2e::manifests::install(&bed.sup.client()).await?;
        let mut fence = Self { bed, clients: HashMap::from([(Who::Admin, bed.sup.client())]), tried: 0, wrong: Vec::new() };
        let platform = bed.sup.kubeconfig_for("platform", None)?;
        fence.add(Who::Platform, &platform).await?;
        fence.bind_admin(&json!([{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "platform"}]), "platform").await;
        fence.bystanders().await;
        let token = fence.token("vc-system", "vc-syncer").await?;
        fence.add(Who::Syncer, &bed.sup.kubeconfig_with_token(&token)).await?;
        let token = fence.token("vc-writers", "imposter").await?;
        fence.add(Who::Imposter, &bed.sup.kubeconfig_with_token(&token)).await?;
        in_force::each_policy(&mut fence).await?;
        Ok(fence)
    }

    /// What is there besides tenants.
    async fn bystanders(&mut self) {
        let named = |kind: &str, name: &str| json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}});
        self.admin_makes("/api/v1/namespaces", &named("Namespace", "innocent")).await;
        for name in ["password", "admin-kubeconfig"] {
            self.admin_makes("/api/v1/namespaces/innocent/secrets", &named("Secret", name)).await;
        }
        self.admin_makes("/api/v1/namespaces/vc-writers/serviceaccounts", &named("ServiceAccount", "imposter")).await;
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "vc-tenant-writer"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        });
        self.admin_makes("/apis/rbac.authorization.k8s.io/v1/namespaces/innocent/rolebindings", &binding).await;
        let tenant =
            json!({"apiVersion": "tenancy.x-k8s.io/v1alpha1", "kind": "VirtualCluster", "metadata": {"name": "alpha"}, "spec": {}});
        self.admin_makes("/apis/tenancy.x-k8s.io/v1alpha1/namespaces/innocent/virtualclusters", &tenant).await;
    }

    /// The names of all policies that are there.
    async fn policies(&self) -> anyhow::Result<BTreeSet<String>> {
        let all = Api::<ValidatingAdmissionPolicy>::all(self.bed.sup.client()).list_metadata(&ListParams::default()).await?;
        Ok(all.iter().map(ResourceExt::name_any).collect())
    }

    /// Gives `who` a client that is this account of `vc-writers`.
    pub(crate) async fn learn(&mut self, who: Who, account: &str) -> anyhow::Result<()> {
        let token = self.token("vc-writers", account).await?;
        let kubeconfig = self.bed.sup.kubeconfig_with_token(&token);
        self.add(who, &kubeconfig).await
    }

    async fn add(&mut self, who: Who, kubeconfig: &str) -> anyhow::Result<()> {
        let path = self.bed.dir().join(format!("{who:?}.kubeconfig"));
        std::fs::write(&path, kubeconfig)?;
        self.clients.insert(who, e2e::plane::client(&path).await?);
        Ok(())
    }

    async fn token(&self, namespace: &str, name: &str) -> anyhow::Result<String> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.bed.sup.client(), namespace);
        let answer = accounts.create_token_request(name, &PostParams::default(), &TokenRequest::default()).await?;
        Ok(answer.status.and_then(|status| status.token).unwrap_or_default())
    }

    /// Binds accounts (of `vc-writers`, or the syncer) to `cluster-admin`.
    pub(crate) async fn grant_everything(&mut self, names: &[&str]) -> anyhow::Result<()> {
        for name in names {
            let namespace = if *name == "vc-syncer" { "vc-system" } else { "vc-writers" };
            self.bind_admin(&json!([{"kind": "ServiceAccount", "name": name, "namespace": namespace}]), name).await;
        }
        let (who, path) = if names == ["vc-syncer"] { (Who::Syncer, "/api/v1/secrets") } else { (Who::WriterA, "/api/v1/secrets") };
        eventually("the rights are in force", Duration::from_secs(30), async || {
            let answer = self.send(who, "GET", path, &json!({}), "application/json", None).await;
            Ok(Seen::when(answer.is_ok(), ()))
        })
        .await
    }

    async fn bind_admin(&mut self, subjects: &Value, name: &str) {
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": format!("all-{name}")},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": subjects,
        });
        self.admin_makes("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &binding).await;
    }

    /// Something that has to be there for a try.
    pub(crate) async fn admin_makes(&mut self, path: &str, body: &Value) {
        let answer = self.send(Who::Admin, "POST", path, body, "application/json", None).await;
        self.note(&format!("preparing {path}"), Verdict::Allowed, answer);
    }

    /// A change that has to be there for a try.
    pub(crate) async fn admin_patches(&mut self, path: &str, body: &Value) {
        let answer = self.send(Who::Admin, "PATCH", path, body, "application/strategic-merge-patch+json", None).await;
        self.note(&format!("preparing {path}"), Verdict::Allowed, answer);
    }

    /// Pods are refused in a namespace until its controller has made the account `default`.
    pub(crate) async fn wait_for_account(&self, namespace: &str) -> anyhow::Result<()> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.bed.sup.client(), namespace);
        eventually("the default account is there", Duration::from_secs(30), async || {
            Ok(Seen::when(accounts.get_opt("default").await?.is_some(), ()))
        })
        .await
    }

    /// One request, and how it must end. Rights that were given a moment ago may take a moment.
    pub(crate) async fn attempt(&mut self, what: &str, who: Who, method: &str, path: &str, body: &Value, verdict: Verdict) {
        let content = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let mut answer = self.send(who, method, path, body, content, None).await;
        for _ in 0..20 {
            let early = !matches!(verdict, Verdict::Rbac) && answer.as_ref().is_err_and(|text| by_rbac(text));
            if !early {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
            answer = self.send(who, method, path, body, content, None).await;
        }
        self.note(what, verdict, answer);
    }

    /// A strategic merge patch: lists of conditions are merged by type.
    pub(crate) async fn attempt_strategic(&mut self, what: &str, who: Who, path: &str, body: &Value, verdict: Verdict) {
        let answer = self.send(who, "PATCH", path, body, "application/strategic-merge-patch+json", None).await;
        self.note(what, verdict, answer);
    }

    /// A request under the name of somebody else in `group`.
    pub(crate) async fn attempt_as(&mut self, what: &str, who: Who, group: &str, method: &str, path: &str, verdict: Verdict) {
        let answer = self.send(who, method, path, &json!({}), "application/json", Some(("somebody", group))).await;
        self.note(what, verdict, answer);
    }

    /// One request; played as somebody else in a group, if these are named.
    async fn send(
        &self,
        who: Who,
        method: &str,
        path: &str,
        body: &Value,
        content: &str,
        play: Option<(&str, &str)>,
    ) -> Result<Value, String> {
        let bytes = if method == "GET" { Vec::new() } else { body.to_string().into_bytes() };
        let mut request = Request::builder().method(method).uri(path).header("content-type", content);
        if let Some((user, group)) = play {
            request = request.header("impersonate-user", user).header("impersonate-group", group);
        }
        let client = self.clients.get(&who).ok_or_else(|| format!("{who:?} is not known yet"))?;
        let request = request.body(bytes).map_err(|error| error.to_string())?;
        client.request::<Value>(request).await.map_err(|error| error.to_string())
    }

    fn note(&mut self, what: &str, verdict: Verdict, answer: Result<Value, String>) {
        self.tried += 1;
        let right = match (&verdict, &answer) {
            (Verdict::Allowed, Ok(_)) => true,
            (Verdict::Policy(part), Err(text)) => text.contains("denied request") && text.contains(part),
            (Verdict::Rbac, Err(text)) => by_rbac(text),
            (Verdict::Invalid(part), Err(text)) => text.contains("is invalid") && text.contains(part),
            (Verdict::Policy(_) | Verdict::Rbac | Verdict::Invalid(_), Ok(_)) | (Verdict::Allowed, Err(_)) => false,
        };
        if !right {
            let seen = answer.map_or_else(|text| text, |_| "it succeeded".to_owned());
            self.wrong.push(format!("{what}: wanted {verdict:?}, but {seen}"));
        }
    }

    /// Fails with all that went wrong.
    pub(crate) fn finish(self) {
        assert!(self.wrong.is_empty(), "{} of {} tries ended wrongly:\n{}", self.wrong.len(), self.tried, self.wrong.join("\n"));
        eprintln!("{} tries ended as they should", self.tried);
    }
}

/// The object of this kind in a file of `manifests/`.
pub(crate) fn manifest(file: &str, kind: &str) -> Value {
    let path = e2e::env::workspace().join("manifests").join(file);
    let documents: Vec<Value> = serde_saphyr::from_multiple(&std::fs::read_to_string(path).unwrap()).unwrap();
    documents.into_iter().find(|document| document["kind"] == kind).unwrap()
}

fn by_rbac(text: &str) -> bool {
    !text.contains("denied request")
        && (text.contains(" cannot ") || text.contains("attempting to grant RBAC permissions") || text.contains("is forbidden: User"))
}
