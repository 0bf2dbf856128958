//! Worker threads: one runtime each, with their own listening sockets, upstream
//! pools and metric shards. Nothing on a request's way is shared between them
//! but the published snapshot and the hosts' load.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use hashbrown::HashMap;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::{AbortHandle, LocalSet};

use crate::access_log::{AccessLogs, WorkerLog};
use crate::buffers;
use crate::clock::{self, WallClock};
use crate::downstream;
use crate::give_way;
use crate::headers::ResponseHead;
use crate::model::Snapshot;
use crate::pipes;
use crate::plane::Plane;
use crate::pool::Pools;
use crate::stats::Shard;
use crate::tap::{TapBodies, Taps};

/// How often pools look for connections that their peers closed or that have
/// been idle for too long.
const SWEEP: Duration = Duration::from_secs(1);

/// Time slice of a worker, the kernel's shortest.
const SLICE: Duration = Duration::from_micros(100);

/// Response heads, and the like, kept for later requests, per worker.
const SPARE_ANSWERS: usize = 64;

/// What the control thread, or another worker, asks of a worker.
#[derive(Debug)]
pub enum Command {
    /// Accept on this socket.
    Listen { name: Arc<str>, address: SocketAddr, socket: std::net::TcpListener },
    /// Close the socket of this listener.
    Close { name: Arc<str>, address: SocketAddr },
    /// Serve a connection that another worker accepted.
    Serve { name: Arc<str>, stream: std::net::TcpStream, remote: SocketAddr },
    /// Close all listening sockets.
    CloseAll,
    /// End once no stream is active, at the latest after this time.
    Finish(Duration),
}

/// Connections per worker, for placing new ones.
type Loads = Arc<[AtomicUsize]>;

/// What a connection's tasks share within their worker.
pub(crate) struct Worker {
    pub(crate) plane: Arc<Plane>,
    pub(crate) shard: Shard,
    pub(crate) pools: Pools,
    pub(crate) logs: RefCell<WorkerLog>,
    pub(crate) taps: Arc<Taps>,
    rng: RefCell<SmallRng>,
    wall: RefCell<WallClock>,
    snapshot: RefCell<(u64, Arc<Snapshot>)>,
    #[expect(clippy::vec_box, reason = "a head is large: it is taken out by pointer")]
    answers: RefCell<Vec<Box<ResponseHead>>>,
    #[expect(clippy::vec_box, reason = "held by pointer in a request's body")]
    spare_taps: RefCell<Vec<Box<TapBodies>>>,
    /// Own address as mirrored requests show it (`x-forwarded-for`).
    pub(crate) own_address: IpAddr,
    /// `--refuse-ambiguous-requests`.
    pub(crate) refuse_ambiguous: bool,
    /// Requests in progress.
    pub(crate) streams: Cell<usize>,
    /// HTTP/2 connections, which end in order when draining.
    pub(crate) multiplexed: Cell<usize>,
    /// Counts connections, for the logs.
    pub(crate) connections: Cell<u64>,
    loads: Loads,
    peers: Vec<UnboundedSender<Command>>,
}

impl Worker {
    /// A uniform random number.
    pub(crate) fn draw(&self) -> u64 {
        self.rng.borrow_mut().random()
    }

    /// Runs with the worker's random numbers.
    pub(crate) fn with_rng<T>(&self, f: impl FnOnce(&mut SmallRng) -> T) -> T {
        f(&mut self.rng.borrow_mut())
    }

    /// What is published now; one load of a counter unless it changed.
    pub(crate) fn snapshot(&self) -> std::cell::Ref<'_, Snapshot> {
        let version = self.plane.version();
        if self.snapshot.borrow().0 != version {
            *self.snapshot.borrow_mut() = (version, self.plane.snapshot.load_full());
        }
        std::cell::Ref::map(self.snapshot.borrow(), |held| &*held.1)
    }

    /// A head to fill, used again by later requests.
    pub(crate) fn take_answer(&self) -> Box<ResponseHead> {
        self.answers.borrow_mut().pop().unwrap_or_default()
    }

    /// Gives a head back.
    pub(crate) fn put_answer(&self, mut answer: Box<ResponseHead>) {
        let mut answers = self.answers.borrow_mut();
        if answers.len() < SPARE_ANSWERS {
            answer.clear();
            answers.push(answer);
        }
    }

    /// Memory for the beginnings of two bodies, used again by later requests.
    pub(crate) fn take_tap(&self) -> Box<TapBodies> {
        self.spare_taps.borrow_mut().pop().unwrap_or_default()
    }

    /// Gives it back.
    pub(crate) fn put_tap(&self, mut tap: Box<TapBodies>) {
        let mut spare = self.spare_taps.borrow_mut();
        if spare.len() < SPARE_ANSWERS {
            tap.request.clear();
            tap.response.clear();
            spare.push(tap);
        }
    }

    /// The `date` of now, rendered once a second.
    pub(crate) fn date(&self) -> [u8; 29] {
        self.wall.borrow_mut().date()
    }

    /// The time of day at a moment of a request.
    pub(crate) fn time_of_day(&self, moment: Instant) -> SystemTime {
        self.wall.borrow_mut().at(moment)
    }

    fn load(&self) -> &AtomicUsize {
        &self.loads[self.shard.index - 1]
    }

    /// The worker that a new connection should go to instead of this one: it has
    /// fewer, and so many fewer that handing over, which a client waits for, is worth
    /// it.
    fn less_loaded(&self) -> Option<usize> {
        let mine = self.load().load(Ordering::Relaxed);
        let loads = self.loads.iter().map(|l| l.load(Ordering::Relaxed));
        let (index, least) = loads.enumerate().min_by_key(|(_, load)| *load)?;
        (least + least / 8 < mine).then_some(index)
    }
}

/// Handles to all workers.
#[derive(Debug)]
pub struct Workers {
    /// Where commands go, by worker.
    pub senders: Vec<UnboundedSender<Command>>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Workers {
    /// Starts `count` worker threads.
    ///
    /// # Errors
    /// The system's, if a thread or its reactor cannot be made.
    pub fn start(plane: &Arc<Plane>, count: usize, shared: &WorkerShared) -> io::Result<Self> {
        let (senders, receivers): (Vec<_>, Vec<_>) =
            (0..count).map(|_| unbounded_channel()).unzip();
        let loads: Loads = (0..count).map(|_| AtomicUsize::new(0)).collect();
        let mut threads = Vec::with_capacity(count);
        for (index, commands) in receivers.into_iter().enumerate() {
            let runtime = runtime(plane)?;
            let (plane, loads) = (Arc::clone(plane), Arc::clone(&loads));
            let (peers, shared) = (senders.clone(), shared.clone());
            let thread =
                std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
                    answer_soon();
                    let shard = Shard { index: index + 1, of: count + 1 };
                    let worker = Rc::new(Worker {
                        pools: Pools::new(shard, shared.refuse_ambiguous),
                        logs: RefCell::new(shared.logs.worker()),
                        taps: Arc::clone(&shared.taps),
                        plane,
                        shard,
                        rng: RefCell::new(SmallRng::from_os_rng()),
                        snapshot: RefCell::default(),
                        answers: RefCell::default(),
                        spare_taps: RefCell::default(),
                        own_address: shared.own_address,
                        refuse_ambiguous: shared.refuse_ambiguous,
                        wall: RefCell::new(WallClock::new()),
                        streams: Cell::new(0),
                        multiplexed: Cell::new(0),
                        connections: Cell::new(index as u64),
                        loads,
                        peers,
                    });
                    let local = LocalSet::new();
                    local.block_on(&runtime, run(worker, commands));
                })?;
            threads.push(thread);
        }
        Ok(Self { senders, threads })
    }

    /// Sends a command to every worker.
    pub fn broadcast(&self, command: impl Fn() -> Command) {
        for sender in &self.senders {
            let _ = sender.send(command());
        }
    }

    /// Waits for all workers to end.
    pub fn join(self) {
        drop(self.senders);
        for thread in self.threads {
            let _ = thread.join();
        }
    }
}

/// What workers share that is not on a request's way: the writers behind the
/// access logs and the taps.
#[derive(Clone, Debug)]
pub struct WorkerShared {
    /// Access log files.
    pub logs: Arc<AccessLogs>,
    /// Tap files.
    pub taps: Arc<Taps>,
    /// Own address as mirrored requests show it.
    pub own_address: IpAddr,
    /// `--refuse-ambiguous-requests`.
    pub refuse_ambiguous: bool,
}

/// A worker's reactor.
fn runtime(plane: &Arc<Plane>) -> io::Result<tokio::runtime::Runtime> {
    let plane = Arc::clone(plane);
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .on_thread_park(move || give_way::before_wait(&plane.urgency))
        .on_thread_unpark(give_way::after_wait)
        .build()
}

/// Lets this thread run as soon as a request comes, before whoever is in the middle
/// of a longer slice: the control thread with a new table, or a neighbour.
fn answer_soon() {
    if let Err(e) = timeslice::request(SLICE) {
        tracing::debug!("the worker keeps its time slice: {e}");
    }
}

/// Accept loops by listener name and address.
type Accepting = HashMap<(Arc<str>, SocketAddr), AbortHandle>;

async fn run(worker: Rc<Worker>, mut commands: UnboundedReceiver<Command>) {
    let mut accepting = Accepting::new();
    let mut sweep = tokio::time::interval(SWEEP);
    sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            command = commands.recv() => match command {
                Some(Command::Listen { name, address, socket }) => {
                    listen(&worker, &mut accepting, name, address, socket);
                }
                Some(Command::Close { name, address }) => {
                    if let Some(task) = accepting.remove(&(name, address)) {
                        task.abort();
                    }
                }
                Some(Command::Serve { name, stream, remote }) => {
                    if let Ok(stream) = TcpStream::from_std(stream) {
                        serve(&worker, name, stream, remote);
                    }
                }
                Some(Command::CloseAll) => accepting.drain().for_each(|(_, task)| task.abort()),
                Some(Command::Finish(limit)) => {
                    accepting.drain().for_each(|(_, task)| task.abort());
                    return finish(&worker, limit).await;
                }
                None => return,
            },
            _ = sweep.tick() => {
                worker.pools.sweep();
                buffers::trim();
                pipes::trim();
                drop(worker.snapshot());
            }
        }
    }
}

/// Waits until no stream is active and HTTP/2 connections have said goodbye.
async fn finish(worker: &Rc<Worker>, limit: Duration) {
    let deadline = tokio::time::Instant::now() + limit;
    let mut tick = tokio::time::interval(Duration::from_millis(5));
    while worker.streams.get() > 0 || worker.multiplexed.get() > 0 {
        tokio::select! {
            _ = tick.tick() => {}
            () = tokio::time::sleep_until(deadline) => return,
        }
    }
}

fn listen(
    worker: &Rc<Worker>,
    accepting: &mut Accepting,
    name: Arc<str>,
    address: SocketAddr,
    socket: std::net::TcpListener,
) {
    let socket = match TcpListener::from_std(socket) {
        Ok(socket) => socket,
        Err(e) => return tracing::error!(listener = %name, %address, "cannot listen: {e}"),
    };
    let task = tokio::task::spawn_local(accept(Rc::clone(worker), Arc::clone(&name), socket));
    accepting.insert((name, address), task.abort_handle());
}

async fn accept(worker: Rc<Worker>, name: Arc<str>, socket: TcpListener) {
    loop {
        match socket.accept().await {
            Ok((stream, remote)) => {
                place(&worker, &name, stream, remote);
                // Its first request goes before the look for the next one.
                tokio::task::yield_now().await;
            }
            Err(e) => {
                // Out of descriptors, mostly: the queue keeps the others.
                tracing::warn!(listener = %name, "accept: {e}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Serves a new connection here, or on a worker that has clearly fewer.
fn place(worker: &Rc<Worker>, name: &Arc<str>, stream: TcpStream, remote: SocketAddr) {
    let name = Arc::clone(name);
    let Some(other) = worker.less_loaded() else {
        return serve(worker, name, stream, remote);
    };
    match stream.into_std() {
        Ok(stream) => {
            let _ = worker.peers[other].send(Command::Serve { name, stream, remote });
        }
        Err(e) => tracing::warn!(listener = %name, "cannot hand a connection over: {e}"),
    }
}

fn serve(worker: &Rc<Worker>, name: Arc<str>, stream: TcpStream, remote: SocketAddr) {
    worker.load().fetch_add(1, Ordering::Relaxed);
    let worker = Rc::clone(worker);
    clock::spawn(async move {
        downstream::serve(&worker, &name, stream, remote).await;
        worker.load().fetch_sub(1, Ordering::Relaxed);
    });
}
