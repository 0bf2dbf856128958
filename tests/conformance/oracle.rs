//! One side of the comparison: a proxy process (Envoy or Radiant), the
//! scheduler that programs it, and the ways to look into it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::core::v3::{DataSource, data_source};
use envoy_types::pb::envoy::config::listener::v3::{Listener, filter};
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::{
    DirectResponseAction, Route, RouteConfiguration, RouteMatch, route,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::util::pack_any;
use prost::Message;
use radiant::demo::DemoPorts;

use radiant::demo::scheduler::cache::{CLUSTER, LISTENER, ROUTE};
use radiant::demo::scheduler::{Push, Resource, Scheduler, SchedulerHandle, SchedulerOptions};
use radiant::seldon::{self, ListenerOptions, MIRROR_TABLE, ROUTE_TABLE, route_table};

use crate::certificates::{Authority, Leaf};
use crate::client::Client;
use crate::terminator::{Asks, Terminator};

pub const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// The longest that a proxy may take to apply an update.
const APPLY_LIMIT: Duration = Duration::from_secs(20);
/// The longest that a proxy may take to start.
const START_LIMIT: Duration = Duration::from_secs(60);
const BOOTSTRAP: &str = include_str!("../../config/envoy.yaml");

/// Which proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Envoy,
    Radiant,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Envoy => "envoy",
            Self::Radiant => "radiant",
        }
    }

    fn program(self) -> PathBuf {
        match self {
            Self::Envoy => std::env::var_os("RADIANT_ENVOY").unwrap_or_else(|| "envoy".into()),
            Self::Radiant => std::env::var_os("RADIANT_BIN")
                .unwrap_or_else(|| env!("CARGO_BIN_EXE_radiant").into()),
        }
        .into()
    }
}

/// A proxy and its scheduler. Dropped, both end.
pub struct Side {
    pub kind: Kind,
    pub ports: DemoPorts,
    pub dir: PathBuf,
    scheduler: Scheduler,
    /// In front of the scheduler, if it is asked by TLS.
    pub terminator: Option<Terminator>,
    world: Mutex<World>,
    child: Child,
}

/// What is different in a side that a case starts for itself.
#[derive(Default)]
pub struct Launch {
    /// A command that runs the proxy, which is appended to it.
    pub wrap: Vec<String>,
    /// The scheduler by TLS: the CA, its certificate and the proxy's.
    pub scheduler_tls: Option<(Authority, Leaf, Leaf)>,
}

/// What the tables hold, by owner (a case).
#[derive(Default)]
struct World {
    /// Tables so far.
    tables: u64,
    routes: BTreeMap<String, Vec<Route>>,
    mirrors: BTreeMap<String, Vec<Route>>,
}

impl Side {
    /// Starts scheduler and proxy. The calling thread must live as long as the
    /// side: the installed Envoy ends with the thread that started it.
    pub fn start(kind: Kind, dir: &Path) -> io::Result<Self> {
        Self::start_with(kind, dir, &Launch::default())
    }

    /// [`Side::start`] with something different.
    pub fn start_with(kind: Kind, dir: &Path, launch: &Launch) -> io::Result<Self> {
        let dir = dir.join(kind.name());
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        fs::create_dir_all(&dir)?;
        let ports = crate::lab::ports();
        let options = listener_options(&ports, &dir);
        let scheduler = Scheduler::start(&SchedulerOptions {
            addr: SocketAddr::new(LOOPBACK, ports.scheduler),
            batch: Duration::ZERO,
            listeners: options.clone(),
            ..SchedulerOptions::default()
        })?;
        scheduler.handle().push(Push::Upsert(LISTENER, listeners(&options, &dir)));
        let terminator = launch.scheduler_tls.as_ref().map(|(ca, leaf, _)| {
            let to = SocketAddr::new(LOOPBACK, ports.scheduler);
            Terminator::start_asking(Asks::Certificate, leaf, ca, to)
        });
        let behind = terminator.as_ref().map(|terminator| terminator.addr.port());
        let seen = DemoPorts { scheduler: behind.unwrap_or(ports.scheduler), ..ports };
        let text = secured(bootstrap(&seen), &dir, launch)?;
        let child = spawn(kind, &dir, &text, &launch.wrap, &[])?;
        Ok(Self { terminator, kind, ports, dir, scheduler, world: Mutex::default(), child })
    }

    /// The listener `seldon_http` as pushed.
    pub fn http_listener(&self) -> Listener {
        let options = listener_options(&self.ports, &self.dir);
        decorated(&options, &self.dir).swap_remove(0)
    }

    /// A directory of its own for a further side of a case.
    pub fn room(&self, name: &str) -> PathBuf {
        self.dir.with_file_name(format!("{}-{name}", self.kind.name()))
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn scheduler(&self) -> &SchedulerHandle {
        self.scheduler.handle()
    }

    /// Adds or changes clusters and waits until they are in use.
    pub fn push_clusters(&self, clusters: &[Cluster]) {
        let each = clusters.iter().map(|c| Resource::new(c.name.clone(), c.encode_to_vec()));
        self.push(Push::Upsert(CLUSTER, each.collect()));
    }

    pub fn remove_clusters(&self, names: &[String]) {
        self.push(Push::Remove(CLUSTER, names.to_vec()));
    }

    /// Brings the clusters that lead to the mirror listener back.
    pub fn ensure_mirror_clusters(&self) {
        let host = LOOPBACK.to_string();
        self.push_clusters(&seldon::mirror_clusters(&host, self.ports.mirrors));
    }

    /// Sets what `owner` has in the two tables, and waits until it is in use.
    pub fn push_routes(&self, owner: &str, routes: Vec<Route>, mirrors: Vec<Route>) {
        let number = {
            let mut world = self.world.lock().unwrap();
            world.routes.insert(owner.to_owned(), routes);
            world.mirrors.insert(owner.to_owned(), mirrors);
            world.tables += 1;
            // Under the lock, so that the latest table is the last one pushed.
            let mut routes = marker(world.tables);
            routes.extend(flat(&world.routes));
            self.scheduler().push(Push::Routes(vec![
                table(&route_table(ROUTE_TABLE, routes)),
                table(&route_table(MIRROR_TABLE, flat(&world.mirrors))),
            ]));
            world.tables
        };
        self.settle("a table");
        self.wait_served(number);
    }

    /// Waits until requests meet this table or a later one. Radiant answers for
    /// a table that names an unknown cluster before it uses it.
    fn wait_served(&self, number: u64) {
        let deadline = Instant::now() + APPLY_LIMIT;
        let mut client = Client::connect(self.ports.http);
        while Instant::now() < deadline {
            client.send("GET /conformance-table HTTP/1.1\r\nhost: conformance\r\n\r\n");
            let reply = client.reply(false);
            let served = reply.and_then(|r| String::from_utf8(r.body).ok()?.parse::<u64>().ok());
            if served.is_some_and(|served| served >= number) || !self.refused(ROUTE).is_empty() {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("{}: table {number} is not served", self.kind.name());
    }

    /// What the proxy refuses of a type as it stands.
    pub fn refused(&self, type_url: &str) -> Vec<String> {
        let all = self.scheduler().refused().into_iter();
        all.filter(|refusal| refusal.starts_with(type_url)).collect()
    }

    /// Pushes anything and waits for the answer.
    pub fn push(&self, push: Push) {
        self.scheduler().push(push);
        self.settle("push");
    }

    fn settle(&self, what: &str) {
        assert!(
            self.scheduler().wait_settled(APPLY_LIMIT),
            "{}: {what} was not answered",
            self.kind.name()
        );
    }

    /// A request to the admin port; the reply's head and body.
    pub fn admin(&self, method: &str, target: &str) -> (String, String) {
        plain_http(self.ports.admin, method, target).unwrap_or_default()
    }

    /// Counters and gauges whose name contains `filter`.
    pub fn stats(&self, filter: &str) -> BTreeMap<String, u64> {
        let (_, body) = self.admin("GET", "/stats");
        let each = body.lines().filter(|line| line.contains(filter));
        each.filter_map(|line| {
            let (name, value) = line.rsplit_once(": ")?;
            Some((name.to_owned(), value.parse().ok()?))
        })
        .collect()
    }

    /// Lines of an access log (`all` or `errors`) that contain `needle`, once
    /// there are `count` of them, or what there is after the log was flushed.
    pub fn log_lines(&self, log: &str, needle: &str, count: usize) -> Vec<String> {
        let deadline = Instant::now() + Duration::from_secs(3);
        loop {
            self.admin("POST", "/reopen_logs");
            std::thread::sleep(Duration::from_millis(120));
            let text = fs::read(self.dir.join(format!("{log}.log"))).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let lines: Vec<String> =
                text.lines().filter(|l| l.contains(needle)).map(str::to_owned).collect();
            if lines.len() >= count || Instant::now() > deadline {
                return lines;
            }
        }
    }

    pub fn is_alive(&self) -> bool {
        TcpStream::connect((LOOPBACK, self.ports.admin)).is_ok()
    }

    /// Waits until the proxy serves.
    pub fn wait_live(&self) -> io::Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        while Instant::now() < deadline {
            let live = plain_http(self.ports.admin, "GET", "/ready")
                .is_ok_and(|(_, body)| body.trim() == "LIVE");
            if live && TcpStream::connect((LOOPBACK, self.ports.http)).is_ok() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Err(io::Error::other(format!(
            "{} did not become live; see {}",
            self.kind.name(),
            self.dir.display()
        )))
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A route that tells the table's number.
fn marker(number: u64) -> Vec<Route> {
    let body = DataSource {
        specifier: Some(data_source::Specifier::InlineString(number.to_string())),
        ..Default::default()
    };
    vec![Route {
        r#match: Some(RouteMatch {
            path_specifier: Some(PathSpecifier::Path("/conformance-table".to_owned())),
            ..Default::default()
        }),
        action: Some(route::Action::DirectResponse(DirectResponseAction {
            status: 200,
            body: Some(body),
            ..Default::default()
        })),
        ..Default::default()
    }]
}

fn flat(parts: &BTreeMap<String, Vec<Route>>) -> Vec<Route> {
    parts.values().flatten().cloned().collect()
}

pub fn table(table: &RouteConfiguration) -> std::sync::Arc<Resource> {
    Resource::new(table.name.clone(), table.encode_to_vec())
}

pub fn listener_options(ports: &DemoPorts, dir: &Path) -> ListenerOptions {
    ListenerOptions {
        http_host: LOOPBACK.to_string(),
        http_port: ports.http,
        mirror_host: LOOPBACK.to_string(),
        mirror_port: ports.mirrors,
        access_log: Some(seldon::listener::AccessLogOptions {
            path: dir.join("errors.log").display().to_string(),
            successes: false,
        }),
        tap_path_prefix: Some(dir.join("tap").display().to_string()),
    }
}

pub fn listeners(options: &ListenerOptions, dir: &Path) -> Vec<std::sync::Arc<Resource>> {
    let all = decorated(options, dir).into_iter();
    all.map(|listener| Resource::new(listener.name.clone(), listener.encode_to_vec())).collect()
}

/// The scheduler's listeners with a second access log that takes every request.
fn decorated(options: &ListenerOptions, dir: &Path) -> Vec<Listener> {
    let mut all = options.clone();
    all.access_log = Some(seldon::listener::AccessLogOptions {
        path: dir.join("all.log").display().to_string(),
        successes: true,
    });
    let both = seldon::listeners(options).into_iter().zip(seldon::listeners(&all));
    both.map(|(mut listener, other)| {
        edit_manager(&mut listener, |manager| manager.access_log.extend(manager_logs(&other)));
        listener
    })
    .collect()
}

/// Changes a listener's connection manager.
pub fn edit_manager(listener: &mut Listener, edit: impl FnOnce(&mut HttpConnectionManager)) {
    let mut manager = manager(listener);
    edit(&mut manager);
    let filter = &mut listener.filter_chains[0].filters[0];
    filter.config_type = Some(filter::ConfigType::TypedConfig(pack_any(manager)));
}

fn manager(listener: &Listener) -> HttpConnectionManager {
    match &listener.filter_chains[0].filters[0].config_type {
        Some(filter::ConfigType::TypedConfig(any)) => {
            HttpConnectionManager::decode(any.value.as_slice()).expect("made by this crate")
        }
        _ => HttpConnectionManager::default(),
    }
}

fn manager_logs(
    listener: &Listener,
) -> Vec<envoy_types::pb::envoy::config::accesslog::v3::AccessLog> {
    manager(listener).access_log
}

/// The bootstrap that Seldon ships, without the runtime layer that no scheduler
/// answers and that costs Envoy 15 s.
pub fn bootstrap(ports: &DemoPorts) -> String {
    let (head, tail) = BOOTSTRAP.split_once("layered_runtime:").expect("it is there");
    let (_, tail) = tail.split_once("static_resources:").expect("it is there");
    place(&format!("{head}static_resources:{tail}"), ports)
}

/// The bootstrap that Seldon ships, at these ports.
pub fn full_bootstrap(ports: &DemoPorts) -> String {
    place(BOOTSTRAP, ports)
}

fn place(bootstrap: &str, ports: &DemoPorts) -> String {
    bootstrap
        .replace(
            "seldon-scheduler, port_value: 9002",
            &format!("127.0.0.1, port_value: {}", ports.scheduler),
        )
        .replace("port_value: 9901", &format!("port_value: {}", ports.admin))
        .replace("0.0.0.0, port_value: 9003", &format!("127.0.0.1, port_value: {}", ports.utility))
}

/// The bootstrap with the scheduler behind TLS, if the launch says so.
fn secured(text: String, dir: &Path, launch: &Launch) -> io::Result<String> {
    let Some((ca, _, own)) = &launch.scheduler_tls else { return Ok(text) };
    for (name, pem) in [("ca.pem", &ca.pem), ("own.pem", &own.chain), ("own.key", &own.key)] {
        fs::write(dir.join(name), pem)?;
    }
    let context = SCHEDULER_TLS.replace("DIR", &dir.display().to_string());
    Ok(text.replacen("type: LOGICAL_DNS\n", &format!("type: LOGICAL_DNS\n{context}"), 1))
}

/// The context that Seldon's bootstrap has with `ENVOY_SECURITY_PROTOCOL=SSL`.
const SCHEDULER_TLS: &str = "    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        common_tls_context:
          tls_certificates:
          - certificate_chain: { filename: DIR/own.pem }
            private_key: { filename: DIR/own.key }
          validation_context: { trusted_ca: { filename: DIR/ca.pem } }
";

/// Starts a proxy in `dir` with this bootstrap and these flags on top of the
/// usual ones, run by the command `wrap` if there is one. The calling thread
/// must outlive it.
pub fn spawn(
    kind: Kind,
    dir: &Path,
    bootstrap: &str,
    wrap: &[String],
    flags: &[&str],
) -> io::Result<Child> {
    let config = dir.join("bootstrap.yaml");
    fs::write(&config, bootstrap)?;
    let log = File::create(dir.join("proxy.log"))?;
    let mut command = match wrap.split_first() {
        None => Command::new(kind.program()),
        Some((program, arguments)) => {
            let mut command = Command::new(program);
            command.args(arguments).arg(kind.program());
            command
        }
    };
    command.arg("-c").arg(&config).args(["--concurrency", "1", "-l", "warning"]).args(flags);
    match kind {
        Kind::Envoy => command.args(["--use-dynamic-base-id", "--file-flush-interval-msec", "50"]),
        // As Envoy: a removed cluster is gone at once.
        Kind::Radiant => command.args(["--removed-cluster-grace", "0s"]),
    };
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let _alone = crate::lab::FORKING.lock().unwrap();
    command
        .spawn()
        .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", command.get_program().display())))
}

/// A request over a connection of its own; the reply's head and decoded body.
pub fn plain_http(port: u16, method: &str, target: &str) -> io::Result<(String, String)> {
    let mut stream = TcpStream::connect((LOOPBACK, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let length = if method == "GET" { "" } else { "content-length: 0\r\n" };
    write!(
        stream,
        "{method} {target} HTTP/1.1\r\nhost: test\r\n{length}connection: close\r\n\r\n"
    )?;
    let mut text = Vec::new();
    stream.read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let body = if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        crate::client::unchunk(body.as_bytes()).0
    } else {
        body.as_bytes().to_vec()
    };
    Ok((head.to_owned(), String::from_utf8_lossy(&body).into_owned()))
}
