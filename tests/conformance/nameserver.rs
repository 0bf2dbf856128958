//! A name server whose answers a case writes. Port 53 of an address of the
//! loopback network, so that `resolv.conf` can name it: needs the right to bind
//! it.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What to say about a name.
#[derive(Clone, Debug)]
pub enum Answer {
    /// A records with a TTL of 60 s; none: NOERROR without data.
    Addresses(Vec<Ipv4Addr>),
    NoSuchName,
    ServerFailure,
    Silence,
}

/// Dropped, it falls silent.
pub struct NameServer {
    pub address: Ipv4Addr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    answers: Mutex<BTreeMap<String, Answer>>,
    /// Name and type of each question.
    asked: Mutex<Vec<(String, u16)>>,
    stopped: AtomicBool,
}

impl NameServer {
    pub fn start() -> Self {
        static LAST: AtomicU8 = AtomicU8::new(0);
        let socket = std::iter::repeat_with(|| {
            let number = LAST.fetch_add(1, Ordering::Relaxed);
            Ipv4Addr::new(127, 53, std::process::id() as u8, number)
        });
        let bound = socket.take(250).find_map(|ip| Some((ip, UdpSocket::bind((ip, 53)).ok()?)));
        let (address, socket) = bound.expect("the right to bind port 53 of a loopback address");
        socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a socket");
        let shared = Arc::new(Shared::default());
        std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || serve(&socket, &shared)
        });
        Self { address, shared }
    }

    pub fn says(&self, name: &str, answer: Answer) {
        self.shared.answers.lock().unwrap().insert(name.to_owned(), answer);
    }

    /// Questions about a name so far, by type.
    pub fn asked(&self, name: &str) -> Vec<u16> {
        let asked = self.shared.asked.lock().unwrap();
        asked.iter().filter(|(asked, _)| asked == name).map(|(_, kind)| *kind).collect()
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
    }
}

fn serve(socket: &UdpSocket, shared: &Shared) {
    let mut packet = [0; 1500];
    while !shared.stopped.load(Ordering::Relaxed) {
        let Ok((length, peer)) = socket.recv_from(&mut packet) else { continue };
        let Some((name, kind, end)) = question(&packet[..length]) else { continue };
        shared.asked.lock().unwrap().push((name.clone(), kind));
        let answer = shared.answers.lock().unwrap().get(&name).cloned();
        if let Some(reply) = reply(&packet[..end], kind, &answer.unwrap_or(Answer::NoSuchName)) {
            let _ = socket.send_to(&reply, peer);
        }
    }
}

/// Name, type, and where the question ends (RFC 1035, 4.1.2).
fn question(packet: &[u8]) -> Option<(String, u16, usize)> {
    let (mut at, mut labels) = (12, Vec::new());
    loop {
        let length = usize::from(*packet.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(packet.get(at..at + length)?).to_ascii_lowercase());
        at += length;
    }
    let kind = packet.get(at..at + 2)?;
    Some((labels.join("."), u16::from_be_bytes([kind[0], kind[1]]), at + 4))
}

/// None: silence.
fn reply(question: &[u8], kind: u16, answer: &Answer) -> Option<Vec<u8>> {
    let (code, addresses) = match answer {
        Answer::Addresses(addresses) if kind == 1 => (0, addresses.as_slice()),
        Answer::Addresses(_) => (0, &[][..]),
        Answer::NoSuchName => (3, &[][..]),
        Answer::ServerFailure => (2, &[][..]),
        Answer::Silence => return None,
    };
    let mut reply = question.to_vec();
    reply[2] = 0x81; // a response, recursion desired
    reply[3] = 0x80 | code;
    reply[4..12].copy_from_slice(&[0, 1, 0, addresses.len() as u8, 0, 0, 0, 0]);
    for address in addresses {
        // The question's name, type A, class IN, TTL 60, four bytes.
        reply.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        reply.extend_from_slice(&address.octets());
    }
    Some(reply)
}
