//! The Upstash transport: a command is a JSON array, the answer `{"result":…}` or `{"error":…}`. `RemoteCache`
//! sends its commands through it; each is one request and billed once, many go in pipelines.

mod rest;

use std::time::Duration;

use secrecy::SecretString;
use serde_json::Value;

use super::command::{CacheCommand, CacheReply, CommandKind, Limits, chunk};
use super::connection::ServerInfo;
use super::error::CacheError;
use oddsd_core::key::Namespace;
use rest::RestClient;

/// Upstash takes requests up to 10 MB.
const MAX_REQUEST_BYTES: usize = 10_000_000;

/// Upstash takes keys up to 32 KB.
const LONGEST_NAME: usize = 32 * 1024;

const COMMANDS_PER_PIPELINE: usize = 1_000;

/// The service does not report a run id; only the heartbeats tell one memory from another.
const RUN: &str = "upstash";

/// Without it a script on Upstash locks the whole database. Redis itself refuses to run a script
/// with a flag that it does not know, so only Upstash gets it.
const SCRIPT_FLAGS: &str = "#!lua flags=allow-key-locking\n";

const LIMITS: Limits = Limits {
    backend: "upstash",
    // A heartbeat is billed for each shard.
    shards: 1,
    is_cluster: false,
    // Well below the request limit, since JSON text grows when it is put into JSON.
    max_value_bytes: 4 * 1024 * 1024,
    targets_per_script: 500,
    text_only: true,
    is_billed: true,
    heartbeat_interval: Duration::from_secs(10),
};

pub(super) struct UpstashTransport(RestClient);

impl UpstashTransport {
    /// Sends nothing yet. Fails on a URL or token that can never work.
    pub fn open(
        url: &str,
        token: &SecretString,
        namespace: &Namespace,
        command_timeout: Duration,
    ) -> anyhow::Result<Self> {
        let rest = RestClient::open(url, token, &LIMITS, namespace.clone(), command_timeout)?;
        rest.server.set_run(Some(RUN.into()));
        Ok(Self(rest))
    }

    pub fn server(&self) -> &ServerInfo {
        &self.0.server
    }

    pub async fn call(
        &self,
        command: &CacheCommand,
        deadline: Duration,
    ) -> Result<CacheReply, CacheError> {
        let command = encode(command)?;
        self.0.command(command, deadline).await.map(decode)
    }

    pub async fn call_all(&self, commands: &[CacheCommand]) -> Vec<Result<CacheReply, CacheError>> {
        let unsent = CacheError::Protocol(format!("{} was not asked", self.0.server.host));
        let mut replies = vec![Err(unsent); commands.len()];
        let mut encoded = Vec::new();
        for (at, command) in commands.iter().enumerate() {
            match encode(command) {
                Ok(command) => encoded.push((at, command)),
                Err(why) => replies[at] = Err(why),
            }
        }
        let bytes = |(_, command): &(usize, String)| command.len() + 1;
        let mut no_answer = None;
        for request in chunk(encoded, COMMANDS_PER_PIPELINE, MAX_REQUEST_BYTES / 2, bytes) {
            let (positions, commands): (Vec<usize>, Vec<String>) = request.into_iter().unzip();
            let answer = match &no_answer {
                None => self.0.commands(&commands).await,
                Some(why) => Err(CacheError::clone(why)),
            };
            match answer {
                Ok(items) => {
                    for (at, item) in positions.into_iter().zip(items) {
                        replies[at] = item.map(decode);
                    }
                }
                Err(why) => {
                    for at in positions {
                        replies[at] = Err(why.clone());
                    }
                    no_answer = (!why.is_answer()).then_some(why);
                }
            }
        }
        replies
    }
}

/// The command as JSON. Limits are checked here, because the service does not document how it refuses a
/// long name.
fn encode(command: &CacheCommand) -> Result<String, CacheError> {
    if let Some(long) = command.keys.iter().find(|name| name.len() > LONGEST_NAME) {
        return Err(CacheError::TooLarge(format!(
            "a name of {} bytes: Upstash takes up to {LONGEST_NAME}",
            long.len()
        )));
    }
    let mut words: Vec<Value> = match command.kind {
        CommandKind::Named(name) => vec![name.into()],
        CommandKind::Script(script) => vec![
            "EVAL".into(),
            format!("{SCRIPT_FLAGS}{script}").into(),
            command.keys.len().to_string().into(),
        ],
    };
    for word in command.keys.iter().chain(&command.args) {
        let word = std::str::from_utf8(word)
            .map_err(|_| CacheError::Refused("Upstash takes text only: encode the body".into()))?;
        words.push(word.into());
    }
    let text = Value::Array(words).to_string();
    if text.len() > MAX_REQUEST_BYTES {
        return Err(CacheError::TooLarge(format!(
            "a request of {} bytes: Upstash takes up to {MAX_REQUEST_BYTES}",
            text.len()
        )));
    }
    Ok(text)
}

fn decode(value: Value) -> CacheReply {
    match value {
        Value::String(text) => CacheReply::Text(text.into()),
        Value::Array(parts) => CacheReply::List(parts.into_iter().map(decode).collect()),
        Value::Number(number) => match number.as_i64() {
            Some(number) => CacheReply::Number(number),
            // A score.
            None => CacheReply::Text(number.to_string().into()),
        },
        Value::Null | Value::Bool(_) | Value::Object(_) => CacheReply::Nil,
    }
}
