//! Response flags: why a request ended as it did (Envoy: `%RESPONSE_FLAGS%`).

use std::fmt;

/// One response flag (Envoy: `StreamInfo::CoreResponseFlag`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ResponseFlag {
    /// No route matched.
    NoRoute = 1,
    /// The route's cluster is unknown.
    NoCluster,
    /// The cluster has no host.
    NoHealthyUpstream,
    /// Connection not made.
    UpstreamConnectionFailure,
    /// Upstream closed the connection.
    UpstreamConnectionTermination,
    /// Upstream reset the stream.
    UpstreamRemoteReset,
    /// The request was reset by this proxy.
    LocalReset,
    /// Retries are used up.
    UpstreamRetryLimitExceeded,
    /// A limit of the cluster was reached.
    UpstreamOverflow,
    /// The route's timeout passed.
    UpstreamRequestTimeout,
    /// No byte in either direction for the stream idle timeout.
    StreamIdleTimeout,
    /// Upstream sent something that is not HTTP.
    UpstreamProtocolError,
    /// The client sent something that is not HTTP.
    DownstreamProtocolError,
    /// The client left.
    DownstreamConnectionTermination,
    /// The stream towards the client was reset.
    DownstreamRemoteReset,
}

impl ResponseFlag {
    const ALL: [Self; 15] = [
        Self::NoRoute,
        Self::NoCluster,
        Self::NoHealthyUpstream,
        Self::UpstreamConnectionFailure,
        Self::UpstreamConnectionTermination,
        Self::UpstreamRemoteReset,
        Self::LocalReset,
        Self::UpstreamRetryLimitExceeded,
        Self::UpstreamOverflow,
        Self::UpstreamRequestTimeout,
        Self::StreamIdleTimeout,
        Self::UpstreamProtocolError,
        Self::DownstreamProtocolError,
        Self::DownstreamConnectionTermination,
        Self::DownstreamRemoteReset,
    ];

    /// The short name that access logs show.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoRoute => "NR",
            Self::NoCluster => "NC",
            Self::NoHealthyUpstream => "UH",
            Self::UpstreamConnectionFailure => "UF",
            Self::UpstreamConnectionTermination => "UC",
            Self::UpstreamRemoteReset => "UR",
            Self::LocalReset => "LR",
            Self::UpstreamRetryLimitExceeded => "URX",
            Self::UpstreamOverflow => "UO",
            Self::UpstreamRequestTimeout => "UT",
            Self::StreamIdleTimeout => "SI",
            Self::UpstreamProtocolError => "UPE",
            Self::DownstreamProtocolError => "DPE",
            Self::DownstreamConnectionTermination => "DC",
            Self::DownstreamRemoteReset => "DR",
        }
    }
}

/// The flags of one request in the order in which they were set, each once:
/// that is the order of the access log (`URX,UF`).
///
/// At most eight; later ones are dropped (a request collects three at most).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ResponseFlags(u64);

impl ResponseFlags {
    /// No flag.
    pub const NONE: Self = Self(0);

    /// Adds a flag behind the others unless it is set already.
    pub fn set(&mut self, flag: ResponseFlag) {
        for slot in 0..8 {
            let shift = slot * 8;
            match (self.0 >> shift) as u8 {
                0 => {
                    self.0 |= u64::from(flag as u8) << shift;
                    return;
                }
                have if have == flag as u8 => return,
                _ => {}
            }
        }
    }

    /// These flags and one more.
    #[must_use]
    pub fn with(mut self, flag: ResponseFlag) -> Self {
        self.set(flag);
        self
    }

    /// True if the flag is set.
    #[must_use]
    pub fn has(self, flag: ResponseFlag) -> bool {
        self.iter().any(|f| f == flag)
    }

    /// True if no flag is set.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The flags in order.
    pub fn iter(self) -> impl Iterator<Item = ResponseFlag> {
        (0..8)
            .map(move |slot| (self.0 >> (slot * 8)) as u8)
            .take_while(|&byte| byte != 0)
            .filter_map(|byte| ResponseFlag::ALL.get(usize::from(byte) - 1).copied())
    }
}

impl From<ResponseFlag> for ResponseFlags {
    fn from(flag: ResponseFlag) -> Self {
        Self(flag as u64)
    }
}

impl From<Option<ResponseFlag>> for ResponseFlags {
    fn from(flag: Option<ResponseFlag>) -> Self {
        flag.map_or(Self::NONE, Self::from)
    }
}

impl fmt::Display for ResponseFlags {
    /// Comma-joined short names, `-` if there is none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("-");
        }
        for (index, flag) in self.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            f.write_str(flag.as_str())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_of_setting_is_kept_and_each_shows_once() {
        let mut flags = ResponseFlags::NONE;
        assert_eq!(flags.to_string(), "-");
        flags.set(ResponseFlag::UpstreamRetryLimitExceeded);
        flags.set(ResponseFlag::UpstreamConnectionFailure);
        flags.set(ResponseFlag::UpstreamRetryLimitExceeded);
        assert_eq!(flags.to_string(), "URX,UF");
        assert!(flags.has(ResponseFlag::UpstreamConnectionFailure));
        assert!(!flags.has(ResponseFlag::NoRoute));
    }

    #[test]
    fn every_flag_survives_the_packing() {
        for (index, flag) in ResponseFlag::ALL.into_iter().enumerate() {
            assert_eq!(flag as usize, index + 1);
            assert_eq!(ResponseFlags::from(flag).to_string(), flag.as_str());
        }
        let mut all = ResponseFlags::NONE;
        for flag in ResponseFlag::ALL {
            all.set(flag);
        }
        assert_eq!(all.iter().count(), 8);
    }
}
