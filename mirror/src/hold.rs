//! The only way for a kind to say no.

use std::borrow::Cow;

/// Why nothing can be written for now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Something else must be there first; its arrival wakes the key.
    Until(Missing),
    /// The tenant asks for what it may not have: an Event on the tenant's object says so, and the key waits for a change of the pair.
    Refused(Refusal),
    /// The object cannot be what it claims to be.
    Malformed(Cow<'static, str>),
    /// The object asks nothing of the super cluster, whatever it may have asked before: nothing of it is there, and nobody is told.
    Stays,
}

/// What is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    /// The copy in the super cluster is being deleted and must be gone first.
    SuperGone,
    /// The tenant's node list does not hold the vNode yet.
    VirtualNode(String),
}

/// A refusal, as the tenant reads it in an Event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The Event's reason: one upper-camel-case word.
    pub reason: &'static str,
    /// The field, as a path such as `spec.volumes[0].hostPath`; empty if the whole object is meant.
    pub field: String,
    /// What is wrong and what would mend it, in one sentence without a full stop.
    pub message: Cow<'static, str>,
}

impl Hold {
    /// A refusal of one field.
    pub fn refuse(reason: &'static str, field: impl Into<String>, message: impl Into<Cow<'static, str>>) -> Self {
        Self::Refused(Refusal { reason, field: field.into(), message: message.into() })
    }
}

impl std::fmt::Display for Hold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Until(Missing::SuperGone) => f.write_str("waits until the earlier copy in the super cluster is gone"),
            Self::Until(Missing::VirtualNode(node)) => write!(f, "waits for the node {node}"),
            Self::Refused(refusal) if refusal.field.is_empty() => f.write_str(&refusal.message),
            Self::Refused(refusal) => write!(f, "{}: {}", refusal.field, refusal.message),
            Self::Malformed(what) => write!(f, "malformed: {what}"),
            Self::Stays => f.write_str("stays in the tenant"),
        }
    }
}
