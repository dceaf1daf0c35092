//! What a back end says when it refuses, in words that the tenant may read.

use http::{Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use serde::Deserialize;

use crate::answer::{Failure, Hop};
use crate::backend::unexpected;
use crate::filter::renamed;
use crate::pods::SuperPod;

/// The most that is read of a refusal, and shown.
const MOST_BYTES: usize = 16 * 1024;
const MOST_CHARS: usize = 1024;

/// For a refusal to come whole.
const LIMIT: std::time::Duration = std::time::Duration::from_secs(5);

/// The failure that an answer is which is no success.
pub(crate) async fn failure(hop: Hop, pod: &SuperPod, response: Response<Incoming>) -> Failure {
    let status = response.status();
    let passes = matches!(
        status,
        StatusCode::BAD_REQUEST
            | StatusCode::NOT_FOUND
            | StatusCode::CONFLICT
            | StatusCode::TOO_MANY_REQUESTS
            | StatusCode::INTERNAL_SERVER_ERROR
            | StatusCode::SERVICE_UNAVAILABLE
    );
    if !passes {
        return unexpected(hop, status);
    }
    let read = tokio::time::timeout(LIMIT, Limited::new(response.into_body(), MOST_BYTES).collect()).await;
    let bytes = match read {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) | Err(_) => bytes::Bytes::new(),
    };
    let said = plain(&bytes);
    Failure::new(status, hop, told(hop, status, &said, pod)).because(said)
}

/// The text of a refusal.
fn plain(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Status {
        message: String,
    }
    let text = match serde_json::from_slice::<Status>(body) {
        Ok(status) => status.message,
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    };
    text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(MOST_CHARS).collect()
}

/// What kubelets, and API servers about what a kubelet runs, say of a Pod and a container of it. An API server passes the former on as it is.
const KNOWN: [&str; 12] = [
    "container \"{container}\" in pod \"{pod}\" is waiting to start: image can't be pulled",
    "container \"{container}\" in pod \"{pod}\" is waiting to start: trying and failing to pull image",
    "container \"{container}\" in pod \"{pod}\" is waiting to start - no logs yet",
    "container \"{container}\" in pod \"{pod}\" is terminated",
    "container \"{container}\" in pod \"{pod}\" is not available",
    "previous terminated container \"{container}\" in pod \"{pod}\" not found",
    "container not found (\"{container}\")",
    "container {container} is not valid for pod {pod}",
    "pod \"{pod}\" cannot be found - no logs available",
    "pod {pod} does not have a host assigned",
    "pod does not exist",
    "pods \"{pod}\" not found",
];

/// The one that ends with a reason: a word.
const WAITING: &str = "container \"{container}\" in pod \"{pod}\" is waiting to start: ";

/// Whether a text is one of these, about this Pod and a container of the tenant's own.
fn is_known(text: &str, pod: &SuperPod) -> bool {
    let is_word = |reason: &str| (1..=64).contains(&reason.len()) && reason.bytes().all(|b| b.is_ascii_alphanumeric());
    pod.containers.iter().any(|container| {
        let about = |form: &str| form.replace("{pod}", &pod.name).replace("{container}", container);
        KNOWN.iter().any(|form| text == about(form)) || text.strip_prefix(&about(WAITING)).is_some_and(is_word)
    })
}

/// What a refusal says, under the tenant's names.
fn told(hop: Hop, status: StatusCode, text: &str, pod: &SuperPod) -> String {
    // An API server also speaks in names of the super cluster: addresses, webhooks, policies, under whatever status those choose.
    let text = if hop != Hop::ApiServer || is_known(text, pod) { renamed(text, pod) } else { String::new() };
    let who = match hop {
        Hop::ApiServer => "the super cluster's API server",
        Hop::Kubelet | Hop::Agent | Hop::Request => "the kubelet",
    };
    if text.is_empty() { format!("{who} answered with status {}", status.as_u16()) } else { format!("{who} says: {text}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::tests::{pods, super_pod, tenant};

    #[test]
    fn s51_a_refusal_names_nothing_of_the_super_cluster() {
        let a = tenant(1);
        let pods = pods(&[super_pod(&a, "default", "web", 7, "app")]);
        let namespace = a.namespace(&common::Namespace::parse("default").unwrap()).to_string();
        let pod = pods.at(a.uid(), &namespace, "web").unwrap();
        let said = |body: &str| told(Hop::Kubelet, StatusCode::NOT_FOUND, &plain(body.as_bytes()), pod);
        assert_eq!(said(&format!("pod web_{namespace} not found\n")), "the kubelet says: pod web_default not found");
        let uid = pod.uid.to_string();
        assert_eq!(said(&format!("{{\"kind\":\"Status\",\"message\":\"no {uid}\"}}")), format!("the kubelet says: no {}", pod.owner.uid));
        assert_eq!(said(""), "the kubelet answered with status 404");
        assert_eq!(said("a\nb\u{1b}[31m"), "the kubelet says: a b [31m");
        assert!(said(&"x".repeat(5000)).len() < 1100);
    }

    #[test]
    fn s51_of_an_api_server_only_what_is_known_of_kubelets_is_told() {
        let a = tenant(1);
        let pods = pods(&[super_pod(&a, "default", "web", 7, "app,side")]);
        let namespace = a.namespace(&common::Namespace::parse("default").unwrap()).to_string();
        let pod = pods.at(a.uid(), &namespace, "web").unwrap();
        let said = |status, text: &str| told(Hop::ApiServer, status, text, pod);
        for text in [
            "container \"app\" in pod \"web\" is waiting to start: ContainerCreating",
            "container \"side\" in pod \"web\" is waiting to start: trying and failing to pull image",
            "container \"app\" in pod \"web\" is waiting to start: image can't be pulled",
            "container \"app\" in pod \"web\" is waiting to start - no logs yet",
            "container \"app\" in pod \"web\" is terminated",
            "previous terminated container \"app\" in pod \"web\" not found",
            "container not found (\"app\")",
            "pods \"web\" not found",
        ] {
            assert_eq!(said(StatusCode::BAD_REQUEST, text), format!("the super cluster's API server says: {text}"));
            assert_eq!(said(StatusCode::INTERNAL_SERVER_ERROR, text), format!("the super cluster's API server says: {text}"));
        }
        for text in [
            "admission webhook \"deny.internal.example\" denied the request: web",
            "webhook deny.internal.example refused web",
            "container \"app\" in pod \"web\" is waiting to start: see deny.internal.example",
            "container \"app\" in pod \"web\" is waiting to start: ",
            "container \"istio-proxy\" in pod \"web\" is terminated",
            "container \"app\" in pod \"other\" is terminated",
            "container \"app\" in pod \"web\" is terminated by deny.internal.example",
            "admission webhook \"x\": container \"app\" in pod \"web\" is terminated",
            "",
        ] {
            for status in [StatusCode::BAD_REQUEST, StatusCode::NOT_FOUND, StatusCode::CONFLICT, StatusCode::INTERNAL_SERVER_ERROR] {
                let expected = format!("the super cluster's API server answered with status {}", status.as_u16());
                assert_eq!(said(status, text), expected, "{text}");
            }
        }
    }
}
