//! The control plane of the load test: the embedded scheduler with as many
//! models as asked for, all on the same upstream, and an experiment whose weights
//! it changes on command.
//!
//!     control XDS_PORT PROXY_PORT MIRROR_PORT HTTP_UPSTREAM GRPC_UPSTREAM STREAM_UPSTREAM MODELS
//!
//! Models: `iris`, `stream` (on STREAM_UPSTREAM) and `model-000000` and so on.
//! Prints `ready`, then answers commands from standard input, a line of JSON each:
//!
//! | command | effect | answer |
//! |---|---|---|
//! | `flip N` | N times the weights of the experiment `ab` change from all to nothing; asks PROXY_PORT until the answer comes from the other arm | `in_force_ms`: from the scheduler's call; `after_arrival_ms`: from the last piece of the update that was handed to the proxy's socket; `bytes`: handed to it for each change |
//! | `churn RATE SECONDS` | as many changes a second | `changes` |
//! | `wait` | waits until all is acknowledged, three minutes at most | `settled` |

use std::io::{BufRead as _, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use radiant::demo::scheduler::{
    ModelSpec, Operation, Scheduler, SchedulerHandle, SchedulerOptions,
};
use radiant::seldon::{Backend, Experiment, ListenerOptions};
use serde_json::json;

const EXPERIMENT: &str = "ab";
const ARMS: [&str; 2] = ["arm-a", "arm-b"];
/// A change that is not in force after this was lost.
const LIMIT: Duration = Duration::from_secs(30);
/// Pieces smaller than this are the protocol's own chatter, not an update.
const CHATTER: usize = 512;

struct Arguments {
    xds: u16,
    proxy: u16,
    mirror: u16,
    http: u16,
    grpc: u16,
    stream: u16,
    models: usize,
}

fn arguments() -> anyhow::Result<Arguments> {
    let given: Vec<usize> =
        std::env::args().skip(1).map(|a| a.parse()).collect::<Result<_, _>>().context("numbers")?;
    let [xds, proxy, mirror, http, grpc, stream, models] = given[..] else {
        anyhow::bail!("seven numbers are needed: see the top of this program's source")
    };
    let port = |n: usize| u16::try_from(n).context("a port");
    Ok(Arguments {
        xds: port(xds)?,
        proxy: port(proxy)?,
        mirror: port(mirror)?,
        http: port(http)?,
        grpc: port(grpc)?,
        stream: port(stream)?,
        models,
    })
}

fn load(name: String, http: u16, grpc: u16) -> Operation {
    let backends = vec![Backend::new("127.0.0.1", http, grpc)];
    Operation::LoadModel(ModelSpec { name, backends, log_payloads: false })
}

fn weights(first: bool) -> Operation {
    let [a, b] = if first { [100, 0] } else { [0, 100] };
    Operation::StartExperiment(Experiment {
        name: EXPERIMENT.to_owned(),
        candidates: vec![(ARMS[0].to_owned(), a), (ARMS[1].to_owned(), b)],
        ..Experiment::default()
    })
}

fn start(arguments: &Arguments) -> anyhow::Result<Scheduler> {
    let Arguments { http, grpc, .. } = *arguments;
    let mut operations = vec![load("iris".to_owned(), http, grpc)];
    operations.push(load("stream".to_owned(), http, arguments.stream));
    operations.extend(ARMS.map(|name| load(name.to_owned(), http, grpc)));
    let synthetic = (0..arguments.models).map(|n| load(format!("model-{n:06}"), http, grpc));
    operations.extend(synthetic);
    operations.push(weights(true));
    let host = Ipv4Addr::LOCALHOST.to_string();
    let options = SchedulerOptions {
        listeners: ListenerOptions {
            http_host: host.clone(),
            http_port: arguments.proxy,
            mirror_host: host,
            mirror_port: arguments.mirror,
            ..ListenerOptions::default()
        },
        ..SchedulerOptions::default()
    };
    Ok(Scheduler::start_with(&options, operations)?)
}

/// What was handed to the proxy's socket.
#[derive(Default)]
struct Handed {
    /// When the last piece of an update was, in nanoseconds after the start.
    last: AtomicU64,
    bytes: AtomicU64,
}

/// Stands between the proxy and the scheduler and remembers when it handed over
/// the last piece of an update, and how much it has handed over.
fn relay(listener: TcpListener, to: SocketAddr, zero: Instant, handed: &Arc<Handed>) {
    let handed = Arc::clone(handed);
    std::thread::spawn(move || {
        for down in listener.incoming().flatten() {
            let Ok(up) = TcpStream::connect(to) else { continue };
            let _ = (down.set_nodelay(true), up.set_nodelay(true));
            let (Ok(down_back), Ok(up_back)) = (down.try_clone(), up.try_clone()) else { continue };
            let handed = Arc::clone(&handed);
            std::thread::spawn(move || copy(down, up, |_| {}));
            std::thread::spawn(move || {
                copy(up_back, down_back, |n| {
                    handed.bytes.fetch_add(n as u64, Ordering::Relaxed);
                    if n >= CHATTER {
                        handed.last.store(zero.elapsed().as_nanos() as u64, Ordering::Release);
                    }
                });
            });
        }
    });
}

fn copy(mut from: TcpStream, mut to: TcpStream, mut written: impl FnMut(usize)) {
    // No more at a time than the kernel copies while somebody waits for this core.
    let mut buffer = vec![0; 16 << 10];
    while let Ok(n) = from.read(&mut buffer) {
        if n == 0 || to.write_all(&buffer[..n]).is_err() {
            break;
        }
        written(n);
    }
    let _ = to.shutdown(std::net::Shutdown::Write);
}

/// A connection to the proxy that asks which arm serves.
struct Probe {
    socket: TcpStream,
    buffer: Vec<u8>,
}

impl Probe {
    fn new(port: u16) -> anyhow::Result<Self> {
        let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(LIMIT))?;
        Ok(Self { socket, buffer: vec![0; 4096] })
    }

    /// True if the first arm answered.
    fn first_arm(&mut self) -> anyhow::Result<bool> {
        write!(
            self.socket,
            "GET /v2/models/ab/infer HTTP/1.1\r\nhost: x\r\nseldon-model: {EXPERIMENT}.experiment\r\n\r\n"
        )?;
        let mut filled = 0;
        loop {
            let n = self.socket.read(&mut self.buffer[filled..])?;
            anyhow::ensure!(n > 0, "the proxy closed the probe's connection");
            filled += n;
            let text = std::str::from_utf8(&self.buffer[..filled])?.to_ascii_lowercase();
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            anyhow::ensure!(head.starts_with("http/1.1 200"), "the probe got {head}");
            let length = head
                .lines()
                .find_map(|l| l.strip_prefix("content-length:"))
                .context("a length")?
                .trim()
                .parse::<usize>()?;
            if body.len() >= length {
                return Ok(head.contains(&format!("x-seldon-route: :{}_1:", ARMS[0])));
            }
        }
    }
}

struct Session {
    scheduler: SchedulerHandle,
    proxy: u16,
    zero: Instant,
    handed: Arc<Handed>,
    first: bool,
}

impl Session {
    fn change(&mut self) {
        self.first = !self.first;
        self.scheduler.apply(weights(self.first));
    }

    fn flip(&mut self, times: usize) -> anyhow::Result<serde_json::Value> {
        let mut probe = Probe::new(self.proxy)?;
        let (mut in_force, mut after_arrival) = (Vec::new(), Vec::new());
        let before = self.handed.bytes.load(Ordering::Relaxed);
        for _ in 0..times {
            anyhow::ensure!(self.scheduler.wait_settled(LIMIT), "not acknowledged");
            anyhow::ensure!(probe.first_arm()? == self.first, "not the arm of before");
            let started = Instant::now();
            self.change();
            while probe.first_arm()? != self.first {
                anyhow::ensure!(started.elapsed() < LIMIT, "the change was lost");
            }
            let now = self.zero.elapsed();
            in_force.push(started.elapsed().as_secs_f64() * 1e3);
            let handed = Duration::from_nanos(self.handed.last.load(Ordering::Acquire));
            after_arrival.push(now.saturating_sub(handed).as_secs_f64() * 1e3);
        }
        let bytes = (self.handed.bytes.load(Ordering::Relaxed) - before) / times as u64;
        Ok(json!({"in_force_ms": in_force, "after_arrival_ms": after_arrival, "bytes": bytes}))
    }

    fn churn(&mut self, rate: f64, seconds: f64) -> serde_json::Value {
        let (started, mut changes) = (Instant::now(), 0_u32);
        while started.elapsed().as_secs_f64() < seconds {
            let due = Duration::from_secs_f64(f64::from(changes) / rate);
            std::thread::sleep(due.saturating_sub(started.elapsed()));
            self.change();
            changes += 1;
        }
        json!({"changes": changes})
    }

    fn command(&mut self, line: &str) -> anyhow::Result<serde_json::Value> {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["flip", times] => self.flip(times.parse()?),
            ["churn", rate, seconds] => Ok(self.churn(rate.parse()?, seconds.parse()?)),
            ["wait"] => {
                let limit = Duration::from_secs(180);
                let settled =
                    self.scheduler.wait_streams(1, limit) && self.scheduler.wait_settled(limit);
                Ok(json!({"settled": settled, "refused": self.scheduler.nacks()}))
            }
            _ => anyhow::bail!("no such command: {line}"),
        }
    }
}

fn main() -> anyhow::Result<()> {
    let arguments = arguments()?;
    let scheduler = start(&arguments)?;
    let (zero, handed) = (Instant::now(), Arc::new(Handed::default()));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, arguments.xds))?;
    relay(listener, scheduler.addr(), zero, &handed);
    println!("ready");
    let proxy = arguments.proxy;
    let mut session =
        Session { scheduler: scheduler.handle().clone(), proxy, zero, handed, first: true };
    for line in std::io::stdin().lock().lines() {
        match session.command(&line?) {
            Ok(answer) => println!("{answer}"),
            Err(error) => println!("{}", json!({"error": format!("{error:#}")})),
        }
    }
    Ok(())
}
