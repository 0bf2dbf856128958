//! Moves a connection's bytes: one task reads, lets the streams run, and writes
//! what they left in one go.

use std::task::{Context, Poll};

use super::connection::ConnectionError;
use super::handle::Shared;
use crate::clock;
use crate::io::{Io, Reader};
use crate::transport::TransportFailure;

/// Reads in a row before other tasks get their turn.
const READS: usize = 8;

/// Why a connection needs its driver no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closed {
    /// The peer has closed it, or it broke.
    Gone,
    /// The peer refused it by a TLS alert before it had sent a byte: with TLS 1.3
    /// a server looks at the client's certificate after the handshake.
    Refused(TransportFailure),
    /// The peer broke the protocol. What is to be said is still to be written.
    Error(ConnectionError),
}

/// The socket of a connection.
pub(crate) struct Driver {
    pub(crate) io: Io,
    pub(crate) reader: Reader,
    pub(crate) shared: Shared,
    /// What was read before this is to be looked at.
    fresh: bool,
}

impl Driver {
    /// `reader` may have bytes already.
    pub(crate) fn new(io: Io, reader: Reader, shared: Shared) -> Self {
        Self { io, reader, shared, fresh: true }
    }

    /// Reads and writes what can be. Ready at the connection's end; its streams
    /// know by then.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Closed> {
        let closed = self.step(cx);
        if let Poll::Ready(closed) = closed {
            let mut connection = self.shared.borrow_mut();
            match closed {
                Closed::Gone => connection.fail(None),
                Closed::Refused(failure) => connection.refused(failure),
                Closed::Error(error) => connection.fail(Some(error)),
            }
        }
        closed
    }

    fn step(&mut self, cx: &mut Context<'_>) -> Poll<Closed> {
        let Self { io, reader, shared, fresh } = self;
        let mut connection = shared.borrow_mut();
        connection.unpark(clock::now());
        let mut read = 0;
        let mut more = std::mem::take(fresh) && !reader.buf.is_empty();
        loop {
            if more && let Err(e) = connection.receive(&mut reader.buf) {
                return Poll::Ready(Closed::Error(e));
            }
            if read == READS {
                cx.waker().wake_by_ref();
                break;
            }
            match reader.poll_fill(io, cx) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Closed::Gone),
                Poll::Ready(Err(e)) => {
                    let refused = TransportFailure::of_late_alert(&e);
                    let refused = refused.filter(|_| reader.total == 0);
                    return Poll::Ready(refused.map_or(Closed::Gone, Closed::Refused));
                }
                Poll::Ready(Ok(_)) => (more, read) = (true, read + 1),
                Poll::Pending => break,
            }
        }
        connection.batch_end();
        loop {
            match connection.out.poll_flush(io, cx) {
                Poll::Ready(Ok(())) => connection.flushed(),
                Poll::Ready(Err(_)) => return Poll::Ready(Closed::Gone),
                Poll::Pending => break,
            }
            // There is room again for those that waited for the socket.
            connection.pump();
            if connection.out.is_empty() {
                break;
            }
        }
        if connection.open_streams() == 0 {
            reader.relax();
        }
        connection.park(cx);
        Poll::Pending
    }

    /// All bytes read and written.
    pub(crate) fn moved(&self) -> (u64, u64) {
        (self.reader.total, self.shared.borrow().out.total)
    }

    /// Writes what is left to say.
    pub(crate) fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.shared.borrow_mut().out.poll_flush(&mut self.io, cx)
    }
}
