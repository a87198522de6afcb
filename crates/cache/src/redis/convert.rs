//! Commands, replies and errors in the client library's types. The Redis transport, its connection task and
//! its subscription use them.

use bytes::Bytes;
use fred::error::{Error, ErrorKind};
use fred::interfaces::ClientLike;
use fred::types::{ClusterHash, CustomCommand, FromValue, Value};
use fred::util::redis_keyslot;

use super::super::command::{CacheCommand, CacheReply, CommandKind};
use super::super::error::CacheError;

/// A command's share of a batch.
pub(super) fn weight(command: &CacheCommand) -> usize {
    match command.kind {
        CommandKind::Script(_) => 10 + command.keys.len() / 10,
        CommandKind::Named(_) => 1 + command.keys.len() / 20,
    }
}

/// The cluster slot of the command's first key.
pub(super) fn slot(command: &CacheCommand) -> Option<u16> {
    command.keys.first().map(|key| redis_keyslot(key))
}

/// Sends to the node that holds `slot`, else to any.
pub(super) async fn send<R: FromValue>(
    client: &impl ClientLike,
    command: &CacheCommand,
    slot: Option<u16>,
) -> Result<R, Error> {
    let slot = slot.map_or(ClusterHash::Random, ClusterHash::Custom);
    let mut words = Vec::with_capacity(command.keys.len() + command.args.len() + 2);
    let name = match command.kind {
        CommandKind::Named(name) => name,
        CommandKind::Script(script) => {
            words.extend([Value::from(script), (command.keys.len() as i64).into()]);
            "EVAL"
        }
    };
    let names = command.keys.iter().chain(&command.args);
    words.extend(names.cloned().map(Value::Bytes));
    let command = CustomCommand::new_static(name, slot, false);
    client.custom(command, words).await
}

pub(super) fn decode(value: Value) -> CacheReply {
    match value {
        Value::Null => CacheReply::Nil,
        Value::Integer(number) => CacheReply::Number(number),
        Value::Array(parts) => CacheReply::List(parts.into_iter().map(decode).collect()),
        other => {
            let text: Option<Bytes> = other.into_bytes();
            text.map_or(CacheReply::Nil, CacheReply::Text)
        }
    }
}

pub(super) fn map_error(host: &str, error: &Error) -> CacheError {
    let text = plain_text(error.details());
    match error.kind() {
        ErrorKind::Timeout => CacheError::Timeout(format!("{host} did not answer in time")),
        ErrorKind::IO | ErrorKind::Canceled | ErrorKind::Routing | ErrorKind::Tls => {
            let text = oddsd_core::model::sanitize_text(text, 200);
            CacheError::Down(format!("cannot reach {host}: {text}"))
        }
        _ => match CacheError::from_reply(host, "REDIS_URL", text) {
            CacheError::Protocol(detail)
                if matches!(error.kind(), ErrorKind::Cluster | ErrorKind::Sentinel) =>
            {
                CacheError::Down(detail)
            }
            other => other,
        },
    }
}

/// The library quotes errors of the system in their debug form: `Os { code: 111, …, message: "Connection refused" }`.
fn plain_text(text: &str) -> &str {
    let quoted = ["message: \"", "error: \""].iter().find_map(|field| {
        let (_, rest) = text.split_once(field)?;
        rest.split('"').next()
    });
    quoted.filter(|_| text.contains(" { ")).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_of_the_system_is_shown_as_its_message() {
        let refused = "Os { code: 111, kind: ConnectionRefused, message: \"Connection refused\" }";
        assert_eq!(plain_text(refused), "Connection refused");
        let custom = "Custom { kind: InvalidData, error: \"invalid peer certificate\" }";
        assert_eq!(plain_text(custom), "invalid peer certificate");
        assert_eq!(plain_text("ERR message: \"x\""), "ERR message: \"x\"");
    }
}
