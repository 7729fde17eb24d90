//! Submissions: from the request to a checked draft.

use serde_json::error::Category;
use serde_json::{Map, Value};

use super::check::{Check, Violations};
use super::enums;
use super::filter::labels;
use super::hash::request_hash;
use super::json::{MAX_VALUE_BYTES, Path, from_struct};
use super::retry_policy;
use super::scalar::{request_id, required, timeout, timestamp};
use crate::domain::{ExecutionId, Input, TraceContext};
use crate::engine::Draft;
use crate::pb;

const MAX_BATCH: usize = 1_000;

/// Headers that carry credentials. Those belong in the configuration: inputs are stored and shown.
const CREDENTIAL_HEADERS: [&str; 14] = [
    "authorization",
    "proxy-authorization",
    "cookie",
    "api-key",
    "apikey",
    "x-api-key",
    "x-n8n-api-key",
    "x-goog-api-key",
    "x-api-token",
    "x-access-token",
    "x-auth-key",
    "x-auth-token",
    "x-amz-security-token",
    "private-token",
];

/// Checks one submission.
pub(crate) fn draft(
    given: pb::SubmitExecutionRequest,
    trace: Option<TraceContext>,
) -> Result<Draft, Violations> {
    let mut check = Check::default();
    let draft = checked(given, trace, &mut check);
    check.finish(draft)
}

/// Checks a batch of submissions.
pub(crate) fn drafts(
    given: pb::BatchSubmitExecutionsRequest,
    trace: Option<&TraceContext>,
) -> Result<Vec<Draft>, Violations> {
    let mut check = Check::default();
    if !(1..=MAX_BATCH).contains(&given.requests.len()) {
        check.add("requests", format!("must hold 1 to {MAX_BATCH} submissions"));
        return check.finish(None);
    }
    let requests = given.requests.into_iter().enumerate();
    let drafts: Vec<_> = requests
        .map(|(index, given)| {
            check.within(&format!("requests[{index}]"), |check| {
                checked(given, trace.cloned(), check)
            })
        })
        .collect();
    check.finish(drafts.into_iter().collect())
}

/// Checks which execution is to be run again, and under which `request_id`.
pub(crate) fn retry(
    given: pb::RetryExecutionRequest,
) -> Result<(ExecutionId, Option<String>), Violations> {
    let mut check = Check::default();
    let id = check.field("id", required(&given.id));
    let request_id = check.field("request_id", request_id(given.request_id));
    check.finish(id.zip(request_id))
}

fn checked(
    given: pb::SubmitExecutionRequest,
    trace: Option<TraceContext>,
    check: &mut Check,
) -> Option<Draft> {
    let provider = check.field("provider", required(&given.provider));
    let input = input(given.input, given.input_json, check);
    let request_id = check.field("request_id", request_id(given.request_id));
    let labels = labels(given.labels, check);
    let schedule_at = check.optional("schedule_time", given.schedule_time, timestamp);
    let queue_timeout = check.optional("queue_timeout", given.queue_timeout, timeout);
    let run_timeout = check.optional("run_timeout", given.run_timeout, timeout);
    let retry = check.within("retry_policy", |check| {
        retry_policy::from_pb(&given.retry_policy.unwrap_or_default(), check)
    });
    let on_lost = check.field("on_lost", enums::on_lost_from_pb(given.on_lost));
    let (input, object) = input?;
    let mut draft = Draft {
        provider: provider?,
        input,
        request_id: request_id?,
        request_hash: String::new(),
        priority: given.priority,
        labels,
        schedule_at,
        queue_timeout,
        run_timeout,
        retry,
        on_lost: on_lost?,
        retry_of: None,
        trace,
    };
    draft.request_hash = request_hash(&draft, &object);
    Some(draft)
}

/// The input as it is stored, and parsed.
fn input(
    given: Option<prost_types::Struct>,
    json: String,
    check: &mut Check,
) -> Option<(Input, Map<String, Value>)> {
    let (field, input, object) = match given {
        Some(_) if !json.is_empty() => {
            check.add("input_json", "must not be given beside input");
            return None;
        }
        None if !json.is_empty() => {
            let object = check.field("input_json", parse(&json))?;
            ("input_json", Input { json, exact: true }, object)
        }
        given => {
            let object =
                check.within("input", |check| from_struct(given.unwrap_or_default(), check));
            let json = serde_json::to_string(&object).expect("a map of text keys is valid JSON");
            ("input", Input { json, exact: false }, object)
        }
    };
    if input.json.len() > MAX_VALUE_BYTES {
        check.add(field, TOO_LARGE);
        return None;
    }
    check.within("input", |check| refuse_credentials(&object, check));
    Some((input, object))
}

const TOO_LARGE: &str = "must be at most 16 MiB as JSON";

/// Says nothing of the text itself, which may hold anything.
fn parse(json: &str) -> Result<Map<String, Value>, String> {
    if json.len() > MAX_VALUE_BYTES {
        return Err(TOO_LARGE.to_owned());
    }
    serde_json::from_str(json).map_err(|error| match error.classify() {
        Category::Data => "must be a JSON object".to_owned(),
        Category::Syntax | Category::Eof | Category::Io => {
            let (line, column) = (error.line(), error.column());
            format!("must be valid JSON, at most 127 deep; see line {line} column {column}")
        }
    })
}

fn refuse_credentials(input: &Map<String, Value>, check: &mut Check) {
    let Some(Value::Object(headers)) = input.get("headers") else { return };
    for name in headers.keys() {
        if CREDENTIAL_HEADERS.iter().any(|secret| name.eq_ignore_ascii_case(secret)) {
            let headers = Path::Key(&Path::Root, "headers");
            check.add(
                Path::Key(&headers, name).to_string(),
                "must not carry credentials: set them in the provider's configuration",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::convert::json::to_struct;
    use serde_json::json;

    fn object(value: Value) -> Option<prost_types::Struct> {
        let Value::Object(object) = value else { unreachable!("tests give objects") };
        Some(to_struct(object))
    }

    fn request() -> pb::SubmitExecutionRequest {
        pb::SubmitExecutionRequest { provider: "ollama".to_owned(), ..Default::default() }
    }

    fn fields_of(given: pb::SubmitExecutionRequest) -> Vec<String> {
        match draft(given, None) {
            Ok(_) => Vec::new(),
            Err(violations) => violations.kept.into_iter().map(|one| one.field).collect(),
        }
    }

    #[test]
    fn an_absent_input_is_an_empty_object() {
        let draft = draft(request(), None).expect("nothing is wrong");
        assert_eq!(draft.input, Input { json: "{}".to_owned(), exact: false });
    }

    #[test]
    fn the_text_of_input_json_is_kept_exactly() {
        let text = r#"{ "seed" : 12345678901234567890123 }"#;
        let draft =
            draft(pb::SubmitExecutionRequest { input_json: text.to_owned(), ..request() }, None)
                .expect("nothing is wrong");
        assert_eq!(draft.input, Input { json: text.to_owned(), exact: true });
    }

    #[test]
    fn input_json_must_be_one_object() {
        for text in ["[]", "1", "\"secret\"", "{", "{} {}", "{\"a\":1e999}", &"[".repeat(10_000)] {
            let given = pb::SubmitExecutionRequest { input_json: text.to_owned(), ..request() };
            let violations = draft(given, None).expect_err("the text is not an object");
            assert_eq!(violations.kept[0].field, "input_json");
            assert!(!violations.kept[0].description.contains("secret"));
        }
    }

    #[test]
    fn input_and_input_json_exclude_each_other() {
        let given = pb::SubmitExecutionRequest {
            input: object(json!({})),
            input_json: "{}".to_owned(),
            ..request()
        };
        assert_eq!(fields_of(given), ["input_json"]);
    }

    #[test]
    fn an_input_above_16_mib_is_refused() {
        let text = format!(r#"{{"a":"{}"}}"#, "x".repeat(MAX_VALUE_BYTES));
        let given = pb::SubmitExecutionRequest { input_json: text, ..request() };
        assert_eq!(fields_of(given), ["input_json"]);
        let input = object(json!({ "a": "x".repeat(MAX_VALUE_BYTES) }));
        assert_eq!(fields_of(pb::SubmitExecutionRequest { input, ..request() }), ["input"]);
    }

    #[test]
    fn headers_that_carry_credentials_are_refused_however_they_are_given() {
        let value =
            json!({"headers": {"Authorization": "Bearer s", "X-API-Key": "s", "accept": "*"}});
        let fields = ["input.headers.Authorization", "input.headers[X-API-Key]"];
        let given = pb::SubmitExecutionRequest { input_json: value.to_string(), ..request() };
        assert_eq!(fields_of(given), fields);
        let given = pb::SubmitExecutionRequest { input: object(value), ..request() };
        assert_eq!(fields_of(given), fields);
    }

    #[test]
    fn everything_wrong_with_a_submission_is_told_at_once() {
        let given = pb::SubmitExecutionRequest {
            provider: "Bad".to_owned(),
            request_id: "\n".to_owned(),
            labels: [("bad key".to_owned(), String::new())].into(),
            schedule_time: Some(prost_types::Timestamp { seconds: i64::MAX, nanos: 0 }),
            queue_timeout: Some(prost_types::Duration::default()),
            run_timeout: Some(prost_types::Duration { seconds: -1, nanos: 0 }),
            retry_policy: Some(pb::RetryPolicy { max_attempts: Some(101), ..Default::default() }),
            ..request()
        };
        let expected = [
            "provider",
            "request_id",
            "labels[bad key]",
            "schedule_time",
            "queue_timeout",
            "run_timeout",
            "retry_policy.max_attempts",
        ];
        assert_eq!(fields_of(given), expected);
    }

    #[test]
    fn a_batch_holds_1_to_1000_and_names_the_index_at_fault() {
        let batch = |requests| drafts(pb::BatchSubmitExecutionsRequest { requests }, None);
        assert!(batch(vec![]).is_err_and(|found| found.kept[0].field == "requests"));
        assert!(
            batch(vec![request(); 1_001]).is_err_and(|found| found.kept[0].field == "requests")
        );
        assert!(batch(vec![request(); 1_000]).is_ok_and(|drafts| drafts.len() == 1_000));
        let mut requests = vec![request(); 9];
        requests[7].provider.clear();
        assert!(batch(requests).is_err_and(|found| found.kept[0].field == "requests[7].provider"));
    }
}
