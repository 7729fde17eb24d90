use super::*;
use crate::domain::WhenShort;

/// A directory with a `flowgate.toml`, and what else a start is given.
pub(super) struct Start {
    directory: tempfile::TempDir,
    variables: Vec<(String, String)>,
    flags: ServeFlags,
}

impl Start {
    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        Self { directory, variables: Vec::new(), flags: ServeFlags::default() }
    }

    pub(super) fn with_file(text: &str) -> Self {
        let start = Self::new();
        std::fs::write(start.path("flowgate.toml"), text).expect("the directory is writable");
        start
    }

    pub(super) fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(super) fn flags(mut self, flags: ServeFlags) -> Self {
        self.flags = flags;
        self
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The sources, laid over each other.
    pub(super) fn reader(&self) -> Reader {
        let variables = self.variables.iter().cloned().collect();
        let layers = layers::gather(&self.flags, variables, self.directory.path());
        layers.expect("accepted").reader
    }

    fn load(&self) -> Result<Settings, ConfigError> {
        load(&self.flags, self.variables.clone(), self.directory.path())
    }

    pub(super) fn settings(&self) -> Settings {
        self.load().unwrap_or_else(|error| panic!("refused: {error}"))
    }

    /// The refusal, with the directory taken out of it.
    pub(super) fn refusal(&self) -> String {
        let Err(error) = self.load() else { panic!("accepted") };
        let text = error.to_string().replace(&format!("{}/", self.directory.path().display()), "");
        assert!(!text.contains('\n'), "not one line: {text}");
        text
    }
}

fn named<'a>(settings: &'a Settings, name: &str) -> &'a ConfiguredProvider {
    let mut providers = settings.providers.iter();
    providers.find(|provider| provider.name.as_str() == name).expect("the provider exists")
}

fn lease_flag(lease: &str) -> ServeFlags {
    ServeFlags { lease: Some(lease.to_owned()), ..ServeFlags::default() }
}

#[test]
fn nothing_configured_means_the_documented_defaults() {
    let settings = Start::new().settings();
    assert_eq!(settings.store, StoreUrl::Sqlite("flowgate.db".into()));
    assert_eq!(settings.grpc_addr, "127.0.0.1:50051");
    assert_eq!(settings.http_addr, "127.0.0.1:8080");
    assert_eq!(settings.lease, Duration::from_secs(30));
    assert_eq!(settings.poll_interval, Duration::from_secs(2));
    assert_eq!(settings.drain_timeout, Duration::from_secs(30));
    assert_eq!(settings.pool, PoolSettings { min: 2, max: 20 });
    let providers = settings.providers.iter();
    let limits: Vec<_> = providers
        .map(|p| {
            (p.name.as_str(), p.kind.as_str(), p.limits.max_concurrent, p.run_timeout.as_secs())
        })
        .collect();
    assert_eq!(
        limits,
        [
            ("claude", "claude", 3, 600),
            ("ollama", "ollama", 2, 600),
            ("openai", "openai", 3, 600),
            ("process", "process", 10, 300),
        ]
    );
}

#[test]
fn flags_win_over_variables_and_variables_over_the_file() {
    let file = "lease = '11s'\npoll_interval = '11s'\ndrain_timeout = '11s'";
    let start = Start::with_file(file)
        .variable("FLOWGATE_LEASE", "12s")
        .variable("FLOWGATE_POLL_INTERVAL", "12s")
        .flags(lease_flag("13s"));
    let settings = start.settings();
    assert_eq!(settings.lease, Duration::from_secs(13));
    assert_eq!(settings.poll_interval, Duration::from_secs(12));
    assert_eq!(settings.drain_timeout, Duration::from_secs(11));
}

#[test]
fn slots_are_a_number_wherever_they_are_set() {
    let start = Start::with_file("slots = 11");
    assert_eq!(start.settings().pool, PoolSettings::fixed(11));
    let start = start.variable("FLOWGATE_SLOTS", "12");
    assert_eq!(start.settings().pool, PoolSettings::fixed(12));
    let flags = |slots: &str| ServeFlags { slots: Some(slots.to_owned()), ..ServeFlags::default() };
    let start = start.flags(flags("13"));
    assert_eq!(start.settings().pool, PoolSettings::fixed(13));
    assert_eq!(
        start.flags(flags("0")).refusal(),
        "slots, set by --slots, must be between 1 and 100000, not 0"
    );
    assert_eq!(
        Start::new().variable("FLOWGATE_SLOTS", "all").refusal(),
        "slots, set by FLOWGATE_SLOTS, must be a whole number, not string \"all\""
    );
    assert_eq!(
        Start::with_file("slots = '9'").refusal(),
        "slots, set in flowgate.toml, must be a whole number, not string \"9\""
    );
}

#[test]
fn the_bounds_of_the_pool_are_set_each_by_itself() {
    let start = Start::with_file("[pool]\nmin = 3\nmax = 30");
    assert_eq!(start.settings().pool, PoolSettings { min: 3, max: 30 });
    let start = start.variable("FLOWGATE_POOL_MAX", "40");
    assert_eq!(start.settings().pool, PoolSettings { min: 3, max: 40 });
    let flags = ServeFlags {
        pool_min: Some("1".to_owned()),
        pool_max: Some("1".to_owned()),
        ..ServeFlags::default()
    };
    assert_eq!(start.flags(flags).settings().pool, PoolSettings::fixed(1));
    let start = Start::new().variable("FLOWGATE_POOL_MIN", "20");
    assert_eq!(start.settings().pool, PoolSettings::fixed(20));
}

#[test]
fn bounds_of_the_pool_that_make_no_sense_are_refused() {
    let refused = |file: &str| Start::with_file(file).refusal();
    assert_eq!(
        refused("[pool]\nmin = 0"),
        "pool.min, set in flowgate.toml, must be between 1 and 100000, not 0"
    );
    assert_eq!(
        refused("[pool]\nmax = '9'"),
        "pool.max, set in flowgate.toml, must be a whole number, not string \"9\""
    );
    assert_eq!(
        refused("[pool]\nmin = 5\nmax = 4"),
        "pool.min, set in flowgate.toml, must be at most pool.max, 4, not 5"
    );
    assert_eq!(
        refused("[pool]\nmin = 21"),
        "pool.min, set in flowgate.toml, must be at most pool.max, 20 by default, not 21"
    );
    assert_eq!(
        Start::new().variable("FLOWGATE_POOL_MAX", "1").refusal(),
        "pool.max, set by FLOWGATE_POOL_MAX, must be at least pool.min, 2 by default, not 1"
    );
    assert_eq!(
        Start::with_file("slots = 9").variable("FLOWGATE_POOL_MAX", "9").refusal(),
        "slots, set in flowgate.toml, sets both bounds of the pool, and so does not go with pool.max"
    );
    assert_eq!(
        refused("[pool]\nmaximum = 4"),
        "flowgate.toml has the unknown key pool.maximum; did you mean max?"
    );
    assert_eq!(refused("pool = 4"), "pool, set in flowgate.toml, must be a table");
}

#[test]
fn a_variable_changes_one_key_of_a_provider_and_leaves_the_others() {
    let start = Start::with_file(
        "[providers.gpu-box]\nkind = 'simulated'\nmax_concurrent = 5\nrun_timeout = '7s'",
    )
    .variable("FLOWGATE_PROVIDERS__GPU_BOX__MAX_CONCURRENT", "9")
    .variable("FLOWGATE_PROVIDERS__OLLAMA__MAX_CONCURRENT", "4");
    let settings = start.settings();
    let provider = named(&settings, "gpu-box");
    assert_eq!(provider.kind, "simulated");
    assert_eq!(provider.limits.max_concurrent, 9);
    assert_eq!(provider.run_timeout, Duration::from_secs(7));
    assert_eq!(named(&settings, "ollama").limits.max_concurrent, 4);
}

#[test]
fn a_name_that_is_exactly_meant_wins_over_one_that_differs_in_dashes() {
    let file = "[providers.a-b]\nkind = 'simulated'\n[providers.a_b]\nkind = 'simulated'";
    let start = Start::with_file(file).variable("FLOWGATE_PROVIDERS__A_B__MAX_CONCURRENT", "9");
    let settings = start.settings();
    assert_eq!(named(&settings, "a_b").limits.max_concurrent, 9);
    assert_eq!(named(&settings, "a-b").limits.max_concurrent, 1);
}

#[test]
fn a_provider_can_be_made_of_variables_alone() {
    let start = Start::new().variable("FLOWGATE_PROVIDERS__DEMO__KIND", "simulated");
    assert_eq!(named(&start.settings(), "demo").limits.max_concurrent, 1);
}

#[test]
fn a_limit_for_a_provider_that_does_not_exist_is_refused() {
    let start = Start::new().variable("FLOWGATE_PROVIDERS__OLAMA__MAX_CONCURRENT", "4");
    assert_eq!(
        start.refusal(),
        format!(
            "providers.olama, set by FLOWGATE_PROVIDERS__OLAMA__MAX_CONCURRENT, needs a kind, \
             one of {} (it is not built in)",
            kinds()
        )
    );
}

#[test]
fn variables_that_set_nothing_are_ignored() {
    let start = Start::new()
        .variable("FLOWGATE_PORT", "tcp://10.0.0.1:50051")
        .variable("FLOWGATE_PORT_50051_TCP", "tcp://10.0.0.1:50051")
        .variable("FLOWGATE_SERVICE_HOST", "10.0.0.1")
        .variable("FLOWGATE_STORE_SERVICE_PORT", "5432")
        .variable("FLOWGATE_PROVIDERS_SERVICE_HOST", "10.0.0.1")
        .variable("FLOWGATE_LEASE", "")
        .variable("RUST_LOG", "what=is=this")
        .variable("FLOWGATE_PROVIDERS__OLLAMA__MAX_CONCURENT", "4");
    let settings = start.settings();
    assert_eq!(settings.lease, Duration::from_secs(30));
    assert_eq!(settings.ignored_variables, ["FLOWGATE_PROVIDERS__OLLAMA__MAX_CONCURENT"]);
}

#[test]
fn an_unknown_key_is_refused_with_the_nearest_known_one() {
    assert_eq!(
        Start::with_file("leese = '3s'").refusal(),
        "flowgate.toml has the unknown key leese; did you mean lease?"
    );
    assert_eq!(
        Start::with_file("grpc-addr = '0.0.0.0:1'").refusal(),
        "flowgate.toml has the unknown key grpc-addr; did you mean grpc_addr?"
    );
    assert_eq!(
        Start::with_file("[provider.ollama]\nmax_concurrent = 3").refusal(),
        "flowgate.toml has the unknown key provider; did you mean providers?"
    );
    assert_eq!(
        Start::with_file("[providers.ollama]\nmax_concurent = 3").refusal(),
        "flowgate.toml has the unknown key providers.ollama.max_concurent; \
         did you mean max_concurrent?"
    );
}

#[test]
fn a_bad_value_is_refused_with_its_key_and_source() {
    assert_eq!(
        Start::new().flags(lease_flag("900ms")).refusal(),
        "lease, set by --lease, must be between 1s and 365days, not 900ms"
    );
    assert_eq!(
        Start::new().variable("FLOWGATE_POLL_INTERVAL", "soon").refusal(),
        "poll_interval, set by FLOWGATE_POLL_INTERVAL, must be a duration such as 30s or 500ms, \
         not \"soon\""
    );
    assert_eq!(
        Start::with_file("lease = 30").refusal(),
        "lease, set in flowgate.toml, must be a string, not signed int `30`"
    );
    assert_eq!(
        Start::new().variable("FLOWGATE_GRPC_ADDR", "50051").refusal(),
        "grpc_addr, set by FLOWGATE_GRPC_ADDR, must have the form HOST:PORT, not \"50051\""
    );
    for (text, found) in [("0", "not 0"), ("100001", "not 100001")] {
        assert_eq!(
            Start::new().variable("FLOWGATE_PROVIDERS__OPENAI__MAX_CONCURRENT", text).refusal(),
            format!(
                "providers.openai.max_concurrent, set by \
                 FLOWGATE_PROVIDERS__OPENAI__MAX_CONCURRENT, must be between 1 and 100000, {found}"
            )
        );
    }
    assert_eq!(
        Start::new().variable("FLOWGATE_PROVIDERS__OPENAI__MAX_CONCURRENT", "many").refusal(),
        "providers.openai.max_concurrent, set by FLOWGATE_PROVIDERS__OPENAI__MAX_CONCURRENT, \
         must be a whole number, not string \"many\""
    );
}

#[test]
fn a_provider_of_an_unknown_kind_is_refused() {
    assert_eq!(
        Start::with_file("[providers.gpt]\nkind = 'gpt'").refusal(),
        format!(
            "providers.gpt.kind, set in flowgate.toml, must be one of {}, not \"gpt\"",
            kinds()
        )
    );
    assert_eq!(
        Start::with_file("[providers.gpt]\nmax_concurrent = 2").refusal(),
        format!(
            "providers.gpt, set in flowgate.toml, needs a kind, one of {} (it is not built in)",
            kinds()
        )
    );
    assert_eq!(
        Start::with_file("[providers.GPT]\nkind = 'simulated'").refusal(),
        "providers.GPT, set in flowgate.toml, is not a provider's name: \
         must match [a-z][a-z0-9_-]{0,62}"
    );
}

#[test]
fn a_built_in_provider_takes_work_and_can_be_simulated() {
    let settings = Start::with_file("[providers.openai]\nmax_concurrent = 7").settings();
    let provider = named(&settings, "openai");
    assert_eq!((provider.kind.as_str(), provider.limits.max_concurrent), ("openai", 7));
    assert_eq!(provider.provider.unavailable(), None);
    let settings = Start::with_file("[providers.openai]\nkind = 'simulated'").settings();
    let provider = named(&settings, "openai");
    assert_eq!((provider.kind.as_str(), provider.limits.max_concurrent), ("simulated", 3));
}

/// The names of all kinds, as refusals list them.
fn kinds() -> String {
    providers::kind_names()
}

#[test]
fn keys_of_modules_are_refused_for_other_kinds() {
    let file = "[providers.x]\nkind = 'simulated'\nmodules_dir = 'm'";
    assert_eq!(
        Start::with_file(file).refusal(),
        "providers.x.modules_dir, set in flowgate.toml, is for kind process only, \
         this is simulated"
    );
}

#[test]
fn a_capacity_is_for_simulated_providers_only_and_a_number_of_attempts() {
    let refusal = |text: &str| Start::with_file(&format!("[providers.x]\n{text}")).refusal();
    let set = |key: &str| format!("providers.x.{key}, set in flowgate.toml, ");
    assert_eq!(
        refusal("kind = 'process'\ncapacity = 8"),
        set("capacity") + "is for kind simulated only, this is process"
    );
    assert_eq!(
        refusal("kind = 'simulated'\ncapacity = 0"),
        set("capacity") + "must be between 1 and 100000, not 0"
    );
    assert_eq!(
        refusal("kind = 'simulated'\ncapacity_retry_after = '1s'"),
        set("capacity_retry_after") + "needs capacity beside it"
    );
    let file = "[providers.x]\nkind = 'simulated'\ncapacity = 8\ncapacity_retry_after = '50ms'";
    assert!(Start::with_file(file).load().is_ok());
}

#[test]
fn a_resource_gate_is_off_until_it_is_switched_on_or_a_bound_is_set() {
    let gate = |keys: &str| {
        let file = format!("[providers.process]\n{keys}");
        named(&Start::with_file(&file).settings(), "process").provider.gate()
    };
    let bounds = |keys: &str| {
        gate(keys).map(|gate| (gate.cpu_max_percent, gate.memory_min_bytes, gate.when_short))
    };
    assert_eq!(gate(""), None);
    let four_gib = Some(4 * 1_024 * 1_024 * 1_024);
    assert_eq!(bounds("resource_gate = true"), Some((Some(80), four_gib, WhenShort::Wait)));
    assert_eq!(
        bounds("resource_gate = true\ncpu_max_percent = 100"),
        Some((Some(100), four_gib, WhenShort::Wait))
    );
    assert_eq!(
        bounds("memory_min_bytes = 1\nwhen_short = 'fail'"),
        Some((None, Some(1), WhenShort::Fail))
    );
    assert_eq!(gate("resource_gate = false\ncpu_max_percent = 1\nwhen_short = 'fail'"), None);

    let variables = Start::with_file("[providers.process]\nresource_gate = true")
        .variable("FLOWGATE_PROVIDERS__PROCESS__RESOURCE_GATE", "false");
    assert_eq!(named(&variables.settings(), "process").provider.gate(), None);
}

#[test]
fn a_resource_gate_that_makes_no_sense_is_refused() {
    let refusal = |keys: &str| Start::with_file(&format!("[providers.process]\n{keys}")).refusal();
    let set = |key: &str| format!("providers.process.{key}, set in flowgate.toml, ");
    assert_eq!(
        refusal("cpu_max_percent = 101"),
        set("cpu_max_percent") + "must be between 1 and 100, not 101"
    );
    assert_eq!(
        refusal("memory_min_bytes = 0"),
        set("memory_min_bytes") + "must be between 1 and 9223372036854775807, not 0"
    );
    assert_eq!(
        refusal("memory_min_bytes = '4GiB'"),
        set("memory_min_bytes") + "must be a whole number, not string \"4GiB\""
    );
    assert_eq!(
        refusal("resource_gate = true\nwhen_short = 'never'"),
        set("when_short") + "must be wait or fail, not \"never\""
    );
    assert_eq!(
        refusal("when_short = 'fail'"),
        set("when_short") + "needs resource_gate, cpu_max_percent or memory_min_bytes beside it"
    );
    assert_eq!(
        Start::with_file("[providers.x]\nkind = 'simulated'\nresource_gate = true").refusal(),
        "providers.x.resource_gate, set in flowgate.toml, is for kind process only, \
         this is simulated"
    );
}

#[test]
fn a_relative_modules_dir_is_meant_from_the_directory_of_its_file() {
    let start = Start::with_file("[providers.process]\nmodules_dir = 'modules'\nenv_allow = ['A']");
    let process = "process".parse().expect("a name");
    let read = |start: &Start| providers::process(&start.reader(), &process).expect("accepted");
    assert_eq!(read(&start).modules_dir, Some(start.path("modules")));
    assert_eq!(read(&start).env_allow, ["A"]);

    let start = start.variable("FLOWGATE_PROVIDERS__PROCESS__ENV_ALLOW", "PATH, HOME");
    assert_eq!(read(&start).env_allow, ["PATH", "HOME"]);
    let flags = ServeFlags { modules_dir: Some("elsewhere".to_owned()), ..ServeFlags::default() };
    assert_eq!(read(&start.flags(flags)).modules_dir, Some("elsewhere".into()));
}

#[test]
fn metrics_are_kept_unless_that_is_switched_off() {
    assert!(Start::new().settings().metrics);
    assert!(!Start::with_file("metrics = 'off'").settings().metrics);
    let start = Start::with_file("metrics = 'off'").variable("FLOWGATE_METRICS", "on");
    assert!(start.settings().metrics);
    let flags = ServeFlags { metrics: Some("off".to_owned()), ..ServeFlags::default() };
    assert!(!start.flags(flags).settings().metrics);
}

#[test]
fn statements_are_traced_where_trace_level_says_so_from_any_source() {
    assert_eq!(Start::new().settings().trace_level, TraceLevel::Info);
    let start = Start::with_file("trace_level = 'debug'");
    assert_eq!(start.settings().trace_level, TraceLevel::Debug);
    let start = start.variable("FLOWGATE_TRACE_LEVEL", "info");
    assert_eq!(start.settings().trace_level, TraceLevel::Info);
    let flags = ServeFlags { trace_level: Some("all".to_owned()), ..ServeFlags::default() };
    let refusal = "trace_level, set by --trace-level, must be info or debug, not \"all\"";
    assert_eq!(start.flags(flags).refusal(), refusal);
}

#[test]
fn a_file_that_is_named_must_exist() {
    let start = Start::new().variable("FLOWGATE_CONFIG", "absent.toml");
    assert_eq!(start.refusal(), "cannot read absent.toml");
    let start = Start::with_file("lease = '9s'");
    let flags = ServeFlags { config: Some(start.path("flowgate.toml")), ..ServeFlags::default() };
    let start = start.variable("FLOWGATE_CONFIG", "absent.toml").flags(flags);
    assert_eq!(start.settings().lease, Duration::from_secs(9));
}

#[test]
fn a_file_that_is_not_toml_is_refused_with_the_line() {
    let refusal = Start::with_file("lease = '3s'\npoll_interval 3").refusal();
    assert!(refusal.starts_with("flowgate.toml is not valid TOML at line 2: "), "{refusal}");
}

#[test]
fn a_store_is_named_by_its_url_and_shown_without_its_password() {
    let url = "postgres://me:hunter2@db:5432/flowgate?password=hunter3";
    let settings = Start::new().variable("FLOWGATE_STORE", url).settings();
    assert_eq!(settings.store, StoreUrl::Postgres(url.to_owned()));
    assert_eq!(settings.store.to_string(), "postgres://db:5432/flowgate");
    assert!(!format!("{:?}", settings.store).contains("hunter"));
    let mistyped = "postgres://me:hunter2@db/x?sslmod=verify-full";
    let refusal = Start::new().variable("FLOWGATE_STORE", mistyped).refusal();
    assert!(refusal.contains("has the parameter \"sslmod\", which means nothing"), "{refusal}");
    assert!(!refusal.contains("hunter2"), "{refusal}");
    let refusal = Start::new().variable("FLOWGATE_STORE", "mysql://me:hunter2@db/x").refusal();
    assert_eq!(
        refusal,
        "store, set by FLOWGATE_STORE, must have the form sqlite://PATH or \
         postgres://USER@HOST/DATABASE"
    );
    for bare in ["12/hunter2", "12?hunter2", "12#hunter2", "a@b/hunter2"] {
        let refusal = format!("postgres://me:{bare}@db/x").parse::<StoreUrl>().unwrap_err();
        assert!(refusal.contains("%2F") && !refusal.contains("hunter2"), "{refusal}");
    }
    let refusal = "postgres://me:hunter2".parse::<StoreUrl>().unwrap_err();
    assert!(!refusal.contains("hunter2"), "{refusal}");
    for bad in ["sqlite://", "sqlite://:memory:", "flowgate.db", "mysql://x", "sqlite://a?mode=ro"]
    {
        assert!(bad.parse::<StoreUrl>().is_err(), "{bad}");
    }
    let absolute: StoreUrl = "sqlite:///var/lib/flowgate.db".parse().expect("accepted");
    assert_eq!(absolute, StoreUrl::Sqlite("/var/lib/flowgate.db".into()));
    assert_eq!(absolute.to_string(), "sqlite:///var/lib/flowgate.db");
}
