//! Listening sockets: opened, kept and closed as snapshots are published.
//!
//! Every worker has its own socket per listener (SO_REUSEPORT). A listener that
//! changes but keeps its address keeps its sockets; its connections see the new
//! settings with their next request.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::mpsc::UnboundedSender;

use crate::model::{ListenerKind, Snapshot};
use crate::plane::Plane;
use crate::worker::Command;

/// Pending connections per socket. Envoy: `tcp_backlog_size` unset is 128 or
/// the system's limit; a burst of new clients must not meet a full queue.
const BACKLOG: i32 = 4096;

/// Listeners that could not be opened: name and reason.
pub type ListenerErrors = Vec<(String, String)>;

#[derive(Debug)]
struct Open {
    name: Arc<str>,
    address: SocketAddr,
}

/// Keeps the sockets in step with what is published. Lives on the control
/// thread.
#[derive(Debug)]
pub struct ListenerManager {
    plane: Arc<Plane>,
    workers: Vec<UnboundedSender<Command>>,
    open: Vec<Open>,
}

impl ListenerManager {
    /// A manager that hands sockets to these workers.
    #[must_use]
    pub fn new(plane: Arc<Plane>, workers: Vec<UnboundedSender<Command>>) -> Self {
        Self { plane, workers, open: Vec::new() }
    }

    /// Opens what is new in a snapshot that was just published and closes what
    /// is gone.
    ///
    /// # Errors
    /// Names each listener that could not be opened and why; everything else is
    /// in force.
    pub fn apply(&mut self, snapshot: &Snapshot) -> Result<(), ListenerErrors> {
        self.close_missing(snapshot);
        let mut errors = ListenerErrors::new();
        for listener in &snapshot.listeners {
            let config = &listener.config;
            let data = matches!(config.kind, ListenerKind::Data { .. });
            if !data || self.is_open(config) || self.plane.drain().listeners {
                continue;
            }
            // Its statistics are there, as zeros, before its first connection.
            self.plane.stats.listener(&config.stat_prefix, config.address);
            match self.bind(config.address) {
                Ok(sockets) => self.open(config.name.as_str().into(), config.address, sockets),
                Err(e) => {
                    let reason = format!("cannot bind '{}': {e}", config.address);
                    errors.push((config.name.clone(), reason));
                }
            }
        }
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    fn open(&mut self, name: Arc<str>, address: SocketAddr, sockets: Vec<std::net::TcpListener>) {
        for (worker, socket) in self.workers.iter().zip(sockets) {
            let _ = worker.send(Command::Listen { name: Arc::clone(&name), address, socket });
        }
        self.open.push(Open { name, address });
    }

    fn is_open(&self, config: &crate::model::ListenerConfig) -> bool {
        self.open.iter().any(|o| *o.name == *config.name && o.address == config.address)
    }

    fn close_missing(&mut self, snapshot: &Snapshot) {
        let workers = &self.workers;
        self.open.retain(|open| {
            let stays = snapshot
                .listener(&open.name)
                .is_some_and(|listener| listener.config.address == open.address);
            if !stays {
                for worker in workers {
                    let _ = worker.send(Command::Close {
                        name: Arc::clone(&open.name),
                        address: open.address,
                    });
                }
            }
            stays
        });
    }

    fn bind(&self, address: SocketAddr) -> io::Result<Vec<std::net::TcpListener>> {
        self.workers.iter().map(|_| bind_one(address)).collect()
    }
}

fn bind_one(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    // Linux passes it on to the connections.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connections_send_at_once() {
        let socket = bind_one(([127, 0, 0, 1], 0).into()).unwrap();
        let socket = tokio::net::TcpListener::from_std(socket).unwrap();
        let client = tokio::net::TcpStream::connect(socket.local_addr().unwrap());
        let (_client, accepted) = tokio::join!(client, socket.accept());
        assert!(accepted.unwrap().0.nodelay().unwrap());
    }
}
