//! The level of the log.

use serde_json::Value;

use super::Object;
use crate::pb;

/// SetLogLevelResponse.
pub(in crate::cli) fn log_level(set: &pb::SetLogLevelResponse) -> Value {
    let pb::SetLogLevelResponse { filter, previous_filter, expire_time, worker_id } = set;
    Object::default()
        .text("filter", filter)
        .text("previousFilter", previous_filter)
        .time("expireTime", expire_time.as_ref())
        .text("workerId", worker_id)
        .done()
}
