//! The lookup itself: A records of a name, by the system's configuration.
//!
//! The search list is walked here rather than by the resolver library: as in
//! c-ares, which Envoy uses, only "no such name" and "no such record" lead to
//! the next candidate. A failing name server ends the lookup as a failure, so
//! that it cannot be mistaken for an empty answer of a later candidate.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use hickory_resolver::config::{NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::lookup::Lookup as Found;
use hickory_resolver::name_server::TokioConnectionProvider;
use hickory_resolver::proto::ProtoErrorKind;
use hickory_resolver::proto::op::{Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::proto::xfer::Protocol;
use hickory_resolver::{Hosts, ResolveError, TokioResolver};

use super::{Answer, Lookup, Resolver};

/// How often the system's files are looked at, at most: while names are looked
/// up at all.
const LOOK_EVERY: Duration = Duration::from_secs(2);
const FILES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];

/// The resolver of the process: `/etc/hosts`, then the name servers and search
/// list of `/etc/resolv.conf`, both read again when they change. Without a
/// readable `resolv.conf` the name server is 127.0.0.1, as in c-ares.
///
/// Must be called, and its lookups awaited, on a tokio runtime.
#[must_use]
pub fn system_resolver() -> Resolver {
    renewed(FILES.map(PathBuf::from).to_vec(), LOOK_EVERY, from_system)
}

/// A resolver that is made anew when one of the files has changed.
pub(super) fn renewed(
    files: Vec<PathBuf>,
    look_every: Duration,
    make: impl Fn() -> Resolver + Send + Sync + 'static,
) -> Resolver {
    let state = Mutex::new((Instant::now(), stamps(&files), make()));
    Box::new(move |name: &str| -> Lookup {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        let (looked, seen, resolver) = &mut *state;
        if looked.elapsed() >= look_every {
            *looked = Instant::now();
            let now = stamps(&files);
            if *seen != now {
                tracing::info!("resolver configuration has changed");
                (*seen, *resolver) = (now, make());
            }
        }
        resolver(name)
    })
}

/// What changes when a file does: time, length, and which file it is.
fn stamps(files: &[PathBuf]) -> Vec<Option<(SystemTime, u64, u64)>> {
    let stamp = |path: &PathBuf| {
        let about = std::fs::metadata(path).ok()?;
        Some((about.modified().ok()?, about.len(), about.ino()))
    };
    files.iter().map(stamp).collect()
}

fn from_system() -> Resolver {
    let hosts = Hosts::from_system().unwrap_or_default();
    let (config, options) = match hickory_resolver::system_conf::read_system_conf() {
        Ok((config, options)) if !config.name_servers().is_empty() => (config, options),
        other => {
            if let Err(error) = other {
                tracing::warn!(%error, "no resolver configuration, asking 127.0.0.1");
            }
            (local(SocketAddr::from(([127, 0, 0, 1], 53))), ResolverOpts::default())
        }
    };
    NameServers { config, options, hosts }.resolver()
}

fn local(server: SocketAddr) -> ResolverConfig {
    let mut config = ResolverConfig::new();
    config.add_name_server(NameServerConfig::new(server, Protocol::Udp));
    config.add_name_server(NameServerConfig::new(server, Protocol::Tcp));
    config
}

/// Whom to ask, and how.
#[derive(Debug)]
pub struct NameServers {
    config: ResolverConfig,
    options: ResolverOpts,
    hosts: Hosts,
}

impl NameServers {
    /// One name server, `timeout` a try, without a hosts file or search list.
    #[must_use]
    pub fn only(server: SocketAddr, timeout: Duration) -> Self {
        let mut options = ResolverOpts::default();
        options.timeout = timeout;
        Self { config: local(server), options, hosts: Hosts::default() }
    }

    /// Adds a domain to the search list; a name with fewer than `ndots` dots is
    /// tried under it first.
    #[must_use]
    pub fn search(mut self, domain: &str, ndots: usize) -> Self {
        if let Ok(domain) = Name::from_ascii(domain) {
            self.config.add_search(domain);
        }
        self.options.ndots = ndots;
        self
    }

    /// As a function.
    #[must_use]
    pub fn resolver(mut self) -> Resolver {
        self.options.use_hosts_file = hickory_resolver::config::ResolveHosts::Never;
        // Answers are kept by the endpoint directory, which ignores the TTL.
        self.options.cache_size = 1;
        for ttl in [&mut self.options.positive_max_ttl, &mut self.options.negative_max_ttl] {
            *ttl = Some(Duration::ZERO);
        }
        let provider = TokioConnectionProvider::default();
        let mut builder = TokioResolver::builder_with_config(self.config.clone(), provider);
        *builder.options_mut() = self.options.clone();
        let client = builder.build();
        let this = Arc::new(self);
        Box::new(move |name: &str| -> Lookup {
            let (client, this, name) = (client.clone(), Arc::clone(&this), name.to_owned());
            Box::pin(async move { this.ask(&client, &name).await })
        })
    }

    async fn ask(&self, client: &TokioResolver, name: &str) -> Answer {
        let Ok(name) = Name::from_utf8(name) else {
            return Answer::Addresses(Vec::new());
        };
        let as_query = Query::query(name.clone(), RecordType::A);
        if let Some(known) = self.hosts.lookup_static_host(&as_query) {
            return Answer::Addresses(addresses(&known));
        }
        for candidate in self.candidates(&name) {
            client.clear_cache();
            match client.lookup(candidate, RecordType::A).await {
                Ok(found) => {
                    let addresses = addresses(&found);
                    if !addresses.is_empty() {
                        return Answer::Addresses(addresses);
                    }
                }
                Err(error) if is_empty_answer(&error) => {}
                Err(error) => {
                    tracing::debug!(%name, %error, "lookup failed");
                    return Answer::Failed;
                }
            }
        }
        Answer::Addresses(Vec::new())
    }

    /// The absolute names to try, in order (resolv.conf(5): `search`, `ndots`).
    fn candidates(&self, name: &Name) -> Vec<Name> {
        let mut absolute = name.clone();
        absolute.set_fqdn(true);
        if name.is_fqdn() {
            return vec![absolute];
        }
        let domains = self.config.domain().into_iter().chain(self.config.search());
        let mut names: Vec<Name> = Vec::new();
        for mut candidate in domains.filter_map(|d| name.clone().append_domain(d).ok()) {
            candidate.set_fqdn(true);
            if !names.contains(&candidate) {
                names.push(candidate);
            }
        }
        let dots = usize::from(name.num_labels()).saturating_sub(1);
        let first = dots >= self.options.ndots || name.is_localhost();
        names.insert(if first { 0 } else { names.len() }, absolute);
        names
    }
}

fn addresses(found: &Found) -> Vec<Ipv4Addr> {
    found
        .iter()
        .filter_map(|data| match data {
            RData::A(a) => Some(a.0),
            _ => None,
        })
        .collect()
}

/// True for NXDOMAIN and for NOERROR without records.
fn is_empty_answer(error: &ResolveError) -> bool {
    error.proto().is_some_and(|proto| {
        matches!(
            proto.kind(),
            ProtoErrorKind::NoRecordsFound {
                response_code: ResponseCode::NXDomain | ResponseCode::NoError,
                ..
            }
        )
    })
}
