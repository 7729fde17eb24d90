//! Tests against the large servers, n8n and Langflow, which take 4 GB of disk and minutes to
//! install; run by `tests/providers --all`.
//!
//! They are a target of their own, which `Cargo.toml` keeps out of a plain `cargo test`: a test
//! that has no server to run against must not pass, and one that is ignored or filtered away looks
//! much like one that passed. Everything that small servers or transcripts can show is in
//! `tests/it`, whose helpers are used here too.

#![allow(clippy::unwrap_used, reason = "in a test a panic is how to fail, in its helpers too")]
#![allow(clippy::disallowed_methods, reason = "a test's tasks end with its runtime")]

#[path = "../it/support/mod.rs"]
#[allow(dead_code, unused_imports, unused_macros, reason = "most of it is for tests/it")]
mod support;

#[path = "../it/providers/jobs.rs"]
#[allow(dead_code, reason = "some of it is for transcripts")]
mod jobs;
#[path = "../it/providers/matrix.rs"]
#[allow(dead_code, reason = "some of it is for other kinds")]
mod matrix;

mod langflow;
mod n8n;
mod prepared;
