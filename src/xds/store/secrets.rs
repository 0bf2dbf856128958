//! Secrets, and the TLS contexts that are made of them.

use std::collections::BTreeSet;
use std::hash::Hash;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};

use hashbrown::HashMap;
use rustls_pki_types::ServerName;

use super::Store;
use crate::logic::ads::ResourceType;
use crate::tls::config::{self, Keys};
use crate::tls::material::{self, Material};
use crate::tls::spec::{
    CertificateRef, CommonSpec, DownstreamSpec, PemSource, SecretSpec, UpstreamSpec,
};
use crate::tls::{Context, DownstreamTls, UpstreamTls};
use crate::xds::decode;
use crate::xds::update::Resource;

/// How long a cluster or listener waits for secrets (Envoy:
/// `initial_fetch_timeout`, 15 s). Then it goes into service, and its
/// handshakes fail until the secrets come.
const SECRET_WAIT: Duration = Duration::from_secs(15);

/// How often files with certificates are looked at.
const FILE_CHECK: Duration = Duration::from_secs(2);

#[derive(Debug)]
struct Held {
    spec: SecretSpec,
    material: Material,
}

/// A context that somebody may still use.
#[derive(Debug)]
struct Made<T> {
    context: Weak<T>,
    since: Instant,
}

/// Secrets by name, and contexts by what they are made of.
#[derive(Debug, Default)]
pub(super) struct Secrets {
    held: HashMap<String, Held>,
    upstream: HashMap<UpstreamSpec, Made<UpstreamTls>>,
    downstream: HashMap<DownstreamSpec, Made<DownstreamTls>>,
    /// As last seen.
    files: Vec<Stamp>,
    files_at: Option<Instant>,
}

/// What changes when a file does.
type Stamp = Option<(SystemTime, u64)>;

/// A kind of context.
trait Spec: Eq + Hash + Clone {
    type Context: Context;
    fn common(&self) -> &CommonSpec;
    fn empty(&self) -> Self::Context;
    fn equip(&self, context: &Self::Context, keys: Keys) -> Result<(), String>;
}

impl Spec for UpstreamSpec {
    type Context = UpstreamTls;

    fn common(&self) -> &CommonSpec {
        &self.common
    }

    fn empty(&self) -> UpstreamTls {
        let name = self.sni.clone();
        UpstreamTls::new(name.and_then(|name| ServerName::try_from(name).ok()))
    }

    fn equip(&self, context: &UpstreamTls, keys: Keys) -> Result<(), String> {
        let in_use = keys.in_use.clone();
        context.store(config::client(self, keys)?, in_use);
        Ok(())
    }
}

impl Spec for DownstreamSpec {
    type Context = DownstreamTls;

    fn common(&self) -> &CommonSpec {
        &self.common
    }

    fn empty(&self) -> DownstreamTls {
        DownstreamTls::new(self.handshake_timeout)
    }

    fn equip(&self, context: &DownstreamTls, keys: Keys) -> Result<(), String> {
        let in_use = keys.in_use.clone();
        context.store(config::server(self, keys)?, in_use);
        Ok(())
    }
}

impl Secrets {
    /// Names that contexts in use need.
    pub(super) fn names(&self) -> BTreeSet<String> {
        let upstream = self.upstream.iter().filter(|(_, made)| made.context.strong_count() > 0);
        let upstream = upstream.map(|(spec, _)| &spec.common);
        let downstream = self.downstream.iter().filter(|(_, made)| made.context.strong_count() > 0);
        let downstream = downstream.map(|(spec, _)| &spec.common);
        let common = upstream.chain(downstream);
        common.flat_map(CommonSpec::secrets).map(str::to_owned).collect()
    }

    /// The context of clusters with these settings.
    ///
    /// # Errors
    /// A certificate in the settings themselves that cannot be used.
    pub(super) fn upstream(
        &mut self,
        spec: UpstreamSpec,
        now: Instant,
    ) -> Result<Arc<UpstreamTls>, String> {
        let Self { held, upstream, .. } = self;
        obtain(upstream, spec, held, now)
    }

    /// The context of listeners with these settings.
    ///
    /// # Errors
    /// A certificate in the settings themselves that cannot be used.
    pub(super) fn downstream(
        &mut self,
        spec: DownstreamSpec,
        now: Instant,
    ) -> Result<Arc<DownstreamTls>, String> {
        let Self { held, downstream, .. } = self;
        obtain(downstream, spec, held, now)
    }

    fn insert(&mut self, name: &str, spec: SecretSpec, material: Material) {
        let changed = |common: &CommonSpec| common.secrets().contains(name);
        // Replaced first, so that contexts see the new one.
        self.held.insert(name.to_owned(), Held { spec, material });
        renew(&mut self.upstream, &self.held, changed);
        renew(&mut self.downstream, &self.held, changed);
    }

    /// Gives up waiting where it took too long, and reads changed files again.
    pub(super) fn advance(&mut self, now: Instant) {
        give_up(&self.upstream, now);
        give_up(&self.downstream, now);
        self.upstream.retain(|_, made| made.context.strong_count() > 0);
        self.downstream.retain(|_, made| made.context.strong_count() > 0);
        self.check_files(now);
    }

    /// When to advance again.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let waits = waiting(&self.upstream).chain(waiting(&self.downstream));
        waits.chain(self.files_at).min()
    }

    fn check_files(&mut self, now: Instant) {
        if self.files_at.is_some_and(|at| now < at) {
            return;
        }
        let files = self.stamps();
        self.files_at = (!files.is_empty()).then(|| now + FILE_CHECK);
        if files == self.files {
            return;
        }
        self.files = files;
        for (name, held) in &mut self.held {
            if !held.spec.sources().into_iter().any(is_file) {
                continue;
            }
            match material::secret(&held.spec) {
                Ok(material) => held.material = material,
                Err(e) => tracing::error!(secret = name, "the last good one stays: {e}"),
            }
        }
        renew(&mut self.upstream, &self.held, |_| true);
        renew(&mut self.downstream, &self.held, |_| true);
    }

    /// Of all files, in an order that is the same each time.
    fn stamps(&self) -> Vec<Stamp> {
        let given = self.upstream.keys().map(|spec| &spec.common);
        let given = given.chain(self.downstream.keys().map(|spec| &spec.common));
        let held = self.held.values().flat_map(|held| held.spec.sources());
        let paths: BTreeSet<_> = given
            .flat_map(CommonSpec::sources)
            .chain(held)
            .filter_map(|source| match source {
                PemSource::File(path) => Some(path),
                PemSource::Inline(_) | PemSource::Environment(_) => None,
            })
            .collect();
        let about = paths.into_iter().map(|path| std::fs::metadata(path).ok());
        about.map(|about| Some((about.as_ref()?.modified().ok()?, about?.len()))).collect()
    }
}

fn is_file(source: &PemSource) -> bool {
    matches!(source, PemSource::File(_))
}

fn obtain<S: Spec>(
    made: &mut HashMap<S, Made<S::Context>>,
    spec: S,
    held: &HashMap<String, Held>,
    now: Instant,
) -> Result<Arc<S::Context>, String> {
    if let Some(context) = made.get(&spec).and_then(|made| made.context.upgrade()) {
        return Ok(context);
    }
    let context = Arc::new(spec.empty());
    if let Some(keys) = keys(spec.common(), held)? {
        spec.equip(&context, keys)?;
    }
    made.insert(spec, Made { context: Arc::downgrade(&context), since: now });
    Ok(context)
}

/// Gives contexts new settings; one that cannot have them keeps its old ones.
fn renew<S: Spec>(
    made: &mut HashMap<S, Made<S::Context>>,
    held: &HashMap<String, Held>,
    which: impl Fn(&CommonSpec) -> bool,
) {
    for (spec, made) in made.iter().filter(|(spec, _)| which(spec.common())) {
        let Some(context) = made.context.upgrade() else { continue };
        let renewed = match keys(spec.common(), held) {
            Ok(Some(keys)) => spec.equip(&context, keys),
            Ok(None) => Ok(()),
            Err(e) => Err(e),
        };
        if let Err(e) = renewed {
            tracing::error!("the last good TLS settings stay: {e}");
        }
    }
}

/// A context's keys; none while secrets are missing.
fn keys(common: &CommonSpec, held: &HashMap<String, Held>) -> Result<Option<Keys>, String> {
    let mut keys = Keys::default();
    for certificate in &common.certificates {
        let (spec, identity, secret) = match certificate {
            CertificateRef::Given(spec) => {
                (spec, material::identity(spec).map_err(|e| e.to_string())?, "")
            }
            CertificateRef::Secret(name) => match held.get(name) {
                Some(Held {
                    spec: SecretSpec::Certificate(spec),
                    material: Material::Identity(identity),
                }) => (spec, Arc::clone(identity), &**name),
                Some(_) => return Err(format!("secret '{name}' has no certificate")),
                None => return Ok(None),
            },
        };
        let leaf = identity.cert.first();
        let shown = leaf.and_then(|leaf| material::shown(leaf, &spec.chain, secret));
        keys.in_use.chain.extend(shown);
        keys.certificates.push(identity);
    }
    let (mut spec, mut secret) = (&common.trust.given, "");
    if let Some(name) = &common.trust.secret {
        match held.get(name) {
            Some(Held { spec: SecretSpec::Trust(own), material: Material::Trust(trust) }) => {
                keys.trust.clone_from(trust);
                if trust.is_some() {
                    (spec, secret) = (own, name);
                }
            }
            Some(_) => return Err(format!("secret '{name}' has no validation context")),
            None => return Ok(None),
        }
    }
    if keys.trust.is_none() {
        keys.trust = material::trust(&common.trust.given).map_err(|e| e.to_string())?;
    }
    if let (Some(trust), Some(source)) = (&keys.trust, &spec.ca) {
        let first = trust.certificates.first();
        keys.in_use.ca = first.and_then(|ca| material::shown(ca, source, secret));
    }
    Ok(Some(keys))
}

fn waiting<S: Spec>(made: &HashMap<S, Made<S::Context>>) -> impl Iterator<Item = Instant> {
    let waiting = made
        .values()
        .filter(|made| made.context.upgrade().is_some_and(|context| !context.is_settled()));
    waiting.map(|made| made.since + SECRET_WAIT)
}

fn give_up<S: Spec>(made: &HashMap<S, Made<S::Context>>, now: Instant) {
    for (spec, made) in made.iter().filter(|(_, made)| now >= made.since + SECRET_WAIT) {
        let context = made.context.upgrade().filter(|context| !context.is_settled());
        if let Some(context) = context {
            tracing::error!(secrets = ?spec.common().secrets(), "secrets did not come in time");
            context.give_up();
        }
    }
}

impl Store {
    pub(super) fn take_secret(&mut self, resource: Resource) -> Result<(), String> {
        let (name, spec) = decode::secret(&resource.value).map_err(|e| e.to_string())?;
        if name != resource.name {
            return Err(format!("the message's name is '{name}' [name]"));
        }
        let is_known = self.is_held(ResourceType::Secret, &resource);
        // A file may have changed though its name did not.
        if !is_known || spec.sources().into_iter().any(is_file) {
            let material = material::secret(&spec).map_err(|e| e.to_string())?;
            self.secrets.insert(&name, spec, material);
        }
        self.keep_raw(ResourceType::Secret, resource);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
