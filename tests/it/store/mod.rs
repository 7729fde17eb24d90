//! The store: one suite for every database, and what is particular to some.

mod conformance;
pub(crate) mod faults;
pub(crate) mod fixture;
mod model;
mod plans;
mod postgres;
mod reopened;
mod sqlite;
