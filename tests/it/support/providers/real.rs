//! Servers of others, as `tests/servers` installs and starts them: llama.cpp, aimock, LangGraph.
//!
//! Most tests share one of each, which their process starts when the first asks for it. A test that
//! counts what a server did, or ends it, starts its own.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::super::tools;
use super::Port;

const KEEPER: &str = include_str!("keeper.sh");

/// What a server is installed from and how it is started.
pub(crate) struct Kind {
    /// Of its script in `tests/servers` and of its folder in `target/test-tools`.
    pub(crate) name: &'static str,
    /// As its script passes them to `install_once`.
    pub(crate) made_from: &'static [&'static str],
    /// The path that answers 200 when it takes work.
    pub(crate) ready: &'static str,
    /// The key it asks for.
    pub(crate) key: &'static str,
    /// What else its script takes.
    pub(crate) arguments: &'static [&'static str],
    /// How long a start takes at the very most, on a machine that is busy with other tests.
    pub(crate) starts_within: Duration,
}

pub(crate) const LLAMA: Kind = Kind {
    name: "llama",
    made_from: &["tests/servers/locks/llama.txt", "tests/servers/llama_model.py"],
    ready: "/health",
    key: "key-of-llama",
    arguments: &["tiny"],
    starts_within: Duration::from_secs(60),
};

pub(crate) const LLAMA_SLOW: Kind = Kind { arguments: &["slow"], ..LLAMA };

pub(crate) const AIMOCK: Kind = Kind {
    name: "aimock",
    made_from: &["tests/servers/locks/aimock/package-lock.json"],
    ready: "/health",
    key: "key-of-aimock",
    arguments: &[],
    starts_within: Duration::from_secs(60),
};

pub(crate) const LANGGRAPH: Kind = Kind {
    name: "langgraph",
    made_from: &["tests/servers/locks/langgraph.txt"],
    ready: "/ok",
    key: "key-of-langgraph",
    arguments: &[],
    starts_within: Duration::from_secs(90),
};

/// llama.cpp with a model that answers at once.
pub(crate) async fn llama() -> &'static RealServer {
    static SERVER: OnceLock<RealServer> = OnceLock::new();
    shared(&SERVER, &LLAMA).await
}

/// llama.cpp with a model that says about a hundred tokens a second until `max_tokens`. It works on
/// two requests at a time.
pub(crate) async fn llama_slow() -> &'static RealServer {
    static SERVER: OnceLock<RealServer> = OnceLock::new();
    shared(&SERVER, &LLAMA_SLOW).await
}

/// aimock, which answers to the last user message as `tests/servers/aimock.json` says.
pub(crate) async fn aimock() -> &'static RealServer {
    static SERVER: OnceLock<RealServer> = OnceLock::new();
    shared(&SERVER, &AIMOCK).await
}

/// The LangGraph server with the graph `echo` of `tests/servers/langgraph/graph.py`.
pub(crate) async fn langgraph() -> &'static RealServer {
    static SERVER: OnceLock<RealServer> = OnceLock::new();
    shared(&SERVER, &LANGGRAPH).await
}

/// The one of this process. Where it does not start, every test that wants it tries, and says why.
pub(crate) async fn shared(
    server: &'static OnceLock<RealServer>,
    kind: &'static Kind,
) -> &'static RealServer {
    blocking(move || server.get_or_init(|| RealServer::start_now(kind))).await
}

/// On a thread that may wait, with its panic if it panics.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// A server that takes work. It is killed, and what it wrote goes, when it is dropped or the test
/// process ends.
pub(crate) struct RealServer {
    /// Without a slash at the end.
    pub(crate) url: String,
    pub(crate) key: &'static str,
    kept: Kept,
    _port: Port,
}

impl RealServer {
    /// One of the test's own.
    pub(crate) async fn start(kind: &'static Kind) -> Self {
        blocking(move || Self::start_now(kind)).await
    }

    fn start_now(kind: &Kind) -> Self {
        let installation = tools::server(kind.name, kind.made_from);
        let mut complaint = String::new();
        // Something that is no test of ours may take the port between the look and the start.
        for _ in 0..3 {
            let port = Port::take();
            let kept = Kept::start(kind, &installation, port.number);
            let Err(error) = kept.wait_until_ready(kind, port.number) else {
                return Self { url: port.url(), key: kind.key, kept, _port: port };
            };
            complaint = error;
            if !kept.has_ended() {
                break;
            }
        }
        panic!("{} does not start: {complaint}", kind.name)
    }

    /// What it wrote, its `log` among it.
    pub(crate) fn state(&self) -> &Path {
        &self.kept.state
    }

    /// LangGraph only: the runs that really began, in order, as
    /// `<thread id> <run id> <text of the input>`.
    pub(crate) fn runs(&self) -> Vec<String> {
        let lines = std::fs::read_to_string(self.state().join("runs")).unwrap_or_default();
        lines.lines().map(str::to_owned).collect()
    }
}

/// A server's process and folder, and the keeper that ends them.
struct Kept {
    keeper: Child,
    /// The only end of the pipe that is written to; see `keeper.sh`.
    life: Option<ChildStdin>,
    /// Told by a thread that reads the other pipe to its end.
    has_ended: Arc<AtomicBool>,
    state: PathBuf,
}

impl Kept {
    fn start(kind: &Kind, installation: &Path, port: u16) -> Self {
        let state = tempfile::Builder::new().prefix(&format!("flowgate-{}-", kind.name)).tempdir();
        let state = state.expect("a temporary folder can be made").keep();
        let mut command = Command::new("sh");
        command.args(["-c", KEEPER, "keeper"]).arg(&state);
        command.arg(tools::repository(&format!("tests/servers/{}.sh", kind.name)));
        command.arg("serve").arg(installation).arg(&state);
        command.arg(port.to_string()).arg(kind.key).args(kind.arguments);
        command.process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut keeper = command.spawn().expect("sh can be run");
        let life = keeper.stdin.take();
        let mut output = keeper.stdout.take().expect("its output is a pipe");
        let has_ended = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&has_ended);
        std::thread::spawn(move || {
            // Nothing is ever written to it.
            let _ = output.read_to_end(&mut Vec::new());
            ended.store(true, Ordering::Release);
        });
        Self { keeper, life, has_ended, state }
    }

    fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Acquire)
    }

    fn wait_until_ready(&self, kind: &Kind, port: u16) -> Result<(), String> {
        let until = Instant::now() + kind.starts_within;
        let problem = loop {
            if self.has_ended() {
                break "it has ended".to_owned();
            }
            if answers(port, kind.ready).is_ok_and(|status| status == "200") {
                return Ok(());
            }
            if Instant::now() > until {
                break format!("it is not ready within {:?}", kind.starts_within);
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let log = std::fs::read(self.state.join("log")).unwrap_or_default();
        Err(format!("{problem}; its log:\n{}", String::from_utf8_lossy(&log)))
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        drop(self.life.take());
        // It fails only if it was waited for.
        let _ = self.keeper.wait();
    }
}

/// The status that a path answers with. Plain sockets, so that no runtime is needed.
fn answers(port: u16, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")?;
    let mut start = [0; "HTTP/1.1 200".len()];
    stream.read_exact(&mut start)?;
    Ok(String::from_utf8_lossy(&start[start.len() - 3..]).into_owned())
}
