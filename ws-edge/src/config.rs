//! The edge's configuration.

mod tls;

use std::{net::SocketAddr, time::Duration};

use blackhole_common::config::{
    AdminConfig, CatalogueConfig, Configuration, InvalidValue, LogConfig, NatsConfig,
};
use bytesize::ByteSize;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use url::Url;

pub use self::tls::TlsConfig;
use crate::protocol::view::View;

/// The configuration of ws-edge.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct EdgeConfig {
    /// The connection to NATS.
    pub nats: NatsConfig,
    /// Logs.
    pub log: LogConfig,
    /// Metrics and health.
    pub admin: AdminConfig<9403>,
    /// Binding families.
    pub catalogue: CatalogueConfig,
    /// WebSocket sessions.
    pub ws: WsConfig,
}

/// `[ws]`: WebSocket sessions.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WsConfig {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// TLS; `None`: a proxy does it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsConfig>,
    /// The name of this machine in lists of sessions.
    pub host: String,
    /// The view of clients that do not choose one (`?view=`).
    pub view: View,
    /// Maximum number of sessions; more are refused with HTTP 503.
    pub max_connections: usize,
    /// New sessions per second. Sessions that would wait longer than five seconds are refused with HTTP 503.
    pub accept_per_second: u32,
    /// Connections per client address (IPv6: per network of 64 bits); more are refused with HTTP 429. 0: no limit.
    pub max_connections_per_ip: usize,
    /// Connections per client address without an accepted token; more are refused with HTTP 429. 0: no limit.
    pub max_tokenless_per_ip: usize,
    /// Sessions per account; more are refused. 0: no limit.
    pub max_sessions_per_account: usize,
    /// Distinct NATS subjects of an account's sessions; bindings that need more are refused. 0: no limit.
    pub max_subjects_per_account: usize,
    /// The rate limit of a session's requests.
    pub rate: RateConfig,
    /// Tokens of one client address that may be refused, before further ones must wait.
    pub refused_tokens: RateConfig,
    /// Bindings per session.
    pub max_bindings: usize,
    /// Memory that a session's bindings may take.
    pub max_binding_bytes: ByteSize,
    /// Whether events are compressed for clients that offer it.
    pub compression: bool,
    /// The largest frame from a client.
    pub max_frame: ByteSize,
    /// Queue of a slow consumer. When it is full, the session catches up from the stream later.
    pub queue_bytes: ByteSize,
    /// Bytes of past events that are read per second for the sessions of one account.
    pub replay_bytes_per_second: ByteSize,
    /// Bytes of kept events that wait for sessions which have asked for the state; a quarter of it for one account.
    pub state_bytes: ByteSize,
    /// A session without requests and events for this time is closed.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// The interval between pings. A client that is silent for two intervals is considered dead.
    #[serde(with = "humantime_serde")]
    pub ping_interval: Duration,
    /// Time from connecting to the end of the upgrade request.
    #[serde(with = "humantime_serde")]
    pub handshake_timeout: Duration,
    /// Time from the upgrade until a token must have been accepted.
    #[serde(with = "humantime_serde")]
    pub auth_timeout: Duration,
    /// Time for a request before it is answered with an error.
    #[serde(with = "humantime_serde")]
    pub request_timeout: Duration,
    /// How long auth-svc's decisions are cached.
    #[serde(with = "humantime_serde")]
    pub auth_cache: Duration,
    /// The interval at which auth-svc is asked again for each session. Announced changes are acted on at once.
    #[serde(with = "humantime_serde")]
    pub recheck_interval: Duration,
    /// How long sessions keep what was granted while auth-svc cannot be asked.
    #[serde(with = "humantime_serde")]
    pub grant_lifetime: Duration,
    /// How long an unused NATS subscription is kept.
    #[serde(with = "humantime_serde")]
    pub linger: Duration,
    /// How long a stopping edge still accepts sessions, so that load balancers notice that it is not ready.
    #[serde(with = "humantime_serde")]
    pub drain_wait: Duration,
    /// The time over which a stopping edge closes its sessions.
    #[serde(with = "humantime_serde")]
    pub drain: Duration,
    /// Sessions that a stopping edge closes per second, at most, even if that takes longer than `drain`.
    pub drain_per_second: u32,
    /// Proxies whose `X-Forwarded-For` is trusted.
    pub trusted_proxies: Vec<IpNet>,
    /// The header in which these proxies pass on the client's address. Only this one is read: they overwrite it.
    pub address_header: AddressHeader,
    /// What happens to a session whose token expires.
    pub on_token_expiry: OnTokenExpiry,
    /// Crossbar's URL, for the action `api`. `None`: the action is not available.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crossbar_url: Option<Url>,
    /// Concurrent requests to Crossbar; more wait.
    pub crossbar_concurrency: usize,
    /// The largest response of Crossbar that is passed on.
    pub crossbar_max_answer: ByteSize,
}

/// `[ws.rate]` and `[ws.refused_tokens]`: a token bucket, as KAZOO's Blackhole has one per session.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RateConfig {
    /// How many at once.
    pub burst: u32,
    /// How many per second on average.
    pub per_second: u32,
}

/// What happens to a session whose token expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnTokenExpiry {
    /// The session is closed with code 4401.
    Close,
    /// The session continues, as in KAZOO's Blackhole.
    Keep,
}

/// The header in which proxies pass on the client's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AddressHeader {
    /// `X-Forwarded-For`.
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

impl AddressHeader {
    /// The header's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            AddressHeader::XForwardedFor => "x-forwarded-for",
            AddressHeader::Forwarded => "forwarded",
        }
    }
}

impl Default for WsConfig {
    fn default() -> Self {
        WsConfig {
            listen: SocketAddr::from(([0_u16; 8], 5555)),
            tls: None,
            host: gethostname::gethostname().to_string_lossy().into_owned(),
            view: View::Both,
            max_connections: 50_000,
            accept_per_second: 1000,
            max_connections_per_ip: 5000,
            max_tokenless_per_ip: 2000,
            max_sessions_per_account: 10_000,
            max_subjects_per_account: 50_000,
            rate: RateConfig::default(),
            refused_tokens: RateConfig { burst: 1000, per_second: 20 },
            max_bindings: 1000,
            max_binding_bytes: ByteSize::mib(2),
            // It costs more of the processor than all else that is done for an event.
            compression: true,
            max_frame: ByteSize::kib(64),
            queue_bytes: ByteSize::mib(1),
            replay_bytes_per_second: ByteSize::mib(16),
            state_bytes: ByteSize::mib(256),
            idle_timeout: Duration::from_secs(3600),
            ping_interval: Duration::from_secs(30),
            handshake_timeout: Duration::from_secs(10),
            auth_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(10),
            auth_cache: Duration::from_secs(30),
            recheck_interval: Duration::from_secs(60),
            grant_lifetime: Duration::from_secs(3600),
            linger: Duration::from_secs(5),
            drain_wait: Duration::from_secs(1),
            drain: Duration::from_secs(30),
            drain_per_second: 1000,
            trusted_proxies: Vec::new(),
            address_header: AddressHeader::XForwardedFor,
            on_token_expiry: OnTokenExpiry::Close,
            crossbar_url: None,
            crossbar_concurrency: 32,
            crossbar_max_answer: ByteSize::mib(1),
        }
    }
}

impl Default for RateConfig {
    fn default() -> Self {
        RateConfig { burst: 100, per_second: 10 }
    }
}

impl Configuration for EdgeConfig {
    fn admin(&self) -> Option<SocketAddr> {
        Some(self.admin.listen)
    }

    fn check(&self) -> Result<(), InvalidValue> {
        self.nats.check()?;
        self.log.check()?;
        self.admin.check()?;
        self.catalogue.check()?;
        let ws = &self.ws;
        let positive =
            |is_positive: bool, key| InvalidValue::unless(is_positive, key, "must be greater than 0");
        if let Some(tls) = &ws.tls {
            let is_other = tls.listen.is_none_or(|listen| listen.port() == 0 || listen != ws.listen);
            InvalidValue::unless(
                is_other,
                "ws.tls.listen",
                "must be another address or port than ws.listen",
            )?;
            tls.read()?;
        }
        let is_host_name =
            (1..=255).contains(&ws.host.len()) && ws.host.bytes().all(|byte| byte.is_ascii_graphic());
        InvalidValue::unless(is_host_name, "ws.host", "must be a host name: 1 to 255 printable characters")?;
        positive(ws.max_connections > 0, "ws.max_connections")?;
        positive(ws.accept_per_second > 0, "ws.accept_per_second")?;
        positive(ws.drain_per_second > 0, "ws.drain_per_second")?;
        positive(ws.max_bindings > 0, "ws.max_bindings")?;
        positive(ws.rate.burst > 0, "ws.rate.burst")?;
        positive(ws.rate.per_second > 0, "ws.rate.per_second")?;
        positive(ws.refused_tokens.burst > 0, "ws.refused_tokens.burst")?;
        positive(ws.refused_tokens.per_second > 0, "ws.refused_tokens.per_second")?;
        positive(!ws.idle_timeout.is_zero(), "ws.idle_timeout")?;
        positive(!ws.ping_interval.is_zero(), "ws.ping_interval")?;
        positive(!ws.handshake_timeout.is_zero(), "ws.handshake_timeout")?;
        positive(!ws.auth_timeout.is_zero(), "ws.auth_timeout")?;
        positive(!ws.request_timeout.is_zero(), "ws.request_timeout")?;
        positive(!ws.recheck_interval.is_zero(), "ws.recheck_interval")?;
        let size = |size: ByteSize, key| {
            InvalidValue::unless(
                (ByteSize::kib(1)..=ByteSize::gib(1)).contains(&size),
                key,
                "must lie between 1 KiB and 1 GiB",
            )
        };
        size(ws.max_binding_bytes, "ws.max_binding_bytes")?;
        size(ws.max_frame, "ws.max_frame")?;
        size(ws.queue_bytes, "ws.queue_bytes")?;
        size(ws.replay_bytes_per_second, "ws.replay_bytes_per_second")?;
        size(ws.state_bytes, "ws.state_bytes")?;
        size(ws.crossbar_max_answer, "ws.crossbar_max_answer")?;
        InvalidValue::unless(
            ws.crossbar_url.as_ref().is_none_or(is_base_url),
            "ws.crossbar_url",
            "must be an http or https URL of a host, optionally with port and path, such as http://127.0.0.1:8000",
        )?;
        InvalidValue::unless(
            (1..=10_000).contains(&ws.crossbar_concurrency),
            "ws.crossbar_concurrency",
            "must lie between 1 and 10000",
        )
    }
}

fn is_base_url(url: &Url) -> bool {
    matches!(url.scheme(), "http" | "https")
        && url.has_host()
        && url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none()
}
