//! vn-agent: stands on each node in place of the kubelet for tenants' API servers, and gives each tenant what is its own.
//!
//! ```text
//! tenant's API server ──mTLS──► server ─► identity ─► route ─► pods ─► backend ──mTLS──► kubelet (or the super cluster's API server)
//!                                  ◄──────── relay, filter ◄───────────────┘
//! ```
//!
//! `identity`, `route`, `pods`, `filter` and `headers` decide and are pure; the rest is the shell around them.

pub mod answer;
pub mod args;
pub mod backend;
pub mod credentials;
pub mod door;
pub mod filter;
pub mod fuzz;
pub mod guard;
pub mod headers;
pub mod identity;
pub mod issue;
pub mod line;
pub mod metrics;
pub mod pace;
mod page;
pub mod pods;
pub mod program;
pub mod quiet;
pub mod relay;
pub mod route;
pub mod server;
pub mod session;
pub mod tenants;
mod text;
pub mod way;
