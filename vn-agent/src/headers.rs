//! Headers: what is taken from a request and what from an answer, by name. All else stays where it came from.
//!
//! *Guarantees*: nothing that says who somebody is passes, in either direction; no request with a body passes.
//!
//! *Sources*: rows S57 and S58 of the threat matrix; CVE-2018-1002105, CVE-2022-23652.

use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS,
    SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, TRANSFER_ENCODING, UPGRADE,
};
use http::{Request, Version};

/// The versions of the protocol inside SPDY that a client speaks.
const STREAM_VERSION: HeaderName = HeaderName::from_static("x-stream-protocol-version");

/// A subprotocol that is no protocol: browsers send a bearer token so, and kubelets and API servers believe it.
const BEARER_PROTOCOL: &str = "base64url.bearer.authorization.k8s.io";

/// Headers of one name.
const MOST_VALUES: usize = 16;

/// Bytes of one header's value; the longest that passes lists the versions of a protocol.
const MOST_VALUE_BYTES: usize = 512;

/// Why a request is not looked at further. The connection ends after the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Another version than HTTP/1.1.
    #[error("vn-agent speaks HTTP/1.1 only")]
    Version,
    /// The target is no path.
    #[error("the request's target is not a path")]
    Target,
    /// It names no host, or two (RFC 9112, section 3.2).
    #[error("a request names one host")]
    Host,
    /// It has a body.
    #[error("no request to vn-agent has a body")]
    Body,
    /// It asks for an upgrade that is none of the two, or in a form of its own.
    #[error("the only upgrades are SPDY/3.1 and websocket")]
    Upgrade,
    /// One of the headers that pass has a value that cannot.
    #[error("a header of the upgrade has a value that it cannot have")]
    Value,
}

/// What a request of another protocol asks for, in the headers that pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgrade {
    headers: HeaderMap,
}

/// Checks what holds for every request, and takes out the upgrade that it asks for.
pub fn check<B>(request: &Request<B>) -> Result<Option<Upgrade>, Refused> {
    if request.version() != Version::HTTP_11 {
        return Err(Refused::Version);
    }
    if request.uri().scheme().is_some() || request.uri().authority().is_some() {
        return Err(Refused::Target);
    }
    let headers = request.headers();
    if headers.get_all(HOST).iter().count() != 1 {
        return Err(Refused::Host);
    }
    let lengths: Vec<_> = headers.get_all(CONTENT_LENGTH).iter().collect();
    let is_empty = lengths.is_empty() || (lengths.len() == 1 && lengths.iter().all(|length| length.as_bytes() == b"0"));
    if headers.contains_key(TRANSFER_ENCODING) || !is_empty {
        return Err(Refused::Body);
    }
    upgrade(headers)
}

fn upgrade(headers: &HeaderMap) -> Result<Option<Upgrade>, Refused> {
    let asked: Vec<_> = headers.get_all(UPGRADE).iter().collect();
    let is_named = tokens(headers, &CONNECTION).iter().any(|token| token.eq_ignore_ascii_case("upgrade"));
    let protocol = match (asked.as_slice(), is_named) {
        ([], false) => return Ok(None),
        ([protocol], true) => protocol.to_str().map_err(|_| Refused::Upgrade)?,
        (_, _) => return Err(Refused::Upgrade),
    };
    let (protocol, names): (&str, &[HeaderName]) = if protocol.eq_ignore_ascii_case("spdy/3.1") {
        ("SPDY/3.1", &[STREAM_VERSION])
    } else if protocol.eq_ignore_ascii_case("websocket") {
        ("websocket", &[SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_EXTENSIONS])
    } else {
        return Err(Refused::Upgrade);
    };
    let mut out = HeaderMap::new();
    out.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    out.insert(UPGRADE, HeaderValue::from_static(protocol));
    for name in names {
        pass(name, headers, &mut out)?;
    }
    let names_a_token = tokens(&out, &SEC_WEBSOCKET_PROTOCOL).iter().any(|token| token.to_ascii_lowercase().starts_with(BEARER_PROTOCOL));
    if names_a_token { Err(Refused::Value) } else { Ok(Some(Upgrade { headers: out })) }
}

fn pass(name: &HeaderName, from: &HeaderMap, to: &mut HeaderMap) -> Result<(), Refused> {
    for (n, value) in from.get_all(name).iter().enumerate() {
        let is_plain = value.len() <= MOST_VALUE_BYTES && value.as_bytes().iter().all(|b| (b' '..=b'~').contains(b));
        if n == MOST_VALUES || !is_plain {
            return Err(Refused::Value);
        }
        to.append(name, value.clone());
    }
    Ok(())
}

/// The comma-separated words of all headers of a name.
fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Vec<&'a str> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).collect()
}

impl Upgrade {
    /// The headers to send on.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Whether it asks for SPDY.
    pub fn is_spdy(&self) -> bool {
        self.headers.get(UPGRADE).is_some_and(|protocol| protocol.as_bytes() == b"SPDY/3.1")
    }

    /// Whether an answer with status 101 switches to the protocol that was asked for.
    pub fn is_agreed(&self, answer: &HeaderMap) -> bool {
        let values: Vec<_> = answer.get_all(UPGRADE).iter().collect();
        let [value] = values.as_slice() else { return false };
        let asked = self.headers.get(UPGRADE).and_then(|asked| asked.to_str().ok()).unwrap_or_default();
        value.to_str().is_ok_and(|value| value.eq_ignore_ascii_case(asked))
    }
}

/// The headers of an answer 101 that pass to the client.
pub fn switched(answer: &HeaderMap) -> HeaderMap {
    taken(answer, &[CONNECTION, UPGRADE, STREAM_VERSION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_EXTENSIONS])
}

/// The headers of any other answer that pass.
pub fn answered(answer: &HeaderMap) -> HeaderMap {
    taken(answer, &[CONTENT_TYPE])
}

fn taken(from: &HeaderMap, names: &[HeaderName]) -> HeaderMap {
    let mut out = HeaderMap::new();
    for name in names {
        for value in from.get_all(name) {
            out.append(name, value.clone());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder().uri("/exec/default/web/app?command=a");
        if headers.iter().all(|(name, _)| *name != "host") {
            request = request.header("host", "n1");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    const SPDY: [(&str, &str); 2] = [("connection", "Upgrade"), ("upgrade", "SPDY/3.1")];

    #[test]
    fn an_upgrade_is_one_of_two() {
        let spdy = request(&[
            SPDY[0],
            SPDY[1],
            ("x-stream-protocol-version", "v5.channel.k8s.io"),
            ("x-stream-protocol-version", "v4.channel.k8s.io"),
        ]);
        let upgrade = check(&spdy).unwrap().unwrap();
        assert_eq!(upgrade.headers().get_all("x-stream-protocol-version").iter().count(), 2);
        let websocket = request(&[
            ("connection", "keep-alive, upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-key", "x"),
            ("sec-websocket-version", "13"),
        ]);
        assert_eq!(check(&websocket).unwrap().unwrap().headers().len(), 4);
        assert_eq!(check(&request(&[])), Ok(None));
        for refused in [
            &[SPDY[1]][..],
            &[SPDY[0]],
            &[SPDY[0], ("upgrade", "h2c")],
            &[SPDY[0], SPDY[1], SPDY[1]],
            &[SPDY[0], ("upgrade", "SPDY/3.1, websocket")],
        ] {
            assert_eq!(check(&request(refused)), Err(Refused::Upgrade), "{refused:?}");
        }
    }

    #[test]
    fn s57_nothing_that_says_who_somebody_is_passes() {
        let hostile = request(&[
            ("connection", "Upgrade, Authorization, X-Remote-User"),
            SPDY[1],
            ("authorization", "Bearer x"),
            ("impersonate-user", "system:admin"),
            ("impersonate-group", "system:masters"),
            ("x-remote-user", "admin"),
            ("x-forwarded-for", "127.0.0.1"),
            ("cookie", "a=b"),
            ("host", "kubelet"),
            ("te", "trailers"),
        ]);
        let upgrade = check(&hostile).unwrap().unwrap();
        let names: Vec<_> = upgrade.headers().keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["connection", "upgrade"]);
        assert_eq!(upgrade.headers().get(CONNECTION).unwrap(), "Upgrade");
        let token = request(&[
            SPDY[0],
            ("upgrade", "websocket"),
            ("sec-websocket-protocol", "v4.channel.k8s.io, base64url.bearer.authorization.k8s.io.abc"),
        ]);
        assert_eq!(check(&token), Err(Refused::Value));
    }

    #[test]
    fn s57_of_an_answer_only_what_is_named_passes() {
        let answer = request(&[SPDY[0], SPDY[1], ("set-cookie", "a"), ("location", "/x"), ("content-type", "text/plain"), ("server", "x")]);
        assert_eq!(switched(answer.headers()).len(), 2);
        assert_eq!(answered(answer.headers()).len(), 1);
    }

    #[test]
    fn s58_bodies_other_versions_and_other_targets_are_refused() {
        for headers in [
            &[("transfer-encoding", "chunked")][..],
            &[("transfer-encoding", "identity")],
            &[("content-length", "5")],
            &[("content-length", "0"), ("content-length", "0")],
            &[("content-length", "0"), ("transfer-encoding", "chunked")],
            &[("content-length", "+0")],
        ] {
            assert_eq!(check(&request(headers)), Err(Refused::Body), "{headers:?}");
        }
        assert_eq!(check(&request(&[("content-length", "0")])), Ok(None));
        let mut old = request(&[]);
        *old.version_mut() = Version::HTTP_10;
        assert_eq!(check(&old), Err(Refused::Version));
        let mut absolute = request(&[]);
        *absolute.uri_mut() = "https://other/pods".parse().unwrap();
        assert_eq!(check(&absolute), Err(Refused::Target));
        assert_eq!(check(&request(&[("host", "n1"), ("host", "n2")])), Err(Refused::Host));
        let mut nameless = request(&[]);
        nameless.headers_mut().remove("host");
        assert_eq!(check(&nameless), Err(Refused::Host));
    }

    #[test]
    fn s58_a_switch_to_another_protocol_than_asked_is_none() {
        let upgrade = check(&request(&SPDY)).unwrap().unwrap();
        assert!(upgrade.is_agreed(request(&[("upgrade", "spdy/3.1")]).headers()));
        for headers in [&[][..], &[("upgrade", "websocket")], &[("upgrade", "SPDY/3.1"), ("upgrade", "websocket")]] {
            assert!(!upgrade.is_agreed(request(headers).headers()), "{headers:?}");
        }
    }
}
