//! Listeners and secrets that a case has for itself, beside the scheduler's two.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    DownstreamTlsContext, Secret, UpstreamTlsContext,
};
use envoy_types::util::pack_any;
use prost::Message;
use radiant::demo::scheduler::cache::{LISTENER, SECRET};
use radiant::demo::scheduler::{Push, Resource};
use radiant::seldon::model_clusters;

use crate::certificates;
pub use crate::lab::free_port;
use crate::oracle::{LOOPBACK, Launch, Side, edit_manager};
use crate::probe::{Probe, version};

const LIMIT: Duration = Duration::from_secs(10);

/// Waits until something holds; false if it does not in time.
pub fn eventually(limit: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if holds() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub fn is_open(port: u16) -> bool {
    TcpStream::connect((LOOPBACK, port)).is_ok()
}

/// The listener `seldon_http` under the case's name, at a port of its own.
pub fn listener(p: &mut Probe<'_>) -> (Listener, u16) {
    let port = free_port();
    p.name_port(port, "listener");
    let mut listener = p.side.http_listener();
    listener.name.clone_from(&p.id);
    listener.address = Some(address(port));
    edit_manager(&mut listener, |manager| manager.stat_prefix.clone_from(&p.id));
    (listener, port)
}

fn address(port: u16) -> envoy_types::pb::envoy::config::core::v3::Address {
    use envoy_types::pb::envoy::config::core::v3::{
        Address, SocketAddress, address, socket_address,
    };
    Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: LOOPBACK.to_string(),
            port_specifier: Some(socket_address::PortSpecifier::PortValue(u32::from(port))),
            ..Default::default()
        })),
    }
}

/// Gives a listener another port.
pub fn move_listener(listener: &mut Listener, port: u16) {
    listener.address = Some(address(port));
}

/// Runs a case on a side of its own. Nothing of it is compared but what `run`
/// notes.
pub fn fresh(p: &mut Probe<'_>, launch: &Launch, run: impl Fn(&mut Probe<'_>)) {
    let side = Side::start_with(p.side.kind, &p.side.room(&p.id), launch);
    let side = side.expect("a proxy of its own");
    side.wait_live().expect("a proxy that serves");
    let mut own = Probe::new(&side, &p.id);
    run(&mut own);
    p.transcript = own.transcript;
}

pub fn push_listener(p: &Probe<'_>, listener: &Listener) {
    let resource = Resource::new(listener.name.clone(), listener.encode_to_vec());
    p.side.push(Push::Upsert(LISTENER, vec![resource]));
}

/// Adds a listener and waits until its port is open.
pub fn open_listener(p: &mut Probe<'_>, listener: &Listener, port: u16) {
    push_listener(p, listener);
    p.expect(eventually(LIMIT, || is_open(port)), "open the listener");
}

pub fn remove_listener(p: &Probe<'_>) {
    p.side.push(Push::Remove(LISTENER, vec![p.id.clone()]));
}

pub fn push_secrets(p: &Probe<'_>, secrets: &[Secret]) {
    p.side.push(certificates::secrets(secrets));
}

/// What is refused of the case's secrets.
pub fn refused_secrets(p: &Probe<'_>) -> Vec<String> {
    p.side.refused(SECRET).into_iter().filter(|text| text.contains(&p.id)).collect()
}

pub fn secure(listener: &mut Listener, context: &DownstreamTlsContext) {
    let socket = certificates::socket(pack_any(context.clone()));
    listener.filter_chains[0].transport_socket = Some(socket);
}

/// The case's model behind TLS: both clusters with this context. Waits until they have
/// their secrets and addresses: the plain ones before them serve until then, although the
/// push has been answered.
pub fn secure_model(p: &mut Probe<'_>, host: &str, port: u16, context: &UpstreamTlsContext) {
    p.model(&[port]);
    let mut model = version(&p.id, 1, &[port]);
    model.backends = vec![radiant::seldon::Backend::new(host, port, port)];
    let secure = |mut cluster: Cluster| {
        cluster.transport_socket = Some(certificates::socket(pack_any(context.clone())));
        cluster
    };
    p.side.push_clusters(&model_clusters(&model).map(secure));
    let name = format!("\"{}_1", p.id);
    let warm = || {
        let (_, dump) = p.side.admin("GET", "/config_dump?resource=dynamic_warming_clusters");
        !dump.contains(&name)
    };
    p.expect(eventually(LIMIT, warm), "use the clusters");
}
