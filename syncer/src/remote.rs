//! One API server as the hot path sees it: requests as bytes, answers as bytes, errors as a closed set.

use std::marker::PhantomData;
use std::time::Duration;

use bytes::Bytes;
use common::{Side, Uid};
use http::{Method, StatusCode};
use runtime::kubeconfig::Secret;
use runtime::transport::{Call, Class, Lines, Reply, Transport, TransportError};
use serde::Deserialize;

use crate::writer::Fence;

/// An API server on side `S`. Cheap to clone.
#[derive(Clone)]
pub struct Remote<S> {
    transport: Transport,
    fence: Option<Fence>,
    side: PhantomData<S>,
}

/// Why a request did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The API server answered with an error.
    #[error("the {side} API server answered {code} {reason}: {message}")]
    Status {
        /// Which side answered.
        side: &'static str,
        /// The HTTP status.
        code: u16,
        /// `reason` of the Status object; may be empty.
        reason: String,
        /// `message` of the Status object, capped.
        message: String,
        /// How long the server asks to wait, capped by the transport.
        retry_after: Option<Duration>,
    },
    /// There was no answer, or none that can be used: the outcome is unknown.
    #[error("no answer from the {side} API server")]
    Transport {
        /// Which side was asked.
        side: &'static str,
        /// What happened.
        #[source]
        source: TransportError,
    },
    /// The answer cannot be read.
    #[error("the answer of the {side} API server cannot be read")]
    Unreadable {
        /// Which side answered.
        side: &'static str,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// A list goes on and on: beyond the bounds of one that is meant to end.
    #[error("a list of the {side} API server does not end")]
    Endless {
        /// Which side was asked.
        side: &'static str,
    },
    /// This process does not lead any more: nothing is written.
    #[error("the lease is lost")]
    Fenced,
}

impl CallError {
    /// The HTTP status, if there was an answer.
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Status { code, .. } => Some(*code),
            Self::Transport { .. } | Self::Unreadable { .. } | Self::Endless { .. } | Self::Fenced => None,
        }
    }

    /// The `reason` of the Status object.
    pub fn reason(&self) -> &str {
        match self {
            Self::Status { reason, .. } => reason,
            Self::Transport { .. } | Self::Unreadable { .. } | Self::Endless { .. } | Self::Fenced => "",
        }
    }

    /// Whether the object was not there.
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(404)
    }

    /// Whether an object of that name was there already.
    pub fn is_already_exists(&self) -> bool {
        self.code() == Some(409) && self.reason() == "AlreadyExists"
    }
}

/// The form of a patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patch {
    /// RFC 7386.
    Merge,
    /// RFC 6902.
    Json,
    /// Kubernetes' own: items of a list are merged by their key.
    Strategic,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    reason: String,
    message: String,
}

/// The part of a list that says where it stands.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ListMeta {
    /// The version of the whole list.
    pub resource_version: String,
    /// Where the next page starts; empty on the last one.
    #[serde(rename = "continue")]
    pub next: String,
}

const JSON: &str = "application/json";
const METADATA_LIST: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";

impl<S: Side> Remote<S> {
    /// Wraps the transport to an API server of this side.
    pub fn new(transport: Transport) -> Self {
        Self { transport, fence: None, side: PhantomData }
    }

    /// The same API server, written to only while `fence` allows: a write that waits for its turn, or whose answer does not come, is given
    /// up before another process can lead.
    #[must_use]
    pub fn fenced(self, fence: Fence) -> Self {
        Self { fence: Some(fence), ..self }
    }

    /// The transport below.
    pub fn transport(&self) -> &Transport {
        &self.transport
    }

    /// Reads one object (a quorum read).
    pub async fn get(&self, path: &str, bearer: Option<&Secret>) -> Result<Bytes, CallError> {
        self.call(Method::GET, path.to_owned(), JSON, Bytes::new(), bearer, JSON, Class::Unary).await
    }

    /// Reads one page of a list.
    pub async fn list(&self, path: String, bearer: Option<&Secret>) -> Result<Bytes, CallError> {
        self.call(Method::GET, path, JSON, Bytes::new(), bearer, JSON, Class::List).await
    }

    /// Reads one page of a list, the metadata of the objects only.
    pub async fn list_metadata(&self, path: String, bearer: Option<&Secret>) -> Result<Bytes, CallError> {
        self.call(Method::GET, path, JSON, Bytes::new(), bearer, METADATA_LIST, Class::List).await
    }

    /// Creates an object; `path` is the collection or a subresource.
    pub async fn create(&self, path: &str, body: Vec<u8>, bearer: Option<&Secret>) -> Result<Bytes, CallError> {
        self.call(Method::POST, path.to_owned(), JSON, body.into(), bearer, JSON, Class::Unary).await
    }

    /// Replaces an object.
    pub async fn replace(&self, path: &str, body: Vec<u8>, bearer: Option<&Secret>) -> Result<Bytes, CallError> {
        self.call(Method::PUT, path.to_owned(), JSON, body.into(), bearer, JSON, Class::Unary).await
    }

    /// Patches an object or a subresource.
    pub async fn patch(&self, path: &str, form: Patch, body: &serde_json::Value, bearer: Option<&Secret>) -> Result<Bytes, CallError> {
        let content_type = match form {
            Patch::Merge => "application/merge-patch+json",
            Patch::Json => "application/json-patch+json",
            Patch::Strategic => "application/strategic-merge-patch+json",
        };
        self.call(Method::PATCH, path.to_owned(), content_type, body.to_string().into(), bearer, JSON, Class::Unary).await
    }

    /// Deletes one certain object: another UID is a conflict. The answer is the object or a Status.
    pub async fn delete(&self, path: &str, uid: Uid, grace_seconds: Option<u32>, bearer: Option<&Secret>) -> Result<Bytes, CallError> {
        let mut options = serde_json::json!({
            "apiVersion": "v1", "kind": "DeleteOptions",
            "preconditions": {"uid": uid.to_string()},
            "propagationPolicy": "Background",
        });
        if let (Some(seconds), Some(fields)) = (grace_seconds, options.as_object_mut()) {
            fields.insert("gracePeriodSeconds".into(), seconds.into());
        }
        self.call(Method::DELETE, path.to_owned(), JSON, options.to_string().into(), bearer, JSON, Class::Unary).await
    }

    /// Deletes what is this very object in this very version.
    pub async fn delete_version(&self, path: &str, uid: Uid, version: &str, bearer: Option<&Secret>) -> Result<Bytes, CallError> {
        let options = serde_json::json!({
            "apiVersion": "v1", "kind": "DeleteOptions",
            "preconditions": {"uid": uid.to_string(), "resourceVersion": version},
            "propagationPolicy": "Background",
        });
        self.call(Method::DELETE, path.to_owned(), JSON, options.to_string().into(), bearer, JSON, Class::Unary).await
    }

    /// Opens a watch; each item is one line.
    pub async fn watch(&self, path: String, bearer: Option<&Secret>) -> Result<Lines, CallError> {
        // Boxed, so that a task that waits does not keep the room that a request needs.
        match Box::pin(self.transport.watch(&path, bearer)).await {
            Ok(lines) => Ok(lines),
            Err(error) => Err(error.reply().map(Self::status).unwrap_or(CallError::Transport { side: S::NAME, source: error })),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the one place where a request is put together; callers have names for each form")]
    async fn call(
        &self,
        method: Method,
        path_and_query: String,
        content_type: &'static str,
        body: Bytes,
        bearer: Option<&Secret>,
        accept: &'static str,
        class: Class,
    ) -> Result<Bytes, CallError> {
        let fence = self.fence.as_ref().filter(|_| method != Method::GET);
        let call = Call { method, path_and_query, content_type, accept, body, bearer, class };
        let reply = Box::pin(self.transport.call(call));
        let reply = match fence {
            None => reply.await,
            Some(fence) => fence.hold(reply).await?,
        };
        let reply = reply.map_err(|source| CallError::Transport { side: S::NAME, source })?;
        if reply.status.is_success() { Ok(reply.body) } else { Err(Self::status(&reply)) }
    }

    fn status(reply: &Reply) -> CallError {
        let status: Status = serde_json::from_slice(&reply.body).unwrap_or_default();
        let reason =
            if status.reason.is_empty() { StatusCode::canonical_reason(&reply.status).unwrap_or_default().into() } else { status.reason };
        let message = status.message.chars().take(512).collect();
        CallError::Status { side: S::NAME, code: reply.status.as_u16(), reason, message, retry_after: reply.retry_after }
    }
}
