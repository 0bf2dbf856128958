//! Limits on what a peer may make this side do (Envoy: `Http2ProtocolOptions`,
//! its defaults). Going over one closes the connection.

use std::time::Duration;

use super::connection::{ConnectionError, Role, silent};

/// Frames that wait for the socket: `max_outbound_frames`.
const OUTBOUND: u32 = 10_000;
/// Of these answers to PING and SETTINGS, and resets:
/// `max_outbound_control_frames`.
const OUTBOUND_CONTROL: u32 = 1_000;
/// `max_consecutive_inbound_frames_with_empty_payload`.
const EMPTY: u32 = 1;
/// `max_inbound_priority_frames_per_stream`.
const PRIORITY: u64 = 100;
/// `max_inbound_window_update_frames_per_data_frame_sent`.
const WINDOW_UPDATES: u64 = 10;
/// `overload.premature_reset_total_stream_count`.
const PREMATURE_TOTAL: u64 = 500;
/// A stream that is reset before this age is so prematurely
/// (`overload.premature_reset_min_stream_lifetime_seconds`).
pub(super) const PREMATURE: Duration = Duration::from_secs(1);

/// Counts of one connection. Only clients are limited in what they ask for.
#[derive(Debug)]
pub(super) struct Guard {
    role: Role,
    streams: u64,
    closed: u64,
    premature: u64,
    empty: u32,
    priority: u64,
    window_updates: u64,
    data_sent: u64,
    outbound: u32,
    control: u32,
}

impl Guard {
    pub(super) fn new(role: Role) -> Self {
        Self {
            role,
            streams: 0,
            closed: 0,
            premature: 0,
            empty: 0,
            priority: 0,
            window_updates: 0,
            data_sent: 0,
            outbound: 0,
            control: 0,
        }
    }

    pub(super) fn opened(&mut self) {
        self.streams += 1;
    }

    /// A stream has ended; `premature`: by the peer's reset, soon.
    pub(super) fn closed(&mut self, premature: bool) -> Result<(), ConnectionError> {
        self.closed += 1;
        self.premature += u64::from(premature);
        let of = self.closed.max(PREMATURE_TOTAL);
        if self.role == Role::Server && self.premature * 2 >= of {
            return silent("too many premature resets");
        }
        Ok(())
    }

    /// A HEADERS, CONTINUATION or DATA frame; `empty`: it has no payload and ends
    /// nothing.
    pub(super) fn payload(&mut self, empty: bool) -> Result<(), ConnectionError> {
        self.empty = if empty { self.empty + 1 } else { 0 };
        if self.empty > EMPTY && self.role == Role::Server {
            return silent("inbound empty frames flood");
        }
        Ok(())
    }

    pub(super) fn priority(&mut self) -> Result<(), ConnectionError> {
        self.priority += 1;
        if self.role == Role::Server && self.priority > PRIORITY * (1 + self.streams) {
            return silent("inbound priority frames flood");
        }
        Ok(())
    }

    pub(super) fn window_update(&mut self) -> Result<(), ConnectionError> {
        self.window_updates += 1;
        let most = 5 + 2 * (self.streams + WINDOW_UPDATES * self.data_sent);
        if self.role == Role::Server && self.window_updates > most {
            return silent("inbound window update frames flood");
        }
        Ok(())
    }

    pub(super) fn data_sent(&mut self) {
        self.data_sent += 1;
        self.outbound += 1;
    }

    /// So many control frames were queued.
    pub(super) fn control(&mut self, frames: u32) -> Result<(), ConnectionError> {
        self.control += frames;
        self.outbound += frames;
        self.check()
    }

    /// A HEADERS frame was queued.
    pub(super) fn outbound(&mut self) {
        self.outbound += 1;
    }

    fn check(&self) -> Result<(), ConnectionError> {
        if self.control > OUTBOUND_CONTROL {
            return silent("outbound control frames flood");
        }
        if self.outbound > OUTBOUND {
            return silent("outbound frames flood");
        }
        Ok(())
    }

    /// Nothing waits for the socket any more.
    pub(super) fn flushed(&mut self) {
        self.outbound = 0;
        self.control = 0;
    }
}
