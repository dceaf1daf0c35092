//! The real bed: etcd, API servers, controllers, fake and real nodes of a test, as a library.
//!
//! A [`Bed`](bed::Bed) is a super cluster and some tenants, on loopback or where the Pods of [real nodes](real_nodes) reach them. Every
//! server is a [`Process`](process::Process) of ours that ends with us, whatever ends us. Several beds run side by side: ports and
//! networks are claimed, state lies in a directory a bed.

pub mod agents;
pub mod alike;
pub mod audit;
pub mod bed;
pub mod between;
pub mod definitions;
pub mod dial;
pub mod dns;
pub mod env;
pub mod errand;
pub mod etcd;
pub mod files;
pub mod images;
pub mod kubectl;
pub mod left_out;
pub mod machine;
pub mod manifests;
pub mod metrics;
pub mod metrics_server;
pub mod nodes;
pub mod oci;
pub mod pki;
pub mod plane;
pub mod port;
pub mod process;
pub mod programs;
pub mod real_nodes;
pub mod shipped;
pub mod storage;
pub mod story;
pub mod syncer;
pub mod wait;
