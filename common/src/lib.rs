//! Vocabulary of VirtualCluster: the two sides as types, tenant→super names, every label and annotation key, the ownership
//! record, and the custom resources. No I/O.

pub mod api;
pub mod keys;
pub mod name;
pub mod owner;
pub mod side;

pub use name::{Name, NameError, Namespace, TenantId, Uid};
pub use owner::{Owner, OwnerError};
pub use side::{InSuper, InTenant, Side, Super, Tenant};
