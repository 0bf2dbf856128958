//! A walk over a protobuf message while its bytes come in, piece by piece
//! (protobuf encoding guide, "message structure"). Sub-messages of interest are
//! entered; every other field is handed over whole, and only one that is cut by the
//! end of a piece is copied.

use super::walk::{self, Head};

/// The bytes are no protobuf message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed protobuf message")]
pub struct Malformed;

/// A field, complete.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field<'a> {
    pub(crate) number: u64,
    /// All of it, key and length included.
    pub(crate) bytes: &'a [u8],
    /// The value, if it is length-delimited.
    pub(crate) value: Option<&'a [u8]>,
}

/// What becomes of the fields; `Level` names the kinds of messages.
pub(crate) trait Visit {
    type Level: Copy;

    /// The kind of message as which this field of a message is to be entered, if it
    /// is to be. May be asked more than once for a field.
    fn inner(&self, level: Self::Level, number: u64) -> Option<Self::Level>;

    /// A message was entered.
    fn begin(&mut self, level: Self::Level);

    /// A field of the innermost message that is not entered.
    fn field(&mut self, level: Self::Level, field: Field<'_>);

    /// The end of a message.
    fn end(&mut self, level: Self::Level);

    /// Something within a message of this kind is malformed. True if the rest of it
    /// is to be passed over, up to [`Visit::end`]; false if it breaks the message
    /// around it.
    fn broken(&mut self, level: Self::Level) -> bool;
}

/// Where the walk is.
#[derive(Clone, Debug)]
pub(crate) struct Descent<L> {
    /// Bytes taken in, those of `carry` included.
    at: usize,
    /// Messages around this place, outermost first, and where they end.
    levels: Vec<(L, usize)>,
    /// The beginning of a field.
    carry: Vec<u8>,
    /// Bytes before this place are passed over.
    resume: usize,
}

impl<L: Copy> Descent<L> {
    /// The walk over a message of `len` bytes.
    pub(crate) fn new(level: L, len: usize) -> Self {
        Self { at: 0, levels: vec![(level, len)], carry: Vec::new(), resume: 0 }
    }

    /// Takes in the next bytes.
    ///
    /// # Errors
    /// The message is malformed, or longer than was announced; the walk is over.
    pub(crate) fn feed(
        &mut self,
        mut data: &[u8],
        visit: &mut impl Visit<Level = L>,
    ) -> Result<(), Malformed> {
        loop {
            self.end_levels(visit);
            if data.is_empty() {
                return Ok(());
            }
            let Some((level, end)) = self.levels.last().copied() else { return Err(Malformed) };
            let skipped = self.resume.saturating_sub(self.at).min(data.len());
            if skipped > 0 {
                self.at += skipped;
                data = &data[skipped..];
                continue;
            }
            let window = &data[..data.len().min(end - self.at)];
            match self.step(level, end, window, visit) {
                Ok(taken) => data = &data[taken..],
                Err(Malformed) => self.pass_over(visit)?,
            }
        }
    }

    /// Says that there are no more bytes.
    ///
    /// # Errors
    /// The message is shorter than was announced.
    pub(crate) fn finish(mut self, visit: &mut impl Visit<Level = L>) -> Result<(), Malformed> {
        if !self.carry.is_empty() {
            self.pass_over(visit)?;
        }
        self.end_levels(visit);
        if self.levels.is_empty() { Ok(()) } else { Err(Malformed) }
    }

    /// Leaves the messages that end here.
    fn end_levels(&mut self, visit: &mut impl Visit<Level = L>) {
        while self.carry.is_empty()
            && let Some((level, _)) = self.levels.pop_if(|(_, end)| *end == self.at)
        {
            visit.end(level);
        }
    }

    /// Gives up on the innermost message that may be malformed.
    fn pass_over(&mut self, visit: &mut impl Visit<Level = L>) -> Result<(), Malformed> {
        self.carry.clear();
        while let Some((level, end)) = self.levels.last().copied() {
            if visit.broken(level) {
                self.resume = end;
                return Ok(());
            }
            self.levels.pop();
        }
        Err(Malformed)
    }

    /// Takes in a field, or the beginning of one, from `window`, which reaches at most
    /// to the end of the message; returns how many bytes that were.
    fn step(
        &mut self,
        level: L,
        end: usize,
        window: &[u8],
        visit: &mut impl Visit<Level = L>,
    ) -> Result<usize, Malformed> {
        if !self.carry.is_empty() {
            return self.step_carried(level, end, window, visit);
        }
        let Some(head) = Head::read(window)? else {
            self.carry.extend_from_slice(window);
            self.at += window.len();
            return Ok(window.len());
        };
        let room = end - self.at;
        let taken = if let Some(inner) = entered_as(level, &head, room, visit)? {
            self.at += head.len;
            self.levels.push((inner, self.at + head.value));
            visit.begin(inner);
            head.len
        } else if let Some(bytes) = window.get(..head.len + head.value) {
            self.at += bytes.len();
            visit.field(level, head.field(bytes));
            bytes.len()
        } else {
            self.carry.extend_from_slice(window);
            self.at += window.len();
            window.len()
        };
        Ok(taken)
    }

    /// [`Descent::step`] when a field was cut.
    fn step_carried(
        &mut self,
        level: L,
        end: usize,
        window: &[u8],
        visit: &mut impl Visit<Level = L>,
    ) -> Result<usize, Malformed> {
        // Moves on only once nothing is wrong with the field.
        let room = end - (self.at - self.carry.len());
        let mut taken = 0;
        let head = loop {
            if let Some(head) = Head::read(&self.carry)? {
                break head;
            }
            // A message that ends within a key has no byte left here.
            let Some(byte) = window.get(taken) else {
                self.at += taken;
                return if taken > 0 { Ok(taken) } else { Err(Malformed) };
            };
            self.carry.push(*byte);
            taken += 1;
        };
        let inner = entered_as(level, &head, room, visit)?;
        self.at += taken;
        if let Some(inner) = inner {
            // Its value is not carried: nothing behind the key has been taken in.
            self.carry.clear();
            self.levels.push((inner, self.at + head.value));
            visit.begin(inner);
            return Ok(taken);
        }
        let missing = head.len + head.value - self.carry.len();
        let more = &window[taken..window.len().min(taken + missing)];
        self.carry.extend_from_slice(more);
        self.at += more.len();
        if more.len() == missing {
            let carry = std::mem::take(&mut self.carry);
            visit.field(level, head.field(&carry));
            self.carry = carry;
            self.carry.clear();
        }
        Ok(taken + more.len())
    }
}

/// The kind of message as which a field is entered that begins `room` bytes before the
/// end of its message.
fn entered_as<V: Visit>(
    level: V::Level,
    head: &Head,
    room: usize,
    visit: &V,
) -> Result<Option<V::Level>, Malformed> {
    if head.len.checked_add(head.value).is_none_or(|whole| whole > room) {
        return Err(Malformed);
    }
    Ok(if head.is_delimited { visit.inner(level, head.number) } else { None })
}

impl Head {
    fn field<'a>(&self, bytes: &'a [u8]) -> Field<'a> {
        let value = self.is_delimited.then(|| &bytes[self.len..]);
        Field { number: self.number, bytes, value }
    }
}

impl From<walk::Broken> for Malformed {
    fn from(_: walk::Broken) -> Self {
        Self
    }
}
