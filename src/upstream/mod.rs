//! The upstream ends of an exchange.

mod h1;
mod h2;

pub(crate) use h1::Http1;
pub(crate) use h2::Http2;
