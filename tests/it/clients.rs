//! Clients that share nothing with this repository, in three languages, each against a server of
//! its own: the contract is what they see of it by reflection, or in Node by the files in proto/.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use prost::Message;
use serde_json::{Value, json};
use tokio::process::Command;
use tonic::metadata::MetadataMap;
use tonic_types::pb::{BadRequest, ErrorInfo, ResourceInfo};

use crate::support::{Config, Db, TestServer, on_both, tools};

on_both! {
    #[tokio::test]
    a_python_client_by_reflection_does_everything;
    #[tokio::test]
    a_node_client_does_everything;
    #[tokio::test]
    buf_curl_by_reflection_v1_does_everything;
    #[tokio::test]
    buf_curl_by_reflection_v1alpha_does_everything;
}

/// Each takes a few seconds.
const DEADLINE: Duration = Duration::from_secs(120);

/// What the programs below `tests/clients` expect.
async fn server(db: Db) -> TestServer {
    TestServer::start(Config::on(db).simulated("sim", 3)).await
}

async fn a_python_client_by_reflection_does_everything(db: Db) {
    let python = tools::python();
    let server = server(db).await;
    let program = tools::repository("tests/clients/python/client_test.py");
    // -B: no compiled copy beside the source.
    run(Command::new(python).arg("-B").arg(program).arg(server.grpc_addr())).await;
}

async fn a_node_client_does_everything(db: Db) {
    let modules = tools::node_modules();
    let server = server(db).await;
    let program = tools::repository("tests/clients/node/client_test.mjs");
    let mut node = Command::new("node");
    node.arg(program).arg(server.grpc_addr()).env("FLOWGATE_TEST_NODE_MODULES", modules);
    run(&mut node).await;
}

async fn buf_curl_by_reflection_v1_does_everything(db: Db) {
    Buf { server: server(db).await, reflection: "grpc-v1" }.does_everything().await;
}

async fn buf_curl_by_reflection_v1alpha_does_everything(db: Db) {
    Buf { server: server(db).await, reflection: "grpc-v1alpha" }.does_everything().await;
}

/// Runs a client program, which must say what it did and exit 0.
async fn run(command: &mut Command) {
    let (success, stdout, stderr) = output(command).await;
    assert!(success, "{stdout}{stderr}");
    assert!(stdout.lines().count() > 4, "the client did little:\n{stdout}{stderr}");
}

async fn output(command: &mut Command) -> (bool, String, String) {
    // Loopback is not for a proxy, whatever the environment says.
    command.env("no_proxy", "127.0.0.1").env("NO_PROXY", "127.0.0.1");
    command.stdin(Stdio::null()).kill_on_drop(true);
    let program = Path::new(command.as_std().get_program()).display().to_string();
    let output = tokio::time::timeout(DEADLINE, command.output())
        .await
        .unwrap_or_else(|_| panic!("{program} has not ended after {DEADLINE:?}"))
        .unwrap_or_else(|error| panic!("{program}: {error}; run: bash tests/run"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

/// `buf curl`, which speaks gRPC as grpcurl does.
struct Buf {
    server: TestServer,
    reflection: &'static str,
}

impl Buf {
    async fn does_everything(&self) {
        self.lists_services().await;
        self.checks_health().await;
        self.submits_and_watches().await;
        self.cancels().await;
        self.sets_limits().await;
        self.reads_errors().await;
    }

    async fn lists_services(&self) {
        let (success, stdout, stderr) = self.curl(&["--list-services"], "").await;
        assert!(success, "{stderr}");
        let listed: Vec<&str> = stdout.lines().collect();
        for service in ["ExecutionService", "ProviderService", "SystemService"] {
            let name = format!("flowgate.v1.{service}");
            assert!(listed.contains(&name.as_str()), "{name} is not among {listed:?}");
        }
        assert!(listed.contains(&"grpc.health.v1.Health"), "{listed:?}");
    }

    async fn checks_health(&self) {
        let reply = self.ok("grpc.health.v1.Health/Check", json!({})).await;
        assert_eq!(reply, [json!({ "status": "SERVING" })]);
    }

    async fn submits_and_watches(&self) {
        let id = self.submit(json!({ "duration_ms": 50, "output": { "answer": 42 } })).await;
        let messages = self.watch(&id).await;
        let last = messages.last().expect("a watch tells of the execution");
        assert_eq!(last["execution"]["state"], "EXECUTION_STATE_SUCCEEDED", "{messages:?}");
        assert_eq!(last["execution"]["output"], json!({ "answer": 42 }));
        assert!(last["revision"].is_string() && last["storeEpoch"].is_string(), "{last}");
    }

    async fn cancels(&self) {
        let id = self.submit(json!({ "duration_ms": 600_000 })).await;
        let service = "flowgate.v1.ExecutionService";
        self.ok(&format!("{service}/CancelExecution"), json!({ "id": id, "reason": "buf" })).await;
        let messages = self.watch(&id).await;
        let execution = &messages.last().expect("a watch tells of the execution")["execution"];
        assert_eq!(execution["state"], "EXECUTION_STATE_CANCELLED");
        assert_eq!(execution["cancelReason"], "buf");
    }

    async fn sets_limits(&self) {
        let rpc = "flowgate.v1.ProviderService/SetLimits";
        let limits = json!({ "limits": [{ "provider": "sim", "max_concurrent": 5 }] });
        let reply = self.ok(rpc, limits).await;
        let provider = &reply[0]["providers"][0];
        assert_eq!(provider["declaredLimits"], json!({ "maxConcurrent": 3 }));
        assert_eq!(provider["effectiveLimits"], json!({ "maxConcurrent": 5 }));
    }

    async fn reads_errors(&self) {
        let rpc = "flowgate.v1.ExecutionService/SubmitExecution";
        let error = self.error(rpc, json!({ "provider": "sim", "run_timeout": "-1s" })).await;
        assert_eq!(error["code"], "invalid_argument");
        let info: ErrorInfo = detail(&error, "google.rpc.ErrorInfo");
        assert_eq!(info.reason, "INVALID_FIELD");
        let bad: BadRequest = detail(&error, "google.rpc.BadRequest");
        assert_eq!(bad.field_violations[0].field, "run_timeout");

        let error = self.error(rpc, json!({ "provider": "nobody" })).await;
        assert_eq!(error["code"], "not_found");
        let info: ErrorInfo = detail(&error, "google.rpc.ErrorInfo");
        assert_eq!(
            (info.reason.as_str(), info.domain.as_str()),
            ("PROVIDER_NOT_FOUND", "flowgate")
        );
        let resource: ResourceInfo = detail(&error, "google.rpc.ResourceInfo");
        assert_eq!(resource.resource_name, "nobody");
    }

    async fn submit(&self, input: Value) -> String {
        let request = json!({ "provider": "sim", "input": input });
        let reply = self.ok("flowgate.v1.ExecutionService/SubmitExecution", request).await;
        reply[0]["execution"]["id"].as_str().expect("a reply holds an execution").to_owned()
    }

    async fn watch(&self, id: &str) -> Vec<Value> {
        let request = json!({ "id": id, "after_revision": 0 });
        self.ok("flowgate.v1.ExecutionService/WatchExecution", request).await
    }

    /// The messages of a reply.
    async fn ok(&self, rpc: &str, request: Value) -> Vec<Value> {
        let (success, stdout, stderr) = self.curl(&["-d", &request.to_string()], rpc).await;
        assert!(success, "{rpc} {request}: {stderr}");
        let messages = serde_json::Deserializer::from_str(&stdout).into_iter();
        messages.collect::<Result<_, _>>().unwrap_or_else(|error| panic!("{error}: {stdout}"))
    }

    /// The error of an rpc that must fail.
    async fn error(&self, rpc: &str, request: Value) -> Value {
        let (success, stdout, stderr) = self.curl(&["-d", &request.to_string()], rpc).await;
        assert!(!success, "{rpc} {request} succeeded: {stdout}");
        serde_json::from_str(&stderr).unwrap_or_else(|error| panic!("{error}: {stderr}"))
    }

    async fn curl(&self, arguments: &[&str], path: &str) -> (bool, String, String) {
        let url = format!("http://{}/{path}", self.server.grpc_addr());
        let mut command = Command::new(tools::buf());
        command
            .args(["curl", "--protocol", "grpc", "--http2-prior-knowledge"])
            .args(["--reflect", "--reflect-protocol", self.reflection])
            .args(arguments)
            .arg(url.trim_end_matches('/'))
            .current_dir(self.server.dir());
        output(&mut command).await
    }
}

/// One of the details of an error, which buf gives in base64.
fn detail<M: Message + Default>(error: &Value, name: &str) -> M {
    let details = error["details"].as_array().unwrap_or_else(|| panic!("no details: {error}"));
    let found = details.iter().find(|detail| detail["type"] == name);
    let value = found.and_then(|detail| detail["value"].as_str());
    let value = value.unwrap_or_else(|| panic!("no {name}: {error}"));
    // Binary metadata is base64 too.
    let mut headers = http::HeaderMap::new();
    headers.insert("detail-bin", value.parse().unwrap());
    let metadata = MetadataMap::from_headers(headers);
    let bytes = metadata.get_bin("detail-bin").unwrap().to_bytes().unwrap();
    M::decode(bytes).unwrap()
}
