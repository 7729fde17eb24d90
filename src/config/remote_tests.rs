//! How a provider is reached: what is taken, what is refused, and that no refusal repeats a key.

use std::time::Duration;

use super::remote::{self, Defaults};
use super::tests::Start;
use crate::providers::{Credential, RemoteConfig};

const DEFAULTS: Defaults =
    Defaults { base_url: Some("https://vendor.example/v1"), key_env: Some("VENDOR_API_KEY") };

/// A provider `x` that exists without configuration, with these settings.
fn start(settings: &str) -> Start {
    Start::with_file(&format!("[providers.x]\nkind = 'openai'\n{settings}"))
}

fn read_as(start: &Start, own: bool) -> RemoteConfig {
    let name = "x".parse().expect("a name");
    let read = remote::read(&start.reader(), &name, own, DEFAULTS);
    read.unwrap_or_else(|error| panic!("refused: {error}"))
}

fn read(start: &Start) -> RemoteConfig {
    read_as(start, true)
}

fn urls(config: &RemoteConfig) -> Vec<&str> {
    config.endpoints.iter().map(reqwest::Url::as_str).collect()
}

/// What a credential is, its text left out.
fn shown(credential: &Credential) -> String {
    format!("{credential:?}")
}

fn refusal(settings: &str) -> String {
    let refusal = start(settings).refusal();
    assert!(!refusal.contains("canary"), "{refusal}");
    refusal
}

#[test]
fn nothing_configured_means_the_vendors_own_server_and_key() {
    let config = read(&start("").variable("VENDOR_API_KEY", "canary-canary"));
    assert_eq!(urls(&config), ["https://vendor.example/v1"]);
    assert_eq!(shown(&config.key), "Value([redacted])");
    assert_eq!(config.connect_timeout, Duration::from_secs(10));
    assert_eq!(config.idle_timeout, Duration::from_secs(300));
    assert!(config.headers.is_empty());
    for empty in [start(""), start("").variable("VENDOR_API_KEY", "")] {
        let key = read(&empty).key;
        assert_eq!(shown(&key), r#"Missing("the variable VENDOR_API_KEY is not set")"#);
    }
}

#[test]
fn the_vendors_key_is_not_shown_to_another_server() {
    let elsewhere = || start("base_url = 'http://gpu:1/v1'").variable("VENDOR_API_KEY", "canary-1");
    assert_eq!(shown(&read_as(&elsewhere(), false).key), "None");
    assert_eq!(shown(&read_as(&elsewhere(), true).key), "Value([redacted])");
    // A server of one's own often wants none.
    assert_eq!(shown(&read(&start("base_url = 'http://gpu:1/v1'")).key), "None");
    assert_eq!(shown(&read_as(&start(""), false).key).split('(').next(), Some("Missing"));
}

#[test]
fn one_or_several_base_urls_are_taken() {
    assert_eq!(urls(&read(&start("base_url = 'http://gpu:8080/v1/'"))), ["http://gpu:8080/v1/"]);
    let several = start("endpoints = ['http://a', 'https://b/v1']");
    assert_eq!(urls(&read(&several)), ["http://a/", "https://b/v1"]);
    let variable = "FLOWGATE_PROVIDERS__X__ENDPOINTS";
    let several = start("").variable(variable, "http://a, http://b");
    assert_eq!(urls(&read(&several)), ["http://a/", "http://b/"]);
}

#[test]
fn a_base_url_that_is_none_is_refused_without_repeating_it() {
    let problem = |value: &str| {
        let refusal = refusal(&format!("base_url = {value}"));
        let prefix = "providers.x.base_url, set in flowgate.toml, ";
        refusal.strip_prefix(prefix).unwrap_or_else(|| panic!("{refusal}")).to_owned()
    };
    for (value, says) in [
        ("'http://me:canary@host/v1'", "must hold no name or password: give them in headers"),
        ("'http://canary@host/v1'", "must hold no name or password: give them in headers"),
        ("'http://host/v1?key=canary'", "must have no query and no fragment"),
        ("'http://host/v1#canary'", "must have no query and no fragment"),
        ("'ftp://canary'", "must be a URL that begins with http:// or https://"),
        ("'canary:8080'", "must be a URL that begins with http:// or https://"),
        ("'canary'", "must be a URL: relative URL without a base"),
        ("''", "must be a URL: relative URL without a base"),
        ("'http://me:canary@'", "must be a URL: empty host"),
        ("['http://canary']", "must be a URL"),
        ("{ env = 'canary' }", "must be a URL"),
    ] {
        assert_eq!(problem(value), says, "{value}");
    }
    for (settings, says) in [
        ("endpoints = 'http://me:canary@host'", "must be a list of URLs"),
        ("endpoints = []", "must name at least one base URL"),
        ("endpoints = ['http://a', 'http://me:canary@b']", "must hold no name or password"),
        ("base_url = 'http://a'\nendpoints = ['http://b']", "must not be given beside endpoints"),
    ] {
        assert!(refusal(settings).contains(says), "{}", refusal(settings));
    }
    let refusal = Start::with_file("[providers.x]\nkind = 'http'").refusal();
    assert_eq!(refusal, "providers.x, set in flowgate.toml, needs a base_url, or endpoints");
}

#[test]
fn a_key_comes_from_a_variable_or_a_file() {
    let config = read(&start("api_key_env = 'THE_KEY'").variable("THE_KEY", "canary-canary"));
    assert_eq!(shown(&config.key), "Value([redacted])");
    let missing = "the variable that providers.x.api_key_env names is not set";
    let config = read(&start("api_key_env = 'CANARYcanary1234567890'"));
    assert_eq!(shown(&config.key), format!("Missing({missing:?})"));
    let start = start("api_key_file = 'keys/x'");
    assert_eq!(shown(&read(&start).key), format!("File({:?})", start.path("keys/x")));
}

#[test]
fn a_key_in_the_wrong_place_is_refused_without_repeating_it() {
    let variable = "must be the name of an environment variable";
    for (settings, says) in [
        ("api_key_env = 'sk-canary'", variable),
        ("api_key_env = ''", variable),
        ("api_key_env = 'A=canary'", variable),
        ("api_key_env = ['canary']", variable),
        ("api_key_file = ''", "must not be empty"),
        ("api_key_file = ['canary']", "must be the path of a file"),
        ("api_key_env = 'A'\napi_key_file = 'canary'", "must not be given beside api_key_file"),
        ("headers = { x-a = { env = 'sk-canary' } }", variable),
        ("headers = { x-a = { key = 'canary' } }", "must be a table of NAME"),
        ("headers = 'canary'", "must be a table of NAME"),
        ("headers = { 'x a' = 'canary' }", "has a name that no header can have"),
        ("headers = { x-a = \"canary\\n\" }", "has a value that no header can have"),
        (
            "api_key = 'canary'",
            "has the unknown key providers.x.api_key; did you mean api_key_env?",
        ),
        ("api_key_env = canary-1", "is not valid TOML at line 3"),
        ("api_key_env = 'canary", "is not valid TOML at line 3"),
    ] {
        let refusal = refusal(settings);
        assert!(refusal.contains(says), "{settings}: {refusal}");
    }
}

#[test]
fn headers_are_secret_where_their_name_or_their_text_says_so() {
    let start = start(
        "[providers.x.headers]\nAuthorization = 'Bearer canary'\nx-any = 'Bearer canary'\n\
         x-tenant = 'ours'\nx-env = { env = 'THE_KEY' }\nx-file = { file = 'proof' }\n\
         x-absent = { env = 'ABSENT' }",
    )
    .variable("THE_KEY", "canary-canary");
    let config = read(&start);
    let headers: Vec<_> =
        config.headers.iter().map(|(name, value)| (name.as_str(), shown(value))).collect();
    let missing = "the variable that providers.x.headers.x-absent.env names is not set";
    let expected = [
        ("authorization", "Value([redacted])".to_owned()),
        ("x-absent", format!("Missing({missing:?})")),
        ("x-any", "Value([redacted])".to_owned()),
        ("x-env", "Value([redacted])".to_owned()),
        ("x-file", format!("File({:?})", start.path("proof"))),
        ("x-tenant", "Plain(\"ours\")".to_owned()),
    ];
    assert_eq!(headers, expected);
}

#[test]
fn time_limits_are_durations_of_a_millisecond_or_more() {
    let config = read(&start("connect_timeout = '1s'\nidle_timeout = '2m'"));
    assert_eq!(config.connect_timeout, Duration::from_secs(1));
    assert_eq!(config.idle_timeout, Duration::from_secs(120));
    for settings in ["connect_timeout = '0s'", "idle_timeout = '0s'", "idle_timeout = 'soon'"] {
        start(settings).refusal();
    }
}

#[test]
fn settings_of_another_kind_are_refused() {
    let file = "[providers.x]\nkind = 'simulated'\nbase_url = 'http://a'";
    assert_eq!(
        Start::with_file(file).refusal(),
        "providers.x.base_url, set in flowgate.toml, is for kinds that are reached over HTTP only, \
         this is simulated"
    );
    start("modules_dir = 'm'").refusal();
}
