//! Radiant: the inference data plane of a Seldon Core 2 mesh.

pub mod access_log;
pub mod admin;
pub mod config;
pub mod demo;
pub mod dns;
pub mod drain;
pub mod headers;
pub mod http1;
pub mod http2;
pub mod listener;
pub mod logic;
pub mod model;
pub mod plane;
pub mod pool;
pub mod router;
pub mod run;
pub mod seldon;
pub mod seldon_stats;
pub mod stats;
pub mod tap;
pub mod tls;
pub mod upstream;
pub mod worker;
pub mod xds;
