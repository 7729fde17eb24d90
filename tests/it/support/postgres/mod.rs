//! A real PostgreSQL for the tests: one throw-away cluster for the test process, and in it one
//! database for each test.
//!
//! What must stay true: however the test process ends, its clusters end and their folders go.

mod cluster;
mod database;
mod frozen;
mod keeper;

pub(crate) use cluster::Cluster;
pub(crate) use database::Database;
pub(crate) use frozen::Frozen;
pub(crate) use keeper::unprivileged;
