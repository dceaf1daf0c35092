//! HTTP towards API servers, where the other side may be hostile.
//!
//! A [`Transport`] is the way to one server as one identity. Calls and watches have connections of their own, so that
//! neither waits for the other; watches beyond what one connection carries get a further one. Connections open when they
//! are first needed and close when nobody has used them for a while. Everything that a server can make long, large or slow
//! has a bound in [`Limits`]. Nothing is compressed, no redirect is followed, no proxy is used, nothing is retried (but a
//! request that provably never left).
//!
//! *Sources*: rows P4–P11, S36–S41, S44 and S47 of the threat matrix; the tests named after them.

mod answer;
mod bearer;
mod dial;
mod error;
mod gate;
mod lane;
mod limits;
mod lines;
mod link;
mod service;
mod tls;
mod traffic;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Method, Request, StatusCode, Uri};
use tokio::sync::Semaphore;

use self::answer::Answer;
use self::bearer::Bearer;
use self::dial::Dialer;
pub use self::error::{Bound, Failure, Step, TransportError};
pub use self::gate::Gate;
use self::lane::Lane;
pub use self::limits::Limits;
pub use self::lines::Lines;
pub use self::traffic::{Traffic, TrafficSnapshot};
use crate::address::{AddressPolicy, Resolve, SystemResolver};
use crate::kubeconfig::{Kubeconfig, Secret};

/// What API servers speak by default.
const JSON: &str = "application/json";

/// How to reach a server.
#[derive(Clone)]
pub struct TransportConfig {
    /// Where, whom to trust, who to be.
    pub kubeconfig: Kubeconfig,
    /// What the server may do.
    pub limits: Limits,
    /// Where it may be.
    pub addresses: AddressPolicy,
    /// Turns its name into addresses.
    pub resolver: Arc<dyn Resolve>,
    /// How we call ourselves.
    pub user_agent: String,
    /// Whether anything may leave.
    pub gate: Gate,
}

impl TransportConfig {
    /// For a tenant: strict limits.
    pub fn tenant(kubeconfig: Kubeconfig, addresses: AddressPolicy, user_agent: &str) -> Self {
        let resolver = Arc::new(SystemResolver);
        Self { kubeconfig, limits: Limits::default(), addresses, resolver, user_agent: user_agent.to_owned(), gate: Gate::default() }
    }

    /// For a server that the operator of the program named: any address, more calls at once.
    pub fn trusted(kubeconfig: Kubeconfig, user_agent: &str) -> Self {
        let limits = Limits::trusted();
        Self { limits, ..Self::tenant(kubeconfig, AddressPolicy::open(), user_agent) }
    }
}

/// One request, answered whole.
#[derive(Clone)]
pub struct Call<'a> {
    /// The verb.
    pub method: Method,
    /// Path and query, from the server's root: `/api/v1/namespaces/a/pods?fieldManager=b`.
    pub path_and_query: String,
    /// What `body` is; not sent when that is empty.
    pub content_type: &'a str,
    /// What is wanted.
    pub accept: &'a str,
    /// What is sent.
    pub body: Bytes,
    /// Whom to be for this call alone, in place of the identity of the kubeconfig.
    pub bearer: Option<&'a Secret>,
    /// What to expect of the answer.
    pub class: Class,
}

impl Call<'_> {
    /// A request without a body, answered in JSON.
    pub fn new(method: Method, path_and_query: impl Into<String>) -> Self {
        Self {
            method,
            path_and_query: path_and_query.into(),
            content_type: JSON,
            accept: JSON,
            body: Bytes::new(),
            bearer: None,
            class: Class::Unary,
        }
    }

    /// A page of a list, in JSON.
    pub fn list(path_and_query: impl Into<String>) -> Self {
        Self { class: Class::List, ..Self::new(Method::GET, path_and_query) }
    }
}

/// How large and slow an answer may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// About one object.
    Unary,
    /// A page of many.
    List,
}

/// An answer, of whatever status but a redirect.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Its status.
    pub status: StatusCode,
    /// Its body.
    pub body: Bytes,
    /// How long the server asks us to wait, capped by [`Limits::retry_after`].
    pub retry_after: Option<Duration>,
}

/// The way to one API server as one identity. Cheap to clone; the connections are shared.
#[derive(Clone)]
pub struct Transport(Arc<Inner>);

struct Inner {
    dialer: Arc<Dialer>,
    bearer: Bearer,
    authority: Authority,
    /// Path of the server's URL, without a slash at the end.
    prefix: String,
    user_agent: HeaderValue,
    turns: Semaphore,
    own: Lanes,
    /// For calls with a token of their own, where `own` shows a certificate.
    bare: Option<Lanes>,
}

struct Lanes {
    calls: Lane,
    watches: Lane,
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transport").field("server", &self.server()).finish_non_exhaustive()
    }
}

impl Transport {
    /// Prepares the way; nothing is sent before the first call.
    ///
    /// # Errors
    /// [`TransportError::Credential`] for certificates or keys that cannot be used, [`TransportError::Invalid`] for a
    /// server name or token that cannot be sent.
    pub fn new(config: TransportConfig) -> Result<Self, TransportError> {
        let TransportConfig { kubeconfig, limits, addresses, resolver, user_agent, gate } = config;
        let tls = tls::TlsConfigs::new(&kubeconfig, limits.tls12)?;
        let server_name = kubeconfig.tls_server_name.as_deref();
        let turns = Semaphore::new(limits.calls.clamp(1, Semaphore::MAX_PERMITS));
        let dialer = Arc::new(Dialer::new(&kubeconfig.server, server_name, addresses, resolver, limits, gate)?);
        let lanes = |tls: &Arc<rustls::ClientConfig>| Lanes {
            calls: Lane::new(Arc::clone(&dialer), Arc::clone(tls), dialer.limits.calls_per_connection),
            watches: Lane::new(Arc::clone(&dialer), Arc::clone(tls), dialer.limits.watches_per_connection),
        };
        Ok(Self(Arc::new(Inner {
            bearer: Bearer::new(&kubeconfig.identity)?,
            authority: Authority::try_from(dialer.server.as_str()).map_err(|_| invalid("the server's name"))?,
            prefix: kubeconfig.server.path().trim_end_matches('/').to_owned(),
            user_agent: HeaderValue::try_from(user_agent).map_err(|_| invalid("the user agent"))?,
            turns,
            own: lanes(&tls.own),
            bare: tls.bare.as_ref().map(lanes),
            dialer,
        })))
    }

    /// Sends a request and reads the whole answer, whatever its status.
    ///
    /// Waits for its turn if [`Limits::calls`] are under way.
    ///
    /// # Errors
    /// Any [`TransportError`] but [`TransportError::Refused`].
    pub async fn call(&self, call: Call<'_>) -> Result<Reply, TransportError> {
        let inner = &*self.0;
        let limits = &inner.dialer.limits;
        if call.body.len() > limits.request_bytes {
            return Err(invalid("its body is too large"));
        }
        let (most, within) = match call.class {
            Class::Unary => (limits.unary_bytes, limits.unary),
            Class::List => (limits.list_bytes, limits.list),
        };
        let bytes = call.body.len();
        let request = inner.request(call.method, &call.path_and_query, call.accept, call.bearer).await?;
        let request = with_body(request, call.content_type, call.body)?;
        let _turn = inner.turns.acquire().await;
        inner.dialer.traffic.call(bytes);
        let answer = inner.lanes(call.bearer).calls.exchange(&request).await?;
        answer.reply(most, within).await
    }

    /// Begins a watch; `path_and_query` says `watch=true`.
    ///
    /// # Errors
    /// Any [`TransportError`]; [`TransportError::Refused`] holds the answer if its status is not 200.
    pub async fn watch(&self, path_and_query: &str, bearer: Option<&Secret>) -> Result<Lines, TransportError> {
        self.watch_as(path_and_query, JSON, bearer).await
    }

    /// As [`Transport::watch`], in another form than whole objects as JSON.
    pub async fn watch_as(&self, path_and_query: &str, accept: &str, bearer: Option<&Secret>) -> Result<Lines, TransportError> {
        let inner = &*self.0;
        let request = inner.request(Method::GET, path_and_query, accept, bearer).await?;
        inner.dialer.traffic.watch();
        let answer = inner.lanes(bearer).watches.exchange(&request).await?;
        if answer.status == StatusCode::OK { Ok(Lines::new(answer.stream)) } else { Err(inner.refused(answer).await) }
    }

    /// A `kube` client over the same connections and limits, for paths that are seldom used.
    ///
    /// # Caveats
    /// Connections cannot be upgraded: no exec, attach or port-forward.
    pub fn client(&self, default_namespace: &str) -> kube::Client {
        service::client(self.clone(), default_namespace)
    }

    /// Host and port of the server.
    pub fn server(&self) -> &str {
        &self.0.dialer.server
    }

    /// What went over the wire.
    pub fn traffic(&self) -> &Traffic {
        &self.0.dialer.traffic
    }
}

impl Inner {
    fn lanes(&self, bearer: Option<&Secret>) -> &Lanes {
        match (bearer, &self.bare) {
            (Some(_), Some(bare)) => bare,
            (Some(_) | None, _) => &self.own,
        }
    }

    async fn request(
        &self,
        method: Method,
        path_and_query: &str,
        accept: &str,
        bearer: Option<&Secret>,
    ) -> Result<Request<Bytes>, TransportError> {
        let mut request = Request::new(Bytes::new());
        *request.method_mut() = method;
        *request.uri_mut() = self.uri(path_and_query)?;
        let headers = request.headers_mut();
        headers.insert(ACCEPT, HeaderValue::try_from(accept).map_err(|_| invalid("its Accept header"))?);
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        headers.insert(USER_AGENT, self.user_agent.clone());
        let authorization = match bearer {
            Some(token) => Some(bearer::given(token)?),
            None => self.bearer.current().await?,
        };
        if let Some(authorization) = authorization {
            headers.insert(AUTHORIZATION, authorization);
        }
        Ok(request)
    }

    fn uri(&self, path_and_query: &str) -> Result<Uri, TransportError> {
        let bad_path = || invalid("its path is not one of an API server");
        let path_and_query = PathAndQuery::try_from(format!("{}{path_and_query}", self.prefix)).map_err(|_| bad_path())?;
        if !is_canonical(path_and_query.path()) {
            return Err(bad_path());
        }
        Uri::builder()
            .scheme(Scheme::HTTPS)
            .authority(self.authority.clone())
            .path_and_query(path_and_query)
            .build()
            .map_err(|_| bad_path())
    }

    async fn refused(&self, answer: Answer) -> TransportError {
        let limits = &self.dialer.limits;
        match answer.reply(limits.error_bytes, limits.unary).await {
            Ok(reply) => TransportError::Refused { server: self.dialer.server.clone(), reply: Box::new(reply) },
            Err(error) => error,
        }
    }
}

fn with_body(mut request: Request<Bytes>, content_type: &str, body: Bytes) -> Result<Request<Bytes>, TransportError> {
    if !body.is_empty() {
        let value = HeaderValue::try_from(content_type).map_err(|_| invalid("its Content-Type header"))?;
        request.headers_mut().insert(CONTENT_TYPE, value);
    }
    *request.body_mut() = body;
    Ok(request)
}

/// Whether every segment of a path means what it says: a name that came from a tenant must not lead elsewhere.
fn is_canonical(path: &str) -> bool {
    let Some(segments) = path.strip_prefix('/') else { return false };
    let lower = segments.to_ascii_lowercase();
    let is_plain = |segment: &str| !matches!(segment, "" | "." | "..");
    let is_encoded = ["%2e", "%2f", "%5c", "%00", "%25"].iter().any(|code| lower.contains(code));
    segments.is_empty() || (!is_encoded && segments.split('/').all(is_plain))
}

fn invalid(what: &'static str) -> TransportError {
    TransportError::Invalid { what }
}

#[cfg(test)]
mod tests {
    use super::is_canonical;

    #[test]
    fn s32_a_path_with_segments_that_lead_elsewhere_is_refused() {
        for path in ["/api/v1/pods", "/", "/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode"] {
            assert!(is_canonical(path), "{path}");
        }
        for path in ["", "api", "//api", "/api/", "/api/../secrets", "/api/./v1", "/api/%2e%2E/v1", "/a%2Fb", "/a%00", "/a%252fb"] {
            assert!(!is_canonical(path), "{path}");
        }
    }
}
