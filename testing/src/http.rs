//! Canned responses.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use http::{Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use tokio::time::sleep;

/// The body of a response.
pub type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A whole response.
pub fn reply(status: u16, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Response<Body> {
    with(status, headers, Full::new(body.into()).boxed_unsync())
}

/// A response that sends the pieces one by one.
pub fn pieces(pieces: impl Iterator<Item = Bytes> + Send + 'static) -> Response<Body> {
    let frames = stream::iter(pieces.map(|piece| Ok(Frame::data(piece))));
    with(200, &[], StreamBody::new(frames).boxed_unsync())
}

/// A response that sends the pieces at a pace.
pub fn drip(pieces: impl Iterator<Item = Bytes> + Send + 'static, pause: Duration) -> Response<Body> {
    let frames = stream::unfold(pieces, move |mut pieces| async move {
        let piece = pieces.next()?;
        sleep(pause).await;
        Some((Ok(Frame::data(piece)), pieces))
    });
    with(200, &[], StreamBody::new(frames).boxed_unsync())
}

fn with(status: u16, headers: &[(&str, &str)], body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    for (name, value) in headers {
        response.headers_mut().append(http::HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
    }
    response
}

/// `total` bytes in frames of 64 KiB.
pub fn flood(total: usize) -> impl Iterator<Item = Bytes> + Send + 'static {
    const PIECE: usize = 64 * 1024;
    static ZEROS: [u8; PIECE] = [b'0'; PIECE];
    std::iter::repeat_n(Bytes::from_static(&ZEROS), total / PIECE)
}
