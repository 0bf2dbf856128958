//! A proxy in process and a scheduler that tells it what a test wants, field by
//! field if need be.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::listener::v3::{Listener, filter};
use envoy_types::pb::envoy::config::route::v3::{Route, RouteAction, route};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::util::pack_any;
use prost::Message;
use radiant::config::{AdsSettings, Settings, Source};
use radiant::demo::scheduler::cache::{CLUSTER, LISTENER};
use radiant::demo::scheduler::{Push, Resource, Scheduler, SchedulerOptions};
use radiant::plane::ServerState;
use radiant::run::{Hooks, Proxy};
use radiant::seldon::{Backend, Experiment, ListenerOptions, Mesh, MeshResources, ModelVersion};

use super::{Client, DEADLINE, Ports, eventually};

type Edit = Box<dyn Fn(&mut MeshResources) + Send>;

/// A world that is being put together.
pub(crate) struct Setup {
    mesh: Mesh,
    edits: Vec<Edit>,
    first: Vec<Push>,
    settings: Settings,
}

/// A running proxy with its scheduler.
pub(crate) struct World {
    // The proxy ends first.
    pub(crate) proxy: Proxy,
    pub(crate) scheduler: Scheduler,
    pub(crate) mesh: Mesh,
    edits: Vec<Edit>,
    options: ListenerOptions,
    pub(crate) ports: Ports,
}

impl World {
    /// A world with one model.
    pub(crate) fn of(model: &str, upstream: SocketAddr) -> Setup {
        let setup = Setup {
            mesh: Mesh::default(),
            edits: Vec::new(),
            first: Vec::new(),
            settings: quiet_settings(),
        };
        setup.model(model, &[upstream])
    }

    /// Waits until the proxy serves.
    pub(crate) fn wait_live(&self) {
        eventually("the proxy serves", || self.proxy.plane().state() == ServerState::Live);
        TcpStream::connect(self.addr()).expect("a live proxy has its port open");
    }

    /// Where the proxy takes requests.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.ports.addr(0)
    }

    /// A connection for requests.
    pub(crate) fn client(&self) -> Client {
        Client::connect(self.addr())
    }

    /// Changes the mesh and sends all of it, clusters before tables; back when
    /// the proxy has acknowledged it.
    pub(crate) fn update(&mut self, change: impl FnOnce(&mut Mesh)) {
        change(&mut self.mesh);
        let resources = edited(&self.mesh, &self.options, &self.edits);
        self.push(push_all(&resources));
    }

    /// Sends pushes; back when the proxy has answered for them.
    pub(crate) fn push(&self, pushes: Vec<Push>) {
        let handle = self.scheduler.handle();
        for push in pushes {
            handle.push(push);
        }
        assert!(handle.wait_settled(DEADLINE), "the proxy answers the scheduler");
        assert_eq!(handle.nacks(), Vec::<String>::new());
    }

    /// A statistic of a cluster on the first worker.
    pub(crate) fn cluster<T>(
        &self,
        name: &str,
        look: impl FnOnce(&radiant::stats::ClusterShard) -> T,
    ) -> T {
        let slot = self.proxy.plane().clusters.find(name).unwrap();
        look(slot.stats.shard(radiant::stats::Shard { index: 1, of: 2 }))
    }
}

impl Setup {
    /// One more model, version 1, its replicas speaking both protocols.
    pub(crate) fn model(mut self, name: &str, replicas: &[SocketAddr]) -> Self {
        self.mesh.models.push(version(name, 1, replicas).into());
        self
    }

    pub(crate) fn experiment(mut self, experiment: Experiment) -> Self {
        self.mesh.experiments.push(experiment);
        self
    }

    /// Edits the resources before they are sent.
    pub(crate) fn resources(mut self, edit: impl Fn(&mut MeshResources) + Send + 'static) -> Self {
        self.edits.push(Box::new(edit));
        self
    }

    /// Edits every cluster before it is sent.
    pub(crate) fn clusters(self, edit: impl Fn(&mut Cluster) + Send + 'static) -> Self {
        self.resources(move |all| all.clusters.iter_mut().for_each(&edit))
    }

    /// Edits the action of every route before it is sent.
    pub(crate) fn actions(self, edit: impl Fn(&mut RouteAction) + Send + 'static) -> Self {
        self.resources(move |all| {
            let tables = [&mut all.routes, &mut all.mirrors];
            let hosts = tables.into_iter().flat_map(|table| &mut table.virtual_hosts);
            for route in hosts.flat_map(|host| &mut host.routes) {
                if let Route { action: Some(route::Action::Route(action)), .. } = route {
                    edit(action);
                }
            }
        })
    }

    /// Retries with a back-off of a millisecond or so.
    pub(crate) fn fast_retries(self) -> Self {
        self.actions(|action| {
            if let Some(back_off) =
                action.retry_policy.as_mut().and_then(|policy| policy.retry_back_off.as_mut())
            {
                let base = back_off.base_interval.as_mut().unwrap();
                (base.seconds, base.nanos) = (0, 1_000_000);
            }
        })
    }

    /// Edits the connection manager of every listener before it is sent.
    pub(crate) fn managers(
        self,
        edit: impl Fn(&mut HttpConnectionManager) + Send + 'static,
    ) -> Self {
        self.resources(move |all| {
            for listener in &mut all.listeners {
                edit_manager(listener, &edit);
            }
        })
    }

    /// Edits the proxy's own settings.
    pub(crate) fn settings(mut self, edit: impl FnOnce(&mut Settings)) -> Self {
        edit(&mut self.settings);
        self
    }

    /// Something that the scheduler has from the beginning.
    pub(crate) fn push(mut self, push: Push) -> Self {
        self.first.push(push);
        self
    }

    /// Starts everything; back when the proxy serves.
    pub(crate) fn start(self) -> World {
        let world = self.launch();
        world.wait_live();
        world
    }

    /// Starts everything; back at once.
    pub(crate) fn launch(self) -> World {
        // In a thread of its own: a scheduler cannot start within a runtime, and
        // some stories are asynchronous.
        let started = std::thread::spawn(|| self.start_here()).join();
        started.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    fn start_here(self) -> World {
        let Self { mesh, edits, first, mut settings } = self;
        let ports = Ports::reserve();
        let options = ListenerOptions {
            http_host: "127.0.0.1".to_owned(),
            http_port: ports.first,
            mirror_host: "127.0.0.1".to_owned(),
            mirror_port: ports.first + 1,
            access_log: None,
            tap_path_prefix: None,
        };
        let scheduler = Scheduler::start(&SchedulerOptions {
            addr: ports.addr(2),
            listeners: options.clone(),
            ..SchedulerOptions::default()
        })
        .unwrap();
        let resources = edited(&mesh, &options, &edits);
        for push in first.into_iter().chain(push_all(&resources)) {
            scheduler.handle().push(push);
        }
        settings.source = ads(scheduler.addr());
        let proxy = Proxy::start(settings, Hooks::default()).unwrap();
        World { proxy, scheduler, mesh, edits, options, ports }
    }
}

/// One worker, no ports of its own, and an end that does not wait for tests
/// that left something hanging.
pub(crate) fn quiet_settings() -> Settings {
    Settings {
        admin: None,
        utility: None,
        drain_time: std::time::Duration::from_millis(200),
        ..Settings::default()
    }
}

/// The scheduler at this address.
pub(crate) fn ads(addr: SocketAddr) -> Source {
    let host = addr.ip().to_string();
    Source::Scheduler(Box::new(AdsSettings { host, port: addr.port(), ..AdsSettings::default() }))
}

/// A version whose replicas speak both protocols on one port.
pub(crate) fn version(name: &str, version: u32, replicas: &[SocketAddr]) -> ModelVersion {
    let backend = |addr: &SocketAddr| Backend::new(addr.ip().to_string(), addr.port(), addr.port());
    ModelVersion::new(name, version, replicas.iter().map(backend).collect())
}

fn edited(mesh: &Mesh, options: &ListenerOptions, edits: &[Edit]) -> MeshResources {
    let mut resources = mesh.resources(options);
    for edit in edits {
        edit(&mut resources);
    }
    resources
}

fn push_all(resources: &MeshResources) -> Vec<Push> {
    fn encode<M: Message>(name: &str, message: &M) -> Arc<Resource> {
        Resource::new(name.to_owned(), message.encode_to_vec())
    }
    let MeshResources { clusters, routes, mirrors, listeners } = resources;
    vec![
        Push::Upsert(CLUSTER, clusters.iter().map(|c| encode(&c.name, c)).collect()),
        Push::Routes([routes, mirrors].map(|table| encode(&table.name, table)).into()),
        Push::Upsert(LISTENER, listeners.iter().map(|l| encode(&l.name, l)).collect()),
    ]
}

fn edit_manager(listener: &mut Listener, edit: &dyn Fn(&mut HttpConnectionManager)) {
    for filter in listener.filter_chains.iter_mut().flat_map(|chain| &mut chain.filters) {
        let Some(filter::ConfigType::TypedConfig(any)) = &mut filter.config_type else { continue };
        let mut manager = HttpConnectionManager::decode(&any.value[..]).unwrap();
        edit(&mut manager);
        *any = pack_any(manager);
    }
}
