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
    Failure::new(status, hop, said(hop, status, &bytes, pod))
}

/// What a refusal says, under the tenant's names.
fn said(hop: Hop, status: StatusCode, body: &[u8], pod: &SuperPod) -> String {
    #[derive(Deserialize)]
    struct Status {
        message: String,
    }
    let text = match serde_json::from_slice::<Status>(body) {
        Ok(status) => status.message,
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    };
    let text: String = renamed(text.trim(), pod).chars().map(|c| if c.is_control() { ' ' } else { c }).take(MOST_CHARS).collect();
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
        let said = |body: &str| said(Hop::Kubelet, StatusCode::NOT_FOUND, body.as_bytes(), pod);
        assert_eq!(said(&format!("pod web_{namespace} not found\n")), "the kubelet says: pod web_default not found");
        let uid = pod.uid.to_string();
        assert_eq!(said(&format!("{{\"kind\":\"Status\",\"message\":\"no {uid}\"}}")), format!("the kubelet says: no {}", pod.owner.uid));
        assert_eq!(said(""), "the kubelet answered with status 404");
        assert_eq!(said("a\nb\u{1b}[31m"), "the kubelet says: a b [31m");
        assert!(said(&"x".repeat(5000)).len() < 1100);
    }
}
