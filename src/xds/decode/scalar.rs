//! Small well-known messages.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::r#type::v3::{FractionalPercent, fractional_percent};
use envoy_types::pb::google::protobuf;

use super::Invalid;
use super::error::At;

/// A duration that may be zero.
pub(super) fn duration(d: protobuf::Duration) -> Result<Duration, Invalid> {
    let negative =
        || Invalid::new(format!("Expected positive duration: {}.{:09}s", d.seconds, d.nanos.abs()));
    let seconds = u64::try_from(d.seconds).map_err(|_| negative())?;
    let nanos = u32::try_from(d.nanos).map_err(|_| negative())?;
    if nanos > 999_999_999 || seconds > 315_576_000_000 {
        return Err(Invalid::new("duration out of range"));
    }
    Ok(Duration::new(seconds, nanos))
}

/// An optional duration.
pub(super) fn duration_or(
    d: Option<&protobuf::Duration>,
    field: &str,
    default: Duration,
) -> Result<Duration, Invalid> {
    d.map_or(Ok(default), |d| duration(*d).at(field))
}

/// A duration where zero means none.
pub(super) fn limit(
    d: Option<&protobuf::Duration>,
    field: &str,
) -> Result<Option<Duration>, Invalid> {
    Ok(Some(duration_or(d, field, Duration::ZERO)?).filter(|d| !d.is_zero()))
}

/// Numerator and denominator.
pub(super) fn fraction(f: &FractionalPercent) -> (u32, u32) {
    let denominator = match f.denominator() {
        fractional_percent::DenominatorType::Hundred => 100,
        fractional_percent::DenominatorType::TenThousand => 10_000,
        fractional_percent::DenominatorType::Million => 1_000_000,
    };
    (f.numerator, denominator)
}

/// An address: text and port.
pub(super) fn socket_address(address: Option<&core::Address>) -> Result<(&str, u16), Invalid> {
    use core::address::Address;
    use core::socket_address::{PortSpecifier, Protocol};

    let address = match address.and_then(|a| a.address.as_ref()) {
        Some(Address::SocketAddress(address)) => address,
        Some(Address::Pipe(_)) => return Err(Invalid::unsupported("pipe")),
        Some(Address::EnvoyInternalAddress(_)) => {
            return Err(Invalid::unsupported("envoy_internal_address"));
        }
        None => return Err(Invalid::new("value is required")),
    };
    if address.protocol() != Protocol::Tcp {
        return Err(Invalid::unsupported("socket_address.protocol"));
    }
    super::error::refuse!(address; resolver_name, network_namespace_filepath);
    let port = match address.port_specifier {
        Some(PortSpecifier::PortValue(port)) => u16::try_from(port)
            .map_err(|_| Invalid::new("value must be less than or equal to 65535"))
            .at("socket_address.port_value")?,
        Some(PortSpecifier::NamedPort(_)) => {
            return Err(Invalid::unsupported("socket_address.named_port"));
        }
        None => {
            return Err(Invalid::new("value is required").at("socket_address.port_specifier"));
        }
    };
    if address.address.is_empty() {
        return Err(
            Invalid::new("value length must be at least 1 characters").at("socket_address.address")
        );
    }
    Ok((&address.address, port))
}

/// An address that must be an IP literal.
pub(super) fn ip_address(address: Option<&core::Address>) -> Result<SocketAddr, Invalid> {
    let (text, port) = socket_address(address)?;
    let ip: IpAddr =
        text.parse().map_err(|_| Invalid::new(format!("malformed IP address: {text}")))?;
    Ok(SocketAddr::new(ip, port))
}

/// Text or bytes given in the message itself.
pub(super) fn inline(source: &core::DataSource) -> Result<Bytes, Invalid> {
    use core::data_source::Specifier;
    match &source.specifier {
        Some(Specifier::InlineString(s)) => Ok(Bytes::copy_from_slice(s.as_bytes())),
        Some(Specifier::InlineBytes(b)) => Ok(Bytes::copy_from_slice(b)),
        Some(Specifier::Filename(_)) => Err(Invalid::unsupported("filename")),
        Some(Specifier::EnvironmentVariable(_)) => {
            Err(Invalid::unsupported("environment_variable"))
        }
        None => Err(Invalid::new("value is required")),
    }
}

/// Unpacks an `Any`.
pub(super) fn unpack<M: prost::Message + Default>(any: &protobuf::Any) -> Result<M, Invalid> {
    M::decode(&*any.value)
        .map_err(|e| Invalid::new(format!("{} does not decode: {e}", any.type_url)))
}

/// A value that must not be zero when given.
pub(super) fn wrapped(value: Option<protobuf::UInt32Value>, default: u32) -> u32 {
    value.map_or(default, |v| v.value)
}
