//! The providers: those that exist without configuration, and those that exist because of it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::reader::Reader;
use super::remote::{self, Defaults};
use super::{ConfigError, keys, limits, retry, values};
use crate::domain::{Breaker, ProviderName, ResourceGate};
use crate::engine::ConfiguredProvider;
use crate::providers::{
    Claude, Http, LangGraph, Langflow, N8n, Ollama, OpenAi, Process, ProcessConfig, Provider,
    Simulated,
};

/// Providers that exist without configuration, with the attempts each admits.
const BUILT_IN: &[(&str, Kind, u32)] = &[
    ("claude", Kind::Claude, 3),
    ("ollama", Kind::Ollama, 2),
    ("openai", Kind::OpenAi, 3),
    ("process", Kind::Process, 10),
];

/// What a provider with no number of its own admits.
const DEFAULT_MAX_CONCURRENT: u32 = 1;

/// What a resource gate asks for that is only switched on.
const DEFAULT_CPU_MAX_PERCENT: u8 = 80;
const DEFAULT_MEMORY_MIN_BYTES: u64 = 4 * 1_024 * 1_024 * 1_024;

/// How a provider does its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Simulated,
    Process,
    Http,
    OpenAi,
    Claude,
    Ollama,
    Langflow,
    N8n,
    LangGraph,
}

impl Kind {
    const ALL: [Self; 9] = [
        Self::Simulated,
        Self::Process,
        Self::Http,
        Self::OpenAi,
        Self::Claude,
        Self::Ollama,
        Self::Langflow,
        Self::N8n,
        Self::LangGraph,
    ];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Simulated => "simulated",
            Self::Process => "process",
            Self::Http => "http",
            Self::OpenAi => "openai",
            Self::Claude => "claude",
            Self::Ollama => "ollama",
            Self::Langflow => "langflow",
            Self::N8n => "n8n",
            Self::LangGraph => "langgraph",
        }
    }

    /// What it has by itself if it is reached over HTTP.
    const fn remote(self) -> Option<Defaults> {
        let (base_url, key_env) = match self {
            Self::Simulated | Self::Process => return None,
            Self::Http | Self::Langflow | Self::N8n | Self::LangGraph => (None, None),
            Self::OpenAi => (Some("https://api.openai.com/v1"), Some("OPENAI_API_KEY")),
            Self::Claude => (Some("https://api.anthropic.com"), Some("ANTHROPIC_API_KEY")),
            Self::Ollama => (Some("http://127.0.0.1:11434"), None),
        };
        Some(Defaults { base_url, key_env })
    }

    const fn run_timeout(self) -> Duration {
        match self {
            Self::Process => Duration::from_secs(300),
            _ => Duration::from_secs(600),
        }
    }

    fn named(text: &str) -> Result<Self, String> {
        // What is sold as LangSmith Deployment is a LangGraph server.
        let text = if text == "langsmith" { "langgraph" } else { text };
        let known = Self::ALL.into_iter().find(|kind| kind.as_str() == text);
        known.ok_or_else(|| format!("must be one of {}, not {text:?}", Self::names()))
    }

    fn names() -> String {
        Self::ALL.map(Self::as_str).join(", ")
    }
}

#[cfg(test)]
pub(super) fn kind_names() -> String {
    Kind::names()
}

/// Names of the providers that exist without configuration.
pub(super) fn built_in() -> impl Iterator<Item = ProviderName> {
    BUILT_IN.iter().map(|(name, ..)| name.parse().expect("built-in names are well-formed"))
}

/// Every provider, by name.
pub(super) fn configured(reader: &Reader) -> Result<Vec<ConfiguredProvider>, ConfigError> {
    let mut names: BTreeSet<_> = built_in().collect();
    // The layers let no ill-formed name pass.
    names.extend(reader.keys("providers").iter().filter_map(|name| name.parse().ok()));
    names.into_iter().map(|name| provider(reader, name)).collect()
}

fn provider(reader: &Reader, name: ProviderName) -> Result<ConfiguredProvider, ConfigError> {
    let table = format!("providers.{name}");
    let key = |key: &str| format!("{table}.{key}");
    let built_in = BUILT_IN.iter().find(|(built_in, ..)| *built_in == name.as_str());

    let own_kind = built_in.map(|(_, kind, _)| *kind);
    let kind = reader.get(&key("kind"), |text: String| Kind::named(&text))?.or(own_kind);
    let kind = kind.ok_or_else(|| {
        let names = Kind::names();
        reader.refuse(&table, format!("needs a kind, one of {names} (it is not built in)"))
    })?;
    let foreign = [
        (keys::PROCESS, "for kind process only", kind == Kind::Process),
        (keys::SIMULATED, "for kind simulated only", kind == Kind::Simulated),
        (keys::REMOTE, "for kinds that are reached over HTTP only", kind.remote().is_some()),
    ];
    for (keys, whose, fits) in foreign {
        let foreign = keys.iter().map(|name| key(name)).find(|key| reader.has(key));
        if let Some(foreign) = foreign.filter(|_| !fits) {
            let problem = format!("is {whose}, this is {}", kind.as_str());
            return Err(reader.refuse(&foreign, problem));
        }
    }

    let max_concurrent = built_in.map_or(DEFAULT_MAX_CONCURRENT, |(.., limit)| *limit);
    let run_timeout = reader
        .get(&key("run_timeout"), |text| values::duration(text, Duration::from_millis(1)))?
        .unwrap_or(kind.run_timeout());
    let default = Breaker::default();
    let failures = reader.get(&key("gate_failures"), |number| {
        u32::try_from(values::within(number, 0, 1_000)?).map_err(|error| error.to_string())
    })?;
    let span = |name: &str, default| {
        let least = Duration::from_millis(100);
        let span = reader.get(&key(name), |text| values::duration(text, least))?;
        Ok(span.unwrap_or(default))
    };
    let breaker = Breaker {
        failures: failures.unwrap_or(default.failures),
        window: span("gate_window", default.window)?,
        pause: span("gate_pause", default.pause)?,
    };
    Ok(ConfiguredProvider {
        provider: build(reader, &name, kind, own_kind == Some(kind))?,
        name,
        kind: kind.as_str().to_owned(),
        limits: limits::read(reader, &table, max_concurrent)?,
        run_timeout,
        breaker,
        retry: retry::read(reader, &table)?,
    })
}

/// Makes what does the work. `own` says whether the provider exists as this kind by itself.
fn build(
    reader: &Reader,
    name: &ProviderName,
    kind: Kind,
    own: bool,
) -> Result<Arc<dyn Provider>, ConfigError> {
    let remote = || {
        let defaults = kind.remote().unwrap_or_default();
        remote::read(reader, name, own, defaults)
    };
    Ok(match kind {
        Kind::Simulated => Arc::new(simulated(reader, name)?),
        Kind::Process => Arc::new(Process::new(process(reader, name)?)),
        Kind::Http => Arc::new(Http::new(remote()?)),
        Kind::OpenAi => Arc::new(OpenAi::new(remote()?)),
        Kind::Claude => Arc::new(Claude::new(remote()?)),
        Kind::Ollama => Arc::new(Ollama::new(remote()?)),
        Kind::Langflow => Arc::new(Langflow::new(remote()?)),
        Kind::N8n => Arc::new(N8n::new(remote()?)),
        Kind::LangGraph => Arc::new(LangGraph::new(remote()?)),
    })
}

/// Reads how much a provider of kind `simulated` takes.
fn simulated(reader: &Reader, name: &ProviderName) -> Result<Simulated, ConfigError> {
    let key = |key: &str| format!("providers.{name}.{key}");
    let capacity = reader.get(&key("capacity"), values::count)?;
    let wait_key = key("capacity_retry_after");
    let wait = reader.get(&wait_key, |text| values::duration(text, Duration::ZERO))?;
    let simulated = match capacity {
        Some(capacity) => Simulated::with_capacity(Arc::new(capacity.into())),
        None if wait.is_some() => {
            return Err(reader.refuse(&wait_key, "needs capacity beside it".to_owned()));
        }
        None => Simulated::default(),
    };
    Ok(match wait {
        Some(wait) => simulated.asking_to_wait(wait),
        None => simulated,
    })
}

/// Reads what a provider of kind `process` needs.
pub(super) fn process(reader: &Reader, name: &ProviderName) -> Result<ProcessConfig, ConfigError> {
    let table = format!("providers.{name}");
    let key = |key: &str| format!("{table}.{key}");
    let default = ProcessConfig::default();
    let modules_dir = reader.get(&key("modules_dir"), |text: String| match text.as_str() {
        "" => Err("must not be empty".to_owned()),
        _ => Ok(PathBuf::from(text)),
    })?;
    let stop_grace =
        reader.get(&key("stop_grace"), |text| values::duration(text, Duration::ZERO))?;
    let max_output_bytes = reader.get(&key("max_output_bytes"), |number| {
        // Both streams and the rest of the result must fit one stored value of 16 MiB.
        let number = values::within(number, 0, 4 * 1_024 * 1_024)?;
        usize::try_from(number).map_err(|error| error.to_string())
    })?;
    Ok(ProcessConfig {
        modules_dir,
        env_allow: reader.get(&key("env_allow"), Ok)?.unwrap_or(default.env_allow),
        stop_grace: stop_grace.unwrap_or(default.stop_grace),
        max_output_bytes: max_output_bytes.unwrap_or(default.max_output_bytes),
        gate: resource_gate(reader, &table)?,
        guard_program: default.guard_program,
    })
}

/// Reads what a machine must have left. A bound of its own turns that one on, the switch both; the
/// switch turned off turns off whatever else is set.
fn resource_gate(reader: &Reader, table: &str) -> Result<Option<ResourceGate>, ConfigError> {
    let key = |key: &str| format!("{table}.{key}");
    let switch = reader.get(&key("resource_gate"), Ok::<bool, _>)?;
    let cpu_max_percent = reader.get(&key("cpu_max_percent"), |number| {
        let number = values::within(number, 1, 100)?;
        u8::try_from(number).map_err(|error| error.to_string())
    })?;
    let memory_min_bytes = reader.get(&key("memory_min_bytes"), |number| {
        let number = values::within(number, 1, i64::MAX)?;
        u64::try_from(number).map_err(|error| error.to_string())
    })?;
    let when_short = reader.get(&key("when_short"), values::when_short)?;
    let bounds = match switch {
        Some(false) => return Ok(None),
        Some(true) => (
            cpu_max_percent.or(Some(DEFAULT_CPU_MAX_PERCENT)),
            memory_min_bytes.or(Some(DEFAULT_MEMORY_MIN_BYTES)),
        ),
        None => (cpu_max_percent, memory_min_bytes),
    };
    match (bounds, when_short) {
        ((None, None), None) => Ok(None),
        ((None, None), Some(_)) => {
            let problem = "needs resource_gate, cpu_max_percent or memory_min_bytes beside it";
            Err(reader.refuse(&key("when_short"), problem.to_owned()))
        }
        ((cpu_max_percent, memory_min_bytes), when_short) => Ok(Some(ResourceGate {
            cpu_max_percent,
            memory_min_bytes,
            when_short: when_short.unwrap_or_default(),
        })),
    }
}
