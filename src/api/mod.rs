//! The gRPC API: `flowgate.v1` over an engine, with reflection.
//!
//! Handlers check through `convert`, ask the engine, and convert the answer. Every error leaves
//! through the table in `error`; `layer` sees to it that no other does.

mod convert;
mod error;
mod execution_service;
mod history;
mod layer;
mod log_level;
mod page;
mod problem;
mod provider_service;
mod provider_watch;
mod system_service;

use tonic::service::Routes;
use tonic_reflection::server::Builder as Reflection;

use crate::engine::Engine;
use crate::pb;
use crate::pb::execution_service_server::ExecutionServiceServer;
use crate::pb::provider_service_server::ProviderServiceServer;
use crate::pb::system_service_server::SystemServiceServer;

pub(crate) use convert::trace_context;

use execution_service::Executions;
use provider_service::Providers;
use system_service::System;

/// The largest request.
const MAX_REQUEST_BYTES: usize = 20 * 1024 * 1024;
/// The largest answer: an execution with the largest input and the largest output fits.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// The three services and both versions of reflection. Health, which reflection tells of, is added
/// by the server.
pub fn routes(engine: Engine) -> Routes {
    let executions = ExecutionServiceServer::new(Executions { engine: engine.clone() })
        .max_decoding_message_size(MAX_REQUEST_BYTES)
        .max_encoding_message_size(MAX_ANSWER_BYTES);
    let providers = ProviderServiceServer::new(Providers { engine: engine.clone() })
        .max_decoding_message_size(MAX_REQUEST_BYTES)
        .max_encoding_message_size(MAX_ANSWER_BYTES);
    let system = SystemServiceServer::new(System::new(engine))
        .max_decoding_message_size(MAX_REQUEST_BYTES)
        .max_encoding_message_size(MAX_ANSWER_BYTES);
    let services = Routes::new(executions).add_service(providers).add_service(system);
    with_reflection(services)
        .into_axum_router()
        .layer(axum::middleware::from_fn(layer::keep_contract))
        .into()
}

fn with_reflection(services: Routes) -> Routes {
    const VALID: &str = "the descriptors are those the build wrote";
    services
        .add_service(reflection().build_v1().expect(VALID))
        .add_service(reflection().build_v1alpha().expect(VALID))
}

/// Each version tells of both, of health, and of what errors carry: with that a client that knows
/// only reflection can read the details of an error.
fn reflection() -> Reflection<'static> {
    Reflection::configure()
        .include_reflection_service(false)
        .register_encoded_file_descriptor_set(pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reflection_can_be_built_from_the_descriptors() {
        with_reflection(Routes::default());
    }
}
