//! Clients in a closed loop, for what must happen without a failed request.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use super::{Answer, Client, eventually};

/// Clients that ask, wait for the answer, and ask again.
pub(crate) struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    started: AtomicUsize,
    done: AtomicUsize,
    arms: Mutex<BTreeMap<String, usize>>,
    failures: Mutex<Vec<String>>,
}

impl Load {
    /// `clients` connections that send these requests (bytes) in turn. An
    /// answer other than 200 is a failure.
    pub(crate) fn start(clients: usize, addr: SocketAddr, requests: &[String]) -> Self {
        let shared = Arc::new(Shared::default());
        let threads = (0..clients).map(|first| {
            let (shared, requests) = (Arc::clone(&shared), requests.to_vec());
            std::thread::spawn(move || {
                let mut client = Client::connect(addr);
                for request in requests.iter().cycle().skip(first) {
                    if shared.stop.load(Ordering::Acquire) {
                        return;
                    }
                    shared.started.fetch_add(1, Ordering::AcqRel);
                    let answer = client.send(request).try_answer(false);
                    shared.note(request, answer.as_ref());
                    if answer.is_none_or(|a| a.header("connection") == Some("close")) {
                        client = Client::connect(addr);
                    }
                }
            })
        });
        let threads = threads.collect();
        Self { shared, threads }
    }

    /// Waits for `n` requests that begin after this call.
    #[track_caller]
    pub(crate) fn more(&self, n: usize) {
        // Those that are in progress now do not count.
        let target = self.shared.started.load(Ordering::Acquire) + n;
        eventually("more requests", || self.shared.done.load(Ordering::Acquire) >= target);
    }

    /// Forgets the answers so far: by `x-seldon-route`.
    pub(crate) fn take_arms(&self) -> BTreeMap<String, usize> {
        std::mem::take(&mut *self.shared.arms.lock().unwrap())
    }

    /// Ends it, and panics if a request failed.
    #[track_caller]
    pub(crate) fn finish_without_failure(self) {
        self.shared.stop.store(true, Ordering::Release);
        for thread in self.threads {
            thread.join().unwrap();
        }
        let failures = self.shared.failures.lock().unwrap();
        let done = self.shared.done.load(Ordering::Acquire);
        assert!(
            failures.is_empty(),
            "{} of {done} requests failed; first: {:?}",
            failures.len(),
            &failures[..failures.len().min(3)]
        );
    }
}

impl Shared {
    fn note(&self, request: &str, answer: Option<&Answer>) {
        match answer {
            Some(answer) if answer.status == 200 => {
                let arm = answer.header("x-seldon-route").unwrap_or_default().to_owned();
                *self.arms.lock().unwrap().entry(arm).or_default() += 1;
            }
            Some(answer) => {
                let failure = format!("{request:?} -> {}\n{}", answer.head(), answer.text());
                self.failures.lock().unwrap().push(failure);
            }
            None => self.failures.lock().unwrap().push(format!("{request:?} -> no answer")),
        }
        self.done.fetch_add(1, Ordering::AcqRel);
    }
}
