use super::*;
use clap::{Args as _, Command, FromArgMatches as _};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

const KEY: &str = "0b1e-id:s3cr3t-of-fal";
const TOKEN: &str = "123456789:AAabcdefghijklmnopqrstuvwxyz_012345";

/// Texts of an operator's own.
const MESSAGES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/messages.toml");

/// With a key, as nothing works without.
fn env<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Environment {
    [("FAL_KEY", KEY)].into_iter().chain(pairs).collect()
}

fn typed<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Config, ConfigError> {
    Config::load(&RunArgs::typed(pairs), &env([]))
}

fn set<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Config, ConfigError> {
    Config::load(&RunArgs::default(), &env(pairs))
}

fn line(result: Result<Config, ConfigError>) -> String {
    let line = result.expect_err("must be refused").to_string();
    assert!(!line.contains('\n'), "{line:?}");
    line
}

/// A file in a folder that goes away with the value.
fn file(name: &str, text: &[u8]) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (folder, path)
}

#[test]
fn the_defaults_are_the_contracts() {
    let config = set([]).unwrap();
    let minutes = |n: u64| Duration::from_secs(60 * n);
    let days = |n: u64| minutes(n * 24 * 60);

    assert_eq!(
        config.threads,
        Threads {
            pool: 32,
            transfer: 4
        }
    );
    assert_eq!(config.redis_connections, 50);
    assert_eq!(config.store.redis.to_string(), "redis://127.0.0.1:6379/0");
    assert_eq!(
        (&*config.store.namespace, &*config.store.inbox),
        ("fal", "fal:inbox")
    );
    assert!(name(&config.name).is_ok(), "{}", config.name);
    assert_eq!(config.urls.fal.as_str(), "https://queue.fal.run");
    assert_eq!(config.urls.fal_run.as_str(), "https://fal.run");
    assert_eq!(config.urls.fal_storage.as_str(), "https://rest.fal.ai");
    assert_eq!(config.urls.telegram.as_str(), "https://api.telegram.org");
    let limits = Limits {
        model_timeouts: Vec::new(),
        max_in_flight: 2000,
        max_attempts: 3,
        job_timeout: minutes(10),
        fal_queue_timeout: minutes(60),
        max_wait: Some(days(1)),
        delivery_timeout: minutes(360),
    };
    assert_eq!(config.limits, limits);
    let poll = PollBounds {
        min: Duration::from_millis(250),
        max: Duration::from_secs(5),
    };
    assert_eq!(config.poll, poll);
    assert_eq!(
        config.retention,
        Retention {
            done: days(1),
            dead: days(30),
            events_max: 100_000
        }
    );
    assert_eq!(config.lease, Duration::from_secs(30));
    assert_eq!(config.shutdown_timeout, Duration::from_secs(10));
    let rate = Rate {
        number: 30,
        per: Duration::from_secs(1),
    };
    assert_eq!(config.telegram_rate, Some(rate));
    assert_eq!(
        (config.delivery, config.log_format),
        (DeliveryMode::Auto, LogFormat::Auto)
    );
    assert_eq!((config.lang, config.admin_chat), (Lang::En, None));
    assert!(config.progress && config.messages == Words::default());
    let listen = Listen {
        address: "127.0.0.1:9464".parse().unwrap(),
        given: false,
        token: None,
    };
    assert_eq!(config.listen, Some(listen));
    assert_eq!((config.fal_key.expose(), config.bot_token), (KEY, None));
}

#[test]
fn a_bad_value_is_one_line_that_begins_with_its_flag() {
    #[rustfmt::skip]
    let table = [
        ("threads", "0"), ("threads", "513"), ("threads", "-1"), ("threads", "many"), ("threads", ""),
        ("threads", "1.5"), ("transfer-threads", "0"), ("transfer-threads", "513"),
        ("max-in-flight", "0"), ("redis-connections", "39"), ("redis-connections", "0"),
        ("redis-url", ""), ("redis-url", "localhost"), ("redis-url", "http://h"), ("redis-url", "redis://"),
        ("redis-url", "redis://h/x"), ("redis-url", "redis://h/-1"), ("redis-url", "redis://h:99999"),
        ("redis-url", "redis://h?db=1"), ("redis-url", "rediss://h#insecure"), ("redis-url", "redis://0.0.0.0"),
        ("redis-url", "unix://run/redis.sock"), ("redis-url", "unix:///r?protocol=resp3"),
        ("redis-url", "unix:///"), ("redis-url", "redis-sentinel://a,b"), ("redis-url", "redis-sentinel://a,b/"),
        ("redis-url", "redis-sentinel://a,,b/m"), ("redis-url", "redis-sentinel://a/m/x"), ("redis-url", "redis-sentinel://a/m/-1"),
        ("redis-url", "redis-sentinel://a:0/m"), ("redis-url", "redis-sentinel:///m"), ("redis-url", "redis-sentinel://a/m m"),
        ("redis-url", "redis-sentinel://a/m?x=1"), ("redis-url", "redis-sentinel://a/m?sentinel_user=u"),
        ("redis-url", "redis-sentinel://a/m?sentinel_password=pw-1234"), ("redis-url", "redis-sentinel://:pw-1234@a/m"),
        ("redis-url", "redis-cluster://a/1"), ("redis-url", "redis-cluster://a?x"), ("redis-url", "redis-cluster://a,b:x"),
        ("redis-url", "redis-cluster://:pw-1234@a"), ("redis-url", "redis-cluster://"),
        ("redis-url", "redis://h /0"), ("redis-url", "redis://:pw-1234@h"), ("redis-url", "unix:///r?pass=pw-1234"),
        ("namespace", ""), ("namespace", "a b"), ("namespace", "é"), ("namespace", "a\nb"),
        ("inbox", ""), ("inbox", "a b"), ("inbox", "fal:bell"), ("inbox", "fal:ids"), ("inbox", "fal:id:x"), ("inbox", "fal:ready:high"),
        ("name", ""), ("name", "a b"), ("name", "a~b"), ("name", "é"),
        ("fal-url", "queue.fal.run"), ("fal-url", "http://queue.fal.run"), ("fal-url", "ftp://h"),
        ("fal-url", "https://u:p@h"), ("fal-url", "https://h?x"), ("fal-url", "https://h/#x"), ("fal-url", "https://"),
        ("fal-url", "https://h:0"), ("fal-url", "https://h:70000"), ("fal-url", "https://h:x"), ("fal-url", "https://h:"),
        ("fal-run-url", "http://localhost.evil.com"), ("fal-storage-url", "http://127.0.0.1.evil.com"),
        ("telegram-url", "https://api.telegram.org/bot12:AAA"), ("telegram-url", "https://h/a b"),
        ("file-host", "https://h"), ("file-host", ""), ("file-host", "h:0"), ("file-host", "*.h"), ("file-host", ".h:1"),
        ("plain-http", "http://h"), ("plain-http", ".h"), ("plain-http", "a/b"),
        ("telegram-rate", "30"), ("telegram-rate", "0/1s"), ("telegram-rate", "30/s"), ("telegram-rate", "30/1ms"),
        ("delivery", "mail"), ("delivery", "AUTO"), ("delivery-timeout", "0"), ("delivery-timeout", "6"),
        ("poll-min", "49ms"), ("poll-min", "6s"), ("poll-max", "10ms"), ("poll-max", "soon"), ("poll-max", "99999y"),
        ("job-timeout", "0"), ("job-timeout", "25h"), ("fal-queue-timeout", "1ms"),
        ("max-wait", "no"), ("max-wait", "24"), ("max-wait", "-1h"),
        ("model-timeout", "fal-ai/veo*"), ("model-timeout", "a b=1m"), ("model-timeout", "a*=25h"), ("model-timeout", "a=1m,"),
        ("user-concurrency", "-1"), ("user-concurrency", "all"), ("user-rate", "20"), ("user-rate", "0/1h"),
        ("fal-concurrency", "-1"), ("fal-concurrency", "AUTO"), ("fal-concurrency", "1001"),
        ("model-limit", "a"), ("model-limit", "a=0"), ("model-limit", "a b=1"), ("model-limit", "off,a=1"), ("model-limit", ""),
        ("user-rate", "20/0s"), ("user-rate", "20/1"), ("user-rate", "20/1h/2"), ("fair", "no"), ("fair", ""),
        ("low-after", "10"), ("low-after", "never"),
        ("max-attempts", "0"), ("max-attempts", "21"), ("lease", "2s"), ("lease", "11m"), ("lease", "30"),
        ("keep-done", "off"), ("keep-dead", "x"), ("keep-dead", "11y"), ("events-max", "0"),
        ("shutdown-timeout", "0"), ("shutdown-timeout", "2h"), ("state-dir", "x/y"), ("state-dir", "0"),
        ("listen", ""), ("listen", "9464"), ("listen", ":9464"), ("listen", "127.0.0.1"), ("listen", "127.0.0.1:70000"),
        ("listen", "localhost:9464"), ("listen", "0.0.0.0:9464"), ("listen", "[::]:9464"), ("listen", "192.168.1.5:9464"),
        ("log-format", "xml"), ("lang", "de"),
        ("admin-chat", "me"), ("admin-chat", "@"), ("admin-chat", "4503599627370496"), ("admin-chat", "@a b"),
        ("messages", ""), ("messages", "/no/such.toml"), ("messages", "/"),
        ("progress", ""), ("progress", "1"), ("progress", "ON"),
    ];
    for (name, value) in table {
        let line = line(typed([(name, value)]));
        let start = format!("--{name} ({}): ", flag(name).variable);
        assert!(line.starts_with(&start), "--{name} {value:?} gave {line:?}");
        assert!(!line.contains("pw-1234"), "{line}");
    }
}

#[test]
fn every_flag_can_be_given_as_a_flag_and_as_its_variable() {
    #[rustfmt::skip]
    let good = [
        ("threads", "1"), ("threads", "512"), ("transfer-threads", "1"), ("max-in-flight", "1"), ("redis-connections", "40"),
        ("redis-url", "rediss://redis.example.com/2"), ("redis-url", "redis+unix:///run/redis.sock?db=1"),
        ("redis-url", "rediss-sentinel://a,b:1,[::1]:2/main.1-x/3?sentinel_tls=false"),
        ("namespace", "{fal}"), ("inbox", "shop:inbox"), ("inbox", "fal:inbox"), ("name", "A.b_c-9"),
        ("fal-url", "https://h/p/"), ("fal-run-url", "http://127.0.0.1:1"), ("fal-storage-url", "http://[::1]:1/x"),
        ("telegram-url", "http://localhost:8081"), ("file-host", "h"), ("plain-http", "h"), ("delivery", "url"),
        ("telegram-rate", "1000/1s"), ("telegram-rate", "20/1m"), ("telegram-rate", "off"),
        ("delivery-timeout", "1h 30m"), ("poll-min", "50ms"), ("poll-max", "250ms"), ("job-timeout", "24h"),
        ("fal-queue-timeout", "1s"), ("max-wait", "off"), ("max-attempts", "20"),
        ("model-timeout", "fal-ai/veo*=30m,fal-ai/kling/*=20m"), ("user-concurrency", "2"), ("user-concurrency", "off"),
        ("fal-concurrency", "2"), ("fal-concurrency", "auto"), ("fal-concurrency", "off"),
        ("model-limit", "fal-ai/veo*=2,fal-ai/*=10"), ("model-limit", "off"), ("model-limit", "0"),
        ("user-rate", "20/1h"), ("user-rate", "0"), ("fair", "off"), ("low-after", "off"), ("low-after", "1h"),
        ("lease", "3s"), ("lease", "10m"),
        ("keep-done", "0"), ("keep-dead", "0s"), ("events-max", "1"), ("shutdown-timeout", "1s"),
        ("listen", "127.0.0.1:0"), ("listen", "[::1]:9464"), ("listen", "off"),
        ("log-format", "json"), ("lang", "ru"), ("admin-chat", "-1001234567890"), ("state-dir", "/x/y"), ("state-dir", "off"),
        ("messages", MESSAGES), ("progress", "off"),
    ];
    for (name, value) in good {
        let variable = flag(name).variable;
        let as_flag = typed([(name, value)]).unwrap_or_else(|error| panic!("{error}"));
        let as_variable = set([(variable, value)]).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(
            format!("{as_flag:?}"),
            format!("{as_variable:?}"),
            "--{name} {value}"
        );
    }
    // Certificates need real files and a URL that fits: tests/it/redis_tls.rs.
    let others = ["redis-ca", "redis-cert", "redis-key"];
    for flag in flag::all().filter(|flag| !others.contains(&flag.name)) {
        assert!(
            good.iter().any(|(name, _)| *name == flag.name),
            "--{} has no row",
            flag.name
        );
    }
}

#[test]
fn off_and_zero_switch_limits_off() {
    for off in ["off", "0", "0s"] {
        assert_eq!(
            typed([("max-wait", off)]).unwrap().limits.max_wait,
            None,
            "{off}"
        );
    }
    assert_eq!(typed([("admin-chat", "0")]).unwrap().admin_chat, None);
    assert_eq!(
        typed([("telegram-rate", "off")]).unwrap().telegram_rate,
        None
    );
}

#[test]
fn an_address_to_listen_on_is_known_to_be_given_or_not() {
    let listen = |config: Config| config.listen.map(|listen| listen.given);
    assert_eq!(listen(set([]).unwrap()), Some(false));
    for given in ["127.0.0.1:9464", "[::1]:1"] {
        assert_eq!(listen(typed([("listen", given)]).unwrap()), Some(true));
        let variable = set([("FAL_WORKER_LISTEN", given)]).unwrap();
        assert_eq!(listen(variable), Some(true));
    }
    assert_eq!(listen(typed([("listen", "off")]).unwrap()), None);
}

#[test]
fn an_address_that_others_reach_wants_a_token_of_some_length() {
    let long = "0123456789abcdef";
    let everywhere = line(typed([("listen", "0.0.0.0:9464")]));
    assert!(
        everywhere.contains("FAL_WORKER_LISTEN_TOKEN"),
        "{everywhere}"
    );
    let variable = "FAL_WORKER_LISTEN_TOKEN";
    for address in ["0.0.0.0:9464", "[::]:1", "127.0.0.1:9464"] {
        let config = set([("FAL_WORKER_LISTEN", address), (variable, long)]).unwrap();
        let listen = config.listen.clone().unwrap();
        assert_eq!(listen.token.unwrap().expose(), long);
        assert!(config.secrets().contains(&long));
        assert!(!format!("{config:?}").contains(long));
    }
    for token in [
        "short",
        "0123456789 abcdef",
        "0123456789abcd\u{e9}",
        &"x".repeat(257),
    ] {
        let said = line(set([
            ("FAL_WORKER_LISTEN", "0.0.0.0:9464"),
            (variable, token),
        ]));
        assert!(said.starts_with("FAL_WORKER_LISTEN_TOKEN: "), "{said}");
        assert!(!said.contains(token), "{said}");
    }
    let both = line(set([
        (variable, long),
        ("FAL_WORKER_LISTEN_TOKEN_FILE", "/x"),
    ]));
    assert!(both.starts_with("FAL_WORKER_LISTEN_TOKEN: "), "{both}");
    // Nobody is served, so nobody is asked.
    let off = set([("FAL_WORKER_LISTEN", "off"), (variable, long)]).unwrap();
    assert_eq!(off.listen, None);
}

#[test]
fn a_flag_beats_its_variable_and_an_empty_variable_is_unset() {
    let env = env([
        ("FAL_WORKER_THREADS", "7"),
        ("FAL_WORKER_LANG", ""),
        ("FAL_WORKER_LISTEN", "\n"),
    ]);
    let config = Config::load(&RunArgs::typed([("threads", "9")]), &env).unwrap();
    assert_eq!((config.threads.pool, config.lang), (9, Lang::En));
    assert_eq!(
        Config::load(&RunArgs::default(), &env)
            .unwrap()
            .threads
            .pool,
        7
    );
}

#[test]
fn a_variable_loses_one_trailing_newline_only() {
    assert_eq!(set([("FAL_WORKER_LANG", "ru\n")]).unwrap().lang, Lang::Ru);
    assert!(line(set([("FAL_WORKER_LANG", "ru\n\n")])).starts_with("--lang (FAL_WORKER_LANG): "));
}

#[test]
fn a_variable_of_ours_that_this_version_does_not_know_is_refused_by_name() {
    for name in ["FAL_WORKER_MODEL_LIMIT", "FAL_WORKER_THREDS"] {
        assert!(line(set([(name, "1")])).starts_with(&format!("{name}: ")));
        let store = StoreConfig::load(&StoreArgs::default(), &env([(name, "1")]));
        assert!(store.unwrap_err().to_string().starts_with(name));
    }
    set([
        ("STATE_DIRECTORY", "/var/lib/fal-worker"),
        ("FAL_KEY_ID", "x"),
    ])
    .unwrap();
}

#[test]
fn the_step_file_lies_where_systemd_the_user_or_nobody_says() {
    let folder = |pairs: &[(&'static str, &'static str)]| {
        let state = set(pairs.iter().copied()).unwrap().state;
        state.map(|dir| (dir.path.display().to_string(), dir.managed))
    };
    let at = |path: &str, managed| Some((path.to_owned(), managed));
    let systemd = ("STATE_DIRECTORY", "/var/lib/private/a:/b");
    let xdg = ("XDG_STATE_HOME", "/srv/u/.local/state");
    let ours = ("FAL_WORKER_STATE_DIR", "/srv/state");
    assert_eq!(folder(&[systemd, xdg, ours]), at("/srv/state", false));
    assert_eq!(folder(&[systemd, xdg]), at("/var/lib/private/a", true));
    assert_eq!(folder(&[xdg]), at("/srv/u/.local/state/fal-worker", false));
    assert_eq!(folder(&[("FAL_WORKER_STATE_DIR", "off"), systemd]), None);
    let user = rustix::process::geteuid().as_raw();
    assert_eq!(
        folder(&[]),
        at(&format!("/var/tmp/fal-worker-{user}"), false)
    );
}

#[test]
fn a_variable_that_is_not_utf_8_is_refused_by_name() {
    let mut pairs = vec![("FAL_KEY", OsStr::new(KEY))];
    pairs.push(("FAL_WORKER_NAME", OsStr::from_bytes(b"\xff")));
    let error = Config::load(&RunArgs::default(), &pairs.into_iter().collect()).unwrap_err();
    assert!(
        error.to_string().starts_with("--name (FAL_WORKER_NAME): "),
        "{error}"
    );
}

#[test]
fn connections_suffice_for_the_threads() {
    assert_eq!(typed([("threads", "100")]).unwrap().redis_connections, 108);
    let given = typed([("threads", "100"), ("redis-connections", "107")]);
    assert!(
        line(given)
            .starts_with("--redis-connections (FAL_WORKER_REDIS_CONNECTIONS): 107 is too few")
    );
    assert_eq!(
        typed([("redis-connections", "40")])
            .unwrap()
            .redis_connections,
        40
    );
}

#[test]
fn equal_poll_bounds_are_allowed_and_crossed_ones_name_the_flag() {
    let poll = typed([("poll-min", "1s"), ("poll-max", "1s")])
        .unwrap()
        .poll;
    assert_eq!(poll.min, poll.max);
    assert!(line(typed([("poll-min", "2s"), ("poll-max", "1s")])).contains("--poll-max"));
}

#[test]
fn the_inbox_follows_the_namespace() {
    assert_eq!(
        typed([("namespace", "{shop}")]).unwrap().store.inbox,
        "{shop}:inbox"
    );
    let both = typed([("namespace", "shop"), ("inbox", "fal:bell")]).unwrap();
    assert_eq!(
        both.store.inbox, "fal:bell",
        "another namespace's key is not ours to judge"
    );
}

#[test]
fn any_host_name_makes_a_valid_name() {
    for (host, made) in [
        ("vps-1\n", "vps-1"),
        ("my host", "my-host"),
        ("büro", "b-ro"),
        ("", "worker"),
        (&"x".repeat(80), &"x".repeat(64)),
    ] {
        assert_eq!(name_from(host), made);
        assert!(name(made).is_ok());
    }
}

#[test]
fn a_base_url_keeps_its_path_and_loses_its_slash() {
    for (text, base) in [
        ("https://Queue.Fal.Run/", "https://queue.fal.run"),
        ("https://h:8443/a/B//", "https://h:8443/a/B"),
        ("http://127.0.0.1:9/bot", "http://127.0.0.1:9/bot"),
        ("http://[::1]:9", "http://[::1]:9"),
    ] {
        let url = BaseUrl::parse(text, &[]).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(url.as_str(), base);
    }
}

#[test]
fn plain_http_goes_only_where_it_is_named() {
    let urls = |named: &str, url: &str| typed([("plain-http", named), ("telegram-url", url)]);
    urls("bot-api", "http://bot-api:8081").unwrap();
    urls("BOT-API:8081", "http://bot-api:8081").unwrap();
    set([
        ("FAL_WORKER_PLAIN_HTTP", "a, bot-api"),
        ("FAL_WORKER_TELEGRAM_URL", "http://bot-api"),
    ])
    .unwrap();
    let hint = line(typed([("telegram-url", "http://bot-api:8081")]));
    assert!(hint.contains("--plain-http bot-api"), "{hint}");
    line(urls("bot-api:8082", "http://bot-api:8081"));
    line(urls("api", "http://bot-api:8081"));
}

#[test]
fn hosts_of_files_are_kept_as_they_are_named() {
    let hosts = typed([
        ("file-host", "cdn.example.com"),
        ("file-host", ".below.example.com"),
        ("file-host", "127.0.0.1:9000"),
        ("file-host", "minio:9000"),
        ("plain-http", "minio"),
    ]);
    let urls = hosts.unwrap().urls;
    let named = [
        "cdn.example.com",
        ".below.example.com",
        "127.0.0.1:9000",
        "minio:9000",
    ];
    assert_eq!(urls.file_hosts, named);
    assert_eq!(urls.plain_http, ["minio"]);
}

#[test]
fn redis_is_shown_without_its_password_and_opened_with_it() {
    for (url, shown, password) in [
        ("redis://h", "redis://h:6379/0", None),
        ("redis://bob@h/3", "redis://bob@h:6379/3", None),
        (
            "redis://xn--bcher-kva.example",
            "redis://xn--bcher-kva.example:6379/0",
            None,
        ),
        (
            "redis://:pw%40-1@h:1/3",
            "redis://:***@h:1/3",
            Some("pw@-1"),
        ),
        (
            "rediss://bob:pw-1@[::1]:1",
            "rediss://bob:***@[::1]:1/0",
            Some("pw-1"),
        ),
        (
            "unix:///run/r.sock?db=2&pass=pw-1",
            "redis+unix://:***@/run/r.sock?db=2",
            Some("pw-1"),
        ),
        (
            "redis-sentinel://bob:pw-1@a,[::1],b:7/main/2?sentinel_user=eve&sentinel_password=pw%40-2",
            "redis-sentinel://bob:***@a:26379,[::1]:26379,b:7/main/2",
            Some("pw-1"),
        ),
        (
            "rediss-sentinel://a/m",
            "rediss-sentinel://a:26379/m/0",
            None,
        ),
    ] {
        let config = set([("REDIS_URL", url)]).unwrap_or_else(|error| panic!("{url}: {error}"));
        let redis = &config.store.redis;
        assert_eq!((&*redis.to_string(), redis.password()), (shown, password));
        assert!(!format!("{config:?}").contains("pw"), "{config:?}");
        for secret in config.secrets() {
            assert!(!format!("{config:?}").contains(secret));
        }
    }
    let written = set([("REDIS_URL", "redis://:pw%40-1@h")]).unwrap();
    assert!(written.secrets().contains(&"pw%40-1"), "as written too");
}

#[test]
fn the_sentinels_have_a_password_and_a_transport_of_their_own() {
    let url = "rediss-sentinel://:pw-1@a/m?sentinel_user=eve&sentinel_password=pw%40-2&sentinel_tls=false";
    let config = set([("REDIS_URL", url)]).unwrap();
    for secret in ["pw-1", "pw@-2", "pw%40-2"] {
        assert!(config.secrets().contains(&secret), "{secret} is not hidden");
    }
    let Way::Sentinel { login, tls, .. } = config.store.redis.server().way else {
        panic!("sentinels");
    };
    assert_eq!(
        (login.username(), login.password()),
        (Some("eve"), Some("pw@-2"))
    );
    assert!(!tls);
}

#[test]
fn a_cluster_wants_all_keys_in_one_slot() {
    let url = ("REDIS_URL", "redis-cluster://:pw-1@a,b:7");
    let set = |more: &[(&'static str, &'static str)]| set(more.iter().copied().chain([url]));
    for namespace in ["fal", "{}fal", "{fal", "fal}"] {
        let error = set(&[("FAL_WORKER_NAMESPACE", namespace)]).unwrap_err();
        let says = error.to_string();
        assert!(
            says.starts_with("--namespace") && says.contains("'{fal}'"),
            "{says}"
        );
    }
    let namespace = ("FAL_WORKER_NAMESPACE", "bots{fal}");
    for inbox in ["inbox", "{other}:inbox", "fal:inbox"] {
        let error = set(&[namespace, ("FAL_WORKER_INBOX", inbox)]).unwrap_err();
        let says = error.to_string();
        assert!(
            says.starts_with("--inbox") && says.contains("'{fal}:my-inbox'"),
            "{says}"
        );
    }
    let config = set(&[namespace, ("FAL_WORKER_INBOX", "in:{fal}")]).unwrap();
    assert_eq!(
        config.store.redis.to_string(),
        "redis-cluster://:***@a:6379,b:7"
    );
}

#[test]
fn a_redis_password_may_come_from_a_file_but_not_from_the_flag() {
    let (_folder, path) = file("redis-url", b"redis://:pw-1234@h\n");
    let config = set([("REDIS_URL_FILE", &*path)]).unwrap();
    assert_eq!(config.store.redis.password(), Some("pw-1234"));

    // The same text, typed: refused even when the variable says it too.
    let typed = RunArgs::typed([("redis-url", "redis://:pw-1234@h")]);
    let error = Config::load(&typed, &env([("REDIS_URL", "redis://:pw-1234@h")])).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("--redis-url (REDIS_URL): every user"),
        "{error}"
    );
}

#[test]
fn each_secret_has_exactly_one_source() {
    let (folder, path) = file("fal-key", KEY.as_bytes());
    std::fs::write(folder.path().join("redis-url"), "redis://h").unwrap();
    std::fs::write(folder.path().join("telegram-bot-token"), TOKEN).unwrap();
    let credentials = ("CREDENTIALS_DIRECTORY", folder.path().to_str().unwrap());
    for (pairs, first, second) in [
        (
            vec![("FAL_KEY", KEY), ("FAL_KEY_FILE", &*path)],
            "FAL_KEY",
            "FAL_KEY_FILE",
        ),
        (
            vec![("FAL_KEY", KEY), credentials],
            "FAL_KEY",
            "credential fal-key",
        ),
        (
            vec![("FAL_KEY_FILE", &path), credentials],
            "FAL_KEY_FILE",
            "credential fal-key",
        ),
        (
            vec![("TELEGRAM_BOT_TOKEN", TOKEN), credentials],
            "TELEGRAM_BOT_TOKEN",
            "credential telegram-bot-token",
        ),
        (
            vec![("REDIS_URL", "redis://h"), credentials],
            "REDIS_URL",
            "credential redis-url",
        ),
    ] {
        // The other secrets of the folder must not be in the way.
        let mut pairs = pairs;
        if !first.starts_with("FAL_KEY") {
            std::fs::remove_file(folder.path().join("fal-key")).ok();
            pairs.push(("FAL_KEY", KEY));
        }
        let error = Config::load(&RunArgs::default(), &pairs.into_iter().collect()).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("{first}: {second} is set too; exactly one of them may be")
        );
        std::fs::write(&path, KEY).unwrap();
    }
    let all = Config::load(&RunArgs::default(), &[credentials].into_iter().collect()).unwrap();
    assert_eq!(all.fal_key.expose(), KEY);
    assert_eq!(all.bot_token.unwrap().expose(), TOKEN);
    let flag = RunArgs::typed([("redis-url", "redis://h")]);
    let error = Config::load(&flag, &[credentials].into_iter().collect()).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("--redis-url: credential redis-url"),
        "{error}"
    );
}

#[test]
fn secrets_of_a_wrong_form_are_refused_without_being_shown() {
    let short = &TOKEN[..20];
    let (_folder, garbage) = file("key", b"s3cr3t\xff");
    let (_other, empty) = file("key", b"\n");
    let (_third, wrong) = file("key", b"s3cr3t-without-colon\n");
    for (pairs, start) in [
        (vec![], "FAL_KEY: missing"),
        (vec![("FAL_KEY", "s3cr3t")], "FAL_KEY: a fal key"),
        (vec![("FAL_KEY", ":s3cr3t")], "FAL_KEY: a fal key"),
        (vec![("FAL_KEY", "s3cr3t:")], "FAL_KEY: a fal key"),
        (vec![("FAL_KEY", "a:s3cr3t x")], "FAL_KEY: a fal key"),
        (vec![("FAL_KEY", "a:s3cr3t\n\n")], "FAL_KEY: a fal key"),
        (vec![("FAL_KEY", "a:s3cr3té")], "FAL_KEY: a fal key"),
        (vec![("FAL_KEY_FILE", &*wrong)], "FAL_KEY_FILE (/"),
        (
            vec![("FAL_KEY_FILE", &garbage)],
            "FAL_KEY_FILE: cannot read /",
        ),
        (vec![("FAL_KEY_FILE", &empty)], "FAL_KEY_FILE (/"),
        (
            vec![("FAL_KEY_FILE", "/no/such")],
            "FAL_KEY_FILE: cannot read /no/such: ",
        ),
        (
            vec![("FAL_KEY_FILE", "/dev/zero")],
            "FAL_KEY_FILE: cannot read /dev/zero: ",
        ),
        (
            vec![("FAL_KEY", KEY), ("TELEGRAM_BOT_TOKEN", short)],
            "TELEGRAM_BOT_TOKEN: a bot token",
        ),
        (
            vec![("FAL_KEY", KEY), ("TELEGRAM_BOT_TOKEN", "0:s3cr3t")],
            "TELEGRAM_BOT_TOKEN: a bot",
        ),
        (
            vec![("FAL_KEY", KEY), ("REDIS_URL", "redis://:s3cr3t@")],
            "--redis-url (REDIS_URL): ",
        ),
    ] {
        let error = Config::load(&RunArgs::default(), &pairs.into_iter().collect()).unwrap_err();
        let line = error.to_string();
        assert!(line.starts_with(start), "{line}");
        assert!(
            !line.contains("s3cr3t") && !line.contains(short) && !line.contains('\n'),
            "{line}"
        );
    }
}

#[test]
fn a_secret_prints_as_stars() {
    let secret = Secret::new("s3cr3t");
    assert_eq!(
        (format!("{secret:?}"), format!("{secret}")),
        ("***".into(), "***".into())
    );
    let config = set([("TELEGRAM_BOT_TOKEN", TOKEN)]).unwrap();
    let shown = format!("{config:?} {config:#?}");
    for secret in config.secrets() {
        assert!(!shown.contains(secret), "{shown}");
    }
    assert_eq!(config.secrets(), [KEY, TOKEN, &KEY[8..], &TOKEN[10..]]);
}

#[test]
fn commands_beside_run_need_no_secret() {
    let env = [
        ("REDIS_URL", "redis://:pw-1234@h"),
        ("FAL_WORKER_NAMESPACE", "shop"),
    ];
    let store = StoreConfig::load(&StoreArgs::default(), &env.into_iter().collect()).unwrap();
    assert_eq!((&*store.namespace, &*store.inbox), ("shop", "shop:inbox"));
    assert_eq!(store.redis.to_string(), "redis://:***@h:6379/0");
    let args = StoreArgs::typed([("namespace", "a"), ("inbox", "b")]);
    let store = StoreConfig::load(&args, &env.into_iter().collect()).unwrap();
    assert_eq!((&*store.namespace, &*store.inbox), ("a", "b"));
}

#[test]
fn clap_hands_over_what_was_typed_and_nothing_else() {
    let command = RunArgs::augment_args(Command::new("run"));
    let words = [
        "run",
        "--threads",
        "8",
        "--file-host",
        "a",
        "--file-host=b",
        "--lang",
        "",
    ];
    let args = RunArgs::from_arg_matches(&command.get_matches_from(words)).unwrap();
    let expected = RunArgs::typed([
        ("threads", "8"),
        ("file-host", "a"),
        ("file-host", "b"),
        ("lang", ""),
    ]);
    assert_eq!(args.0, expected.0);
}

#[test]
fn the_help_names_each_variable_and_default_and_every_default_can_be_read() {
    let mut command = RunArgs::augment_args(Command::new("run"));
    command.clone().debug_assert();
    let help = command.render_long_help().to_string();
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    for flag in flag::all() {
        assert!(
            help.contains(&format!("--{} <{}>", flag.name, flag.value)),
            "{help}"
        );
        assert!(
            help.contains(&format!("[env: {}", flag.variable)),
            "{}",
            flag.variable
        );
        let (Unset::Means(text) | Unset::WorkedOut(text)) = flag.unset;
        assert!(
            help.contains(&format!("[default: {text}]")),
            "{}: {text}",
            flag.name
        );
        // One rule for names, so that nobody has to look them up.
        let several = ["file-host", "model-timeout", "model-limit"];
        let plural = if several.contains(&flag.name) {
            "S"
        } else {
            ""
        };
        let variable = flag.name.to_uppercase().replace('-', "_") + plural;
        let variable = if flag.name == "redis-url" {
            variable
        } else {
            format!("FAL_WORKER_{variable}")
        };
        assert_eq!(variable, flag.variable);
    }
    assert!(help.contains("TELEGRAM_BOT_TOKEN_FILE") && help.contains("credential redis-url"));
}

#[test]
fn the_example_of_the_environment_file_lists_every_variable_with_its_default() {
    let example = include_str!("../../systemd/fal-worker.env.example");
    let pairs = example
        .lines()
        .filter_map(|line| line.strip_prefix('#')?.split_once('='));
    let pairs = Vec::from_iter(pairs.filter(|(name, _)| !name.contains(' ')));
    for flag in flag::all() {
        let found = Vec::from_iter(pairs.iter().filter(|(name, _)| *name == flag.variable));
        let [(_, value)] = found[..] else {
            panic!("{}: {found:?}", flag.variable)
        };
        if let Unset::Means(text) = flag.unset {
            assert_eq!(*value, text, "{}", flag.variable);
        }
    }
    // All of it without the secrets, switched on, is the same as nothing.
    let ours = pairs
        .iter()
        .filter(|(name, _)| !name.ends_with("_FILE") && !name.starts_with("TELEGRAM"))
        // An address that is asked for must be had; the default need not.
        .filter(|(name, _)| *name != "FAL_WORKER_LISTEN");
    let ours = ours.map(|(name, value)| {
        if *name == "FAL_KEY" {
            (*name, KEY)
        } else {
            (*name, *value)
        }
    });
    let mut all_on = Config::load(&RunArgs::default(), &ours.collect()).unwrap();
    // Of what holds for all workers only what is given is written.
    let names: Vec<&str> = all_on.shared.drain(..).map(|(name, _)| name).collect();
    let expected = [
        "user_concurrency",
        "user_rate",
        "fal_concurrency",
        "fair",
        "low_after",
        "max_wait",
    ];
    assert_eq!(names, expected);
    assert_eq!(format!("{all_on:?}"), format!("{:?}", set([]).unwrap()));
}

#[test]
fn of_a_models_pattern_given_twice_the_first_counts() {
    for (given, kept) in [
        ("fal-ai/*=1,fal-ai/*=2", "fal-ai/*=1"),
        ("a/b=3,*=1,a/b=3,*=2", "a/b=3,*=1"),
        ("a/b=3,a/*=3", "a/b=3,a/*=3"),
    ] {
        let config = set([("FAL_WORKER_MODEL_LIMITS", given)]).unwrap();
        assert_eq!(config.shared, [("model_limits", kept.to_owned())]);
    }
}

#[test]
fn a_bot_token_has_the_form_of_the_api_page() {
    let secret = "A".repeat(30);
    for (token, fits) in [
        (format!("1:{secret}"), true),
        (format!("12345678901234567:{}_-", "z".repeat(62)), true),
        (format!("0123:{secret}"), false),
        (format!("123456789012345678:{secret}"), false),
        (format!(":{secret}"), false),
        (format!("1:{}", &secret[1..]), false),
        (format!("1:{}", "A".repeat(65)), false),
        (format!("1:{secret}/"), false),
        (format!("1:{secret}:"), false),
        (format!("bot1:{secret}"), false),
    ] {
        assert_eq!(
            set([("TELEGRAM_BOT_TOKEN", &*token)]).is_ok(),
            fits,
            "{token}"
        );
    }
}

#[test]
fn certificates_of_redis_are_read_at_start_and_never_repeated() {
    let key = b"-----BEGIN PRIVATE KEY-----\nsecret-1234\n-----END PRIVATE KEY-----\n";
    let locked = b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nx\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let damaged = b"-----BEGIN CERTIFICATE-----\nsecret-1234\n";
    let (_a, key) = file("a.pem", key);
    let (_b, locked) = file("b.pem", locked);
    let (_c, damaged) = file("c.pem", damaged);
    let (ca, cert, own) = (
        "FAL_WORKER_REDIS_CA",
        "FAL_WORKER_REDIS_CERT",
        "FAL_WORKER_REDIS_KEY",
    );
    let tls = ("REDIS_URL", "rediss://h");
    let rows = [
        (
            vec![tls, (own, &*key)],
            "--redis-key (FAL_WORKER_REDIS_KEY): its certificate is missing",
        ),
        (
            vec![tls, (cert, &*damaged)],
            "--redis-cert (FAL_WORKER_REDIS_CERT): its key is missing",
        ),
        (vec![tls, (own, &*locked)], "the key is encrypted"),
        (vec![tls, (own, &*damaged)], "no PRIVATE KEY in PEM form"),
        (vec![tls, (ca, &*key)], "no CERTIFICATE in PEM form"),
        (
            vec![tls, (ca, &*damaged)],
            "one of these files is damaged PEM",
        ),
        (
            vec![tls, (cert, &*damaged), (own, &*key)],
            "one of these files is damaged PEM",
        ),
        (
            vec![("REDIS_URL", "redis://h"), (ca, &*damaged)],
            "its URL begins with rediss://",
        ),
        (vec![tls, (ca, "/dev/zero")], "over 1 MiB"),
    ];
    for (pairs, word) in rows {
        let error = set(pairs.clone()).expect_err(word).to_string();
        assert!(error.contains(word), "{pairs:?}: {error}");
        assert!(!error.contains("secret-1234"), "{error}");
    }
}
