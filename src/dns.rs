//! Endpoint sets and the one resolver cache of the process.
//!
//! However many clusters there are, a list of endpoints is one
//! [`EndpointSet`], an address is one [`Host`], and a host name is looked up
//! once per refresh for all sets that name it. Nothing is kept alive from here:
//! sets and hosts live as long as clusters and pools hold them.
//!
//! The state is plain data behind a mutex ([`Endpoints::on_answer`]); the driver
//! ([`Endpoints::run`]) asks and waits, and knows the resolver as a function.
//!
//! What an answer means (Envoy, STRICT_DNS, V4_ONLY): addresses replace the
//! hosts; an empty answer (NXDOMAIN, no data) clears them; a failure (SERVFAIL,
//! time-out) keeps them. The TTL is ignored. A set counts as resolved once each
//! of its names was answered in either way.

mod resolver;

use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use hashbrown::HashMap;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::model::{EndpointAddress, EndpointSet, Host};
use crate::stats::ControlStats;
pub use resolver::{NameServers, system_resolver};

/// Time between an answer and the next lookup of the name, as the scheduler
/// sends it (Envoy: `dns_refresh_rate`, default there 5 s).
pub const REFRESH: Duration = Duration::from_secs(2);

/// Most lookups in flight at once; further names wait their turn. Envoy has no
/// such bound; a name server that sees thousands of questions at once drops
/// some.
const MAX_LOOKUPS: usize = 64;

/// What a lookup gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The A records; none for NXDOMAIN and for NOERROR without A records.
    Addresses(Vec<Ipv4Addr>),
    /// SERVFAIL, REFUSED, no answer in time, no name server.
    Failed,
}

/// A lookup under way.
pub type Lookup = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// How names are looked up: a function, so that tests answer as they like.
pub type Resolver = Box<dyn Fn(&str) -> Lookup + Send + Sync>;

/// Directory of endpoint sets, hosts and host names.
#[derive(Debug)]
pub struct Endpoints {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
    /// There is a name that was never looked up.
    wake: Notify,
}

#[derive(Debug, Default)]
struct State {
    sets: HashMap<Box<[EndpointAddress]>, Weak<EndpointSet>>,
    hosts: HashMap<SocketAddr, Weak<Host>>,
    names: HashMap<Arc<str>, Name>,
    /// Sets and hosts left by the last sweep.
    swept: usize,
}

/// The cache entry of a host name.
#[derive(Debug)]
struct Name {
    /// Sets that name it.
    users: Vec<Weak<EndpointSet>>,
    /// Addresses of the last successful answer, sorted.
    addresses: Vec<Ipv4Addr>,
    /// True once it was answered, with success or not.
    answered: bool,
    in_flight: bool,
    /// When to look it up next.
    due: Option<Instant>,
    refresh: Duration,
}

impl Default for Endpoints {
    fn default() -> Self {
        Self { state: Mutex::default(), changed: watch::Sender::new(0), wake: Notify::new() }
    }
}

impl Endpoints {
    /// The set of these endpoints, in any order; made if need be. Its host
    /// names are looked up every [`REFRESH`].
    pub fn intern(&self, endpoints: Vec<EndpointAddress>) -> Arc<EndpointSet> {
        self.intern_refreshed(endpoints, REFRESH)
    }

    /// As [`Endpoints::intern`], with the time between lookups of its names; of
    /// several wishes for one name the shortest is granted.
    pub fn intern_refreshed(
        &self,
        mut endpoints: Vec<EndpointAddress>,
        refresh: Duration,
    ) -> Arc<EndpointSet> {
        endpoints.sort();
        endpoints.dedup();
        let mut state = self.lock();
        let known = state.sets.get(&*endpoints).and_then(Weak::upgrade);
        let is_new = known.is_none();
        let set = known.unwrap_or_else(|| {
            state.sweep_if_grown();
            let set = Arc::new(EndpointSet::new(endpoints));
            state.sets.insert(set.endpoints.clone(), Arc::downgrade(&set));
            set
        });
        let mut asks = false;
        for endpoint in &set.endpoints {
            if let EndpointAddress::Name(name, _) = endpoint {
                let entry = state.name(name, refresh);
                asks |= !entry.answered;
                if is_new {
                    entry.users.push(Arc::downgrade(&set));
                }
            }
        }
        if is_new && state.update(&set) {
            self.bump();
        }
        drop(state);
        if asks {
            self.wake.notify_one();
        }
        set
    }

    /// The host object of an address.
    pub fn host(&self, address: SocketAddr) -> Arc<Host> {
        self.lock().host(address)
    }

    /// Takes in what a lookup of `name` gave; the next one is due a refresh
    /// period after `now`. Returns how many sets in service got other hosts.
    pub fn on_answer(&self, name: &str, answer: Answer, now: Instant) -> u64 {
        let mut state = self.lock();
        let Some(entry) = state.names.get_mut(name) else {
            return 0;
        };
        entry.in_flight = false;
        entry.answered = true;
        entry.due = Some(now + entry.refresh);
        if let Answer::Addresses(mut addresses) = answer {
            addresses.sort_unstable();
            addresses.dedup();
            entry.addresses = addresses;
        }
        let users: Vec<_> = entry.users.iter().filter_map(Weak::upgrade).collect();
        let (mut changed, mut in_service) = (false, 0);
        for set in users {
            let was_resolved = set.is_resolved();
            if state.update(&set) {
                changed = true;
                in_service += u64::from(was_resolved);
            }
        }
        drop(state);
        if changed {
            self.bump();
        }
        in_service
    }

    /// A number that grows whenever a set becomes resolved or its hosts change.
    #[must_use]
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Looks names up for ever, each a refresh period after its last answer.
    /// Runs on the control thread, whose statistics it writes.
    pub async fn run(&self, stats: &ControlStats, resolver: Resolver) {
        let mut lookups: JoinSet<Answer> = JoinSet::new();
        let mut names: HashMap<tokio::task::Id, Arc<str>> = HashMap::new();
        loop {
            let room = MAX_LOOKUPS - lookups.len().min(MAX_LOOKUPS);
            let (due, next) = self.take_due(Instant::now(), room);
            for name in due {
                stats.dns_update_attempt.inc();
                let task = lookups.spawn(resolver(&name));
                names.insert(task.id(), name);
            }
            let timer = async {
                match next {
                    Some(next) => sleep_until(next).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(done) = lookups.join_next_with_id() => {
                    let (task, answer) = match done {
                        Ok(done) => done,
                        Err(error) => (error.id(), Answer::Failed),
                    };
                    count(stats, &answer);
                    if let Some(name) = names.remove(&task) {
                        let updated = self.on_answer(&name, answer, Instant::now());
                        stats.cluster_updated.add(updated);
                    }
                }
                () = timer => {}
                () = self.wake.notified() => {}
            }
        }
    }

    /// Up to `room` names whose lookup is due, marked as in flight, and when
    /// the next one will be (none: not before an answer or a new name).
    fn take_due(&self, now: Instant, room: usize) -> (Vec<Arc<str>>, Option<Instant>) {
        let mut state = self.lock();
        let mut due = Vec::new();
        let mut next: Option<Instant> = None;
        state.names.retain(|name, entry| {
            if entry.in_flight {
                return true;
            }
            match entry.due {
                Some(at) if at > now => next = Some(next.map_or(at, |n| n.min(at))),
                _ => {
                    entry.users.retain(|set| set.strong_count() > 0);
                    if entry.users.is_empty() {
                        return false;
                    }
                    if due.len() < room {
                        entry.in_flight = true;
                        due.push(Arc::clone(name));
                    }
                }
            }
            true
        });
        (due, next)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bump(&self) {
        self.changed.send_modify(|n| *n += 1);
    }
}

impl State {
    fn host(&mut self, address: SocketAddr) -> Arc<Host> {
        if let Some(host) = self.hosts.get(&address).and_then(Weak::upgrade) {
            return host;
        }
        let host = Arc::new(Host { address, active: AtomicU32::new(0) });
        self.hosts.insert(address, Arc::downgrade(&host));
        host
    }

    fn name(&mut self, name: &Arc<str>, refresh: Duration) -> &mut Name {
        let entry = self.names.entry(Arc::clone(name)).or_insert_with(|| Name {
            users: Vec::new(),
            addresses: Vec::new(),
            answered: false,
            in_flight: false,
            due: None,
            refresh,
        });
        entry.refresh = entry.refresh.min(refresh);
        entry
    }

    /// Brings a set up to date, once all of its names were answered; true if it
    /// became resolved or its hosts changed.
    fn update(&mut self, set: &EndpointSet) -> bool {
        let mut addresses = Vec::new();
        for endpoint in &set.endpoints {
            match endpoint {
                EndpointAddress::Socket(address) => addresses.push(*address),
                EndpointAddress::Name(name, port) => match self.names.get(name) {
                    Some(entry) if entry.answered => {
                        addresses.extend(
                            entry.addresses.iter().map(|ip| SocketAddr::from((*ip, *port))),
                        );
                    }
                    _ => return false,
                },
            }
        }
        addresses.sort_unstable();
        addresses.dedup();
        let same = set.hosts().iter().map(|h| h.address).eq(addresses.iter().copied());
        if same && set.is_resolved() {
            return false;
        }
        set.publish(addresses.into_iter().map(|address| self.host(address)).collect());
        true
    }

    /// Forgets dead entries when there are twice as many as after the last
    /// sweep, so that interning stays cheap on average.
    fn sweep_if_grown(&mut self) {
        const FEW: usize = 64;
        if self.sets.len() + self.hosts.len() < 2 * self.swept + FEW {
            return;
        }
        self.sets.retain(|_, set| set.strong_count() > 0);
        self.hosts.retain(|_, host| host.strong_count() > 0);
        for entry in self.names.values_mut() {
            entry.users.retain(|set| set.strong_count() > 0);
        }
        self.swept = self.sets.len() + self.hosts.len();
    }
}

fn count(stats: &ControlStats, answer: &Answer) {
    match answer {
        Answer::Addresses(addresses) => {
            stats.dns_update_success.inc();
            if addresses.is_empty() {
                stats.dns_update_empty.inc();
            }
        }
        Answer::Failed => stats.dns_update_failure.inc(),
    }
}

#[cfg(test)]
mod tests;
