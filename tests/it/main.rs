//! Flowgate's integration tests: one binary, so that they link once and run side by side.

#![allow(clippy::unwrap_used, reason = "in a test a panic is how to fail, in its helpers too")]
#![allow(clippy::disallowed_methods, reason = "a test's tasks end with its runtime")]

mod adaptive;
mod architecture;
mod audit;
mod bad_inputs;
mod batch;
mod chaos;
mod clients;
mod cluster;
mod collector;
mod demo;
mod engine;
mod examples;
mod gate;
mod health;
mod large;
mod limits;
mod logs;
mod metrics;
mod migrate;
mod modules;
mod outages;
mod page;
mod pooler;
mod priorities;
mod process_provider;
mod prometheus;
mod providers;
mod queue;
mod replicas;
mod resource;
mod restarts;
mod retries;
mod retry;
mod server;
mod shutdown;
mod store;
mod support;
mod traces;
mod watch;
mod workers;
