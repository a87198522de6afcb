//! Unmanaged keys: those that other programs write and read under their plain names. `Cache` removes them, puts
//! them so that a tag finds them, and lists them for an operator; it never serves them.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;

use super::command::{CacheCommand, MAX_SCRIPT_BYTES, NO_ARGS, chunk};
use super::error::CacheError;
use super::lease::LONGEST_TTL;
use super::removal::call_chunks;
use super::transport::Transport;
use oddsd_core::key::{Key, Tag};

/// The interface for other programs, in any language: they send the text of these scripts.
const PUT: &str = include_str!("../../../deploy/put.lua");
const REGISTER: &str = include_str!("../../../deploy/register.lua");

/// COUNT of a SCAN page.
const SCAN_COUNT: &str = "1000";
/// Pages of one scan: ten million names.
const SCAN_PAGES: usize = 10_000;

/// The result of a scan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScanResult {
    /// The keys found, in order.
    pub keys: Vec<Key>,
    /// The limit was reached: there may be more.
    pub is_truncated: bool,
}

pub(super) async fn remove(transport: &Transport, keys: &[Key]) -> Result<u64, CacheError> {
    let limits = transport.limits();
    let per_command = match limits.is_cluster {
        true => 1,
        false => limits.targets_per_script,
    };
    let keys: Vec<&Key> = keys.iter().collect();
    let bytes = |key: &&Key| key.as_str().len();
    let chunks = chunk(keys, per_command, MAX_SCRIPT_BYTES, bytes);
    let unlink = |keys: &[&Key]| CacheCommand::unlink(keys.iter().map(|key| key.to_string()));
    let replies = call_chunks(transport, chunks, unlink).await.into_iter();
    let counts = replies.map(|(_, reply)| transport.number(reply));
    counts.sum()
}

pub(super) async fn put(
    transport: &Transport,
    key: &Key,
    body: &Bytes,
    ttl: Duration,
    tags: &[Tag],
) -> Result<(), CacheError> {
    let limits = transport.limits();
    let (bytes, most) = (body.len(), limits.max_value_bytes);
    if bytes > most {
        return Err(CacheError::TooLarge(format!(
            "the value of {key} has {bytes} bytes, up to {most} are stored"
        )));
    }
    let ttl = ttl.min(LONGEST_TTL).as_millis().max(1).to_string();
    let name = Bytes::from(key.to_string());
    let indexes = tags
        .iter()
        .map(|tag| Bytes::from(tag.members_key(transport.shard(tag.as_str()))));
    let deadline = transport.server().command_timeout;
    if !limits.is_cluster {
        let keys = std::iter::once(name).chain(indexes);
        let put = CacheCommand::script(PUT, keys, [body.clone(), ttl.into()]);
        return transport.call(&put, deadline).await.map(drop);
    }
    let register: Vec<CacheCommand> = indexes
        .map(|index| CacheCommand::script(REGISTER, [index], [name.clone(), ttl.clone().into()]))
        .collect();
    let mut expires_at = None;
    for reply in transport.call_all(&register).await {
        let at = reply?.text().and_then(|ms| ms.parse::<u64>().ok());
        let at = at.ok_or_else(|| transport.unexpected_reply("a time"))?;
        expires_at = Some(expires_at.map_or(at, |earliest: u64| earliest.min(at)));
    }
    let (option, value) = match expires_at {
        Some(at) => ("PXAT", at.to_string()),
        None => ("PX", ttl),
    };
    let args = [body.clone(), option.into(), value.into()];
    let put = CacheCommand::named("SET", [name], args);
    transport.call(&put, deadline).await.map(drop)
}

pub(super) async fn scan(
    transport: &Transport,
    prefix: &str,
    max: usize,
) -> Result<ScanResult, CacheError> {
    let pattern = Bytes::from(Key::prefix_glob(prefix));
    let (mut found, mut is_truncated) = (BTreeSet::new(), false);
    let mut pages = 0;
    'nodes: for node in transport.nodes() {
        let mut cursor = Bytes::from_static(b"0");
        loop {
            if pages == SCAN_PAGES || found.len() > max {
                is_truncated = true;
                break 'nodes;
            }
            pages += 1;
            let args = [
                cursor,
                "MATCH".into(),
                pattern.clone(),
                "COUNT".into(),
                SCAN_COUNT.into(),
            ];
            let scan = CacheCommand::named("SCAN", NO_ARGS, args);
            let page = transport.call_at(node, &scan).await?.page(1);
            let (next, names) = page.ok_or_else(|| transport.unexpected_reply("a page"))?;
            // Managed names and names that are not text are left out.
            let text = |name| std::str::from_utf8(name).ok();
            found.extend(
                names
                    .iter()
                    .filter_map(|name| Key::from_unmanaged(text(name)?)),
            );
            cursor = next;
            if *cursor == *b"0" {
                break;
            }
        }
    }
    is_truncated |= found.len() > max;
    let keys = found.into_iter().take(max).collect();
    Ok(ScanResult { keys, is_truncated })
}
