//! Reads how a provider is reached over HTTP.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use reqwest::Url;
use serde::Deserialize;

use super::reader::Reader;
use super::{ConfigError, values};
use crate::domain::ProviderName;
use crate::providers::{Credential, RemoteConfig, Secret};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);

/// What a kind brings along.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Defaults {
    /// Where its vendor serves it, or where it listens by itself on the same machine.
    pub(super) base_url: Option<&'static str>,
    /// The variable that its vendor's own clients read the key from.
    pub(super) key_env: Option<&'static str>,
}

/// A header as the file has it.
#[derive(Deserialize)]
#[serde(untagged, deny_unknown_fields)]
enum Header {
    Text(String),
    Env { env: String },
    File { file: PathBuf },
}

/// Reads the settings of provider `name`. `own` says whether it exists without being configured.
pub(super) fn read(
    reader: &Reader,
    name: &ProviderName,
    own: bool,
    defaults: Defaults,
) -> Result<RemoteConfig, ConfigError> {
    let key = |key: &str| format!("providers.{name}.{key}");
    let duration = |name: &str, default| {
        let least = Duration::from_millis(1);
        let duration = reader.get(&key(name), |text| values::duration(text, least))?;
        Ok(duration.unwrap_or(default))
    };
    Ok(RemoteConfig {
        endpoints: endpoints(reader, name, defaults)?,
        key: credential(reader, name, own, defaults)?,
        headers: headers(reader, name)?,
        connect_timeout: duration("connect_timeout", CONNECT_TIMEOUT)?,
        idle_timeout: duration("idle_timeout", IDLE_TIMEOUT)?,
    })
}

fn endpoints(
    reader: &Reader,
    name: &ProviderName,
    defaults: Defaults,
) -> Result<Vec<Url>, ConfigError> {
    let (base_url, endpoints) =
        (format!("providers.{name}.base_url"), format!("providers.{name}.endpoints"));
    if reader.has(&base_url) && reader.has(&endpoints) {
        let problem = "must not be given beside endpoints: it is one of them".to_owned();
        return Err(reader.refuse(&base_url, problem));
    }
    if let Some(url) = reader.get_unseen(&base_url, "a URL", |text: String| url(&text))? {
        return Ok(vec![url]);
    }
    let several = reader.get_unseen(&endpoints, "a list of URLs", |texts: Vec<String>| {
        let urls = texts.iter().map(|text| url(text)).collect::<Result<Vec<_>, _>>()?;
        if urls.is_empty() { Err("must name at least one base URL".to_owned()) } else { Ok(urls) }
    })?;
    match (several, defaults.base_url) {
        (Some(urls), _) => Ok(urls),
        (None, Some(default)) => Ok(vec![url(default).expect("the defaults are well-formed")]),
        (None, None) => {
            let problem = "needs a base_url, or endpoints".to_owned();
            Err(reader.refuse(&format!("providers.{name}"), problem))
        }
    }
}

fn url(text: &str) -> Result<Url, String> {
    // Says nothing of the text, which may hold a password.
    let url = Url::parse(text).map_err(|error| format!("must be a URL: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err("must be a URL that begins with http:// or https://".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must hold no name or password: give them in headers".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("must have no query and no fragment".to_owned());
    }
    Ok(url)
}

fn credential(
    reader: &Reader,
    name: &ProviderName,
    own: bool,
    defaults: Defaults,
) -> Result<Credential, ConfigError> {
    let (env, file) =
        (format!("providers.{name}.api_key_env"), format!("providers.{name}.api_key_file"));
    if reader.has(&env) && reader.has(&file) {
        let problem = "must not be given beside api_key_file".to_owned();
        return Err(reader.refuse(&env, problem));
    }
    let path = |path: PathBuf| match path.as_os_str().is_empty() {
        true => Err("must not be empty".to_owned()),
        false => Ok(path),
    };
    if let Some(path) = reader.get_unseen(&file, "the path of a file", path)? {
        return Ok(Credential::File(path));
    }
    if let Some(variable) = reader.get_unseen(&env, A_VARIABLE, variable)? {
        return Ok(from_env(reader, &variable, &format!("the variable that {env} names")));
    }
    let elsewhere =
        ["base_url", "endpoints"].iter().any(|key| reader.has(&format!("providers.{name}.{key}")));
    match defaults.key_env {
        // The vendor's key is not shown to another server, unless the provider goes by its name.
        Some(variable) if own || !elsewhere => {
            match from_env(reader, variable, &format!("the variable {variable}")) {
                Credential::Missing(_) if elsewhere => Ok(Credential::None),
                credential => Ok(credential),
            }
        }
        Some(_) | None => Ok(Credential::None),
    }
}

fn headers(
    reader: &Reader,
    name: &ProviderName,
) -> Result<Vec<(HeaderName, Credential)>, ConfigError> {
    let key = format!("providers.{name}.headers");
    let given = reader.get(&key, |headers: BTreeMap<String, Header>| Ok(headers));
    let given = given.map_err(|_| {
        let problem = "must be a table of NAME = \"text\", NAME = { env = \"VARIABLE\" } or \
                       NAME = { file = \"PATH\" }";
        reader.refuse(&key, problem.to_owned())
    })?;
    let mut headers = Vec::new();
    for (name, header) in given.into_iter().flatten() {
        let invalid = |what: &str| reader.refuse(&key, format!("{what} {name:?}"));
        let header_name: HeaderName =
            name.parse().map_err(|_| invalid("has a name that no header can have:"))?;
        let credential = match header {
            Header::Env { env } => {
                let variable = variable(env)
                    .map_err(|problem| reader.refuse(&format!("{key}.{name}.env"), problem))?;
                from_env(reader, &variable, &format!("the variable that {key}.{name}.env names"))
            }
            Header::File { file } => Credential::File(file),
            Header::Text(text) if HeaderValue::from_str(&text).is_err() => {
                return Err(invalid("has a value that no header can have, under"));
            }
            Header::Text(text) if is_secret(&header_name, &text) => {
                Credential::Value(Secret::new(&text))
            }
            Header::Text(text) => Credential::Plain(text),
        };
        headers.push((header_name, credential));
    }
    Ok(headers)
}

/// Whether a header is one that carries credentials, by its name or by how it begins.
fn is_secret(name: &HeaderName, value: &str) -> bool {
    let named = ["auth", "key", "token", "secret", "cookie", "password"];
    let scheme = value.split(' ').next().unwrap_or_default().to_ascii_lowercase();
    named.iter().any(|part| name.as_str().contains(part))
        || ["bearer", "basic", "token", "apikey"].contains(&scheme.as_str())
}

const A_VARIABLE: &str = "the name of an environment variable";

fn variable(text: String) -> Result<String, String> {
    let in_name = |char: char| char.is_ascii_alphanumeric() || char == '_';
    if !text.is_empty() && text.chars().all(in_name) {
        Ok(text)
    } else {
        // A key that was put in its place by mistake is not repeated.
        Err(format!("must be {A_VARIABLE}"))
    }
}

/// What a variable holds. `told` stands for its name, which may be a key put there by mistake.
fn from_env(reader: &Reader, variable: &str, told: &str) -> Credential {
    match reader.variable(variable) {
        Some(text) => Credential::Value(Secret::new(text)),
        None => Credential::Missing(format!("{told} is not set")),
    }
}
