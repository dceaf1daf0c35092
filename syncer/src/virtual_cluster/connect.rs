//! The first words with a tenant's API server: is it there, does it know us, which life of it is this.

use common::{Tenant, Uid};
use runtime::kubeconfig::Kubeconfig;
use runtime::log::Chain;
use runtime::transport::{Failure, Transport, TransportConfig};
use serde::Deserialize;

use crate::remote::{CallError, ListMeta, Remote};

/// Why a control plane cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    /// One word for the condition.
    pub reason: &'static str,
    /// What happened, and what to do.
    pub message: String,
    /// The kubeconfig may be out of date.
    pub stale: bool,
}

/// Makes the way to the API server that a tenant's kubeconfig names. Nothing is sent.
///
/// *Errors*: what is wrong with the kubeconfig, by field; never what it holds.
pub(super) fn remote(text: &[u8], template: &Template) -> Result<Remote<Tenant>, String> {
    let kubeconfig = Kubeconfig::from_tenant(text).map_err(|error| Chain(&error).to_string())?;
    let config = TransportConfig {
        limits: template.limits.clone(),
        gate: template.gate.clone(),
        ..TransportConfig::tenant(kubeconfig, template.addresses.clone(), &template.user_agent)
    };
    let transport = Transport::new(config).map_err(|error| Chain(&error).to_string())?;
    Ok(Remote::new(transport))
}

/// What every tenant's transport has in common.
#[derive(Clone, Debug)]
pub(super) struct Template {
    pub limits: runtime::transport::Limits,
    pub addresses: runtime::address::AddressPolicy,
    pub user_agent: String,
    pub gate: runtime::transport::Gate,
}

/// What a control plane says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// The UID of `kube-system`: which life of it answers.
    pub incarnation: Uid,
    /// The version at which its storage stands; zero if that is no number.
    pub version: u64,
}

#[derive(Deserialize)]
struct List {
    #[serde(default)]
    metadata: ListMeta,
    #[serde(default)]
    items: Option<Vec<Head>>,
}

#[derive(Deserialize)]
struct Head {
    metadata: HeadMeta,
}

#[derive(Deserialize)]
struct HeadMeta {
    uid: String,
}

/// One object by list, because a list says at which version the storage stands; read from a quorum.
const KUBE_SYSTEM: &str = "/api/v1/namespaces?fieldSelector=metadata.name%3Dkube-system";

/// Asks a control plane who it is and where it stands.
pub(super) async fn ask(remote: &Remote<Tenant>) -> Result<Answer, Trouble> {
    let bytes = remote.list_metadata(KUBE_SYSTEM.to_owned(), None).await.map_err(|error| trouble(&error))?;
    read(&bytes)
}

fn read(bytes: &[u8]) -> Result<Answer, Trouble> {
    let list: List =
        serde_json::from_slice(bytes).map_err(|_| bad_answer("the control plane's list of namespaces cannot be read".to_owned()))?;
    let Some(head) = list.items.unwrap_or_default().into_iter().next() else {
        let message = "the control plane has no namespace kube-system yet".to_owned();
        return Err(Trouble { reason: "ControlPlaneStarting", message, stale: false });
    };
    match Uid::parse(&head.metadata.uid) {
        Ok(incarnation) => Ok(Answer { incarnation, version: list.metadata.resource_version.parse().unwrap_or(0) }),
        Err(_) => Err(bad_answer("the namespace kube-system of the control plane has no valid UID".to_owned())),
    }
}

/// What to do, by what happened.
const SILENT: &str = "see that the API server runs, and that the super cluster reaches it at the address of the kubeconfig";
const UNTRUSTED: &str = "see that certificate-authority-data of the kubeconfig is this API server's authority, and that its certificate is for \
                         this address and has not expired";
const DENIED: &str = "give the kubeconfig an address that tenants may have, or let the administrator of the syncer allow this one";
const STRANGE: &str = "an API server does not answer like that: see what listens at the address of the kubeconfig";

fn bad_answer(message: String) -> Trouble {
    Trouble { reason: "BadAnswer", message, stale: false }
}

fn trouble(error: &CallError) -> Trouble {
    let what = Chain(error).to_string();
    match error {
        CallError::Status { code: 401, .. } => {
            let message = format!("{what}; the credentials of the kubeconfig are not accepted: put valid ones into it");
            Trouble { reason: "Unauthorized", message, stale: true }
        }
        CallError::Status { code: 403, .. } => {
            let message = format!("{what}; the user of the kubeconfig needs all rights in its control plane (ClusterRole cluster-admin)");
            Trouble { reason: "Forbidden", message, stale: true }
        }
        CallError::Status { .. } | CallError::Unreadable { .. } | CallError::Endless { .. } | CallError::Fenced => {
            bad_answer(format!("{what}; {STRANGE}"))
        }
        CallError::Transport { source, .. } => {
            let (reason, advice) = match source.kind() {
                Failure::Connect | Failure::Timeout | Failure::Closed => ("Unreachable", SILENT),
                Failure::Tls => ("TlsFailed", UNTRUSTED),
                Failure::AddressDenied => ("AddressDenied", DENIED),
                Failure::Invalid => ("KubeconfigRefused", "mend the kubeconfig"),
                Failure::TooLarge | Failure::Redirect | Failure::Encoded | Failure::Http(_) => ("BadAnswer", STRANGE),
            };
            Trouble { reason, message: format!("{what}; {advice}"), stale: matches!(source.kind(), Failure::Tls | Failure::Connect) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u16) -> CallError {
        CallError::Status { side: "tenant", code, reason: "R".to_owned(), message: "a\nb".to_owned(), retry_after: None }
    }

    #[test]
    fn an_answer_has_a_word_and_what_to_do() {
        for (code, reason, stale) in [(401, "Unauthorized", true), (403, "Forbidden", true), (500, "BadAnswer", false)] {
            let trouble = trouble(&status(code));
            assert_eq!((trouble.reason, trouble.stale), (reason, stale));
            assert!(!trouble.message.contains('\n'), "foreign text is escaped: {}", trouble.message);
        }
    }

    #[test]
    fn whatever_happens_somebody_is_told_what_to_see_to() {
        let invalid = runtime::transport::TransportError::Invalid { what: "w" };
        let unreadable = serde_json::from_str::<u8>("x").unwrap_err();
        for error in [
            status(500),
            CallError::Endless { side: "tenant" },
            CallError::Unreadable { side: "tenant", source: unreadable },
            CallError::Transport { side: "tenant", source: invalid },
        ] {
            let message = trouble(&error).message;
            assert!(message.contains("; ") && message.contains("kubeconfig"), "{message}");
        }
    }

    #[test]
    fn a_control_plane_says_who_it_is_and_where_it_stands() {
        let uid = "d64ea0c0-91f8-46f5-8643-c0cab32ab0cd";
        let list = |items: &str| format!(r#"{{"metadata":{{"resourceVersion":"77"}},"items":{items}}}"#);
        let answer = read(list(&format!(r#"[{{"metadata":{{"name":"kube-system","uid":"{uid}"}}}}]"#)).as_bytes()).unwrap();
        assert_eq!((answer.incarnation.to_string().as_str(), answer.version), (uid, 77));
        for items in ["null", "[]"] {
            assert_eq!(read(list(items).as_bytes()).unwrap_err().reason, "ControlPlaneStarting");
        }
        assert_eq!(read(b"7").unwrap_err().reason, "BadAnswer");
        assert_eq!(read(list(r#"[{"metadata":{"uid":"../x"}}]"#).as_bytes()).unwrap_err().reason, "BadAnswer");
    }

    #[test]
    fn a_kubeconfig_that_runs_a_program_is_refused_by_field() {
        let template = Template {
            limits: runtime::transport::Limits::default(),
            addresses: runtime::address::AddressPolicy::default(),
            user_agent: "t".to_owned(),
            gate: runtime::transport::Gate::default(),
        };
        let text = "apiVersion: v1\nkind: Config\ncurrent-context: a\ncontexts: [{name: a, context: {cluster: a, user: a}}]\n\
                    clusters: [{name: a, cluster: {server: 'https://192.0.2.1'}}]\nusers: [{name: a, user: {exec: {command: /bin/false, apiVersion: v1}}}]\n";
        let refused = remote(text.as_bytes(), &template).err().unwrap();
        assert!(refused.contains("exec"), "{refused}");
    }
}
