//! Answers that are not a back end's: what failed, at which hop and why, in the form that kubectl prints.
//!
//! A tenant's API server shows the text of a failed `logs` as it is. For a stream it hands the body on to the client, and clients
//! read a `Status` there. So a request for an upgrade is answered with a `Status`, any other with a line of text.

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Full};
use runtime::log::Escaped;
use serde_json::json;

/// A body that was cut off, and why.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// The body of an answer.
pub type Body = UnsyncBoxBody<Bytes, BodyError>;

/// A body without a byte.
pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A body that is all there.
pub fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// Where on its way a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hop {
    /// It is not one that passes, or not from one who may.
    Request,
    /// vn-agent itself.
    Agent,
    /// The node's kubelet.
    Kubelet,
    /// The super cluster's API server.
    ApiServer,
}

impl Hop {
    /// For metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Agent => "agent",
            Self::Kubelet => "kubelet",
            Self::ApiServer => "api-server",
        }
    }
}

/// A request that was not served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What the caller gets.
    pub status: StatusCode,
    /// Where it failed.
    pub hop: Hop,
    /// What failed and why; safe to show to the tenant.
    pub message: String,
    /// More about why, for the log alone: it may name what belongs to the super cluster.
    pub cause: Option<String>,
}

impl Failure {
    /// A failure at a hop.
    pub fn new(status: StatusCode, hop: Hop, message: impl Into<String>) -> Self {
        Self { status, hop, message: message.into(), cause: None }
    }

    /// The same, with what only the log may say.
    #[must_use]
    pub fn because(self, cause: impl std::fmt::Display) -> Self {
        Self { cause: Some(cause.to_string()), ..self }
    }

    /// The request cannot pass.
    pub fn refused(status: StatusCode, message: impl Into<String>) -> Self {
        Self::new(status, Hop::Request, message)
    }

    /// The answer; the connection ends after one to a request that asked for an upgrade, since bytes may follow that are no request, and after
    /// any 400 and 403: a tenant that is refused because nobody knows it yet comes in anew a moment later.
    pub fn response(&self, node: &str, is_upgrade: bool) -> Response<Body> {
        let message = format!("vn-agent on node {}: {}", Escaped(node), self.message);
        let (content_type, body) = if is_upgrade {
            ("application/json", self.status_object(&message))
        } else {
            ("text/plain; charset=utf-8", format!("{message}\n"))
        };
        let mut response = Response::new(whole(body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        if is_upgrade || matches!(self.status, StatusCode::BAD_REQUEST | StatusCode::FORBIDDEN) {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    fn status_object(&self, message: &str) -> String {
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": message, "reason": reason(self.status), "code": self.status.as_u16(),
        })
        .to_string()
    }
}

/// The word that Kubernetes has for a status.
fn reason(status: StatusCode) -> &'static str {
    match status {
        StatusCode::BAD_REQUEST => "BadRequest",
        StatusCode::FORBIDDEN => "Forbidden",
        StatusCode::NOT_FOUND => "NotFound",
        StatusCode::METHOD_NOT_ALLOWED => "MethodNotAllowed",
        StatusCode::TOO_MANY_REQUESTS => "TooManyRequests",
        StatusCode::SERVICE_UNAVAILABLE => "ServiceUnavailable",
        StatusCode::GATEWAY_TIMEOUT => "Timeout",
        _ => "InternalError",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    async fn text(response: Response<Body>) -> String {
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn a_stream_is_refused_by_a_status_and_anything_else_by_a_line() {
        let failure = Failure::new(StatusCode::GATEWAY_TIMEOUT, Hop::Kubelet, "the kubelet did not answer within 30 s");
        let stream = failure.response("n1", true);
        assert_eq!(stream.headers().get(CONNECTION).unwrap(), "close");
        let status: Value = serde_json::from_str(&text(stream).await).unwrap();
        assert_eq!(status["kind"], "Status");
        assert_eq!(status["reason"], "Timeout");
        assert_eq!(status["message"], "vn-agent on node n1: the kubelet did not answer within 30 s");
        let logs = failure.response("n1", false);
        assert_eq!(logs.headers().get(CONNECTION), None);
        assert_eq!(text(logs).await, "vn-agent on node n1: the kubelet did not answer within 30 s\n");
    }
}
