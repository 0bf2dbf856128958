//! Statistics of handshakes (`listener.<address>.ssl.*`, `cluster.<name>.ssl.*`)
//! and the certificates in use (`/certs`).

use std::io;

use rustls::{CipherSuite, CommonState, HandshakeKind, NamedGroup, ProtocolVersion};

use super::certificate::Details;
use crate::io::Io;
use crate::stats::{Counter, shard};

shard! {
    /// Handshakes of a listener or a cluster, by one worker.
    TlsStats
    counters {
        connection_error handshake session_reused no_certificate
        fail_verify_no_cert fail_verify_error fail_verify_san fail_verify_cert_hash
    }
    gauges {}
    histograms {}
    groups {
        ciphers: [Counter; CIPHERS.len()]
        curves: [Counter; CURVES.len()]
        versions: [Counter; VERSIONS.len()]
    }
}

/// Cipher suites by their names in Envoy (BoringSSL's).
const CIPHERS: [(CipherSuite, &str); 9] = [
    (CipherSuite::TLS13_AES_128_GCM_SHA256, "TLS_AES_128_GCM_SHA256"),
    (CipherSuite::TLS13_AES_256_GCM_SHA384, "TLS_AES_256_GCM_SHA384"),
    (CipherSuite::TLS13_CHACHA20_POLY1305_SHA256, "TLS_CHACHA20_POLY1305_SHA256"),
    (CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, "ECDHE-ECDSA-AES128-GCM-SHA256"),
    (CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, "ECDHE-ECDSA-AES256-GCM-SHA384"),
    (CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, "ECDHE-ECDSA-CHACHA20-POLY1305"),
    (CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, "ECDHE-RSA-AES128-GCM-SHA256"),
    (CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, "ECDHE-RSA-AES256-GCM-SHA384"),
    (CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, "ECDHE-RSA-CHACHA20-POLY1305"),
];

const CURVES: [(NamedGroup, &str); 3] = [
    (NamedGroup::X25519, "X25519"),
    (NamedGroup::secp256r1, "P-256"),
    (NamedGroup::secp384r1, "P-384"),
];

const VERSIONS: [(ProtocolVersion, &str); 2] =
    [(ProtocolVersion::TLSv1_2, "TLSv1.2"), (ProtocolVersion::TLSv1_3, "TLSv1.3")];

/// A group of counters that Envoy makes at first use: what was agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Agreed {
    Cipher,
    Curve,
    Version,
}

impl Agreed {
    pub(crate) const ALL: [Self; 3] = [Self::Cipher, Self::Curve, Self::Version];

    /// Envoy's name of the group.
    pub(crate) fn group(self) -> &'static str {
        match self {
            Self::Cipher => "ssl.ciphers",
            Self::Curve => "ssl.curves",
            Self::Version => "ssl.versions",
        }
    }

    /// The label that Prometheus gets instead; ciphers have another one in
    /// clusters than in listeners.
    pub(crate) fn label(self, cluster: bool) -> &'static str {
        match self {
            Self::Cipher if cluster => "cipher_suite",
            Self::Cipher => "envoy_ssl_cipher",
            Self::Curve => "envoy_ssl_curve",
            Self::Version => "envoy_ssl_version",
        }
    }
}

impl TlsStats {
    /// Counts a handshake.
    pub(crate) fn shaken(&self, shaken: &io::Result<Io>) {
        match shaken {
            Ok(io) => io.tls().into_iter().for_each(|tls| self.succeeded(tls)),
            Err(error) => self.failed(error),
        }
    }

    fn succeeded(&self, tls: &CommonState) {
        self.handshake.inc();
        if tls.handshake_kind() == Some(HandshakeKind::Resumed) {
            self.session_reused.inc();
        }
        if tls.peer_certificates().is_none_or(<[_]>::is_empty) {
            self.no_certificate.inc();
        }
        let cipher = tls.negotiated_cipher_suite().map(|suite| suite.suite());
        count(&CIPHERS, &self.ciphers, cipher);
        let curve = tls.negotiated_key_exchange_group().map(|group| group.name());
        count(&CURVES, &self.curves, curve);
        count(&VERSIONS, &self.versions, tls.protocol_version());
    }

    /// A peer that just leaves is no error.
    fn failed(&self, error: &io::Error) {
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match tls {
            Some(rustls::Error::InvalidCertificate(_)) => self.fail_verify_error.inc(),
            Some(rustls::Error::NoCertificatesPresented) => self.fail_verify_no_cert.inc(),
            Some(_) => self.connection_error.inc(),
            None if error.kind() == io::ErrorKind::InvalidData => self.connection_error.inc(),
            None => {}
        }
    }

    /// Calls `visit` with everything agreed on so far: name and count.
    pub(crate) fn agreed(&self, which: Agreed, visit: &mut dyn FnMut(&'static str, u64)) {
        fn each<T>(
            names: &[(T, &'static str)],
            counters: &[Counter],
            visit: &mut dyn FnMut(&'static str, u64),
        ) {
            for ((_, name), counter) in names.iter().zip(counters) {
                if counter.value() > 0 {
                    visit(name, counter.value());
                }
            }
        }
        match which {
            Agreed::Cipher => each(&CIPHERS, &self.ciphers, visit),
            Agreed::Curve => each(&CURVES, &self.curves, visit),
            Agreed::Version => each(&VERSIONS, &self.versions, visit),
        }
    }
}

fn count<T: PartialEq>(names: &[(T, &str)], counters: &[Counter], agreed: Option<T>) {
    let place = agreed.and_then(|agreed| names.iter().position(|(known, _)| *known == agreed));
    if let Some(counter) = place.and_then(|place| counters.get(place)) {
        counter.inc();
    }
}

/// A certificate of a context: where it came from and what is in it.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    /// File, or `<inline>`.
    pub(crate) path: String,
    /// The secret's name; empty if it stands in the context itself.
    pub(crate) secret: String,
    pub(crate) details: Details,
}

/// The certificates of a context.
#[derive(Clone, Debug, Default)]
pub(crate) struct InUse {
    /// The first one that is trusted.
    pub(crate) ca: Option<Shown>,
    /// Own leaves.
    pub(crate) chain: Vec<Shown>,
}

impl InUse {
    /// Names of secrets and when what they hold expires, in seconds since the
    /// epoch.
    pub(crate) fn expirations(&self) -> impl Iterator<Item = (&str, u64)> {
        let named = self.ca.iter().chain(&self.chain).filter(|shown| !shown.secret.is_empty());
        named.map(|shown| {
            let at = shown.details.not_after.unix_timestamp();
            (&*shown.secret, u64::try_from(at).unwrap_or(0))
        })
    }
}
