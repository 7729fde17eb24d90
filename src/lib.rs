//! Flowgate: an execution control plane.
//!
//! Clients submit executions over gRPC; Flowgate stores them durably, admits as many at a time as
//! each provider takes, runs them under leases, and pushes every change to whoever watches.
//!
//! The parts, from the ground up: [`domain`] has the words and rules, [`store`] the durable truth,
//! [`providers`] do the work, [`engine`] admits and runs it, [`api`] speaks gRPC, [`server`] puts
//! it all together; [`cli`] is a client like any other, and [`admin`] works on a store directly.
//! `ARCHITECTURE.md` is the map, and says which promise is kept where.

pub mod admin;
pub mod api;
pub mod cli;
pub mod config;
pub mod domain;
pub mod engine;
pub mod health;
pub mod http;
pub mod metrics;
pub mod pb;
pub mod providers;
pub mod server;
pub mod shutdown;
pub mod store;
pub mod tasks;
pub mod telemetry;
