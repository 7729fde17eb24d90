//! The page in Chromium, against a live server: `tests/clients/browser/page_test.mjs` looks at it, and says
//! when the server is to be stopped and started under it.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::support::{Config, Db, TestServer, on_both, tools};

on_both! {
    #[tokio::test(flavor = "multi_thread")]
    people_see_in_chromium_what_happens;
}

/// It takes some ten seconds.
const DEADLINE: Duration = Duration::from_secs(120);

/// The program that drives Chromium, and what goes in and out of it.
struct Browser {
    child: Child,
    said: Lines<BufReader<ChildStdout>>,
    told: ChildStdin,
}

impl Browser {
    fn start(server: &TestServer) -> Self {
        let mut command = Command::new("node");
        command
            .arg(tools::repository("tests/clients/browser/page_test.mjs"))
            .args([server.grpc_addr(), server.http_addr()])
            .env("FLOWGATE_TEST_NODE_MODULES", tools::node_modules())
            .env("FLOWGATE_TEST_CHROMIUM", tools::chromium())
            // Loopback is not for a proxy, whatever the environment says.
            .env("no_proxy", "127.0.0.1")
            .env("NO_PROXY", "127.0.0.1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().expect("node is there; run: bash tests/run");
        let said = BufReader::new(child.stdout.take().unwrap()).lines();
        let told = child.stdin.take().unwrap();
        Self { child, said, told }
    }

    /// Reads what it says up to this line.
    async fn says(&mut self, wanted: &str) {
        loop {
            let line = self.said.next_line().await.unwrap();
            let line = line.unwrap_or_else(|| panic!("it ended before it said {wanted:?}"));
            println!("{line}");
            if line == wanted {
                return;
            }
        }
    }
}

async fn people_see_in_chromium_what_happens(db: Db) {
    let mut server = TestServer::start(Config::on(db).simulated("sim", 3)).await;
    let looked = async {
        let mut browser = Browser::start(&server);
        browser.says("now stop the server").await;
        server.kill9();
        browser.says("now start the server").await;
        server.restart().await;
        let addrs = format!("{} {}\n", server.grpc_addr(), server.http_addr());
        browser.told.write_all(addrs.as_bytes()).await.unwrap();
        browser.says("done").await;
        assert!(browser.child.wait().await.unwrap().success());
    };
    tokio::time::timeout(DEADLINE, looked).await.expect("it is done in time");
}
