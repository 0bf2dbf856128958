//! Flow control (RFC 9113, section 5.2): what the peer may still send, and what
//! has to be given back.

/// A receiving window.
#[derive(Debug)]
pub(super) struct Window {
    size: u32,
    /// Bytes that the peer may still send.
    left: u32,
    /// Bytes that were taken and not yet given back.
    taken: u32,
}

impl Window {
    pub(super) fn new(size: u32) -> Self {
        Self { size, left: size, taken: 0 }
    }

    /// Bytes arrive; false if the peer had no right to send them.
    #[must_use]
    pub(super) fn receive(&mut self, bytes: u32) -> bool {
        match self.left.checked_sub(bytes) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }

    /// Bytes were passed on. Says what to give back, once that is half of the
    /// window (as Envoy's codec has it).
    #[must_use]
    pub(super) fn take(&mut self, bytes: u32) -> Option<u32> {
        self.taken += bytes;
        if self.taken == 0 || self.taken < self.size / 2 {
            return None;
        }
        let back = std::mem::take(&mut self.taken);
        self.left += back;
        Some(back)
    }
}

/// The peer's window: never above 2^31-1, below 0 after its settings shrink it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Credit(i64);

impl Credit {
    pub(super) const MAX: i64 = 0x7fff_ffff;

    pub(super) fn new(size: u32) -> Self {
        Self(i64::from(size))
    }

    /// Bytes that may be sent.
    pub(super) fn available(self) -> usize {
        usize::try_from(self.0).unwrap_or(0)
    }

    pub(super) fn spend(&mut self, bytes: usize) {
        self.0 -= i64::try_from(bytes).unwrap_or(i64::MAX);
    }

    /// Grows or shrinks; false if it grows over the protocol's limit.
    #[must_use]
    pub(super) fn change(&mut self, by: i64) -> bool {
        self.0 += by;
        self.0 <= Self::MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_window_is_given_back_at_once() {
        let mut window = Window::new(100);
        assert!(window.receive(100));
        assert!(!window.receive(1));
        assert_eq!(window.take(49), None);
        assert_eq!(window.take(1), Some(50));
        assert!(window.receive(50));
        assert!(!window.receive(1));
    }

    #[test]
    fn credit_may_fall_below_zero_and_not_rise_too_high() {
        let mut credit = Credit::new(10);
        credit.spend(10);
        assert!(credit.change(-5));
        assert_eq!(credit.available(), 0);
        assert!(credit.change(6));
        assert_eq!(credit.available(), 1);
        assert!(!credit.change(Credit::MAX));
    }
}
