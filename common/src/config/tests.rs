use super::*;

#[derive(Debug, Serialize, Deserialize)]
struct Sample {
    #[serde(default)]
    nats: NatsConfig,
    #[serde(default)]
    log: LogConfig,
    #[serde(default)]
    auth: SampleAuth,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct SampleAuth {
    hs256_secret: Option<Secret>,
    level: u16,
    pair: Vec<String>,
}

impl Configuration for Sample {
    fn check(&self) -> Result<(), InvalidValue> {
        self.nats.check()?;
        self.log.check()?;
        InvalidValue::unless(self.auth.level != 13, "auth.level", "must not be 13")
    }
}

fn from_toml(text: &str) -> Result<Sample, String> {
    let figment = Figment::from(Toml::string(text));
    let sample: Sample =
        from_figment(&figment, UnknownKeys::Refuse).map_err(|error| error.to_string())?.config;
    match sample.check() {
        Ok(()) => Ok(sample),
        Err(invalid) => Err(invalid_value(&figment, invalid.key, &invalid.reason).to_string()),
    }
}

#[test]
fn an_empty_file_gives_the_defaults() {
    let sample = from_toml("").unwrap();
    assert_eq!(sample.nats.url.reveal(), "nats://127.0.0.1:4222");
    assert_eq!(sample.nats.prefix, "blackhole.v1");
}

#[test]
fn other_services_tables_are_ignored() {
    from_toml("[ws]\nlisten = \"0.0.0.0:5555\"\n[amqp]\nurl = \"amqp://h\"").unwrap();
}

#[test]
fn errors_are_one_line_with_key_and_value_but_no_secret() {
    for (text, expected) in [
        ("[wss]\na = 1", "`wss` = a table"),
        ("ws = 1", "`ws` = 1"),
        ("[auth]\nlevle = 1", "`auth.levle` = 1"),
        ("[auth]\nlevel = \"high\"", "`auth.level` = \"high\""),
        ("[auth]\nlevel = 70000", "`auth.level` = 70000"),
        ("[auth]\nlevel = 13", "`auth.level` = 13"),
        ("[auth]\npair = 5", "`auth.pair` = 5"),
        ("[log]\nformat = \"xml\"", "`log.format` = \"xml\""),
        ("[log]\nfilter = \"a=b=c\"", "`log.filter` = \"a=b=c\""),
        ("[nats]\nprefix = \"a..b\"", "`nats.prefix` = \"a..b\""),
        ("[nats]\nurl = \"nats://me:pass@:x\"", "`nats.url` = \"nats://[hidden]@:x\""),
        ("[auth]\nhs256_secret = 12345", "`auth.hs256_secret` = [hidden]"),
        ("[auth]\nhs256_secrets = \"12345\"", "`auth.hs256_secrets` = [hidden]"),
        ("[auth]\nbrokers = \"[{url=amqp://u:12345\"", "`auth.brokers` = [hidden]"),
        ("[auth]\nhs256_secret = \"12345", "TOML parse error at line 2"),
        ("= broken", "TOML parse error"),
    ] {
        let error = from_toml(text).unwrap_err();
        assert!(error.contains(expected), "{text}: {error}");
        assert!(!error.contains('\n') && !error.contains("12345") && !error.contains("pass@"), "{error}");
    }
}

#[test]
fn errors_name_the_origin_of_the_value() {
    let figment =
        Figment::from(Toml::string("[auth]\nlevel = 1")).merge(Serialized::default("auth.level", "x"));
    let error = from_figment::<Sample>(&figment, UnknownKeys::Ignore).unwrap_err().to_string();
    assert!(error.starts_with("configuration: `auth.level` = \"x\" (in "), "{error}");
    let missing = load::<Sample>(Some(Path::new("/nonexistent/blackhole.toml")), UnknownKeys::Ignore);
    let missing = missing.unwrap_err().to_string();
    assert!(missing.contains("/nonexistent/blackhole.toml: No such file"), "{missing}");
}

#[test]
fn secrets_are_not_printed() {
    let sample =
        from_toml("[auth]\nhs256_secret = \"s3cr3t\"\n[nats]\nurl = \"nats://u:s3cr3t@h:1,nats://i:1\"")
            .unwrap();
    let printed = toml::to_string(&sample).unwrap() + &format!("{sample:?}");
    assert!(!printed.contains("s3cr3t"), "{printed}");
    assert!(printed.contains("nats://[hidden]@h:1,nats://i:1"), "{printed}");
    assert_eq!(sample.auth.hs256_secret.unwrap().reveal(), "s3cr3t");
}

#[test]
fn keys_that_a_newer_release_may_know_are_ignored_with_file_and_line() {
    let file = std::env::temp_dir().join(format!("blackhole-unknown-{}.toml", std::process::id()));
    let text = "[auth]\nlevel = 7\nlevle = 9\n\n[new]\na = 1\n\n[log]\nfilter = \"warn\"\ncolour = \"red\"\n";
    std::fs::write(&file, text).unwrap();
    let loaded = load::<Sample>(Some(&file), UnknownKeys::Ignore);
    let refused = load::<Sample>(Some(&file), UnknownKeys::Refuse);
    std::fs::remove_file(&file).unwrap();
    let loaded = loaded.unwrap();
    assert_eq!((loaded.config.auth.level, loaded.config.log.filter.as_str()), (7, "warn"));
    let ignored: Vec<_> = loaded
        .ignored
        .iter()
        .filter_map(|ignored| match ignored {
            Ignored::Key { key, file: found, line, .. } if *found == file => Some((key.as_str(), *line)),
            _ => None,
        })
        .collect();
    assert_eq!(ignored, [("new", Some(5)), ("auth.levle", Some(3)), ("log.colour", Some(10))]);
    assert!(refused.unwrap_err().to_string().contains("`new` = a table"));
}

#[test]
fn unknown_keys_that_do_not_come_from_a_file_are_refused() {
    let figment = Figment::from(Serialized::default("auth.levle", 1));
    let error = from_figment::<Sample>(&figment, UnknownKeys::Ignore).unwrap_err().to_string();
    assert!(error.contains("`auth.levle` = 1"), "{error}");
}

#[test]
fn a_directory_of_secrets_overrides_the_file() {
    let directory = std::env::temp_dir().join(format!("blackhole-secrets-{}", std::process::id()));
    // As Kubernetes mounts a Secret: links to a directory that it replaces as a whole.
    let data = directory.join("..2026_11_29");
    std::fs::create_dir_all(&data).unwrap();
    std::os::unix::fs::symlink(&data, directory.join("..data")).unwrap();
    for (name, text) in [
        ("nats.url", "nats://u:s3cr3t@h:1\n"),
        ("auth.hs256_secret", "12345"),
        ("auth.pair", "[\"a\", \"b\"]"),
        ("amqp.url", "amqp://another.service"),
        ("README", "no setting"),
    ] {
        std::fs::write(data.join(name), text).unwrap();
        std::os::unix::fs::symlink(directory.join("..data").join(name), directory.join(name)).unwrap();
    }
    let file = Figment::from(Toml::string("[nats]\nurl = \"nats://h:2\"\n[auth]\nlevel = 1"));
    let with =
        |figment: Figment| secrets::read(&directory).unwrap().into_iter().fold(figment, Figment::merge);
    let sample: Sample = from_figment(&with(file.clone()), UnknownKeys::Refuse).unwrap().config;
    std::fs::write(data.join("auth.level"), "high").unwrap();
    std::os::unix::fs::symlink(data.join("auth.level"), directory.join("auth.level")).unwrap();
    let error = from_figment::<Sample>(&with(file), UnknownKeys::Refuse).unwrap_err().to_string();
    std::fs::write(directory.join("auth.large"), vec![b'x'; 2 << 20]).unwrap();
    let too_large = secrets::read(&directory).unwrap_err();
    std::fs::remove_dir_all(&directory).unwrap();
    assert_eq!(sample.nats.url.reveal(), "nats://u:s3cr3t@h:1");
    assert_eq!(sample.auth.hs256_secret.unwrap().reveal(), "12345", "digits are a text");
    assert_eq!((sample.auth.pair, sample.auth.level), (vec!["a".to_owned(), "b".to_owned()], 1));
    assert!(error.contains("`auth.level` = [hidden] (in ") && error.contains("/auth.level)"), "{error}");
    assert!(too_large.contains("/auth.large: is too large"), "{too_large}");
    assert!(secrets::read(&directory).unwrap_err().contains("BLACKHOLE_SECRETS"));
}
