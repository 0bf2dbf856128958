//! Access logs: filters, lines, and the way to the file.
//!
//! A worker renders a line straight into its own buffer of the log's sink; one
//! thread of the process empties the buffers every [`FLUSH_EVERY`], or when one
//! holds [`FLUSH_BYTES`], and is the only one that touches a disk. Workers share
//! no lock with each other. A disk that does not keep up costs lines, which are
//! counted, never requests.

mod filter;
mod native;

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::logic::format::LogContext;
use crate::model::{AccessLog, AccessLogFormat, AccessLogSink, JsonFormat};

/// Longest time that a line waits (Envoy: `--file-flush-interval-msec`, 10 s).
pub const FLUSH_EVERY: Duration = Duration::from_secs(10);

/// A buffer of this many bytes is written at once (Envoy:
/// `--file-flush-min-size-kb`, 64 KiB).
pub const FLUSH_BYTES: usize = 64 * 1024;

/// Most bytes that wait for one sink in one worker. Envoy has no bound; here a
/// line that would go beyond is dropped and counted, so that a stuck disk does
/// not eat the memory of the pod.
pub const MAX_PENDING_BYTES: usize = 1024 * 1024;

/// The access logs of the process and the thread that writes them.
#[derive(Debug)]
pub struct AccessLogs {
    shared: Arc<Shared>,
    native: Option<AccessLogSink>,
    writer: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    sinks: Mutex<Vec<Arc<Sink>>>,
    orders: Mutex<Orders>,
    /// Something in `orders` changed.
    ordered: Condvar,
    dropped: AtomicU64,
}

/// What the writer is to do.
#[derive(Debug, Default)]
struct Orders {
    /// Write all buffers before their time.
    flush: bool,
    /// Close the files, so that they are opened anew by name.
    reopen: bool,
    stop: bool,
    /// Rounds begun and rounds ended.
    begun: u64,
    ended: u64,
}

/// A place where lines go, and the buffers of the workers for it.
#[derive(Debug)]
struct Sink {
    target: AccessLogSink,
    buffers: Mutex<Vec<Arc<Mutex<Vec<u8>>>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AccessLogs {
    /// Starts the writer; `flush_every` is [`FLUSH_EVERY`] but in tests.
    ///
    /// # Errors
    /// The thread cannot be made.
    pub fn start(flush_every: Duration) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let writer = {
            let shared = Arc::clone(&shared);
            let thread = std::thread::Builder::new().name("access-log".to_owned());
            thread.spawn(move || Writer { shared, open: Vec::new() }.run(flush_every))?
        };
        Ok(Self { shared, native: None, writer: Some(writer) })
    }

    /// Logs every request of every listener in Radiant's own format, too.
    ///
    /// # Errors
    /// The file cannot be opened; the error names it.
    pub fn with_native(mut self, sink: AccessLogSink) -> io::Result<Self> {
        open(&sink)?;
        self.native = Some(sink);
        Ok(self)
    }

    /// A worker's end. Each worker has its own.
    #[must_use]
    pub fn worker(&self) -> WorkerLog {
        WorkerLog {
            shared: Arc::clone(&self.shared),
            native: self.native.clone(),
            buffers: Vec::new(),
            line: Vec::new(),
        }
    }

    /// Creates the files of these logs, as Envoy does when it loads a listener.
    ///
    /// # Errors
    /// A file cannot be opened; the error names it.
    pub fn prepare(&self, logs: &[AccessLog]) -> io::Result<()> {
        for log in logs {
            open(&log.sink)?;
        }
        Ok(())
    }

    /// Opens the files anew at the next write, and writes soon (SIGUSR1, `POST
    /// /reopen_logs`).
    pub fn reopen(&self) {
        self.order(|orders| {
            orders.reopen = true;
            orders.flush = true;
        });
    }

    /// Writes everything that is buffered and returns when it is written, or
    /// after `limit`.
    pub fn flush(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let mut orders = lock(&self.shared.orders);
        // A round under way may have passed a buffer already: wait for the next.
        let wanted = orders.begun + 1;
        orders.flush = true;
        self.shared.ordered.notify_all();
        while orders.ended < wanted {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.shared.ordered.wait_timeout(orders, left);
            orders = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Lines dropped because their buffer was full or the sink failed.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    fn order(&self, change: impl FnOnce(&mut Orders)) {
        change(&mut lock(&self.shared.orders));
        self.shared.ordered.notify_all();
    }
}

/// Writes what is left, and ends the writer.
impl Drop for AccessLogs {
    fn drop(&mut self) {
        self.order(|orders| orders.stop = true);
        if let Some(writer) = self.writer.take() {
            // A writer that panicked has nothing left to say.
            let _ = writer.join();
        }
    }
}

/// The access logs as one worker sees them.
#[derive(Debug)]
pub struct WorkerLog {
    shared: Arc<Shared>,
    native: Option<AccessLogSink>,
    buffers: Vec<(AccessLogSink, Arc<Mutex<Vec<u8>>>)>,
    line: Vec<u8>,
}

impl WorkerLog {
    /// True if there is anything to write of a request.
    #[must_use]
    pub fn wants(&self, logs: &[AccessLog]) -> bool {
        self.native.is_some() || !logs.is_empty()
    }

    /// Writes a line to each log whose filter lets the request pass, and to
    /// Radiant's own.
    pub fn log(&mut self, logs: &[AccessLog], context: &LogContext<'_>) {
        if let Some(sink) = self.native.clone() {
            self.line.clear();
            native::render(context, &mut self.line);
            self.append(&sink);
        }
        for log in logs {
            if log.filter.as_ref().is_none_or(|filter| filter.passes(context)) {
                self.line.clear();
                log.format.render(context, &mut self.line);
                self.append(&log.sink);
            }
        }
    }

    fn append(&mut self, sink: &AccessLogSink) {
        let known = self.buffers.iter().position(|(target, _)| target == sink);
        let known = known.unwrap_or_else(|| {
            self.buffers.push((sink.clone(), self.shared.buffer(sink)));
            self.buffers.len() - 1
        });
        let Some((_, buffer)) = self.buffers.get(known) else {
            return;
        };
        let mut buffer = lock(buffer);
        let before = buffer.len();
        if before + self.line.len() > MAX_PENDING_BYTES {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        buffer.extend_from_slice(&self.line);
        let full = before < FLUSH_BYTES && buffer.len() >= FLUSH_BYTES;
        drop(buffer);
        if full {
            lock(&self.shared.orders).flush = true;
            self.shared.ordered.notify_all();
        }
    }
}

impl AccessLogFormat {
    /// Appends the line of one request.
    pub fn render(&self, context: &LogContext<'_>, out: &mut Vec<u8>) {
        match self {
            Self::Text(format) => format.render(context, out),
            Self::Json(value) => {
                value.render(context, out);
                out.push(b'\n');
            }
        }
    }
}

impl JsonFormat {
    fn render(&self, context: &LogContext<'_>, out: &mut Vec<u8>) {
        match self {
            Self::Object(fields) => {
                out.push(b'{');
                for (i, (name, value)) in fields.iter().enumerate() {
                    if i > 0 {
                        out.push(b',');
                    }
                    // Serialising a string into memory cannot fail.
                    let _ = serde_json::to_writer(&mut *out, name);
                    out.push(b':');
                    value.render(context, out);
                }
                out.push(b'}');
            }
            Self::List(values) => {
                out.push(b'[');
                for (i, value) in values.iter().enumerate() {
                    if i > 0 {
                        out.push(b',');
                    }
                    value.render(context, out);
                }
                out.push(b']');
            }
            Self::Text(format) => format.render_json(context, out),
            Self::Constant(json) => out.extend_from_slice(json.as_bytes()),
        }
    }
}

impl Shared {
    /// A new buffer for this sink.
    fn buffer(&self, target: &AccessLogSink) -> Arc<Mutex<Vec<u8>>> {
        let buffer = Arc::default();
        let mut sinks = lock(&self.sinks);
        let known = sinks.iter().find(|sink| sink.target == *target).map(Arc::clone);
        let sink = known.unwrap_or_else(|| {
            let sink = Arc::new(Sink { target: target.clone(), buffers: Mutex::default() });
            sinks.push(Arc::clone(&sink));
            sink
        });
        lock(&sink.buffers).push(Arc::clone(&buffer));
        buffer
    }
}

/// The thread that writes.
struct Writer {
    shared: Arc<Shared>,
    open: Vec<(AccessLogSink, File)>,
}

impl Writer {
    fn run(mut self, flush_every: Duration) {
        let mut lines = Vec::new();
        loop {
            let (stop, reopen) = self.wait(flush_every);
            if reopen {
                self.open.clear();
            }
            let sinks = lock(&self.shared.sinks).clone();
            for sink in sinks {
                let buffers = lock(&sink.buffers).clone();
                for buffer in buffers {
                    std::mem::swap(&mut lines, &mut *lock(&buffer));
                    self.write(&sink.target, &lines);
                    lines.clear();
                    lines.shrink_to(2 * FLUSH_BYTES);
                }
                // A worker that is gone leaves its buffer to us alone.
                let gone =
                    |b: &Arc<Mutex<Vec<u8>>>| Arc::strong_count(b) == 1 && lock(b).is_empty();
                lock(&sink.buffers).retain(|buffer| !gone(buffer));
            }
            lock(&self.shared.orders).ended += 1;
            self.shared.ordered.notify_all();
            if stop {
                return;
            }
        }
    }

    /// Waits for an order or for the time; says whether to stop and to reopen.
    fn wait(&self, flush_every: Duration) -> (bool, bool) {
        let idle = |orders: &mut Orders| !(orders.flush || orders.stop);
        let orders = lock(&self.shared.orders);
        let waited = self.shared.ordered.wait_timeout_while(orders, flush_every, idle);
        let mut orders = waited.unwrap_or_else(PoisonError::into_inner).0;
        orders.begun += 1;
        orders.flush = false;
        (orders.stop, std::mem::take(&mut orders.reopen))
    }

    fn write(&mut self, target: &AccessLogSink, lines: &[u8]) {
        if lines.is_empty() {
            return;
        }
        if let Err(error) = self.try_write(target, lines) {
            let lost = memchr::memchr_iter(b'\n', lines).count().max(1);
            tracing::warn!(?target, %error, lost, "access log lines lost");
            self.shared.dropped.fetch_add(lost as u64, Ordering::Relaxed);
            self.open.retain(|(open, _)| open != target);
        }
    }

    fn try_write(&mut self, target: &AccessLogSink, lines: &[u8]) -> io::Result<()> {
        match target {
            AccessLogSink::Stdout => io::stdout().write_all(lines),
            AccessLogSink::Stderr => io::stderr().write_all(lines),
            AccessLogSink::File(_) => {
                if !self.open.iter().any(|(open, _)| open == target)
                    && let Some(file) = open(target)?
                {
                    self.open.push((target.clone(), file));
                }
                let file = self.open.iter_mut().find(|(open, _)| open == target);
                file.map_or(Ok(()), |(_, file)| file.write_all(lines))
            }
        }
    }
}

/// Opens a sink's file for appending; none for the standard streams.
fn open(target: &AccessLogSink) -> io::Result<Option<File>> {
    let AccessLogSink::File(path) = target else {
        return Ok(None);
    };
    let file = OpenOptions::new().append(true).create(true).open(path);
    file.map(Some).map_err(|error| {
        io::Error::new(error.kind(), format!("unable to open file '{path}': {error}"))
    })
}

#[cfg(test)]
mod tests;
