use super::*;

fn invalid_key(change: impl FnOnce(&mut IngestConfig)) -> Option<&'static str> {
    let mut config = IngestConfig::default();
    change(&mut config);
    config.check().err().map(|impossible| impossible.key)
}

#[test]
fn an_invalid_url_is_not_quoted_with_its_password() {
    for url in ["kazoo:s3cret@host", "http://kazoo:s3cret@host", "amqp://kazoo:s3cret@host:port", "s3cret"] {
        let mut config = IngestConfig::default();
        config.amqp.url = Some(ServerUrl::new(url));
        let error = config.check().unwrap_err();
        assert_eq!(error.key, "amqp.url");
        assert!(!error.reason.contains("s3cret"), "{}", error.reason);
        config.amqp.url = None;
        config.amqp.brokers = vec![BrokerConfig { zone: "west".into(), url: ServerUrl::new(url) }];
        let error = config.check().unwrap_err();
        assert_eq!(error.key, "amqp.brokers");
        assert!(!error.reason.contains("s3cret"), "{}", error.reason);
    }
}

#[test]
fn the_defaults_are_valid_and_hide_passwords() {
    assert_eq!(invalid_key(|_| {}), None);
    let mut complete = IngestConfig::default();
    complete.complete();
    let printed = toml::to_string(&complete).unwrap();
    assert!(printed.contains("amqp://[hidden]@127.0.0.1:5672/%2f"), "{printed}");
    assert!(printed.contains("max_age = \"10m\""), "{printed}");
    let reread: IngestConfig = toml::from_str(&printed).unwrap();
    assert_eq!(reread.history.max_bytes, ByteSize::gib(1));
    assert_eq!(reread.amqp.prefetch, 1000);
}

#[test]
fn invalid_values_are_reported_by_key() {
    assert_eq!(invalid_key(|config| config.amqp.url = Some(ServerUrl::new("http://x"))), Some("amqp.url"));
    assert_eq!(invalid_key(|config| config.amqp.queue = String::new()), Some("amqp.queue"));
    assert_eq!(invalid_key(|config| config.amqp.queue = "q".repeat(246)), None);
    assert_eq!(invalid_key(|config| config.amqp.queue = "q".repeat(247)), Some("amqp.queue"));
    assert_eq!(
        invalid_key(|config| config.amqp.dead_letter_exchange = config.amqp.queue.clone()),
        Some("amqp.dead_letter_exchange")
    );
    assert_eq!(invalid_key(|config| config.amqp.prefetch = 0), Some("amqp.prefetch"));
    let never = Duration::ZERO;
    assert_eq!(invalid_key(|config| config.amqp.check_interval = never), Some("amqp.check_interval"));
    assert_eq!(
        invalid_key(|config| config.amqp.prefetch_bytes = ByteSize::b(0)),
        Some("amqp.prefetch_bytes")
    );
    assert_eq!(
        invalid_key(|config| config.amqp.queue_max_bytes = ByteSize::b(u64::MAX)),
        Some("amqp.queue_max_bytes")
    );
    assert_eq!(invalid_key(|config| config.history.max_age = Duration::ZERO), None);
    let short = Duration::from_millis(10);
    assert_eq!(invalid_key(|config| config.history.max_age = short), Some("history.max_age"));
    assert_eq!(invalid_key(|config| config.history.max_bytes = ByteSize::b(1)), Some("history.max_bytes"));
    assert_eq!(invalid_key(|config| config.history.replicas = 0), Some("history.replicas"));
}

fn check_zones(zones: &[(&str, &str)]) -> Result<(), String> {
    let mut config = IngestConfig::default();
    config.amqp.brokers = zones
        .iter()
        .map(|(zone, url)| BrokerConfig { zone: (*zone).to_owned(), url: ServerUrl::new(url) })
        .collect();
    config.complete();
    let printed = toml::to_string(&config).unwrap() + &format!("{config:?}");
    assert!(!printed.contains("s3cr3t") && !printed.contains("127.0.0.1:5672"), "{printed}");
    config.check().map_err(|impossible| {
        assert_eq!(impossible.key, "amqp.brokers");
        assert!(!impossible.reason.contains("s3cr3t"), "{}", impossible.reason);
        impossible.reason
    })
}

#[test]
fn brokers_need_distinct_zones_and_urls() {
    let (east, west) = ("amqp://u:s3cr3t@east", "amqp://u:s3cr3t@west");
    assert_eq!(check_zones(&[("east", east), ("us-west.2_b", west)]), Ok(()));
    for (invalid, expected) in [
        ([("east", east), ("east", west)], "there are two zones east"),
        ([("east", east), ("west", east)], "zones east and west have the same url"),
        ([("east", east), ("", west)], "zone \"\" must have"),
        ([("east", east), ("we st", west)], "zone \"we st\" must have"),
        ([("east", "http://u:s3cr3t@east"), ("west", west)], "the url of zone east: "),
    ] {
        let reason = check_zones(&invalid).unwrap_err();
        assert!(reason.starts_with(expected), "{reason}");
    }
    let both = invalid_key(|config| {
        config.amqp.url = Some(ServerUrl::new(east));
        config.amqp.brokers = vec![BrokerConfig { zone: "west".into(), url: ServerUrl::new(west) }];
    });
    assert_eq!(both, Some("amqp.brokers"));
    assert_eq!(AmqpConfig::default().brokers().len(), 1);
}
