//! The transport as a service under `kube::Client`.

use bytes::Bytes;
use futures::stream;
use http::header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Method, Request, Response};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use kube::client::Body;
use tower::service_fn;

use super::{Call, Class, JSON, Lines, Reply, Transport, TransportError, invalid};

type ResponseBody = UnsyncBoxBody<Bytes, TransportError>;

pub(super) fn client(transport: Transport, default_namespace: &str) -> kube::Client {
    let service = service_fn(move |request: Request<Body>| {
        let transport = transport.clone();
        async move { serve(&transport, request).await }
    });
    kube::Client::new(service, default_namespace)
}

async fn serve(transport: &Transport, request: Request<Body>) -> Result<Response<ResponseBody>, TransportError> {
    let (head, body) = request.into_parts();
    let path_and_query = head.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let header = |name| head.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok()).unwrap_or(JSON);
    if head.uri.query().is_some_and(is_watch) {
        return match transport.watch_as(&path_and_query, header(ACCEPT), None).await {
            Ok(lines) => Ok(Response::new(streamed(lines))),
            Err(TransportError::Refused { reply, .. }) => Ok(whole(*reply)),
            Err(error) => Err(error),
        };
    }
    let most = transport.0.dialer.limits.request_bytes;
    let body = Limited::new(body, most).collect().await.map_err(|_| invalid("its body is too large"))?.to_bytes();
    let class = if head.method == Method::GET { Class::List } else { Class::Unary };
    let call = Call {
        path_and_query,
        content_type: header(CONTENT_TYPE),
        accept: header(ACCEPT),
        body,
        bearer: None,
        class,
        method: head.method.clone(),
    };
    transport.call(call).await.map(whole)
}

fn is_watch(query: &str) -> bool {
    query.split('&').any(|pair| matches!(pair, "watch=true" | "watch=1"))
}

fn whole(reply: Reply) -> Response<ResponseBody> {
    let body = Full::new(reply.body).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = reply.status;
    if let Some(wait) = reply.retry_after {
        response.headers_mut().insert(RETRY_AFTER, wait.as_secs().into());
    }
    response
}

fn streamed(lines: Lines) -> ResponseBody {
    let lines = stream::unfold((lines, false), |(mut lines, is_within)| async move {
        if is_within {
            return Some((Ok(Frame::data(Bytes::from_static(b"\n"))), (lines, false)));
        }
        let line = lines.next().await?;
        Some((line.map(Frame::data), (lines, true)))
    });
    BodyExt::boxed_unsync(StreamBody::new(lines))
}
