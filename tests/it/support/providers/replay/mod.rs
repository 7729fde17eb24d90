//! A provider that says what a test tells it to: a small HTTP server on a plain socket, since no
//! framework would break off in the middle of a chunk.
//!
//! ```ignore
//! let replay = Replay::start().await;
//! replay.on("POST /api/chat", Reply::json(429, &json!({})).header("Retry-After", "1"));
//! replay.on("POST /api/chat", Reply::transcript("ollama_chat"));      // to the second request
//! replay.always("GET /threads/*/runs/*", Reply::json(200, &json!({ "status": "pending" })));
//!
//! let (reply, mut pieces) = Reply::transcript("ollama_chat_stream").stepped();
//! replay.on("POST /api/chat", reply);
//! pieces.next().await;                                     // the first piece is in the socket
//!
//! replay.on("POST /slow", Reply::hang());
//! assert_eq!(replay.ended(2).await, Ending::ClientClosed); // of the third request
//! ```
//!
//! What must stay true: a reply's body reaches the client byte for byte, and a request is recorded
//! before anything is said to it.

mod body;
mod connection;
mod reply;
mod transcript;
mod wire;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::Port;
pub(crate) use reply::Reply;
pub(crate) use transcript::transcripts;
pub(crate) use wire::Request;

/// How long a test waits for what must happen.
const DEADLINE: Duration = Duration::from_secs(20);

/// How the exchange that began with a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The reply was sent whole.
    Answered,
    /// The server broke it off, as the test wanted.
    CutOff,
    /// The client closed the connection before the reply was whole.
    ClientClosed,
}

/// The server. Dropping it closes its port and every connection.
pub(crate) struct Replay {
    port: Port,
    script: Arc<Script>,
    accepts: Option<JoinHandle<()>>,
}

impl Replay {
    /// Starts one that knows no path yet: what is not scripted is answered with 501.
    pub(crate) async fn start() -> Self {
        let script = Arc::new(Script::default());
        let mut replay = Self { port: Port::take(), script, accepts: None };
        replay.come_back().await;
        replay
    }

    /// Without a slash at the end.
    pub(crate) fn url(&self) -> String {
        self.port.url()
    }

    /// Adds the reply to the next request for `route`, `METHOD /path`. A `*` stands for any one
    /// segment of the path; a query is not looked at.
    pub(crate) fn on(&self, route: &str, reply: Reply) {
        self.script.route(route, |found| found.next.push_back(reply));
    }

    /// Sets the reply to every request for `route` that [`Replay::on`] left nothing for.
    pub(crate) fn always(&self, route: &str, reply: Reply) {
        self.script.route(route, |found| found.always = Some(reply));
    }

    /// What it was asked so far, in order.
    pub(crate) fn requests(&self) -> Vec<Request> {
        let exchanges = self.script.exchanges.borrow();
        exchanges.iter().map(|exchange| exchange.request.clone()).collect()
    }

    /// Request number `index`, from 0, once it has come.
    pub(crate) async fn request(&self, index: usize) -> Request {
        self.script.wait(index, "has come", |exchange| Some(exchange.request.clone())).await
    }

    /// How request number `index`, from 0, ended, once it has.
    pub(crate) async fn ended(&self, index: usize) -> Ending {
        self.script.wait(index, "has ended", |exchange| exchange.ending).await
    }

    /// Breaks off every connection and refuses new ones.
    pub(crate) async fn go_away(&mut self) {
        if let Some(accepts) = self.accepts.take() {
            accepts.abort();
            // The listener and every connection are closed when the task is gone.
            let _ = accepts.await;
            self.script.exchanges.send_modify(|exchanges| {
                for exchange in exchanges {
                    exchange.ending.get_or_insert(Ending::CutOff);
                }
            });
        }
    }

    /// Listens again where it did before.
    pub(crate) async fn come_back(&mut self) {
        let listener = TcpListener::bind(("127.0.0.1", self.port.number)).await;
        let listener = listener.expect("the port is ours");
        let script = Arc::clone(&self.script);
        self.accepts = Some(tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(connection::serve(stream, Arc::clone(&script)));
                // What has ended is let go of.
                while connections.try_join_next().is_some() {}
            }
        }));
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        if let Some(accepts) = &self.accepts {
            accepts.abort();
        }
    }
}

/// What to say, and what was said.
#[derive(Default)]
struct Script {
    routes: Mutex<Vec<Route>>,
    exchanges: watch::Sender<Vec<Exchange>>,
}

struct Exchange {
    request: Request,
    ending: Option<Ending>,
}

struct Route {
    name: String,
    next: VecDeque<Reply>,
    always: Option<Reply>,
}

impl Route {
    fn fits(&self, request: &Request) -> bool {
        let (method, path) = self.name.split_once(' ').expect("a route is METHOD /path");
        let wanted: Vec<&str> = path.split('/').collect();
        let asked: Vec<&str> = request.path().split('/').collect();
        method == request.method
            && wanted.len() == asked.len()
            && wanted.iter().zip(&asked).all(|(wanted, asked)| *wanted == "*" || wanted == asked)
    }
}

impl Script {
    fn route(&self, name: &str, change: impl FnOnce(&mut Route)) {
        let mut routes = self.routes.lock().unwrap();
        if let Some(route) = routes.iter_mut().find(|route| route.name == name) {
            return change(route);
        }
        let mut route = Route { name: name.to_owned(), next: VecDeque::new(), always: None };
        change(&mut route);
        routes.push(route);
    }

    /// The reply to a request, by the route that was made first of those that fit.
    fn reply_to(&self, request: &Request) -> Reply {
        let mut routes = self.routes.lock().unwrap();
        let mut fitting = routes.iter_mut().filter(|route| route.fits(request));
        let reply = fitting.find_map(|route| route.next.pop_front().or(route.always.clone()));
        reply.unwrap_or_else(|| {
            let what = format!("replay: nothing is left for {} {}", request.method, request.target);
            Reply::new(501, "text/plain", what)
        })
    }

    /// Records a request and returns its number.
    fn record(&self, request: Request) -> usize {
        let mut index = 0;
        self.exchanges.send_modify(|exchanges| {
            index = exchanges.len();
            exchanges.push(Exchange { request, ending: None });
        });
        index
    }

    fn end(&self, index: usize, ending: Ending) {
        self.exchanges.send_modify(|exchanges| exchanges[index].ending = Some(ending));
    }

    async fn wait<T>(&self, index: usize, what: &str, look: impl Fn(&Exchange) -> Option<T>) -> T {
        let mut changes = self.exchanges.subscribe();
        let found = async {
            loop {
                if let Some(found) = changes.borrow_and_update().get(index).and_then(&look) {
                    return found;
                }
                changes.changed().await.expect("the script is borrowed");
            }
        };
        match tokio::time::timeout(DEADLINE, found).await {
            Ok(found) => found,
            Err(_) => panic!("not within {DEADLINE:?}: request {index} {what}"),
        }
    }
}
