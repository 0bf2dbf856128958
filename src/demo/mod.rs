//! The demo: a whole mesh in one process. An embedded scheduler, model servers
//! and a pipeline gateway on loopback, with an experiment running between them,
//! and (unless told otherwise) the proxy in front.

pub mod control;
pub mod models;
pub mod scheduler;
mod text;

use crate::config::{AdsSettings, Settings, Source};
use crate::run::{Hooks, Proxy};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use models::{ModelServers, ServerKind, ServerOptions};
use scheduler::{ModelSpec, Operation, Scheduler, SchedulerHandle, SchedulerOptions};

use crate::seldon::{Backend, Experiment, ListenerOptions, Pipeline};

/// The experiment of the demo.
pub const EXPERIMENT: &str = "financial-ab-test-experiment";
/// Its default and first arm.
pub const BASELINE: &str = "baseline-predictor";
/// Its second arm.
pub const ENHANCED: &str = "enhanced-predictor";
/// Gets copies of the requests of [`MIRROR_EXPERIMENT`].
pub const SHADOW: &str = "shadow-predictor";
/// An experiment with a mirror.
pub const MIRROR_EXPERIMENT: &str = "mirror-experiment";
/// A pipeline.
pub const PIPELINE: &str = "fraud-pipeline";

/// How to run the demo.
#[derive(Clone, Debug)]
pub struct DemoOptions {
    /// First of the ports. None: those of a Seldon installation (9000, mirrors
    /// 9001, scheduler 9002, utility 9003, admin 9901, control 9004). 0: free
    /// ones. Any other: this one for requests, and mirrors, scheduler, utility,
    /// control and admin on the five after it.
    pub port: Option<u16>,
    /// Address of all of them.
    pub host: IpAddr,
    /// Synthetic models besides those of the demo, `model-00000` and so on.
    pub models: usize,
    /// How long the scheduler collects changes of models.
    pub batch: Duration,
    /// Run the proxy too. Without it the demo is a scheduler and model servers
    /// for some other proxy.
    pub proxy: bool,
}

impl Default for DemoOptions {
    fn default() -> Self {
        Self {
            port: None,
            host: IpAddr::V4(Ipv4Addr::LOCALHOST),
            models: 0,
            batch: Duration::from_millis(250),
            proxy: true,
        }
    }
}

/// Where everything listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DemoPorts {
    /// Requests (listener `seldon_http`); opened by the proxy.
    pub http: u16,
    /// Copies of requests (listener `seldon_mirrors`); opened by the proxy.
    pub mirrors: u16,
    /// Discovery; opened by the scheduler.
    pub scheduler: u16,
    /// Readiness and metrics; opened by the proxy.
    pub utility: u16,
    /// The scheduler's HTTP API.
    pub control: u16,
    /// Administration; opened by the proxy.
    pub admin: u16,
}

impl DemoPorts {
    /// The ports that [`DemoOptions::port`] stands for.
    ///
    /// # Errors
    ///
    /// There are no free ports, or none after the given one.
    pub fn choose(host: IpAddr, port: Option<u16>) -> io::Result<Self> {
        let [http, mirrors, scheduler, utility, control, admin] = match port {
            None => [9000, 9001, 9002, 9003, 9004, 9901],
            Some(0) => free_ports(host)?,
            Some(first) => {
                if first.checked_add(5).is_none() {
                    let message = format!("port {first}: there are no five ports after it");
                    return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
                }
                std::array::from_fn(|n| first + n as u16)
            }
        };
        Ok(Self { http, mirrors, scheduler, utility, control, admin })
    }
}

/// Ports that were free a moment ago: held all at once, so that they differ.
fn free_ports<const N: usize>(host: IpAddr) -> io::Result<[u16; N]> {
    let mut held = Vec::with_capacity(N);
    for _ in 0..N {
        held.push(TcpListener::bind((host, 0))?);
    }
    let mut ports = [0; N];
    for (port, listener) in ports.iter_mut().zip(&held) {
        *port = listener.local_addr()?.port();
    }
    Ok(ports)
}

/// A listening socket on `runtime`, which need not run: callable from anywhere,
/// tasks of another runtime included.
fn listen(
    runtime: &tokio::runtime::Runtime,
    addr: SocketAddr,
) -> io::Result<tokio::net::TcpListener> {
    let _entered = runtime.enter();
    let socket = match addr {
        SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4()?,
        SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6()?,
    };
    // A restarted scheduler takes the port that it had before.
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    socket.listen(BACKLOG)
}

/// Connections that wait to be accepted; a load test opens hundreds at once.
const BACKLOG: u32 = 1024;

/// Where models can be placed.
#[derive(Clone, Debug)]
pub(crate) struct Backends {
    servers: Vec<Backend>,
    gateways: Vec<Backend>,
}

impl Backends {
    /// Replicas for a model, on servers that depend on its name only.
    fn place(&self, name: &str, replicas: usize) -> Vec<Backend> {
        let first = name.bytes().map(usize::from).sum::<usize>();
        let replicas = replicas.min(self.servers.len());
        (0..replicas).map(|n| self.servers[(first + n) % self.servers.len()].clone()).collect()
    }
}

/// A running demo, the proxy aside. Dropped, all of it ends.
#[derive(Debug)]
pub struct Demo {
    // The scheduler goes first, so that nobody is told of servers that are gone.
    scheduler: Scheduler,
    servers: ModelServers,
    host: IpAddr,
    ports: DemoPorts,
    models: usize,
}

impl Demo {
    /// Starts model servers, gateway and scheduler and loads the demo's models,
    /// experiments and pipeline.
    ///
    /// # Errors
    ///
    /// A port is taken, or there are no threads to be had.
    pub fn start(options: &DemoOptions) -> io::Result<Self> {
        let ports = DemoPorts::choose(options.host, options.port)?;
        let servers = ModelServers::start(&[
            ServerOptions::new("mlserver-0", ServerKind::Models),
            ServerOptions::new("mlserver-1", ServerKind::Models),
            ServerOptions::new("pipeline-gateway", ServerKind::PipelineGateway),
        ])?;
        let at = |n: usize| {
            let addr: SocketAddr = servers.addrs()[n];
            Backend::new(addr.ip().to_string(), addr.port(), addr.port())
        };
        let backends = Backends { servers: vec![at(0), at(1)], gateways: vec![at(2)] };
        let control = TcpListener::bind((options.host, ports.control))?;
        control.set_nonblocking(true)?;
        let host = options.host.to_string();
        let scheduler = Scheduler::start_with(
            &SchedulerOptions {
                addr: SocketAddr::new(options.host, ports.scheduler),
                batch: options.batch,
                listeners: ListenerOptions {
                    http_host: host.clone(),
                    http_port: ports.http,
                    mirror_host: host,
                    mirror_port: ports.mirrors,
                    ..ListenerOptions::default()
                },
                ..SchedulerOptions::default()
            },
            operations(&backends, options.models),
        )?;
        let handle = scheduler.handle();
        handle.spawn(control::serve(control, handle.clone(), backends));
        Ok(Self { scheduler, servers, host: options.host, ports, models: options.models })
    }

    /// Where the scheduler answers discovery requests.
    #[must_use]
    pub fn scheduler_addr(&self) -> SocketAddr {
        self.scheduler.addr()
    }

    /// Where the scheduler's HTTP API is.
    #[must_use]
    pub fn control_addr(&self) -> SocketAddr {
        SocketAddr::new(self.host, self.ports.control)
    }

    /// All the ports; those of the proxy are for the proxy to open.
    #[must_use]
    pub fn ports(&self) -> DemoPorts {
        self.ports
    }

    /// The scheduler.
    #[must_use]
    pub fn scheduler(&self) -> &SchedulerHandle {
        self.scheduler.handle()
    }

    /// Settings of a proxy for this demo: its scheduler and its ports, the rest
    /// as in `settings`.
    #[must_use]
    pub fn settings(&self, mut settings: Settings) -> Settings {
        let scheduler = self.scheduler_addr();
        settings.source = Source::Scheduler(Box::new(AdsSettings {
            host: scheduler.ip().to_string(),
            port: scheduler.port(),
            ..AdsSettings::default()
        }));
        settings.admin = Some(SocketAddr::new(self.host, self.ports.admin));
        if let Some(utility) = &mut settings.utility {
            utility.address = SocketAddr::new(self.host, self.ports.utility);
        }
        settings
    }

    /// The model servers and the gateway.
    #[must_use]
    pub fn servers(&self) -> &ModelServers {
        &self.servers
    }
}

fn operations(backends: &Backends, synthetic: usize) -> Vec<Operation> {
    let names = [BASELINE, ENHANCED, SHADOW].map(str::to_owned).into_iter();
    let names = names.chain((0..synthetic).map(|n| format!("model-{n:05}")));
    let mut operations: Vec<Operation> = names
        .map(|name| {
            let backends = backends.place(&name, 1);
            Operation::LoadModel(ModelSpec { name, backends, log_payloads: false })
        })
        .collect();
    let arms =
        |baseline, enhanced| vec![(BASELINE.to_owned(), baseline), (ENHANCED.to_owned(), enhanced)];
    operations.push(Operation::StartExperiment(Experiment {
        name: EXPERIMENT.to_owned(),
        default: Some(BASELINE.to_owned()),
        candidates: arms(70, 30),
        ..Experiment::default()
    }));
    operations.push(Operation::StartExperiment(Experiment {
        name: MIRROR_EXPERIMENT.to_owned(),
        candidates: arms(60, 40),
        mirror: Some((SHADOW.to_owned(), 20)),
        ..Experiment::default()
    }));
    operations.push(Operation::StartPipeline(Pipeline {
        name: PIPELINE.to_owned(),
        gateways: backends.gateways.clone(),
    }));
    operations
}

/// The command: starts the demo, says what runs, and serves until SIGINT or
/// SIGTERM.
///
/// # Errors
///
/// As [`Demo::start`], and what the proxy says.
pub fn main(options: &DemoOptions, settings: Settings, hooks: Hooks) -> io::Result<()> {
    let demo = Demo::start(options)?;
    print!("{demo}");
    if !options.proxy {
        return wait_for_signal();
    }
    Proxy::start(demo.settings(settings), hooks).map_err(io::Error::other)?.join();
    Ok(())
}

fn wait_for_signal() -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            interrupted = tokio::signal::ctrl_c() => interrupted,
            _ = terminate.recv() => Ok(()),
        }
    })
}
