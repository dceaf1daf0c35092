//! Events that tenants read: our own about what was refused, and those of the super cluster about their objects.

mod copier;
mod outbox;
mod receipt;
mod recorder;

pub use copier::Copier;
pub use receipt::Receipt;
pub use recorder::{About, Recorder, Severity};
