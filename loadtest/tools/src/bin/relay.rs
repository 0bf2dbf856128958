//! The least that a proxy costs which takes a message from one socket and puts it
//! into another with a system call each: copies bytes both ways between a client's
//! connection and one of its own to the upstream, and looks at none of them.
//!
//!     relay PORT UPSTREAM_PORT
//!
//! Messages that a socket does not take at once end their connections: it is there
//! for requests of 1 KB, one at a time on a connection.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Context;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

const ACCEPT: Token = Token(usize::MAX);

/// Two sockets: the client's has the even token, the upstream's the odd one.
type Pair = [TcpStream; 2];

fn main() -> anyhow::Result<()> {
    let ports: Vec<u16> =
        std::env::args().skip(1).map(|a| a.parse()).collect::<Result<_, _>>().context("ports")?;
    let [port, upstream] = ports[..] else { anyhow::bail!("relay PORT UPSTREAM_PORT") };
    let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut listener = TcpListener::bind(at(port))?;
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, ACCEPT, Interest::READABLE)?;
    let mut events = Events::with_capacity(1024);
    let mut pairs: Vec<Option<Pair>> = Vec::new();
    let mut buffer = vec![0_u8; 64 << 10];
    loop {
        match poll.poll(&mut events, None) {
            // It was stopped for a while, so that another could be measured.
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            done => done?,
        }
        for event in &events {
            let Token(token) = event.token();
            if event.token() == ACCEPT {
                while let Ok((client, _)) = listener.accept() {
                    let pair = connect(client, at(upstream))?;
                    pairs.push(Some(register(&poll, pair, 2 * pairs.len())?));
                }
            } else if event.is_readable()
                && let Some(pair) = &mut pairs[token / 2]
                && !copy(pair, token % 2, &mut buffer)
            {
                pairs[token / 2] = None;
            }
        }
    }
}

fn connect(client: TcpStream, upstream: SocketAddr) -> anyhow::Result<Pair> {
    // Made at once, so that what the client has sent finds it open.
    let made = std::net::TcpStream::connect(upstream)?;
    made.set_nonblocking(true)?;
    let pair = [client, TcpStream::from_std(made)];
    for socket in &pair {
        socket.set_nodelay(true)?;
    }
    Ok(pair)
}

fn register(poll: &Poll, mut pair: Pair, first: usize) -> anyhow::Result<Pair> {
    for (side, socket) in pair.iter_mut().enumerate() {
        poll.registry().register(socket, Token(first + side), Interest::READABLE)?;
    }
    Ok(pair)
}

/// Copies what there is; false if either end is over.
fn copy(pair: &mut Pair, from: usize, buffer: &mut [u8]) -> bool {
    loop {
        match pair[from].read(buffer) {
            Ok(0) => return false,
            Ok(n) => {
                if pair[1 - from].write_all(&buffer[..n]).is_err() {
                    return false;
                }
                // A short read took all there was.
                if n < buffer.len() {
                    return true;
                }
            }
            Err(e) => return e.kind() == ErrorKind::WouldBlock,
        }
    }
}
