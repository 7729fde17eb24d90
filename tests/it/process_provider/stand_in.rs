//! A server that is killed or frozen: this test program run once more, as a stand-in for one.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use rustix::process::{Signal, kill_process};

use super::*;

const DIRECTORY: &str = "FLOWGATE_TEST_STAND_IN";

/// What the stand-in does: runs one module under a lease that nobody renews. Run as a test like
/// the others it does nothing.
#[tokio::test]
async fn stand_in() {
    let Some(dir) = std::env::var_os(DIRECTORY) else { return };
    let provider = provider_of(dir.into(), |_| {});
    let (mut call, mut reins) = call(module("tree.sh"));
    let (lease, deadline) = watch::channel(Instant::now() + Duration::from_secs(3));
    call.lease_deadline = deadline;
    let work = provider.execute(call);
    let show = async {
        while let Some(chunk) = reins.said.recv().await {
            if let flowgate::domain::ChunkContent::Text(text) = chunk.content {
                print!("{}", text.replace('\n', " of the module\n"));
            }
        }
    };
    let _ = tokio::join!(work, show);
    drop(lease);
}

struct StandIn {
    server: Child,
    processes: Vec<i32>,
    _modules: Modules,
}

impl StandIn {
    fn start() -> Self {
        let modules = Modules::with("tree.sh", &format!("echo $PPID\n{STUBBORN_TREE}"));
        let mut server = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "process_provider::stand_in::stand_in", "--nocapture"])
            .env(DIRECTORY, modules.dir())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(server.stdout.take().unwrap()).lines();
        let processes = lines
            .map_while(Result::ok)
            .filter_map(|line| {
                line.strip_suffix(" of the module")?.rsplit(' ').next()?.parse().ok()
            })
            .take(4)
            .collect();
        Self { server, processes, _modules: modules }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.server), signal).unwrap();
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

#[tokio::test]
async fn no_module_outlives_a_server_that_is_killed() {
    let stand_in = StandIn::start();
    assert_eq!(stand_in.processes.len(), 4);
    stand_in.signal(Signal::KILL);
    all_end(&stand_in.processes).await;
}

#[tokio::test]
async fn no_module_outlives_the_lease_of_a_server_that_is_frozen() {
    let stand_in = StandIn::start();
    assert_eq!(stand_in.processes.len(), 4);
    stand_in.signal(Signal::STOP);
    all_end(&stand_in.processes).await;
}
