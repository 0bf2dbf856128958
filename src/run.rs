//! Starts and ends the process's threads: workers for traffic, one control
//! thread for everything else (xDS, DNS, admin, file watch, signals).

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;

use crate::access_log::{self, AccessLogs};
use crate::admin::{self, AdminOps, LogControl};
use crate::config::{
    AdsSettings, FileWatch, POLL_INTERVAL, Settings, Source, UtilityListener, XdsVariant,
    descriptors, saved,
};
use crate::listener::ListenerManager;
use crate::logic::ads::Variant;
use crate::model::Resources;
use crate::plane::{Plane, ServerState};
use crate::tap::Taps;
use crate::worker::{Command, WorkerShared, Workers};
use crate::xds::stream::{self, StreamOptions};
use crate::xds::tls::SchedulerTls;
use crate::xds::{Resource, SharedStore, Store, StoreOptions, Update, update::ResourceType};

/// Longest time that the end of the process waits for the access logs' disk.
const LOG_FLUSH: Duration = Duration::from_secs(2);
/// How often freed memory goes back to the system.
const GIVE_BACK: Duration = Duration::from_secs(1);
/// Nice value of the control thread: beside a busy worker it gets a tenth of a
/// core, which is enough for probes and updates.
const CONTROL_NICENESS: i32 = 10;

/// Why the process did not start. Names the setting and its value.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A socket of its own could not be opened.
    #[error("{setting} {address}: {reason}")]
    Bind {
        /// Flag or field that asked for it.
        setting: &'static str,
        /// Its value.
        address: SocketAddr,
        /// The system's reason.
        reason: std::io::Error,
    },
    /// A thread or reactor could not be made.
    #[error("cannot start threads: {0}")]
    Threads(#[from] std::io::Error),
    /// The first reading of a native file failed.
    #[error("{0}")]
    Config(String),
}

/// What the process itself (and not a test or the demo) wants of a proxy.
#[derive(Default)]
pub struct Hooks {
    /// Changes log levels at run time (`/logging`).
    pub log: Option<LogControl>,
    /// React to SIGTERM, SIGINT and SIGUSR1.
    pub signals: bool,
}

/// A running proxy.
#[derive(Debug)]
pub struct Proxy {
    plane: Arc<Plane>,
    /// Bound admin address, if there is an admin server.
    pub admin: Option<SocketAddr>,
    control: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Starts a proxy. Returns once its own sockets are open; listeners follow
    /// when the source has given them.
    ///
    /// # Errors
    /// Names what could not be opened or started. Nothing is left running.
    pub fn start(settings: Settings, hooks: Hooks) -> Result<Self, StartError> {
        let plane = Plane::new(settings.workers, settings.node.clone());
        *plane.bootstrap.write().unwrap_or_else(PoisonError::into_inner) =
            settings.bootstrap_json();
        let (ready, started) = mpsc::channel();
        let control = std::thread::Builder::new().name("control".to_owned()).spawn({
            let plane = Arc::clone(&plane);
            move || control_thread(&plane, settings, hooks, &ready)
        })?;
        let bound = started.recv().map_err(|_| {
            StartError::Threads(std::io::Error::other("the control thread ended at its start"))
        })??;
        Ok(Self { plane, admin: bound, control: Some(control) })
    }

    /// Shared state: snapshot, statistics, lifecycle.
    #[must_use]
    pub fn plane(&self) -> &Arc<Plane> {
        &self.plane
    }

    /// Begins to drain; the process's threads end when done.
    pub fn shutdown(&self) {
        self.plane.begin_exit();
    }

    /// Waits for the end.
    pub fn join(mut self) {
        if let Some(control) = self.control.take() {
            let _ = control.join();
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.plane.begin_exit();
        if let Some(control) = self.control.take() {
            let _ = control.join();
        }
    }
}

/// The bound admin address.
type Bound = Option<SocketAddr>;

type Ready = mpsc::Sender<Result<Bound, StartError>>;

fn control_thread(plane: &Arc<Plane>, settings: Settings, hooks: Hooks, ready: &Ready) {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let (sleeps, wakes) = (Arc::clone(plane), Arc::clone(plane));
    builder
        .enable_all()
        .on_thread_park(move || sleeps.urgency.sign_of_life())
        .on_thread_unpark(move || wakes.urgency.sign_of_life());
    let runtime = match builder.build() {
        Ok(runtime) => runtime,
        Err(e) => {
            let _ = ready.send(Err(e.into()));
            return;
        }
    };
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        match Control::start(plane, settings, hooks).await {
            Ok((control, bound)) => {
                let _ = ready.send(Ok(bound));
                control.run().await;
            }
            Err(e) => {
                let _ = ready.send(Err(e));
            }
        }
    });
}

/// The control thread's state.
struct Control {
    plane: Arc<Plane>,
    workers: Workers,
    logs: Arc<AccessLogs>,
    drain_time: Duration,
    signals: bool,
}

/// Returns freed memory to the system now and then: the allocator does that only
/// when it gets a large block back, some 100 ms after others. Once it is live it needs
/// no more of its code than what serves.
async fn give_back(plane: Arc<Plane>) {
    let mut tick = tokio::time::interval(GIVE_BACK);
    let mut started = false;
    loop {
        tick.tick().await;
        drop(std::hint::black_box(Vec::<u8>::with_capacity(1024 * 1024)));
        if !started && plane.state() == ServerState::Live {
            started = true;
            if let Err(e) = codepages::release() {
                tracing::debug!("the code that only the start needed stays mapped: {e}");
            }
        }
    }
}

/// Lets workers go first where they share a core with this thread: a new table
/// of ten thousand models is milliseconds of work, and a request must not wait
/// for it. Threads inherit it, so workers are started before.
fn step_back() {
    let thread = rustix::thread::gettid();
    if let Err(e) = rustix::process::setpriority_process(Some(thread), CONTROL_NICENESS) {
        tracing::debug!("the control thread keeps its priority: {e}");
    }
}

impl Control {
    async fn start(
        plane: &Arc<Plane>,
        settings: Settings,
        hooks: Hooks,
    ) -> Result<(Self, Bound), StartError> {
        let admin = match settings.admin {
            Some(address) => Some(bind("admin address", address).await?),
            None => None,
        };
        if let Some(utility) = &settings.utility {
            // Opened once live; whether it can be is to be known at the start.
            drop(bind("utility listener", utility.address).await?);
        }
        let bound = admin.as_ref().and_then(|socket| socket.local_addr().ok());
        if let (Some(path), Some(address)) = (&settings.admin_address_path, bound) {
            std::fs::write(path, address.to_string()).map_err(|e| {
                StartError::Config(format!("--admin-address-path {}: {e}", path.display()))
            })?;
        }
        let mut logs = AccessLogs::start(access_log::FLUSH_EVERY)?;
        if let Some(sink) = settings.json_access_log.clone() {
            logs = logs
                .with_native(sink)
                .map_err(|e| StartError::Config(format!("--json-access-log: {e}")))?;
        }
        let logs = Arc::new(logs);
        let shared = WorkerShared {
            logs: Arc::clone(&logs),
            taps: Arc::new(Taps::start(crate::tap::MAX_DISK_BYTES)?),
            own_address: own_address(),
            refuse_ambiguous: settings.refuse_ambiguous,
        };
        let workers = Workers::start(plane, settings.workers, &shared)?;
        step_back();
        let store = make_store(plane, &settings, &workers);
        let ops = Arc::new(admin_ops(plane, &settings, hooks.log, &logs));
        if let Some(socket) = admin {
            tokio::task::spawn_local(admin::serve(socket, Arc::clone(plane), Arc::clone(&ops)));
        }
        if let Some(utility) = &settings.utility {
            tokio::task::spawn_local(serve_utility(utility.clone(), Arc::clone(plane), ops));
        }
        tokio::task::spawn_local(give_back(Arc::clone(plane)));
        tokio::task::spawn_local(store.clone().run());
        tokio::task::spawn_local({
            let plane = Arc::clone(plane);
            async move { plane.endpoints.run(&plane.stats.control, crate::dns::system_resolver()).await }
        });
        start_source(&settings, store)?;
        let control = Self {
            plane: Arc::clone(plane),
            workers,
            logs,
            drain_time: settings.drain_time,
            signals: hooks.signals,
        };
        Ok((control, bound))
    }

    /// Until the end of the process is asked for, then drains.
    async fn run(self) {
        let mut drain = self.plane.drain_changes();
        let mut told = false;
        let mut signals = Signals::new(self.signals);
        loop {
            let now = *drain.borrow_and_update();
            if now.exit {
                break;
            }
            if now.listeners && !told {
                told = true;
                self.workers.broadcast(|| Command::CloseAll);
            }
            tokio::select! {
                _ = drain.changed() => {}
                signal = signals.next() => match signal {
                    Signal::Terminate => self.plane.begin_exit(),
                    Signal::Reopen => self.logs.reopen(),
                },
            }
        }
        tracing::info!("draining, at most {:?}", self.drain_time);
        self.workers.broadcast(|| Command::Finish(self.drain_time));
        let workers = self.workers;
        let _ = tokio::task::spawn_blocking(move || workers.join()).await;
        self.logs.flush(LOG_FLUSH);
    }
}

fn make_store(plane: &Arc<Plane>, settings: &Settings, workers: &Workers) -> SharedStore {
    // `xds_cluster` and `admin_cluster`.
    let has_scheduler = matches!(settings.source, Source::Scheduler(_));
    let options = StoreOptions {
        static_clusters: u64::from(has_scheduler) + u64::from(settings.utility.is_some()),
        removed_cluster_grace: settings.removed_cluster_grace,
        rewrite: settings.rewrite,
        ..StoreOptions::default()
    };
    let mut store = Store::new(Arc::clone(plane), options);
    let mut listeners = ListenerManager::new(Arc::clone(plane), workers.senders.clone());
    store.on_publish(Box::new(move |snapshot| listeners.apply(snapshot)));
    if let Some(path) = settings.saved_snapshot.clone() {
        let latest = Arc::new((Mutex::new(None), Notify::new()));
        tokio::task::spawn_local(save_changes(path, Arc::clone(&latest)));
        store.on_save(Box::new(move |resources| {
            *latest.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(resources.clone());
            latest.1.notify_one();
        }));
    }
    SharedStore::new(store)
}

/// Saves what was accepted, one write at a time, the latest state each time:
/// on a slow disk states in between are left out, never mixed. Nothing is held
/// longer than that: a table that is shared has to be copied to be changed.
async fn save_changes(path: PathBuf, latest: Arc<(Mutex<Option<Resources>>, Notify)>) {
    loop {
        latest.1.notified().await;
        let resources = latest.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(resources) = resources else { continue };
        let path = path.clone();
        let saved = tokio::task::spawn_blocking(move || saved::save(&path, &resources)).await;
        if let Ok(Err(e)) = saved {
            tracing::warn!("configuration not saved: {e}");
        }
    }
}

fn admin_ops(
    plane: &Arc<Plane>,
    settings: &Settings,
    log: Option<LogControl>,
    logs: &Arc<AccessLogs>,
) -> AdminOps {
    let logging = log.unwrap_or_else(|| LogControl::detached(admin::Level::Info));
    let to_json: admin::ToJson =
        Arc::new(|name, bytes| descriptors::to_json(name, bytes).map_err(|e| e.to_string()));
    let seldon = Arc::clone(&plane.seldon);
    let mut ops = AdminOps::new(plane, logging, seldon, to_json, settings.drain_time);
    let logs = Arc::clone(logs);
    ops.reopen_logs = Box::new(move || logs.reopen());
    ops
}

/// The utility listener: refused before the proxy is live, as in Envoy.
async fn serve_utility(utility: UtilityListener, plane: Arc<Plane>, ops: Arc<AdminOps>) {
    match admin::utility::bind_when_live(&plane, utility.address).await {
        Ok(socket) => {
            let address = socket.local_addr().unwrap_or(utility.address);
            let _ = plane.utility.set((utility.name.clone(), address));
            admin::utility::serve(socket, &utility.stat_prefix, plane, ops).await;
        }
        Err(e) => {
            tracing::error!(address = %utility.address, "utility listener: {e}");
            plane.begin_exit();
        }
    }
}

/// Restores the saved snapshot, then follows the source.
fn start_source(settings: &Settings, store: SharedStore) -> Result<(), StartError> {
    apply(&store, settings.static_resources.clone(), false);
    match &settings.source {
        Source::Static => {}
        Source::File(path) => follow_file(path, settings.rewrite, store)?,
        Source::Scheduler(ads) => {
            if let Some(path) = &settings.saved_snapshot {
                restore(path, &store);
            }
            let options = stream_options(ads)?;
            tokio::task::spawn_local(stream::run(store, options));
        }
    }
    Ok(())
}

/// Serves from the saved snapshot until the scheduler answers. One that cannot
/// be used is said and left alone: the scheduler's answer will replace it.
fn restore(path: &Path, store: &SharedStore) {
    match saved::load(path) {
        Ok(resources) => {
            tracing::info!(path = %path.display(), "the saved configuration serves, stale until the scheduler answers");
            for refused in store.restore(resources) {
                tracing::warn!(
                    name = refused.name,
                    reason = refused.reason,
                    "saved resource refused"
                );
            }
        }
        Err(saved::SavedError::Missing(_)) => {}
        Err(e) => tracing::warn!("saved configuration not used: {e}"),
    }
}

/// Serves from a native file and follows its changes. A bad edit is said, with
/// line and field, and what was there serves on.
fn follow_file(path: &Path, rewrite: bool, store: SharedStore) -> Result<(), StartError> {
    let mut watch = FileWatch::new(path.to_owned());
    match watch.poll(SystemTime::now()) {
        Some(Ok(file)) => apply(&store, file.resources(rewrite), true),
        Some(Err(e)) => return Err(StartError::Config(e.to_string())),
        None => {}
    }
    tokio::task::spawn_local(async move {
        let mut tick = tokio::time::interval(POLL_INTERVAL);
        loop {
            tick.tick().await;
            match watch.poll(SystemTime::now()) {
                None => {}
                Some(Ok(file)) => {
                    tracing::info!(path = %watch.path().display(), "the file changed: applied");
                    apply(&store, file.resources(rewrite), true);
                }
                Some(Err(e)) => {
                    for problem in e.problems {
                        tracing::error!("edit refused, the last good one serves: {problem}");
                    }
                }
            }
        }
    });
    Ok(())
}

/// Hands resources to the store; `complete` if they are all there is.
fn apply(store: &SharedStore, resources: Resources, complete: bool) {
    let sets = [
        (ResourceType::Secret, resources.secrets),
        (ResourceType::Cluster, resources.clusters),
        (ResourceType::Listener, resources.listeners),
        (ResourceType::Route, resources.routes),
    ];
    for (kind, set) in sets {
        if set.by_name.is_empty() && !complete {
            continue;
        }
        let each = set.by_name.into_iter();
        let list = each.map(|(name, raw)| Resource::accepted(name, &raw)).collect();
        let outcome = store.apply(Update { complete, ..Update::new(kind, list) });
        for refused in outcome.rejected {
            tracing::error!(name = refused.name, reason = refused.reason, "resource refused");
        }
    }
}

fn stream_options(ads: &AdsSettings) -> Result<StreamOptions, StartError> {
    let tls = match &ads.tls {
        None => None,
        Some(tls) => {
            let tls = SchedulerTls {
                ca: tls.trusted_ca.clone(),
                identity: tls.client.clone().map(|client| (client.certificate, client.key)),
            };
            let config = tls.client_config().map_err(|e| StartError::Config(e.to_string()))?;
            Some(Arc::new(config))
        }
    };
    Ok(StreamOptions {
        host: ads.host.clone(),
        port: ads.port,
        variant: match ads.variant {
            XdsVariant::Delta => Variant::Delta,
            XdsVariant::StateOfTheWorld => Variant::StateOfTheWorld,
        },
        tls,
        connect_timeout: ads.connect_timeout,
        keepalive: ads.keepalive_interval,
        keepalive_timeout: ads.keepalive_timeout,
    })
}

async fn bind(
    setting: &'static str,
    address: SocketAddr,
) -> Result<tokio::net::TcpListener, StartError> {
    tokio::net::TcpListener::bind(address).await.map_err(|reason| StartError::Bind {
        setting,
        address,
        reason,
    })
}

/// This machine's address towards others, as Envoy shows it in mirrored
/// requests; nothing is sent to find it.
fn own_address() -> IpAddr {
    let probe = || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        // TEST-NET-1 (RFC 5737): only the routing table is asked.
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
        Ok::<_, std::io::Error>(socket.local_addr()?.ip())
    };
    probe().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

enum Signal {
    Terminate,
    Reopen,
}

/// Signals of the process; none ever comes where they are not asked for.
struct Signals {
    terminate: Option<tokio::signal::unix::Signal>,
    interrupt: Option<tokio::signal::unix::Signal>,
    reopen: Option<tokio::signal::unix::Signal>,
}

impl Signals {
    fn new(wanted: bool) -> Self {
        use tokio::signal::unix::{SignalKind, signal};
        let open = |kind| wanted.then(|| signal(kind).ok()).flatten();
        Self {
            terminate: open(SignalKind::terminate()),
            interrupt: open(SignalKind::interrupt()),
            reopen: open(SignalKind::user_defined1()),
        }
    }

    async fn next(&mut self) -> Signal {
        async fn wait(signal: &mut Option<tokio::signal::unix::Signal>) {
            match signal {
                Some(signal) => {
                    if signal.recv().await.is_none() {
                        std::future::pending::<()>().await;
                    }
                }
                None => std::future::pending().await,
            }
        }
        tokio::select! {
            () = wait(&mut self.terminate) => Signal::Terminate,
            () = wait(&mut self.interrupt) => Signal::Terminate,
            () = wait(&mut self.reopen) => Signal::Reopen,
        }
    }
}
