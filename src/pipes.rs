//! Parts of large bodies that never enter the proxy's memory: the kernel moves
//! them from one socket to a pipe and on to the other (`splice`), pages instead of
//! bytes. A copy for a retry is a second reference to the same pages (`tee`).
//!
//! Pipes are used again, last in, first out, and bounded per thread. Whoever gets
//! none reads into memory instead, and so does everybody where the system offers
//! no `splice` (a sandbox, a filter of system calls).

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use bytes::Bytes;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags};

/// What must be to come of a body for a pipe to be cheaper than a copy.
pub(crate) const WORTH: u64 = 32 * 1024;
/// Most bytes of one segment.
const MOST: usize = 512 * 1024;
/// Pages of a pipe. A packet takes one of them, or a part.
const CAPACITY: usize = 64 * 4096;
/// Pipes per thread, two descriptors each. A request of 1 MB that is kept for a retry
/// takes about four.
const MAX_PIPES: usize = 128;

/// How the next piece of a body may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carrier {
    /// As bytes in memory.
    Memory,
    /// As bytes, of which few are wanted: what follows them may come in pipes.
    MemoryFirst,
    /// In a pipe, if that is worth it.
    Pipe,
}

impl Carrier {
    /// This one, if pipes can be used at all.
    pub(crate) fn if_possible(self, pipes: bool) -> Self {
        if pipes { self } else { Self::Memory }
    }
}

thread_local! {
    static SPARE: RefCell<Spare> = RefCell::default();
    /// Pipes that exist.
    static PIPES: Cell<usize> = const { Cell::new(0) };
    /// The system refuses to splice.
    static REFUSED: Cell<bool> = const { Cell::new(false) };
    /// Takes what nobody wants any more.
    static NOWHERE: Option<File> = File::options().write(true).open("/dev/null").ok();
}

/// Empty pipes that wait for their next use.
#[derive(Debug, Default)]
struct Spare {
    pipes: Vec<Pipe>,
    /// The fewest since the last [`trim`]: nobody needed them.
    fewest: usize,
}

#[derive(Debug)]
struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

impl Pipe {
    fn new() -> Option<Self> {
        if PIPES.get() == MAX_PIPES {
            return None;
        }
        let (read, write) =
            rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        // A smaller one does, too.
        let _ = rustix::pipe::fcntl_setpipe_size(&write, CAPACITY);
        PIPES.set(PIPES.get() + 1);
        Some(Self { read, write })
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        // At the thread's end there is nothing left to count.
        let _ = PIPES.try_with(|pipes| pipes.set(pipes.get() - 1));
    }
}

/// True if the system lets this thread splice, as far as it is known.
pub(crate) fn may_splice() -> bool {
    !REFUSED.get()
}

fn take() -> Option<Pipe> {
    let spare = SPARE.with_borrow_mut(|spare| {
        let pipe = spare.pipes.pop();
        spare.fewest = spare.fewest.min(spare.pipes.len());
        pipe
    });
    spare.or_else(Pipe::new)
}

fn put(empty: Pipe) {
    // At the thread's end it is closed.
    let _ = SPARE.try_with(|spare| spare.borrow_mut().pipes.push(empty));
}

/// Closes the pipes that were not needed since the last call.
pub(crate) fn trim() {
    SPARE.with_borrow_mut(|spare| {
        let fewest = std::mem::replace(&mut spare.fewest, 0);
        spare.pipes.drain(..fewest);
        spare.fewest = spare.pipes.len();
    });
}

/// What a socket had for a segment.
#[derive(Debug)]
pub(crate) enum Received {
    /// Some bytes.
    Some(Segment),
    /// The end of the stream.
    End,
    /// Nothing could be asked: the bytes are to be read into memory.
    NoPipe,
}

/// Bytes of a body in a pipe of their own.
#[derive(Debug, Default)]
pub(crate) struct Segment {
    /// None once there is nothing in it.
    pipe: Option<Pipe>,
    len: usize,
}

impl Segment {
    /// Takes what has come on a socket, `want` bytes at most.
    ///
    /// # Errors
    /// The socket's; [`io::ErrorKind::WouldBlock`] if nothing has come.
    pub(crate) fn receive(socket: impl AsFd, want: u64) -> io::Result<Received> {
        let Some(pipe) = take() else { return Ok(Received::NoPipe) };
        let want = usize::try_from(want).unwrap_or(MOST).min(MOST);
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        match rustix::pipe::splice(socket, None, &pipe.write, None, want, flags) {
            Ok(0) => {
                put(pipe);
                Ok(Received::End)
            }
            Ok(len) => Ok(Received::Some(Self { pipe: Some(pipe), len })),
            Err(Errno::INVAL | Errno::NOSYS | Errno::PERM) => {
                REFUSED.set(true);
                Ok(Received::NoPipe)
            }
            Err(e) => {
                put(pipe);
                Err(e.into())
            }
        }
    }

    /// Bytes in it.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Gives what a socket takes of it; `more` if something follows at once.
    ///
    /// # Errors
    /// The socket's; [`io::ErrorKind::WouldBlock`] if it takes nothing now.
    pub(crate) fn send(&mut self, socket: impl AsFd, more: bool) -> io::Result<usize> {
        let Some(pipe) = &self.pipe else { return Ok(0) };
        let mut flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        flags.set(SpliceFlags::MORE, more);
        let sent = rustix::pipe::splice(&pipe.read, None, socket, None, self.len, flags)?;
        self.took(sent);
        Ok(sent)
    }

    /// A second one of the same bytes; none if there is no pipe for it.
    pub(crate) fn duplicate(&self) -> Option<Self> {
        let copy = take()?;
        let from = self.pipe.as_ref()?;
        match rustix::pipe::tee(&from.read, &copy.write, self.len, SpliceFlags::NONBLOCK) {
            Ok(len) => {
                let copy = Self { pipe: Some(copy), len };
                (len == self.len).then_some(copy)
            }
            Err(_) => {
                put(copy);
                None
            }
        }
    }

    /// The bytes, in memory.
    ///
    /// # Errors
    /// The system's, or [`io::ErrorKind::UnexpectedEof`] if some are missing: neither
    /// can be told from a bug.
    pub(crate) fn into_bytes(mut self) -> io::Result<Bytes> {
        let mut bytes = vec![0; self.len];
        while self.len > 0 {
            let at = bytes.len() - self.len;
            let Some(pipe) = &self.pipe else { break };
            match rustix::io::read(&pipe.read, &mut bytes[at..])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => self.took(n),
            }
        }
        Ok(bytes.into())
    }

    fn took(&mut self, bytes: usize) {
        self.len -= bytes;
        if self.len == 0
            && let Some(pipe) = self.pipe.take()
        {
            put(pipe);
        }
    }
}

impl Drop for Segment {
    /// The pipe is used again once it is empty; else it is closed.
    fn drop(&mut self) {
        let Some(pipe) = &self.pipe else { return };
        let emptied = NOWHERE.try_with(|nowhere| {
            let nowhere = nowhere.as_ref().ok_or(Errno::BADF)?;
            rustix::pipe::splice(&pipe.read, None, nowhere, None, self.len, SpliceFlags::NONBLOCK)
        });
        if let Ok(Ok(emptied)) = emptied {
            self.took(emptied);
        }
    }
}

/// A piece of a body.
#[derive(Debug)]
pub(crate) enum Piece {
    /// In memory.
    Memory(Bytes),
    /// In a pipe.
    Piped(Segment),
}

impl Default for Piece {
    /// Of no bytes.
    fn default() -> Self {
        Self::Memory(Bytes::new())
    }
}

impl Piece {
    /// Bytes of it.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Memory(bytes) => bytes.len(),
            Self::Piped(segment) => segment.len(),
        }
    }

    /// A second one of the same bytes, in a pipe only if that may be. This one is moved
    /// into memory for it if there is no other way.
    ///
    /// # Errors
    /// As [`Segment::into_bytes`].
    pub(crate) fn share(&mut self, pipes: bool) -> io::Result<Self> {
        let bytes = match self {
            Self::Memory(bytes) => bytes.clone(),
            Self::Piped(segment) => {
                if pipes && let Some(copy) = segment.duplicate() {
                    return Ok(Self::Piped(copy));
                }
                let bytes = std::mem::take(segment).into_bytes()?;
                *self = Self::Memory(bytes.clone());
                bytes
            }
        };
        Ok(Self::Memory(bytes))
    }

    /// Its bytes, for those who never ask for pipes.
    pub(crate) fn into_memory(self) -> Option<Bytes> {
        match self {
            Self::Memory(bytes) => Some(bytes),
            Self::Piped(segment) => segment.into_bytes().ok(),
        }
    }

    /// Drops it; its memory is used again.
    pub(crate) fn release(self) {
        if let Self::Memory(bytes) = self {
            crate::buffers::release(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// Both ends of a connection.
    fn connection() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let ours = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
        (ours, listener.accept().expect("it was connected").0)
    }

    fn text(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i * 7 % 251) as u8).collect()
    }

    /// A segment of these bytes.
    fn segment(bytes: &[u8]) -> Segment {
        let (mut from, to) = connection();
        from.write_all(bytes).expect("it fits into the socket's buffer");
        match Segment::receive(&to, bytes.len() as u64).expect("something has come") {
            Received::Some(segment) if segment.len() == bytes.len() => segment,
            other => panic!("{other:?} instead of {} bytes", bytes.len()),
        }
    }

    fn spare() -> usize {
        SPARE.with_borrow(|spare| spare.pipes.len())
    }

    #[test]
    fn a_segment_takes_no_more_than_is_wanted_and_gives_it_as_it_came() {
        let (mut from, to) = connection();
        let (out, mut sink) = connection();
        from.write_all(&text(10_000)).expect("it fits");
        let Ok(Received::Some(mut segment)) = Segment::receive(&to, 9_000) else {
            panic!("bytes have come")
        };
        assert_eq!(segment.len(), 9_000);
        while segment.len() > 0 {
            segment.send(&out, false).expect("it fits");
        }
        let mut got = vec![0; 9_000];
        sink.read_exact(&mut got).expect("it was sent");
        assert_eq!(got, text(10_000)[..9_000]);
        let Ok(Received::Some(rest)) = Segment::receive(&to, 9_000) else {
            panic!("bytes are left")
        };
        assert_eq!(*rest.into_bytes().expect("they are there"), text(10_000)[9_000..]);
        drop(from);
        assert!(matches!(Segment::receive(&to, 9_000), Ok(Received::End)));
        to.set_nonblocking(true).expect("a socket's option");
        assert_eq!((spare(), PIPES.get()), (1, 1), "one pipe did it all");
    }

    #[test]
    fn nothing_to_receive_is_told() {
        let (_from, to) = connection();
        to.set_nonblocking(true).expect("a socket's option");
        let nothing = Segment::receive(&to, 9_000).expect_err("nothing has come");
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        assert_eq!(spare(), 1);
    }

    #[test]
    fn a_duplicate_outlives_the_first_one() {
        let first = segment(&text(100_000));
        let again = first.duplicate().expect("there are pipes");
        let third = again.duplicate().expect("there are pipes");
        drop(first);
        assert_eq!(*again.into_bytes().expect("they are there"), text(100_000));
        assert_eq!(*third.into_bytes().expect("they are there"), text(100_000));
        assert_eq!(spare(), 3, "all pipes are empty again");
    }

    #[test]
    fn without_pipes_bytes_move_to_memory() {
        let mut held = vec![segment(&text(5_000))];
        while let Some(more) = held[0].duplicate() {
            held.push(more);
        }
        assert_eq!((held.len(), PIPES.get()), (MAX_PIPES, MAX_PIPES));
        let (mut from, to) = connection();
        from.write_all(b"more").expect("it fits");
        assert!(matches!(Segment::receive(&to, 4), Ok(Received::NoPipe)));
        let mut piece = Piece::Piped(held.pop().expect("there are many"));
        // Its own pipe is the first that is free.
        let shared = piece.share(true).expect("the bytes are there");
        let (Piece::Memory(one), Piece::Memory(other)) = (piece, shared) else {
            panic!("both are in memory now")
        };
        assert_eq!((&*one, &*other), (&*text(5_000), &*text(5_000)));
    }

    #[test]
    fn whoever_asks_for_memory_gets_it() {
        let mut piece = Piece::Piped(segment(&text(5_000)));
        assert!(matches!(piece.share(true), Ok(Piece::Piped(_))));
        assert!(matches!(piece.share(false), Ok(Piece::Memory(_))));
        assert!(matches!(piece.share(true), Ok(Piece::Memory(bytes)) if *bytes == text(5_000)));
    }

    #[test]
    fn pipes_that_nobody_needs_are_closed() {
        let first = segment(&text(5_000));
        let others: Vec<_> = (0..9).filter_map(|_| first.duplicate()).collect();
        drop(others);
        trim();
        assert_eq!(PIPES.get(), 10, "they were needed until now");
        drop(first.duplicate());
        trim();
        assert_eq!(PIPES.get(), 2);
    }
}
