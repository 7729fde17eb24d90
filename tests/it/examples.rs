//! Everything below `examples/` does what it says, on a real server.

use std::collections::BTreeSet;
use std::process::{Output, Stdio};
use std::time::Duration;

use flowgate::pb::{ErrorCode, ExecutionState, ListProvidersRequest};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use crate::support::{Config, TestServer, submit, tools};

/// A client takes a second; a loaded machine gets more.
const DEADLINE: Duration = Duration::from_secs(60);

/// A server whose modules are the examples, as the README sets it up.
async fn server() -> TestServer {
    let modules = tools::repository("examples/modules");
    let table = format!("[providers.process]\nmodules_dir = {modules:?}\n");
    TestServer::start(Config::new().toml(&table)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_module_does_what_it_says() {
    let server = server().await;
    let orders = json!([
        { "customer": "b", "cents": 5 }, { "customer": "a", "cents": 7 }, { "customer": "b", "cents": 9 }
    ]);
    let text = json!({ "text": "to be or not to be" });
    let expected = [
        ("word_count.py", vec![], text.to_string(), "\"words\": 6"),
        ("summarize.sh", vec![], "One. Two.\n\nThree.\n".to_owned(), "2 paragraphs, 3 words"),
        ("transform.mjs", vec![], orders.to_string(), "[{\"customer\":\"b\",\"cents\":14}"),
        ("progress.py", vec!["2", "0"], String::new(), "step 1 of 2\nstep 2 of 2\n"),
    ];
    let mut seen = vec!["fails.sh".to_owned(), "hangs.sh".to_owned()];
    for (module, args, stdin, says) in expected {
        seen.push(module.to_owned());
        let input = json!({ "module": module, "args": args, "stdin": stdin });
        let id = server.submit(submit("process", input)).await.id;
        let ended = server.ended(&id).await;
        assert_eq!(ended.state(), ExecutionState::Succeeded, "{module}: {:?}", ended.error);
        let said = format!("{:?}", ended.output);
        let says = format!("{says:?}");
        assert!(said.contains(says.trim_matches('"')), "{module}: {said}");
    }

    let id = server.submit(submit("process", json!({ "module": "fails.sh" }))).await.id;
    assert_eq!(server.ended(&id).await.error.unwrap().code(), ErrorCode::ModuleFailed);
    let mut hangs = submit("process", json!({ "module": "hangs.sh" }));
    hangs.run_timeout = Some(prost_types::Duration { seconds: 1, nanos: 0 });
    let id = server.submit(hangs).await.id;
    assert_eq!(server.ended(&id).await.error.unwrap().code(), ErrorCode::Timeout);

    let folder = std::fs::read_dir(tools::repository("examples/modules")).unwrap();
    let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name();
    for module in folder.map(name) {
        let module = module.to_string_lossy().into_owned();
        assert!(seen.contains(&module), "{module} is not tried here");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_client_submits_watches_and_cancels() {
    let server = server().await;
    let program = tools::repository("examples/clients/python/client.py");
    // -B: no compiled copy beside the source.
    let python = || {
        let mut python = Command::new(tools::python());
        python.arg("-B").arg(&program);
        python
    };
    does_everything(&server, python).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_client_submits_watches_and_cancels() {
    let server = server().await;
    let program = tools::repository("examples/clients/node/client.cjs");
    let node = || {
        let mut node = Command::new("node");
        node.arg(&program).env("NODE_PATH", tools::node_modules());
        node
    };
    does_everything(&server, node).await;
}

#[tokio::test]
async fn the_configuration_has_a_provider_of_every_kind_and_starts_without_their_keys() {
    let file = std::fs::read_to_string(tools::repository("examples/flowgate.toml")).unwrap();
    let modules = tools::repository("examples/modules");
    // Meant from the file's own folder, and this server's file is a copy elsewhere.
    let file = file.replace("modules_dir = \"modules\"", &format!("modules_dir = {modules:?}"));
    let server = TestServer::start(Config::new().toml(&file)).await;
    let request = ListProvidersRequest::default();
    let reply = server.provider().list_providers(request).await.unwrap().into_inner();
    let kinds: BTreeSet<&str> = reply.providers.iter().map(|one| one.kind.as_str()).collect();
    let expected = [
        "claude",
        "http",
        "langflow",
        "langgraph",
        "n8n",
        "ollama",
        "openai",
        "process",
        "simulated",
    ];
    assert_eq!(kinds, BTreeSet::from(expected));
    assert_eq!(reply.providers.len(), 10, "a local server that speaks OpenAI's API is the tenth");
}

async fn does_everything(server: &TestServer, client: impl Fn() -> Command) {
    let input = json!({ "module": "progress.py", "args": ["3", "0"] });
    let (output, _) = run(server, client(), "process", &input, None).await;
    let said = text(&output.stdout);
    assert!(output.status.success(), "{said}{}", text(&output.stderr));
    let (steps, result) = said.trim_end().rsplit_once('\n').expect("output and result");
    assert_eq!(steps, "step 1 of 3\nstep 2 of 3\nstep 3 of 3");
    let result: Value = serde_json::from_str(result).expect("the result is JSON");
    assert_eq!(result["success"], true);
    assert!(
        text(&output.stderr).contains("-- EXECUTION_STATE_RUNNING"),
        "{}",
        text(&output.stderr)
    );

    let long = json!({ "module": "progress.py", "args": ["1000", "1"] });
    let (output, id) = run(server, client(), "process", &long, Some("step 1 of 1000")).await;
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let execution = server.get(&id).await;
    assert_eq!(execution.state(), ExecutionState::Cancelled);
    assert_eq!(execution.cancel_reason, "interrupted by the user");

    let (output, _) = run(server, client(), "nobody", &json!({}), None).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("NOT_FOUND"), "{}", text(&output.stderr));
}

/// Runs a client to its end, interrupted as by Ctrl-C once it shows `interrupt_at`. Returns what it
/// said, and the execution's id.
async fn run(
    server: &TestServer,
    mut client: Command,
    provider: &str,
    input: &Value,
    interrupt_at: Option<&str>,
) -> (Output, String) {
    client.args([server.grpc_addr(), provider, &input.to_string()]);
    // Loopback is not for a proxy, whatever the environment says.
    client.env("no_proxy", "127.0.0.1").env("NO_PROXY", "127.0.0.1");
    client.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = client.spawn().expect("run: bash tests/run");
    let pid = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap()).lines();
    let read = async {
        let mut said = String::new();
        while let Some(line) = stdout.next_line().await.unwrap() {
            if interrupt_at == Some(line.as_str()) {
                kill_process(pid, Signal::INT).unwrap();
            }
            said += &(line + "\n");
        }
        said
    };
    let ended = async { tokio::join!(read, child.wait_with_output()) };
    let (said, output) = tokio::time::timeout(DEADLINE, ended).await.expect("it ends in time");
    let output = Output { stdout: said.into_bytes(), ..output.unwrap() };
    let stderr = text(&output.stderr);
    let id = stderr.lines().find_map(|line| line.strip_prefix("-- ")).unwrap_or_default();
    (output, id.to_owned())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
