//! What `bash tests/tools` sees to: outside clients and servers below `target/test-tools`, a Prometheus,
//! and a PostgreSQL.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The Python interpreter that has grpcio, the OpenTelemetry SDK and rotel.
pub(crate) fn python() -> PathBuf {
    installed("tests/clients/python/requirements.txt", "python/requirements.txt");
    tools_dir().join("python/bin/python")
}

/// The program of rotel, a collector, which is in the package of that name.
pub(crate) fn rotel() -> PathBuf {
    let found = Command::new(python())
        .args(["-B", "-c", "import rotel.agent; print(rotel.agent.Agent.agent_path)"])
        .output()
        .expect("python runs");
    let path = PathBuf::from(String::from_utf8_lossy(&found.stdout).trim());
    assert!(path.is_file(), "{}", String::from_utf8_lossy(&found.stderr));
    path
}

/// The `node_modules` folder that has `@grpc/grpc-js`.
pub(crate) fn node_modules() -> PathBuf {
    installed("tests/clients/node/package-lock.json", "node/installed.json");
    tools_dir().join("node/node_modules")
}

/// The command `buf`.
pub(crate) fn buf() -> PathBuf {
    node_modules().join(".bin/buf")
}

/// The folder that `tests/servers/NAME.sh install` made of the files `made_from`.
pub(crate) fn server(name: &str, made_from: &[&str]) -> PathBuf {
    let read = |file: &&str| std::fs::read(repository(file)).expect("is in the repository");
    let wanted: Vec<u8> = made_from.iter().flat_map(read).collect();
    let folder = tools_dir().join(name);
    let found = std::fs::read(folder.join("installed")).unwrap_or_default();
    let folder_name = folder.display();
    assert!(
        wanted == found,
        "the server {name} is missing or out of date; run: tests/servers/{name}.sh install {folder_name}"
    );
    folder
}

/// The folder of a PostgreSQL server's programs; if there is none, what to do about it.
pub(super) fn postgres_bin() -> Result<PathBuf, String> {
    let output = Command::new("sh").arg(repository("tests/postgres_bin")).output();
    let output = output.map_err(|error| format!("cannot run sh: {error}"))?;
    let said = |bytes| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        Ok(PathBuf::from(said(&output.stdout)))
    } else {
        Err(format!("{}; run: bash tests/tools", said(&output.stderr)))
    }
}

/// The command `pgbouncer`.
pub(crate) fn pgbouncer() -> PathBuf {
    command("pgbouncer")
}

/// The command `chromium`.
pub(crate) fn chromium() -> PathBuf {
    command("chromium")
}

/// The command `prometheus`.
pub(crate) fn prometheus() -> PathBuf {
    command("prometheus")
}

/// The command `promtool`.
pub(crate) fn promtool() -> PathBuf {
    command("promtool")
}

fn command(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders =
        std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    let found = folders.map(|folder| folder.join(name)).find(|file| file.is_file());
    found.unwrap_or_else(|| panic!("{name} is missing; run: bash tests/tools"))
}

/// A file of the repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// `tests/tools` leaves beside what it installed a copy of the file that says what that is.
fn installed(wanted: &str, copy: &str) {
    let wanted = std::fs::read(repository(wanted)).expect("is in the repository");
    let found = std::fs::read(tools_dir().join(copy)).unwrap_or_default();
    assert!(wanted == found, "the outside clients are missing or out of date; run: bash tests/run");
}

fn tools_dir() -> PathBuf {
    repository("target/test-tools")
}
