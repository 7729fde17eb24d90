//! `flowgate.toml`: read, its keys checked, its paths made independent of where the server runs.

use std::io::ErrorKind;
use std::path::Path;

use figment::providers::{Format, Toml};
use figment::value::{Dict, Value};

use super::{ConfigError, keys};
use crate::domain::ProviderName;

/// Reads the file. `None` if it does not exist and need not.
pub(super) fn read(path: &Path, required: bool) -> Result<Option<Dict>, ConfigError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound && !required => return Ok(None),
        Err(source) => return Err(ConfigError::Read { path: path.to_owned(), source }),
    };
    let mut dict: Dict = Toml::from_str(&text).map_err(|error| {
        let offset = error.span().map_or(0, |span| span.start);
        let before = text.get(..offset).unwrap_or(&text);
        ConfigError::Syntax {
            path: path.to_owned(),
            line: before.matches('\n').count() + 1,
            problem: error.message().replace('\n', ", "),
        }
    })?;
    check(path, &dict)?;
    anchor_paths(path, &mut dict);
    Ok(Some(dict))
}

fn check(path: &Path, dict: &Dict) -> Result<(), ConfigError> {
    known(path, "", dict, keys::TOP)?;
    if let Some(pool) = dict.get("pool") {
        known(path, "pool.", table(path, "pool", pool)?, keys::POOL)?;
    }
    let Some(providers) = dict.get("providers") else { return Ok(()) };
    for (name, provider) in table(path, "providers", providers)? {
        let key = format!("providers.{name}");
        name.parse::<ProviderName>()
            .map_err(|error| invalid(path, &key, format!("is not a provider's name: {error}")))?;
        let provider = table(path, &key, provider)?;
        known(path, &format!("{key}."), provider, &keys::provider())?;
        let tables = [(keys::RETRY, keys::IN_RETRY), (keys::ADAPTIVE, keys::IN_ADAPTIVE)];
        for (name, within) in tables {
            if let Some(inner) = provider.get(name) {
                let key = format!("{key}.{name}");
                known(path, &format!("{key}."), table(path, &key, inner)?, within)?;
            }
        }
        let Some(models) = provider.get(keys::MODELS) else { continue };
        let key = format!("{key}.{}", keys::MODELS);
        for (model, rates) in table(path, &key, models)? {
            let key = format!("{key}.{model}");
            known(path, &format!("{key}."), table(path, &key, rates)?, keys::IN_MODEL)?;
        }
    }
    Ok(())
}

fn known(path: &Path, prefix: &str, dict: &Dict, known: &[&str]) -> Result<(), ConfigError> {
    match dict.keys().find(|key| !known.contains(&key.as_str())) {
        None => Ok(()),
        Some(unknown) => Err(ConfigError::UnknownKey {
            path: path.to_owned(),
            key: format!("{prefix}{unknown}"),
            hint: keys::hint(unknown, known),
        }),
    }
}

fn table<'a>(path: &Path, key: &str, value: &'a Value) -> Result<&'a Dict, ConfigError> {
    value.as_dict().ok_or_else(|| invalid(path, key, "must be a table".to_owned()))
}

fn invalid(path: &Path, key: &str, problem: String) -> ConfigError {
    let origin = format!("in {}", path.display());
    ConfigError::Invalid { key: key.to_owned(), origin, problem }
}

/// Relative paths are meant from the file's own directory; what is empty stays so, to be refused.
fn anchor_paths(path: &Path, dict: &mut Dict) {
    let Some(directory) = path.parent() else { return };
    let anchor = |dict: &mut Dict, key: &str| {
        if let Some(Value::String(_, path)) = dict.get_mut(key)
            && !path.is_empty()
        {
            *path = directory.join(&*path).to_string_lossy().into_owned();
        }
    };
    let Some(Value::Dict(_, providers)) = dict.get_mut("providers") else { return };
    for provider in providers.values_mut() {
        let Value::Dict(_, provider) = provider else { continue };
        anchor(provider, "modules_dir");
        anchor(provider, "api_key_file");
        let Some(Value::Dict(_, headers)) = provider.get_mut("headers") else { continue };
        for header in headers.values_mut() {
            if let Value::Dict(_, header) = header {
                anchor(header, "file");
            }
        }
    }
}
