//! P6 and S41: redirects.

use http::Method;
use runtime::transport::{Call, Failure};
use testing::http::reply;
use testing::memory::Peak;
use testing::server::{Behavior, Server};

use crate::{patient, transport};

#[tokio::test]
async fn p6_s41_no_redirect_is_followed_whatever_the_verb() {
    let peak = Peak::start();
    let elsewhere = Server::start(Behavior::http2(|_| async { reply(200, &[], "") })).await;
    let location = elsewhere.url().join("/latest/meta-data").unwrap().to_string();
    for status in [300, 301, 302, 303, 304, 305, 307, 308] {
        let location = location.clone();
        let server = Server::start(Behavior::http2(move |_| {
            let location = location.clone();
            async move { reply(status, &[("location", &location)], "") }
        }))
        .await;
        let transport = transport(&server, patient());
        for method in [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            let error = transport.call(Call::new(method, "/api/v1/pods")).await.unwrap_err();
            assert_eq!(error.kind(), Failure::Redirect, "{status}");
        }
        let error = transport.watch("/api/v1/pods?watch=true", None).await.unwrap_err();
        assert_eq!(error.kind(), Failure::Redirect, "{status}");
        assert_eq!(server.requests(), 6);
    }
    assert_eq!(elsewhere.connections(), 0);
    peak.at_most_mib(16);
}
