//! The super cluster's API server as back end, by each tenant's own short-lived identity: where nobody wants credentials of kubelets.
//!
//! The identity is the tenant's writer, which has rights in this tenant's namespaces alone. So the API server itself refuses what is not
//! the tenant's, and its audit log names the tenant.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::{TenantId, Uid, keys};
use http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, HOST, HeaderValue, USER_AGENT};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::Incoming;
use parking_lot::Mutex;
use runtime::kubeconfig::Secret;
use runtime::log::Chain;
use runtime::task::Tasks;
use runtime::transport::{Call, Reply};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, timeout};

use super::dial::Dialer;
use super::{Tenant, kubelet::AGENT, unexpected};
use crate::answer::{Failure, Hop};
use crate::credentials::{CredentialError, of_server};
use crate::headers::Upgrade;
use crate::pods::{Pods, SuperPod};
use crate::route::{PodRef, Route};
use crate::way::Way;

/// Life of a token, in seconds: the shortest that API servers give.
const TOKEN_SECONDS: u64 = 600;

/// How long a token is used: a session asks for it once, at its beginning.
const TOKEN_USE: Duration = Duration::from_mins(8);

/// Calls for one tenant that are under way at once; its others wait. All tenants' have [`runtime::transport::Limits::calls`] (240) turns together,
/// and a Pod may be large and an answer slow. *Caveat*: 20 tenants that take all of theirs fill those turns, and others wait for one then.
const CALLS_OF_TENANT: usize = 12;

/// Longest wait for a turn among one tenant's calls. Who waits longer is told to come again.
const TURN: Duration = Duration::from_secs(10);

/// For the head of an answer to a stream: API server, kubelet and container runtime answer one after the other.
const HEAD: Duration = Duration::from_secs(30);

/// The super cluster's API server.
pub struct Super {
    node: String,
    ways: watch::Receiver<Arc<Way>>,
    dialer: Dialer,
    /// How the server is met, and the CA that this was made of.
    config: Mutex<(Vec<u8>, Arc<ClientConfig>)>,
    /// Path of the server's URL, without a slash at the end.
    prefix: String,
    tokens: Mutex<HashMap<Uid, (Secret, Instant)>>,
    /// Turns of those tenants for whom something is asked.
    turns: Mutex<HashMap<Uid, Arc<Semaphore>>>,
}

/// Why it cannot be a back end.
#[derive(Debug, thiserror::Error)]
pub enum SuperError {
    /// The address in the kubeconfig is none that a stream can be opened to.
    #[error("the server of the super cluster's kubeconfig has no name that can stand in a certificate")]
    Server,
    /// Its CA cannot be used.
    #[error("the CA of the super cluster's kubeconfig cannot be used")]
    Ca(#[from] CredentialError),
}

#[derive(Deserialize)]
struct Issued {
    status: IssuedStatus,
}

#[derive(Deserialize)]
struct IssuedStatus {
    token: String,
}

#[derive(Deserialize)]
struct Placed {
    spec: Spec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    node_name: Option<String>,
}

impl Super {
    /// For the Pods of `node`. The way may change in all but its server's address and name.
    pub fn new(node: &str, ways: watch::Receiver<Arc<Way>>, tasks: Arc<Tasks>) -> Result<Self, SuperError> {
        let way = Arc::clone(&ways.borrow());
        let kubeconfig = &way.kubeconfig;
        let host = kubeconfig.server.host_str().ok_or(SuperError::Server)?;
        let port = kubeconfig.server.port_or_known_default().ok_or(SuperError::Server)?;
        let name = kubeconfig.tls_server_name.as_deref().unwrap_or(host).trim_matches(['[', ']']);
        let name = ServerName::try_from(name.to_owned()).map_err(|_| SuperError::Server)?;
        Ok(Self {
            node: node.to_owned(),
            dialer: Dialer::new(format!("{host}:{port}"), name, Hop::ApiServer, tasks),
            config: Mutex::new((kubeconfig.ca_pem.clone(), of_server(&kubeconfig.ca_pem)?)),
            prefix: kubeconfig.server.path().trim_end_matches('/').to_owned(),
            tokens: Mutex::default(),
            turns: Mutex::default(),
            ways,
        })
    }

    fn way(&self) -> Arc<Way> {
        Arc::clone(&self.ways.borrow())
    }

    /// How the server is met now.
    fn config(&self) -> Result<Arc<ClientConfig>, Failure> {
        let way = self.way();
        let mut held = self.config.lock();
        if held.0 != way.kubeconfig.ca_pem {
            let unusable = |_| Failure::new(StatusCode::SERVICE_UNAVAILABLE, Hop::Agent, "the CA of the super cluster cannot be used");
            *held = (way.kubeconfig.ca_pem.clone(), of_server(&way.kubeconfig.ca_pem).map_err(unusable)?);
        }
        Ok(Arc::clone(&held.1))
    }

    /// The tenant's Pod of that name on this node.
    pub async fn find(&self, tenant: &Tenant, pod: &PodRef) -> Result<SuperPod, Failure> {
        let absent = |why: &dyn std::fmt::Display| Failure::refused(StatusCode::NOT_FOUND, format!("pod {pod}: {why}"));
        let namespace = TenantId::new(tenant.uid, &tenant.name).namespace(&pod.namespace).to_string();
        let found = self.read(tenant.uid, &namespace, pod.name.same().as_str()).await?;
        let (pods, is_here) = found.ok_or_else(|| absent(&crate::pods::NotFound::Absent))?;
        let own = pods.find(tenant.uid, pod).map_err(|error| absent(&error))?;
        if is_here { Ok(own.clone()) } else { Err(absent(&"it does not run on this node")) }
    }

    /// That this very Pod still has its name.
    pub async fn confirm(&self, pod: &SuperPod) -> Result<(), Failure> {
        match self.read(pod.owner.tenant, &pod.namespace, &pod.name).await? {
            Some((pods, true)) if pods.still_has(pod) => Ok(()),
            Some(_) | None => Err(super::replaced(pod)),
        }
    }

    /// A Pod by its place, and whether it is on this node. One that the tenant's identity may not see is not there.
    async fn read(&self, tenant: Uid, namespace: &str, name: &str) -> Result<Option<(Pods, bool)>, Failure> {
        let token = self.token(tenant).await?;
        let call = Call { bearer: Some(&token), ..Call::new(Method::GET, format!("/api/v1/namespaces/{namespace}/pods/{name}")) };
        let reply = self.call(tenant, call).await?;
        match reply.status {
            StatusCode::OK => {
                let unreadable = |_| Failure::new(StatusCode::BAD_GATEWAY, Hop::ApiServer, "the Pod cannot be read");
                let placed: Placed = serde_json::from_slice(&reply.body).map_err(unreadable)?;
                let pods = Pods::read_one(&reply.body).map_err(unreadable)?;
                Ok(Some((pods, placed.spec.node_name.as_deref() == Some(&self.node))))
            }
            StatusCode::NOT_FOUND | StatusCode::FORBIDDEN => Ok(None),
            status => {
                self.judge(tenant, &token, status);
                Err(unexpected(Hop::ApiServer, status))
            }
        }
    }

    /// Sends a request about a Pod and gives the head of the answer, whatever its status.
    pub async fn exchange(&self, route: &Route, pod: &SuperPod, upgrade: Option<&Upgrade>) -> Result<Response<Incoming>, Failure> {
        let invalid = || Failure::new(StatusCode::INTERNAL_SERVER_ERROR, Hop::Agent, "the request to the API server cannot be formed");
        let path = route.at_api_server(pod.place()).ok_or_else(invalid)?;
        let token = self.token(pod.owner.tenant).await?;
        let mut bearer = HeaderValue::try_from(format!("Bearer {}", token.expose())).map_err(|_| invalid())?;
        bearer.set_sensitive(true);
        let mut request: Request<Empty<Bytes>> = Request::new(Empty::new());
        if upgrade.is_some_and(Upgrade::is_spdy) {
            *request.method_mut() = Method::POST;
        }
        *request.uri_mut() = format!("{}{path}", self.prefix).parse().map_err(|_| invalid())?;
        let headers = request.headers_mut();
        headers.insert(HOST, HeaderValue::try_from(self.dialer.address()).map_err(|_| invalid())?);
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        headers.insert(AUTHORIZATION, bearer);
        for (name, value) in upgrade.map(Upgrade::headers).into_iter().flatten() {
            headers.append(name, value.clone());
        }
        let response = self.dialer.open_for(&self.config()?, request, (!route.follows()).then_some(HEAD)).await?;
        self.judge(pod.owner.tenant, &token, response.status());
        Ok(response)
    }

    /// Asks for a tenant, in its turn among its own calls: however many those are, others' are not behind them.
    async fn call(&self, tenant: Uid, call: Call<'_>) -> Result<Reply, Failure> {
        let turn = self.turn(tenant).await?;
        self.call_in(turn, call).await
    }

    /// Asks in a turn that it is.
    async fn call_in(&self, _turn: OwnedSemaphorePermit, call: Call<'_>) -> Result<Reply, Failure> {
        self.way().transport.call(call).await.map_err(|error| unanswered(&error))
    }

    /// Waits for a turn among this tenant's calls.
    async fn turn(&self, tenant: Uid) -> Result<OwnedSemaphorePermit, Failure> {
        let turns = {
            let mut turns = self.turns.lock();
            // Tenants for whom nothing is asked leave nothing behind.
            turns.retain(|of, turns| *of == tenant || Arc::strong_count(turns) > 1);
            Arc::clone(turns.entry(tenant).or_insert_with(|| Arc::new(Semaphore::new(CALLS_OF_TENANT))))
        };
        // Never closed.
        timeout(TURN, turns.acquire_owned()).await.ok().and_then(Result::ok).ok_or_else(|| {
            let message = format!("of calls to the API server: this tenant had {CALLS_OF_TENANT} under way for {} s", TURN.as_secs());
            Failure::new(StatusCode::TOO_MANY_REQUESTS, Hop::Agent, message)
        })
    }

    /// Drops a token that the API server does not know any more, unless there is a newer one. Any other trouble is not the token's.
    fn judge(&self, tenant: Uid, token: &Secret, status: StatusCode) {
        if status == StatusCode::UNAUTHORIZED {
            let mut tokens = self.tokens.lock();
            if tokens.get(&tenant).is_some_and(|(held, _)| held.expose() == token.expose()) {
                tokens.remove(&tenant);
            }
        }
    }

    /// The token that is in use.
    fn held(&self, tenant: Uid) -> Option<Secret> {
        self.tokens.lock().get(&tenant).filter(|(_, since)| since.elapsed() < TOKEN_USE).map(|(token, _)| token.clone())
    }

    /// A token of the tenant's own identity.
    async fn token(&self, tenant: Uid) -> Result<Secret, Failure> {
        if let Some(token) = self.held(tenant) {
            return Ok(token);
        }
        let turn = self.turn(tenant).await?;
        // Another may have asked for one meanwhile.
        if let Some(token) = self.held(tenant) {
            return Ok(token);
        }
        let writer = TenantId::new(tenant, "").writer();
        let path = format!("/api/v1/namespaces/{}/serviceaccounts/{writer}/token", keys::WRITERS_NAMESPACE);
        let body = serde_json::json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": TOKEN_SECONDS},
        });
        let call = Call { body: Bytes::from(body.to_string()), ..Call::new(Method::POST, path) };
        let reply = self.call_in(turn, call).await?;
        if !reply.status.is_success() {
            let message = format!("the tenant's identity is not to be had (status {})", reply.status.as_u16());
            return Err(Failure::new(StatusCode::BAD_GATEWAY, Hop::ApiServer, message));
        }
        let issued: Issued = serde_json::from_slice(&reply.body)
            .map_err(|_| Failure::new(StatusCode::BAD_GATEWAY, Hop::ApiServer, "the tenant's token cannot be read"))?;
        let token = Secret::new(issued.status.token);
        let mut tokens = self.tokens.lock();
        // Tenants that are gone leave nothing behind.
        tokens.retain(|_, (_, since)| since.elapsed() < TOKEN_USE);
        tokens.insert(tenant, (token.clone(), Instant::now()));
        Ok(token)
    }
}

fn unanswered(error: &runtime::transport::TransportError) -> Failure {
    Failure::new(StatusCode::BAD_GATEWAY, Hop::ApiServer, "no answer from the super cluster's API server").because(Chain(error))
}
