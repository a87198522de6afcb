//! How a connection to Redis is made and kept: the URL, the client library's settings, and the task that
//! reports each change of the connection. The Redis transport and its subscription call it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use fred::clients::Client;
use fred::error::{Error, ErrorKind};
use fred::interfaces::{ClientLike, EventInterface};
use fred::types::config::{
    Config, ConnectionConfig, PerformanceConfig, ReconnectPolicy, Server, ServerConfig,
    UnresponsiveConfig,
};
use fred::types::{Builder, ConnectHandle, InfoKind};
use tokio::sync::broadcast::error::RecvError;

use super::super::command::{CacheCommand, NO_ARGS};
use super::super::connection::ServerInfo;
use super::super::error::{CacheError, IS_CLUSTER};
use super::super::script;
use super::convert::{map_error, send};
use oddsd_core::model::{ESCAPE_CREDENTIALS, has_unescaped_credentials};

/// The run id of a server that has no INFO: only the heartbeats tell one memory from another.
pub(super) const UNKNOWN_RUN: &str = "unsaid";

/// The run id of a cluster: its nodes restart one by one, so none of them is asked.
const CLUSTER_RUN: &str = "cluster";

/// Reconnecting starts with the short wait and doubles. The library adds no jitter at its cap, so the
/// cap itself is drawn per process from this range: a fleet does not come back in step. It bounds how long
/// a cache that is back stays unnoticed, and removals with it.
const FIRST_RECONNECT_MS: u32 = 20;
const LONGEST_RECONNECT_MS: std::ops::Range<u32> = 400..800;
const RECONNECT_JITTER_MS: u32 = 30;

/// A whole connection attempt, and each handshake command in it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The library ends its task on what it takes for a configuration error; a server can be
/// corrected while the daemon runs, so connecting starts again after this.
const RESTART_AFTER: Duration = Duration::from_secs(5);

/// The library's "connected" event can be lost between its check and its subscription.
const CHECK_AGAIN: Duration = Duration::from_secs(1);

/// The pause before a server that accepted the connection is asked for its run id again.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// Cluster redirections cost an attempt too; a lost connection never repeats a command (`fail_fast`).
pub(super) const ATTEMPTS: u32 = 3;

const SCHEMES: [&str; 6] = [
    "redis",
    "rediss",
    "redis-cluster",
    "rediss-cluster",
    "redis-sentinel",
    "rediss-sentinel",
];

pub(super) fn client(config: Config, command_timeout: Duration) -> anyhow::Result<Client> {
    let mut policy = ReconnectPolicy::new_exponential(
        0,
        FIRST_RECONNECT_MS,
        fastrand::u32(LONGEST_RECONNECT_MS),
        2,
    );
    policy.set_jitter(RECONNECT_JITTER_MS);
    Builder::from_config(config)
        .set_policy(policy)
        .set_connection_config(connection(command_timeout))
        .set_performance_config(PerformanceConfig {
            default_command_timeout: command_timeout,
            ..PerformanceConfig::default()
        })
        .build()
        .ok()
        .context("REDIS_URL: the Redis client does not take these settings")
}

/// Asks the server for its run id and its clock. Fails if it is a cluster that the URL does not say.
async fn ask(client: &Client, server: &ServerInfo) -> Result<(), CacheError> {
    let run = match server.limits.is_cluster {
        true => CLUSTER_RUN.into(),
        false => {
            let info: Result<String, Error> = client.info(Some(InfoKind::Server)).await;
            let info = match info.map_err(|error| map_error(&server.host, &error)) {
                // Some serverless offers and restricted users have no INFO.
                Err(CacheError::Refused(_) | CacheError::Protocol(_)) => String::new(),
                answer => answer?,
            };
            let field = |name| info.lines().find_map(|line| line.strip_prefix(name));
            if field("redis_mode:").map(str::trim) == Some("cluster") {
                let advice = IS_CLUSTER.replace("{credentials}", "REDIS_URL");
                return Err(CacheError::Refused(format!("{}: {advice}", server.host)));
            }
            field("run_id:").map_or(UNKNOWN_RUN, str::trim).into()
        }
    };
    let now = CacheCommand::script(script::NOW, NO_ARGS, NO_ARGS);
    if let Ok(ms) = send::<u64>(client, &now, None).await {
        server.clock.record(ms, Instant::now());
    }
    server.set_run(Some(run));
    Ok(())
}

/// The library's own task; unless it is aborted, it reconnects for ever after its last user is dropped.
pub(super) struct Connection(pub ConnectHandle);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Connects once, to one node of a cluster; the connection ends when the returned handle is dropped.
pub(super) async fn once(
    cluster: &Config,
    node: Server,
    command_timeout: Duration,
) -> Result<(Client, Connection), Error> {
    let config = Config {
        server: ServerConfig::Centralized { server: node },
        fail_fast: true,
        ..cluster.clone()
    };
    let client = Builder::from_config(config)
        .set_connection_config(connection(command_timeout))
        .build()?;
    let connection = Connection(client.init().await?);
    Ok((client, connection))
}

/// Connects and reconnects until it is aborted; reports each change to `server`. The run id is forgotten with
/// every lost connection, because the next server that answers may have another memory.
pub(super) async fn keep_connected(client: Client, server: Arc<ServerInfo>) {
    loop {
        // Failures first: when both wait, the connection came after the failure.
        let (mut failures, mut connects) = (client.error_rx(), client.reconnect_rx());
        let mut connection = Connection(client.connect());
        // A connection to one server does not make the client ready: in a cluster the other nodes
        // follow.
        let mut expecting = false;
        loop {
            tokio::select! {
                biased;
                failure = failures.recv() => match failure {
                    Ok((error, _)) => {
                        expecting = false;
                        server.set_run(None);
                        server.set_down(map_error(&server.host, &error));
                    }
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => break,
                },
                connect = connects.recv() => match connect {
                    Ok(_) | Err(RecvError::Lagged(_)) => {
                        server.set_run(None);
                        expecting = true;
                    }
                    Err(RecvError::Closed) => break,
                },
                ready = tokio::time::timeout(CHECK_AGAIN, client.wait_for_connect()), if expecting => {
                    if let Ok(Ok(())) = ready {
                        expecting = false;
                        match ask(&client, &server).await {
                            Ok(()) => server.set_up(),
                            Err(why) => {
                                server.set_down(why);
                                tokio::time::sleep(ASK_AGAIN).await;
                                expecting = true;
                            }
                        }
                    }
                }
                _ = &mut connection.0 => break,
            }
        }
        drop(connection);
        tokio::time::sleep(RESTART_AFTER.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
    }
}

fn connection(command_timeout: Duration) -> ConnectionConfig {
    ConnectionConfig {
        connection_timeout: CONNECT_TIMEOUT,
        internal_command_timeout: CONNECT_TIMEOUT,
        max_command_attempts: ATTEMPTS,
        reconnect_on_auth_error: true,
        unresponsive: UnresponsiveConfig {
            max_timeout: Some(command_timeout * 2),
            interval: command_timeout / 2,
        },
        ..ConnectionConfig::default()
    }
}

/// Parses the URL. The library's own error is replaced, because it may quote the password.
pub(super) fn config(url: &str) -> anyhow::Result<Config> {
    let url = url.trim();
    let scheme = url.split("://").next().unwrap_or_default();
    let lower = scheme.to_ascii_lowercase();
    let url = format!("{lower}{}", &url[scheme.len()..]);
    let scheme = lower.as_str();
    anyhow::ensure!(
        !has_unescaped_credentials(&url),
        "REDIS_URL cannot be read: {ESCAPE_CREDENTIALS}"
    );
    anyhow::ensure!(
        SCHEMES.contains(&scheme),
        "REDIS_URL must begin with one of {}: write redis://host:6379, or rediss:// for TLS",
        SCHEMES.map(|scheme| format!("{scheme}://")).join(" ")
    );
    if scheme.starts_with("rediss") {
        // The TLS settings are built at once, and without a provider that would panic.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
    let mut config = Config::from_url(&url).map_err(|error| match error.kind() {
        ErrorKind::Tls => anyhow::anyhow!(
            "the system's root certificates cannot be loaded, which rediss:// needs: install ca-certificates"
        ),
        _ => anyhow::anyhow!(
            "REDIS_URL cannot be read: it is scheme://user:password@host:port/database, special characters in the password are written %XX, and a sentinel URL needs ?sentinelServiceName="
        ),
    })?;
    // With this set, a server that is down at start would end the client for good.
    config.fail_fast = false;
    // The library looks an IPv6 address up with its brackets.
    match &mut config.server {
        ServerConfig::Centralized { server } => remove_brackets(server),
        ServerConfig::Clustered { hosts, .. } | ServerConfig::Sentinel { hosts, .. } => {
            hosts.iter_mut().for_each(remove_brackets);
        }
    }
    Ok(config)
}

fn remove_brackets(server: &mut Server) {
    let host = server.host.strip_prefix('[');
    if let Some(plain) = host.and_then(|host| host.strip_suffix(']')) {
        server.host = plain.to_owned().into();
    }
}

pub(super) fn host(server: &ServerConfig) -> String {
    let hosts = server.hosts();
    let names: Vec<String> = hosts.iter().map(ToString::to_string).collect();
    names.join(",")
}
