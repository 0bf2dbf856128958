//! The tap filter: a file per tapped request (Envoy: `filters.http.tap` with
//! `file_per_tap`, buffered).
//!
//! A worker collects the first [`MAX_BODY_BYTES`] of both bodies, and when the
//! stream ends renders the trace and hands it to the one thread that writes
//! files. Any client can ask for a tap by a header, so what it can cost is
//! bounded: [`MAX_QUEUED`] traces wait, more are dropped and counted; the files
//! of a prefix together stay below a limit ([`MAX_DISK_BYTES`] by default), the
//! oldest make room. (Envoy bounds neither.)

mod json;

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::SystemTime;

use crate::headers::{Headers, RequestHead, ResponseHead};
use crate::model::Tap;
use crate::pipes::{Carrier, Piece};

/// Bytes of a body that a trace keeps, each way (Envoy: `max_buffered_rx_bytes`
/// and `max_buffered_tx_bytes`, 1 KiB).
pub const MAX_BODY_BYTES: usize = 1024;

/// Traces that wait to be written. One is at most about 130 KiB (two heads of
/// 60 KiB), mostly under 4 KiB.
pub const MAX_QUEUED: usize = 64;

/// Bytes that the files of one prefix may take together.
pub const MAX_DISK_BYTES: u64 = 64 * 1024 * 1024;

/// The beginning of a body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TapBody {
    bytes: Vec<u8>,
    truncated: bool,
}

impl TapBody {
    /// Forgets everything and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.truncated = false;
    }

    /// Takes in the next piece of the body.
    pub fn push(&mut self, data: &[u8]) {
        let room = MAX_BODY_BYTES - self.bytes.len();
        self.bytes.extend_from_slice(&data[..data.len().min(room)]);
        self.truncated |= data.len() > room;
    }

    /// How the next piece of the body should come: once it is full, it wants no more
    /// than to know that there is more.
    pub(crate) fn carrier(&self) -> Carrier {
        if self.bytes.len() == MAX_BODY_BYTES { Carrier::Pipe } else { Carrier::MemoryFirst }
    }

    /// Takes in the next piece; one in a pipe only if its [carrier](Self::carrier) says
    /// so.
    pub(crate) fn push_piece(&mut self, piece: &Piece) {
        match piece {
            Piece::Memory(data) => self.push(data),
            Piece::Piped(_) => self.truncated = true,
        }
    }
}

/// The beginnings of both bodies of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TapBodies {
    /// Towards the upstream.
    pub request: TapBody,
    /// Towards the client.
    pub response: TapBody,
}

/// What a trace is made of.
#[derive(Clone, Copy, Debug)]
pub struct Trace<'a> {
    /// As sent upstream: with headers added by filters and routes.
    pub request: &'a RequestHead,
    pub request_body: &'a TapBody,
    pub request_trailers: Option<&'a Headers>,
    /// As sent to the client, without `connection` and `transfer-encoding`;
    /// none if there was no answer.
    pub response: Option<&'a ResponseHead>,
    pub response_body: &'a TapBody,
    pub response_trailers: Option<&'a Headers>,
}

impl Tap {
    /// True if this request asks to be tapped.
    #[must_use]
    pub fn wants_request(&self, head: &RequestHead) -> bool {
        has(&head.headers, self.request_header.as_deref())
    }

    /// True if this response asks for its request to be tapped; local replies
    /// included.
    #[must_use]
    pub fn wants_response(&self, head: &ResponseHead) -> bool {
        has(&head.headers, self.response_header.as_deref())
    }
}

fn has(headers: &Headers, name: Option<&str>) -> bool {
    name.is_some_and(|name| headers.first_named(name.as_bytes()).is_some())
}

/// Where traces go: the thread that writes them.
#[derive(Debug)]
pub struct Taps {
    /// None once dropping.
    queue: Option<SyncSender<File>>,
    dropped: Arc<AtomicU64>,
    writer: Option<JoinHandle<()>>,
}

/// A file to write.
struct File {
    prefix: String,
    id: u64,
    content: Vec<u8>,
}

impl Taps {
    /// Starts the writer. The files of one prefix together take at most
    /// `max_disk_bytes`; files of earlier runs count.
    ///
    /// # Errors
    /// The thread cannot be made.
    pub fn start(max_disk_bytes: u64) -> io::Result<Self> {
        let (queue, files) = sync_channel(MAX_QUEUED);
        let dropped = Arc::new(AtomicU64::new(0));
        let writer = {
            let writer =
                Writer { max_disk_bytes, stores: Vec::new(), dropped: Arc::clone(&dropped) };
            let thread = std::thread::Builder::new().name("tap".to_owned());
            thread.spawn(move || writer.run(&files))?
        };
        Ok(Self { queue: Some(queue), dropped, writer: Some(writer) })
    }

    /// Renders a trace and queues it; never waits. `id` is a random number, the
    /// file is `<prefix>_<id>.json`.
    pub fn submit(&self, tap: &Tap, id: u64, trace: &Trace<'_>) {
        let file = File { prefix: tap.path_prefix.clone(), id, content: json::render(trace) };
        let queued = self.queue.as_ref().is_some_and(|queue| queue.try_send(file).is_ok());
        if !queued {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Traces that were not written: too many waited, or the disk refused.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// Writes what is queued, and ends the writer.
impl Drop for Taps {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(writer) = self.writer.take() {
            // A writer that panicked has nothing left to say.
            let _ = writer.join();
        }
    }
}

struct Writer {
    max_disk_bytes: u64,
    stores: Vec<Store>,
    dropped: Arc<AtomicU64>,
}

impl Writer {
    fn run(mut self, files: &Receiver<File>) {
        while let Ok(file) = files.recv() {
            let known = self.stores.iter().position(|s| s.prefix == file.prefix);
            let known = known.unwrap_or_else(|| {
                self.stores.push(Store::scan(file.prefix.clone()));
                self.stores.len() - 1
            });
            let Some(store) = self.stores.get_mut(known) else { continue };
            if let Err(error) = store.write(file.id, &file.content, self.max_disk_bytes) {
                tracing::warn!(prefix = store.prefix, %error, "tap file not written");
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// The files of one prefix, oldest first.
struct Store {
    prefix: String,
    files: VecDeque<(PathBuf, u64)>,
    total: u64,
}

impl Store {
    /// Takes stock of the files that are there.
    fn scan(prefix: String) -> Self {
        let path = Path::new(&prefix);
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
        let entries = fs::read_dir(folder.unwrap_or(Path::new("."))).into_iter().flatten();
        let stem = path.file_name().map(|n| format!("{}_", n.to_string_lossy()));
        let mut found: Vec<(SystemTime, PathBuf, u64)> = entries
            .filter_map(|entry| {
                let entry = entry.ok()?;
                let name = entry.file_name();
                let id = name.to_str()?.strip_prefix(stem.as_deref()?)?.strip_suffix(".json")?;
                id.parse::<u64>().ok()?;
                let data = entry.metadata().ok().filter(fs::Metadata::is_file)?;
                Some((data.modified().ok()?, entry.path(), data.len()))
            })
            .collect();
        found.sort();
        let total = found.iter().map(|(_, _, size)| size).sum();
        let files = found.into_iter().map(|(_, path, size)| (path, size)).collect();
        Self { prefix, files, total }
    }

    fn write(&mut self, id: u64, content: &[u8], max: u64) -> io::Result<()> {
        let size = content.len() as u64;
        while self.total + size > max {
            let Some((oldest, freed)) = self.files.pop_front() else {
                return Err(io::Error::other("larger than the limit of all tap files"));
            };
            self.total -= freed;
            match fs::remove_file(&oldest) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => tracing::warn!(path = %oldest.display(), %error, "tap file kept"),
            }
        }
        let path = PathBuf::from(format!("{}_{id}.json", self.prefix));
        if let Err(error) = fs::write(&path, content) {
            // A part of a trace helps nobody.
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        self.files.push_back((path, size));
        self.total += size;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
