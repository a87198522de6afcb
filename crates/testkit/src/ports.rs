//! Loopback ports for servers that are closed and opened again under the same number.
//!
//! The kernel gives "any port" and the near end of every connection a number of its ephemeral range,
//! so a server that is down for a moment could find its number taken. The ports of this module lie
//! below that range, are given out once, and another run of the tests is given others.

use std::net::TcpListener;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};

/// Linux gives ephemeral ports from 32768 on; well-known servers live below these.
const FIRST: u16 = 10_000;
const BLOCKS: u16 = 20;
const BLOCK: u16 = 1_000;

/// The ports of this process: the process that listens on the first port of a block owns the block.
struct PortBlock {
    _claim: TcpListener,
    next: AtomicU16,
    end: u16,
}

fn port_block() -> &'static PortBlock {
    static OWN: OnceLock<PortBlock> = OnceLock::new();
    OWN.get_or_init(|| {
        let first = (std::process::id() % u32::from(BLOCKS)) as u16;
        let mut blocks = (0..BLOCKS).map(|n| FIRST + (first + n) % BLOCKS * BLOCK);
        let claim = blocks.find_map(|port| Some((port, bind(port)?)));
        let (port, claim) = claim.expect("a block of ports is free");
        PortBlock {
            _claim: claim,
            next: AtomicU16::new(port + 1),
            end: port + BLOCK,
        }
    })
}

fn bind(port: u16) -> Option<TcpListener> {
    TcpListener::bind(("127.0.0.1", port)).ok()
}

fn next_listener() -> (u16, TcpListener) {
    let block = port_block();
    loop {
        let port = block.next.fetch_add(1, Ordering::Relaxed);
        assert!(port < block.end, "{BLOCK} ports are not enough for one run");
        if let Some(listener) = bind(port) {
            return (port, listener);
        }
    }
}

/// A port on which nothing listens. A server that cannot bind it (another program was faster) asks for
/// the next one.
pub fn free_port() -> u16 {
    next_listener().0
}

/// A bound listener; its port can be closed and bound again.
pub fn listener() -> tokio::net::TcpListener {
    let (_, listener) = next_listener();
    listener.set_nonblocking(true).expect("a socket option");
    tokio::net::TcpListener::from_std(listener).expect("inside a runtime")
}
