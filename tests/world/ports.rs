//! Ports that are a story's own. The kernel hands out numbers from its ephemeral range for "any
//! port" and for the near end of every connection, so a server that is down for a moment can find
//! its number taken, and a port where nobody should answer can be answered. These lie below that
//! range, no number is given twice, and no other run of the tests is given the same ones.

use std::net::TcpListener;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};

/// Linux gives ephemeral ports from 32768 on; well-known servers live below these.
const FIRST: u16 = 10_000;
const BLOCKS: u16 = 20;
const BLOCK: u16 = 1_000;

/// This process' block: whoever listens on the first port of a block has the rest of it.
struct Block {
    _claim: TcpListener,
    next: AtomicU16,
    end: u16,
}

fn block() -> &'static Block {
    static BLOCK_OF_OURS: OnceLock<Block> = OnceLock::new();
    BLOCK_OF_OURS.get_or_init(|| {
        let first = std::process::id() as u16 % BLOCKS;
        let blocks = (0..BLOCKS).map(|n| FIRST + (first + n) % BLOCKS * BLOCK);
        let mut claims = blocks.filter_map(|port| Some((port, bind(port)?)));
        let (port, claim) = claims.next().expect("a block of ports is free");
        Block {
            _claim: claim,
            next: AtomicU16::new(port + 1),
            end: port + BLOCK,
        }
    })
}

fn bind(port: u16) -> Option<TcpListener> {
    TcpListener::bind(("127.0.0.1", port)).ok()
}

/// A port on which nobody listens, nor will but whoever got it from here.
pub fn free_port() -> u16 {
    let block = block();
    loop {
        let port = block.next.fetch_add(1, Ordering::Relaxed);
        assert!(port < block.end, "{BLOCK} ports are not enough for one run");
        if bind(port).is_some() {
            return port;
        }
    }
}

/// A listener on a port of our own, which can be closed and opened again.
pub async fn listener() -> tokio::net::TcpListener {
    let port = free_port();
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await;
    listener.expect("the port is ours")
}
