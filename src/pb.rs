//! The wire contract `flowgate.v1`, generated from `proto/`, and its descriptors for reflection.
#![allow(clippy::large_enum_variant, unused_qualifications, reason = "generated code")]

tonic::include_proto!("flowgate.v1");

/// The descriptors of `flowgate.v1` and everything it imports.
pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("flowgate_descriptor");
