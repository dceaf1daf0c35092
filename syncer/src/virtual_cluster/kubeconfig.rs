//! Finding a tenant's kubeconfig: reads single objects by name, and only those that may be its.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::api::VirtualCluster;
use common::keys;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::{Api, Client, ResourceExt};
use runtime::log::Chain;

use super::decide::{Place, has_ignored_annotation, places};

/// Data keys of the Secret, in order: ours and the original's, Cluster API's, and what people write.
const DATA_KEYS: [&str; 3] = [keys::ADMIN_KUBECONFIG_NAME, "value", "kubeconfig"];

/// What was found.
pub(super) enum Found {
    /// A kubeconfig, unread.
    Text(Vec<u8>),
    /// None, for certain: a word, and what to do.
    Nothing(&'static str, String),
    /// We may not look: what to do.
    Forbidden(String),
    /// Nobody can say for now.
    Failed(String),
}

/// Looks for the kubeconfig of `vc`.
pub(super) async fn find(client: &Client, vc: &VirtualCluster, allow_annotation: bool) -> Found {
    let mut missed = Vec::new();
    for place in places(vc, allow_annotation) {
        match look(client, vc, &place).await {
            Found::Nothing("KubeconfigMissing", what) => missed.push(what),
            found @ (Found::Text(_) | Found::Nothing(..) | Found::Forbidden(_) | Found::Failed(_)) => return found,
        }
    }
    if has_ignored_annotation(vc, allow_annotation) {
        let message = format!(
            "the annotation {} is read only with --allow-kubeconfig-annotation, because everybody who may read VirtualClusters reads it: \
             put the kubeconfig into the Secret {} instead",
            keys::ADMIN_KUBECONFIG,
            keys::ADMIN_KUBECONFIG_NAME
        );
        return Found::Nothing("KubeconfigAnnotationNotAllowed", message);
    }
    Found::Nothing("KubeconfigMissing", missed.join("; "))
}

fn missing(what: String) -> Found {
    Found::Nothing("KubeconfigMissing", what)
}

async fn look(client: &Client, vc: &VirtualCluster, place: &Place) -> Found {
    let own = vc.namespace().unwrap_or_default();
    match place {
        Place::Annotation(text) => {
            let compact: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
            match STANDARD.decode(compact) {
                Ok(bytes) => Found::Text(bytes),
                Err(_) => Found::Nothing("KubeconfigRefused", format!("the annotation {} is not base64", keys::ADMIN_KUBECONFIG)),
            }
        }
        Place::Named(name) => read(client, &own, name).await,
        Place::Own => read(client, &own, keys::ADMIN_KUBECONFIG_NAME).await,
        Place::Root(root) => match is_root_of(client, root, vc).await {
            Ok(true) => read(client, root, keys::ADMIN_KUBECONFIG_NAME).await,
            Ok(false) => missing(format!(
                "the namespace {root} of status.clusterNamespace is not there or does not carry the annotation {}={}",
                keys::ROOT_NAMESPACE_OF,
                vc.uid().unwrap_or_default()
            )),
            Err(error) => Found::Failed(Chain(&error).to_string()),
        },
    }
}

/// Whether a namespace says that it is this VirtualCluster's: its status alone is written by too many.
async fn is_root_of(client: &Client, root: &str, vc: &VirtualCluster) -> Result<bool, kube::Error> {
    let namespace = Api::<Namespace>::all(client.clone()).get_opt(root).await?;
    let claimed = namespace.as_ref().and_then(|namespace| namespace.annotations().get(keys::ROOT_NAMESPACE_OF));
    Ok(claimed.is_some() && claimed == vc.uid().as_ref())
}

async fn read(client: &Client, namespace: &str, name: &str) -> Found {
    let secret = match Api::<Secret>::namespaced(client.clone(), namespace).get_opt(name).await {
        Ok(Some(secret)) => secret,
        Ok(None) => {
            return missing(format!(
                "there is no Secret {name} in namespace {namespace}: put the control plane's kubeconfig there, key {}",
                DATA_KEYS[0]
            ));
        }
        Err(kube::Error::Api(status)) if status.code == 403 => {
            return Found::Forbidden(format!(
                "the syncer may not read the Secret {name} in namespace {namespace}: apply the Role of \
                 manifests/samples/role-for-kubeconfig.yaml with these two names"
            ));
        }
        Err(error) => return Found::Failed(Chain(&error).to_string()),
    };
    let mut data = secret.data.unwrap_or_default();
    match DATA_KEYS.iter().find_map(|key| data.remove(*key)).filter(|bytes| !bytes.0.is_empty()) {
        Some(bytes) => Found::Text(bytes.0),
        None => missing(format!("the Secret {name} in namespace {namespace} has none of the keys {}", DATA_KEYS.join(", "))),
    }
}
