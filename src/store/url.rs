//! Which store a URL names.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use sqlx::postgres::PgConnectOptions;

/// Where executions are kept.
#[derive(Clone, PartialEq, Eq)]
pub enum StoreUrl {
    /// The embedded database, in this file.
    Sqlite(PathBuf),
    /// PostgreSQL, at this URL.
    Postgres(String),
}

impl Default for StoreUrl {
    fn default() -> Self {
        Self::Sqlite("flowgate.db".into())
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite://{}", path.display()),
            Self::Postgres(url) => write!(f, "postgres://{}", without_secrets(url)),
        }
    }
}

/// As it is displayed: without what may be a secret.
impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Host and database of a URL; user, password and parameters are left out.
fn without_secrets(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.split(['?', '#']).next().unwrap_or(rest);
    rest.rsplit_once('@').map_or(rest, |(_, place)| place)
}

/// Whether an at sign comes after the host: then part of a password would be read as a host or a
/// database, and their names are shown.
fn has_bare_signs(rest: &str) -> bool {
    rest.find(['/', '?', '#']).is_some_and(|end| rest[end..].contains('@'))
}

/// Parameters of a URL, as the driver knows them; also `options[NAME]`.
const PARAMETERS: &[&str] = &[
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "statement-cache-capacity",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
];

/// The first parameter that would be passed over: `sslmod=verify-full` must not mean no encryption,
/// and the driver would log its value.
fn unknown_parameter(rest: &str) -> Option<&str> {
    let (_, parameters) = rest.split_once('?')?;
    let parameters = parameters.split('#').next().unwrap_or(parameters);
    let keys = parameters.split('&').map(|pair| pair.split('=').next().unwrap_or(pair));
    keys.filter(|key| !key.is_empty() && !key.starts_with("options"))
        .find(|key| !PARAMETERS.contains(key))
}

impl FromStr for StoreUrl {
    type Err = String;

    /// The error does not repeat the text: a database's URL may hold a password.
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once("://") {
            Some(("sqlite", "")) => Err("must name a file, as in sqlite://flowgate.db".to_owned()),
            Some(("sqlite", path)) if path.contains(":memory:") => {
                Err("must name a file: nothing in memory outlives the server".to_owned())
            }
            Some(("sqlite", path)) if path.contains('?') => {
                Err("must end with the file's name: it takes no parameters".to_owned())
            }
            Some(("sqlite", path)) => Ok(Self::Sqlite(path.into())),
            Some(("postgres" | "postgresql", "")) => {
                Err("must name a database, as in postgres://user@host/flowgate".to_owned())
            }
            Some(("postgres" | "postgresql", rest)) if has_bare_signs(rest) => Err(
                "must have '@', '/', '?' and '#' in a password written as %40, %2F, %3F and %23"
                    .to_owned(),
            ),
            Some(("postgres" | "postgresql", rest)) => match unknown_parameter(rest) {
                Some(key) => Err(format!(
                    "has the parameter {key:?}, which means nothing here; known are {}",
                    PARAMETERS.join(", ")
                )),
                None => match PgConnectOptions::from_str(text) {
                    Ok(_) => Ok(Self::Postgres(text.to_owned())),
                    Err(error) => Err(format!("cannot be read: {error}")),
                },
            },
            Some(_) | None => {
                Err("must have the form sqlite://PATH or postgres://USER@HOST/DATABASE".to_owned())
            }
        }
    }
}
