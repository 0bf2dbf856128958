//! HTTP/2: frames, HPACK, flow control, and one state machine for both ends of a
//! connection.
//!
//! [`Connection`] is pure: bytes in, streams and bytes out. [`Driver`] moves the
//! bytes, and a [`StreamHandle`] is what a stream's task holds. All of a
//! connection is on one thread; a batch of frames is read with one system call,
//! its streams run, and what they answer leaves with one write.

mod connection;
mod drive;
mod fields;
mod flow;
pub mod frame;
mod guard;
mod handle;
pub mod hpack;
mod inbox;
#[doc(hidden)]
pub mod probe;
mod receive;
mod send;
mod stream;
#[cfg(test)]
mod tests;

pub(crate) use connection::{Accepted, Connection, Role};
pub(crate) use drive::{Closed, Driver};
pub(crate) use fields::ListLimits;
pub(crate) use frame::Reason;
pub(crate) use handle::{Shared, StreamHandle};
pub(crate) use stream::Ended;

use crate::headers::Headers;

/// Fields behind a body.
pub(crate) type Trailers = Box<Headers>;
