//! Compiles the public contract in `proto/` to Rust, without protoc.
//!
//! Leaves in `OUT_DIR` the module that `tonic::include_proto!("flowgate.v1")` includes, and
//! `flowgate_descriptor.bin`, the descriptor set that the reflection service answers from.

use std::error::Error;
use std::path::{Path, PathBuf};

use prost::Message;
use prost_types::FileDescriptorSet;

const PROTO_ROOT: &str = "proto";
const PACKAGE_DIR: &str = "proto/flowgate/v1";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={PROTO_ROOT}");
    // `sqlx::migrate!` embeds this folder, but cannot tell cargo when a file is added to it.
    println!("cargo:rerun-if-changed=migrations");

    let descriptors = compile(&proto_files()?)?;
    write_reflection_descriptor(descriptors.clone())?;

    tonic_prost_build::configure()
        // Sorted maps: equal labels always encode to equal bytes.
        .btree_map(".")
        .compile_fds(descriptors)?;
    Ok(())
}

/// Every file of the package, sorted, so that the generated code does not depend on the file system.
fn proto_files() -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(PACKAGE_DIR)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "proto") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn compile(files: &[PathBuf]) -> Result<FileDescriptorSet, Box<dyn Error>> {
    let bytes = protox::Compiler::new([PROTO_ROOT])?
        .include_imports(true)
        // Carries the comments, which become the generated code's documentation.
        .include_source_info(true)
        .open_files(files)?
        .encode_file_descriptor_set();
    Ok(FileDescriptorSet::decode(bytes.as_slice())?)
}

/// Reflection clients need no comments; without them the server carries far fewer bytes.
fn write_reflection_descriptor(mut descriptors: FileDescriptorSet) -> Result<(), Box<dyn Error>> {
    for file in &mut descriptors.file {
        file.source_code_info = None;
    }
    let out_dir = std::env::var("OUT_DIR")?;
    let path = Path::new(&out_dir).join("flowgate_descriptor.bin");
    std::fs::write(path, descriptors.encode_to_vec())?;
    Ok(())
}
