//! What a test server is started with: its `flowgate.toml`, its modules and its environment.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::Db;

/// Slots enough for whatever a test runs at a time, so that only limits make work wait.
const SLOTS: u32 = 1_000;

/// The configuration of a [`TestServer`](super::TestServer), built in one expression:
///
/// ```ignore
/// let config = Config::on(db).simulated("sim", 3).module("hello", "#!/bin/sh\necho hello").lease("2s");
/// ```
///
/// `process` is configured, with a folder of its own, as soon as there is a module.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(super) db: Db,
    toml: String,
    modules: Option<Vec<(String, String)>>,
    /// The bounds of the pool; of fixed size if there are none.
    pool: Option<(u32, u32)>,
    pub(super) env: Vec<(String, String)>,
    /// The port of a pooler, if the way to PostgreSQL leads through one.
    pub(super) pooler: Option<u16>,
}

impl Config {
    /// Nothing but the defaults, on SQLite: for what has little to do with the store.
    pub(crate) fn new() -> Self {
        Self::on(Db::Sqlite)
    }

    /// Nothing but the defaults, on a new store of this database.
    pub(crate) fn on(db: Db) -> Self {
        Self { db, toml: String::new(), modules: None, pool: None, env: Vec::new(), pooler: None }
    }

    /// A simulated provider and its declared limit. Its failures, which are on purpose, do not close its
    /// gate.
    pub(crate) fn simulated(mut self, name: &str, max_concurrent: u32) -> Self {
        let _ = writeln!(
            self.toml,
            "[providers.{name}]\nkind = \"simulated\"\nmax_concurrent = {max_concurrent}\n\
             gate_failures = 0\n"
        );
        self
    }

    /// An executable file in the modules folder; `script` begins with its `#!` line.
    pub(crate) fn module(mut self, path: &str, script: &str) -> Self {
        self.modules.get_or_insert_default().push((path.to_owned(), script.to_owned()));
        self
    }

    /// Slots that grow and shrink between these bounds, instead of enough for everything.
    pub(crate) fn pool(mut self, min: u32, max: u32) -> Self {
        self.pool = Some((min, max));
        self
    }

    /// More of `flowgate.toml`, as it stands.
    pub(crate) fn toml(mut self, text: &str) -> Self {
        let _ = writeln!(self.toml, "{text}");
        self
    }

    /// A variable in the server's environment.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Reaches PostgreSQL through the pooler on this port, but for LISTEN.
    pub(crate) fn through(mut self, pooler: u16) -> Self {
        self.pooler = Some(pooler);
        self
    }

    /// How long a claim is good for, such as `2s`.
    pub(crate) fn lease(self, duration: &str) -> Self {
        self.env("FLOWGATE_LEASE", duration)
    }

    /// The way to the store that a server is to take.
    pub(super) fn pooled(&self, url: &str) -> String {
        let Some(pooler) = self.pooler else { return url.to_owned() };
        let (server, database) = url.rsplit_once('/').expect("it names a database");
        let (host, _) = server.rsplit_once(':').expect("it names a port");
        format!("{host}:{pooler}/{database}")
    }

    /// Writes what the server reads into its folder.
    pub(super) fn write(&self, dir: &Path) {
        let mut toml = match self.pool {
            None => format!("slots = {SLOTS}\n"),
            Some((min, max)) => format!("[pool]\nmin = {min}\nmax = {max}\n"),
        };
        toml.push_str(&self.toml);
        if let Some(modules) = &self.modules {
            let modules_dir = dir.join("modules");
            std::fs::create_dir_all(&modules_dir).unwrap();
            let _ = writeln!(
                toml,
                "[providers.process]\nkind = \"process\"\nmodules_dir = {modules_dir:?}"
            );
            for (path, script) in modules {
                let file = modules_dir.join(path);
                std::fs::create_dir_all(file.parent().unwrap()).unwrap();
                std::fs::write(&file, script).unwrap();
                std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
            }
        }
        std::fs::write(dir.join("flowgate.toml"), toml).unwrap();
    }
}
