//! Why a connection to an upstream could not be made, in Envoy's words
//! (`%UPSTREAM_TRANSPORT_FAILURE_REASON%`).
//!
//! Envoy's words for TLS are those of BoringSSL: a library, a number and a name.
//! What rustls tells is mapped to them; what it does not tell (at which depth of
//! the chain a certificate was refused) reads as in the usual case.

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;

use rustls::{AlertDescription, CertificateError};

/// BoringSSL: `ERR_PACK(ERR_LIB_SYS, 0)`; `errno` is added.
const SYSTEM: u32 = 2 << 24;
/// BoringSSL: `ERR_PACK(ERR_LIB_SSL, 0)`; the reason is added.
const SSL: u32 = 16 << 24;
/// BoringSSL: `SSL_AD_REASON_OFFSET`; an alert's number is added.
const ALERTS: u32 = 1000;

/// The cause of a failed connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TransportFailure {
    /// Envoy has no words for it: the peer just left.
    #[default]
    Silent,
    /// `connect` failed with this `errno`.
    Connect(i32),
    /// The TLS secrets have not arrived.
    NoSecret,
    /// The stream failed with this `errno` while hands were shaken.
    TlsStream(i32),
    /// The peer refused by this alert.
    TlsAlert(u8),
    /// The peer's certificate was refused.
    TlsCertificate(CertificateFault),
    /// The peer does not speak TLS, or not as expected.
    TlsProtocol(TlsFault),
}

/// Why a certificate was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CertificateFault {
    /// No chain to a trusted authority.
    UnknownIssuer,
    /// It is over.
    Expired,
    /// It has not begun.
    NotYetValid,
    /// Anything else.
    Other,
}

/// How a peer broke the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TlsFault {
    /// Its bytes are no TLS records.
    WrongVersion,
    /// It chose a version that was not offered.
    UnsupportedProtocol,
    /// Anything else.
    UnexpectedMessage,
}

impl TransportFailure {
    /// Of a `connect` that failed.
    #[must_use]
    pub fn of_connect(error: &io::Error) -> Self {
        error.raw_os_error().map_or(Self::Silent, Self::Connect)
    }

    /// Of a handshake that failed.
    #[must_use]
    pub fn of_handshake(error: &io::Error) -> Self {
        if let Some(errno) = error.raw_os_error() {
            return Self::TlsStream(errno);
        }
        if error.kind() == io::ErrorKind::NotConnected {
            return Self::NoSecret;
        }
        match tls_error(error) {
            Some(rustls::Error::AlertReceived(alert)) => Self::TlsAlert(u8::from(*alert)),
            Some(rustls::Error::InvalidCertificate(error)) => Self::TlsCertificate(match error {
                CertificateError::UnknownIssuer => CertificateFault::UnknownIssuer,
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                    CertificateFault::Expired
                }
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    CertificateFault::NotYetValid
                }
                _ => CertificateFault::Other,
            }),
            Some(rustls::Error::InvalidMessage(_)) => Self::TlsProtocol(TlsFault::WrongVersion),
            Some(rustls::Error::PeerIncompatible(_)) => {
                Self::TlsProtocol(TlsFault::UnsupportedProtocol)
            }
            Some(_) => Self::TlsProtocol(TlsFault::UnexpectedMessage),
            None => Self::Silent,
        }
    }

    /// A fatal alert that came after the handshake. With TLS 1.3 that is how a
    /// server refuses a client's certificate.
    #[must_use]
    pub fn of_late_alert(error: &io::Error) -> Option<Self> {
        match tls_error(error)? {
            rustls::Error::AlertReceived(alert) => Some(Self::TlsAlert(u8::from(*alert))),
            _ => None,
        }
    }

    /// Envoy's words, blanks as underscores; `address`: of the upstream.
    #[must_use]
    pub fn words(self, address: Option<SocketAddr>) -> Option<String> {
        let mut words = match self {
            Self::Silent => return None,
            Self::Connect(errno) if is_immediate(errno) => {
                let mut words = format!("immediate connect error: {}", strerror(errno));
                if let Some(address) = address {
                    // Writing into memory cannot fail.
                    let _ = write!(words, "|remote address:{address}");
                }
                words
            }
            Self::Connect(errno) => format!("delayed connect error: {}", strerror(errno)),
            Self::NoSecret => "TLS error: Secret is not supplied by SDS".to_owned(),
            Self::TlsStream(errno) => {
                let code = SYSTEM + errno.unsigned_abs();
                format!(
                    "TLS_error:|{code}:system library:OPENSSL_internal:{}:TLS_error_end",
                    strerror(errno)
                )
            }
            Self::TlsAlert(alert) => tls(ALERTS + u32::from(alert), alert_name(alert)),
            Self::TlsCertificate(fault) => tls(125, fault.words()),
            Self::TlsProtocol(TlsFault::WrongVersion) => tls(247, "WRONG_VERSION_NUMBER"),
            Self::TlsProtocol(TlsFault::UnsupportedProtocol) => tls(240, "UNSUPPORTED_PROTOCOL"),
            Self::TlsProtocol(TlsFault::UnexpectedMessage) => tls(223, "UNEXPECTED_MESSAGE"),
        };
        if words.contains(' ') {
            words = words.replace(' ', "_");
        }
        Some(words)
    }
}

impl CertificateFault {
    fn words(self) -> &'static str {
        macro_rules! refused {
            ($why:literal) => {
                concat!(
                    "CERTIFICATE_VERIFY_FAILED:verify cert failed: X509_verify_cert: ",
                    "certificate verification error at depth 0: ",
                    $why
                )
            };
        }
        match self {
            Self::UnknownIssuer => refused!("unable to get local issuer certificate"),
            Self::Expired => refused!("certificate has expired"),
            Self::NotYetValid => refused!("certificate is not yet valid"),
            Self::Other => "CERTIFICATE_VERIFY_FAILED",
        }
    }
}

fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

fn tls(reason: u32, name: &str) -> String {
    format!("TLS_error:|{}:SSL routines:OPENSSL_internal:{name}:TLS_error_end", SSL + reason)
}

/// True for what `connect` says at once, without asking the network.
fn is_immediate(errno: i32) -> bool {
    const EPERM: i32 = 1;
    const EACCES: i32 = 13;
    const EINVAL: i32 = 22;
    const EAFNOSUPPORT: i32 = 97;
    const EADDRINUSE: i32 = 98;
    const EADDRNOTAVAIL: i32 = 99;
    const ENETUNREACH: i32 = 101;
    matches!(
        errno,
        EPERM | EACCES | EINVAL | EAFNOSUPPORT | EADDRINUSE | EADDRNOTAVAIL | ENETUNREACH
    )
}

/// The system's text, without the number that Rust appends.
fn strerror(errno: i32) -> String {
    let mut text = io::Error::from_raw_os_error(errno).to_string();
    if let Some(end) = text.rfind(" (os error") {
        text.truncate(end);
    }
    text
}

/// BoringSSL's name of an alert (`SSL_R_*`).
fn alert_name(alert: u8) -> &'static str {
    use AlertDescription as A;
    match A::from(alert) {
        A::CloseNotify => "SSLV3_ALERT_CLOSE_NOTIFY",
        A::UnexpectedMessage => "SSLV3_ALERT_UNEXPECTED_MESSAGE",
        A::BadRecordMac => "SSLV3_ALERT_BAD_RECORD_MAC",
        A::RecordOverflow => "TLSV1_ALERT_RECORD_OVERFLOW",
        A::HandshakeFailure => "SSLV3_ALERT_HANDSHAKE_FAILURE",
        A::BadCertificate => "SSLV3_ALERT_BAD_CERTIFICATE",
        A::UnsupportedCertificate => "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
        A::CertificateRevoked => "SSLV3_ALERT_CERTIFICATE_REVOKED",
        A::CertificateExpired => "SSLV3_ALERT_CERTIFICATE_EXPIRED",
        A::CertificateUnknown => "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
        A::IllegalParameter => "SSLV3_ALERT_ILLEGAL_PARAMETER",
        A::UnknownCA => "TLSV1_ALERT_UNKNOWN_CA",
        A::AccessDenied => "TLSV1_ALERT_ACCESS_DENIED",
        A::DecodeError => "TLSV1_ALERT_DECODE_ERROR",
        A::DecryptError => "TLSV1_ALERT_DECRYPT_ERROR",
        A::ProtocolVersion => "TLSV1_ALERT_PROTOCOL_VERSION",
        A::InsufficientSecurity => "TLSV1_ALERT_INSUFFICIENT_SECURITY",
        A::InternalError => "TLSV1_ALERT_INTERNAL_ERROR",
        A::InappropriateFallback => "TLSV1_ALERT_INAPPROPRIATE_FALLBACK",
        A::UserCanceled => "TLSV1_ALERT_USER_CANCELLED",
        A::UnsupportedExtension => "TLSV1_ALERT_UNSUPPORTED_EXTENSION",
        A::UnrecognisedName => "TLSV1_ALERT_UNRECOGNIZED_NAME",
        A::UnknownPSKIdentity => "TLSV1_ALERT_UNKNOWN_PSK_IDENTITY",
        A::CertificateRequired => "TLSV1_ALERT_CERTIFICATE_REQUIRED",
        A::NoApplicationProtocol => "TLSV1_ALERT_NO_APPLICATION_PROTOCOL",
        _ => "UNKNOWN_ALERT_TYPE",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(failure: TransportFailure) -> String {
        failure.words("10.0.0.1:80".parse().ok()).unwrap_or_default()
    }

    /// As the real one logged them.
    #[test]
    fn words_are_envoys() {
        use TransportFailure as T;
        for (failure, want) in [
            (T::Silent, ""),
            (T::Connect(111), "delayed_connect_error:_Connection_refused"),
            (
                T::Connect(101),
                "immediate_connect_error:_Network_is_unreachable|remote_address:10.0.0.1:80",
            ),
            (
                T::TlsStream(104),
                "TLS_error:|33554536:system_library:OPENSSL_internal:Connection_reset_by_peer:TLS_error_end",
            ),
            (
                T::TlsAlert(40),
                "TLS_error:|268436496:SSL_routines:OPENSSL_internal:SSLV3_ALERT_HANDSHAKE_FAILURE:TLS_error_end",
            ),
            (
                T::TlsAlert(116),
                "TLS_error:|268436572:SSL_routines:OPENSSL_internal:TLSV1_ALERT_CERTIFICATE_REQUIRED:TLS_error_end",
            ),
            (
                T::TlsCertificate(CertificateFault::UnknownIssuer),
                "TLS_error:|268435581:SSL_routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:verify_cert_failed:_X509_verify_cert:_certificate_verification_error_at_depth_0:_unable_to_get_local_issuer_certificate:TLS_error_end",
            ),
            (
                T::TlsProtocol(TlsFault::WrongVersion),
                "TLS_error:|268435703:SSL_routines:OPENSSL_internal:WRONG_VERSION_NUMBER:TLS_error_end",
            ),
        ] {
            assert_eq!(words(failure), want);
        }
    }

    #[test]
    fn errors_are_told_apart() {
        use TransportFailure as T;
        let refused = io::Error::from_raw_os_error(111);
        assert_eq!(T::of_connect(&refused), T::Connect(111));
        assert_eq!(T::of_handshake(&refused), T::TlsStream(111));
        let left = io::Error::from(io::ErrorKind::UnexpectedEof);
        assert_eq!(T::of_handshake(&left), T::Silent);
        let of = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        let alert = of(rustls::Error::AlertReceived(AlertDescription::CertificateRequired));
        assert_eq!(T::of_handshake(&alert), T::TlsAlert(116));
        assert_eq!(T::of_late_alert(&alert), Some(T::TlsAlert(116)));
        assert_eq!(T::of_late_alert(&of(rustls::Error::DecryptError)), None);
        assert_eq!(T::of_late_alert(&left), None);
    }
}
