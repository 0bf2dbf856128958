//! What updates cost whoever does nothing but take them in: as many bytes a second from
//! one process to another, which looks at none of them.
//!
//!     pour from BYTES RATE    # prints its port; BYTES at once, RATE times a second
//!     pour into PORT
//!
//! Both go on until they are ended.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::Context;

/// What the control plane hands over at a time, and what a gRPC client reads at a time.
const WRITE: usize = 16 << 10;
const READ: usize = 8 << 10;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["from", bytes, rate] => {
            from(bytes.parse().context("BYTES")?, rate.parse().context("RATE")?)
        }
        ["into", port] => into(port.parse().context("PORT")?),
        _ => anyhow::bail!("pour from BYTES RATE, or pour into PORT"),
    }
}

fn from(bytes: usize, rate: f64) -> anyhow::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    println!("{}", listener.local_addr()?.port());
    let (mut to, _) = listener.accept()?;
    to.set_nodelay(true)?;
    let block = [0; WRITE];
    let started = Instant::now();
    for number in 1_u32.. {
        let mut left = bytes;
        while left > 0 {
            let part = left.min(WRITE);
            to.write_all(&block[..part])?;
            left -= part;
        }
        let due = Duration::from_secs_f64(f64::from(number) / rate);
        std::thread::sleep(due.saturating_sub(started.elapsed()));
    }
    Ok(())
}

fn into(port: u16) -> anyhow::Result<()> {
    let mut from = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    let mut buffer = [0; READ];
    while from.read(&mut buffer)? > 0 {}
    Ok(())
}
