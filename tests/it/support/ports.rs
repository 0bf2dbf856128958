//! Ports for one test. The proxy shares its ports by SO_REUSEPORT, so two tests
//! with the same one would not fail but mix: hence a reservation that other
//! tests, and other test processes, respect.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};

/// Below the ports that systems give to clients.
const FIRST: u16 = 12_000;
const BLOCKS: u32 = 2_000;
const BLOCK: u16 = 8;

/// Eight ports in a row, in the order of the demo: requests, mirrors,
/// scheduler, utility, control, admin, and two to spare.
#[derive(Debug)]
pub(crate) struct Ports {
    pub(crate) first: u16,
    /// The reservation: nobody else gets this UDP port meanwhile.
    _lock: UdpSocket,
}

impl Ports {
    pub(crate) fn reserve() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // Far from where another test process begins.
        let start = std::process::id().wrapping_mul(37);
        for _ in 0..BLOCKS {
            let block = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % BLOCKS;
            let first = FIRST + u16::try_from(block).unwrap() * BLOCK;
            let Ok(lock) = UdpSocket::bind(("127.0.0.1", first)) else { continue };
            let free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
            if (first..first + BLOCK).all(free) {
                return Self { first, _lock: lock };
            }
        }
        panic!("no free ports")
    }

    /// The n-th of them on loopback.
    pub(crate) fn addr(&self, n: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.first + n))
    }
}
