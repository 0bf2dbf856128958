use std::collections::BTreeMap;

use hickory_resolver::proto::op::{Message, MessageType, ResponseCode};
use hickory_resolver::proto::rr::rdata::A;
use hickory_resolver::proto::rr::{RData, Record, RecordType};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;

use super::*;

fn name(name: &str, port: u16) -> EndpointAddress {
    EndpointAddress::Name(name.into(), port)
}

fn socket(address: &str) -> EndpointAddress {
    EndpointAddress::Socket(address.parse().unwrap())
}

fn hosts(set: &EndpointSet) -> Vec<String> {
    set.hosts().iter().map(|h| h.address.to_string()).collect()
}

fn ips(list: &[&str]) -> Answer {
    Answer::Addresses(list.iter().map(|ip| ip.parse().unwrap()).collect())
}

#[test]
fn the_same_endpoints_in_any_order_are_the_same_set() {
    let directory = Endpoints::default();
    let a = directory.intern(vec![socket("10.0.0.1:1"), name("m", 2), socket("10.0.0.1:1")]);
    let b = directory.intern(vec![name("m", 2), socket("10.0.0.1:1")]);
    let c = directory.intern(vec![name("m", 3), socket("10.0.0.1:1")]);
    assert!(Arc::ptr_eq(&a, &b));
    assert!(!Arc::ptr_eq(&a, &c));
}

#[test]
fn literals_are_resolved_at_once_and_share_their_hosts() {
    let directory = Endpoints::default();
    let mut changes = directory.changed();
    let a = directory.intern(vec![socket("10.0.0.2:9"), socket("10.0.0.1:9")]);
    assert!(a.is_resolved());
    assert_eq!(hosts(&a), ["10.0.0.1:9", "10.0.0.2:9"]);
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    let b = directory.intern(vec![socket("10.0.0.2:9")]);
    assert!(Arc::ptr_eq(&a.hosts()[1], &b.hosts()[0]));
    assert!(Arc::ptr_eq(&a.hosts()[0], &directory.host("10.0.0.1:9".parse().unwrap())));
    let empty = directory.intern(vec![]);
    assert!(empty.is_resolved() && empty.hosts().is_empty());
}

#[test]
fn answers_replace_clear_or_keep_the_hosts() {
    let directory = Endpoints::default();
    let now = Instant::now();
    let set = directory.intern(vec![name("m", 9000), name("m", 9500)]);
    assert!(!set.is_resolved());
    for (answer, want, changes) in [
        (
            ips(&["10.0.0.2", "10.0.0.1", "10.0.0.2"]),
            &["1:9000", "1:9500", "2:9000", "2:9500"][..],
            true,
        ),
        // In another order: nothing changes, the hosts are the same objects.
        (ips(&["10.0.0.1", "10.0.0.2"]), &["1:9000", "1:9500", "2:9000", "2:9500"], false),
        (Answer::Failed, &["1:9000", "1:9500", "2:9000", "2:9500"], false),
        (ips(&["10.0.0.3"]), &["3:9000", "3:9500"], true),
        (ips(&[]), &[], true),
        (Answer::Failed, &[], false),
        (ips(&["10.0.0.1"]), &["1:9000", "1:9500"], true),
    ] {
        let changed = directory.changed();
        directory.on_answer("m", answer, now);
        assert!(set.is_resolved());
        let want: Vec<_> = want.iter().map(|w| format!("10.0.0.{w}")).collect();
        assert_eq!(hosts(&set), want);
        assert_eq!(changed.has_changed().unwrap(), changes, "{want:?}");
    }
}

#[test]
fn a_name_that_fails_from_the_start_resolves_the_set_to_nothing() {
    let directory = Endpoints::default();
    let changed = directory.changed();
    let set = directory.intern(vec![name("m", 1)]);
    directory.on_answer("m", Answer::Failed, Instant::now());
    assert!(set.is_resolved() && set.hosts().is_empty());
    assert!(changed.has_changed().unwrap());
}

#[test]
fn a_set_is_resolved_when_its_last_name_is_answered() {
    let directory = Endpoints::default();
    let set = directory.intern(vec![name("a", 1), name("b", 1), socket("10.9.9.9:1")]);
    directory.on_answer("a", ips(&["10.0.0.1"]), Instant::now());
    assert!(!set.is_resolved() && set.hosts().is_empty());
    directory.on_answer("b", Answer::Failed, Instant::now());
    assert!(set.is_resolved());
    assert_eq!(hosts(&set), ["10.0.0.1:1", "10.9.9.9:1"]);
    // A later set of names that are known needs no lookup.
    let other = directory.intern(vec![name("a", 7)]);
    assert_eq!(hosts(&other), ["10.0.0.1:7"]);
}

#[test]
fn names_are_due_a_refresh_after_the_answer_and_once_for_all_sets() {
    let directory = Endpoints::default();
    let start = Instant::now();
    let sets: Vec<_> = (0..100).map(|port| directory.intern(vec![name("m", port)])).collect();
    let slow = directory.intern_refreshed(vec![name("s", 1)], Duration::from_secs(5));
    let (mut due, next) = directory.take_due(start, 64);
    due.sort();
    assert_eq!(due.iter().map(|n| &**n).collect::<Vec<_>>(), ["m", "s"]);
    assert_eq!(next, None);
    let answered = start + Duration::from_secs(1);
    directory.on_answer("m", ips(&["10.0.0.1"]), answered);
    directory.on_answer("s", Answer::Failed, answered);
    let (due, next) = directory.take_due(answered, 64);
    assert!(due.is_empty());
    assert_eq!(next, Some(answered + REFRESH));
    let (due, next) = directory.take_due(answered + REFRESH, 64);
    assert_eq!((due.len(), next), (1, Some(answered + Duration::from_secs(5))));
    assert!(sets.iter().all(|s| s.is_resolved()));
    drop(slow);
}

#[test]
fn room_bounds_the_lookups_in_flight() {
    let directory = Endpoints::default();
    let set = directory.intern((0..5).map(|i| name(&format!("m{i}"), 1)).collect());
    let now = Instant::now();
    assert_eq!(directory.take_due(now, 3).0.len(), 3);
    assert_eq!(directory.take_due(now, 0).0.len(), 0);
    assert_eq!(directory.take_due(now, 9).0.len(), 2);
    drop(set);
}

#[test]
fn nothing_is_kept_for_sets_that_are_gone() {
    let directory = Endpoints::default();
    let far = Instant::now() + Duration::from_secs(60);
    for i in 0..1000u16 {
        let set = directory.intern(vec![name("m", i), socket(&format!("10.0.0.1:{i}"))]);
        directory.on_answer("m", ips(&["10.0.0.7"]), Instant::now());
        drop(set);
    }
    let state = directory.lock();
    assert!(state.sets.len() + state.hosts.len() < 300, "{}", state.sets.len());
    drop(state);
    assert_eq!(directory.take_due(far, 64), (vec![], None));
    assert!(directory.lock().names.is_empty());
}

/// Waits until `check` holds, woken by the directory's changes.
async fn until(directory: &Endpoints, mut check: impl FnMut() -> bool) {
    let mut changed = directory.changed();
    let wait = async {
        while !check() {
            changed.changed().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait).await.expect("condition");
}

#[tokio::test(start_paused = true)]
async fn the_driver_asks_again_after_each_answer() {
    let directory = Arc::new(Endpoints::default());
    let stats = Arc::new(ControlStats::default());
    let (asked, mut questions) = mpsc::unbounded_channel();
    let resolver: Resolver = Box::new(move |name| {
        let (reply, answer) = tokio::sync::oneshot::channel();
        asked.send((name.to_owned(), Instant::now(), reply)).unwrap();
        Box::pin(async move { answer.await.expect("a dropped reply is a panic") })
    });
    let task = {
        let (directory, stats) = (Arc::clone(&directory), Arc::clone(&stats));
        tokio::spawn(async move { directory.run(&stats, resolver).await })
    };
    let set = directory.intern(vec![name("m", 1)]);
    let (question, first_at, reply) = questions.recv().await.unwrap();
    assert_eq!(question, "m");
    reply.send(ips(&["10.0.0.1"])).unwrap();
    until(&directory, || set.is_resolved()).await;
    let (_, second_at, reply) = questions.recv().await.unwrap();
    assert_eq!(second_at - first_at, REFRESH);
    reply.send(ips(&[])).unwrap();
    until(&directory, || set.hosts().is_empty()).await;
    // A lookup that panics is a failure, and the next one follows.
    drop(questions.recv().await.unwrap());
    let (_, _, reply) = questions.recv().await.unwrap();
    reply.send(ips(&["10.0.0.2"])).unwrap();
    until(&directory, || !set.hosts().is_empty()).await;
    assert_eq!(hosts(&set), ["10.0.0.2:1"]);
    let seen = [&stats.dns_update_success, &stats.dns_update_empty, &stats.dns_update_failure]
        .map(|c| c.value());
    assert_eq!(seen, [3, 1, 1]);
    task.abort();
}

/// What the stub name server says to a name.
#[derive(Clone)]
enum Says {
    Records(&'static [[u8; 4]]),
    Code(ResponseCode),
    Nothing,
}

/// A name server on loopback; every question is reported as (name, type).
async fn name_server(
    zone: BTreeMap<&'static str, Says>,
) -> (SocketAddr, mpsc::UnboundedReceiver<(String, RecordType)>) {
    let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().unwrap();
    let (seen, questions) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut buffer = [0; 1500];
        loop {
            let (len, from) = server.recv_from(&mut buffer).await.unwrap();
            let question = Message::from_vec(&buffer[..len]).unwrap();
            let query = question.queries()[0].clone();
            let asked = query.name().to_string();
            let says = zone.get(&*asked).cloned().unwrap_or(Says::Code(ResponseCode::NXDomain));
            let _ = seen.send((asked, query.query_type()));
            let mut answer = Message::new();
            answer.set_id(question.id()).set_message_type(MessageType::Response);
            answer.set_recursion_available(true).set_recursion_desired(true);
            answer.add_query(query.clone());
            match says {
                Says::Nothing => continue,
                Says::Code(code) => {
                    answer.set_response_code(code);
                }
                Says::Records(list) => {
                    for [a, b, c, d] in list {
                        let data = RData::A(A::new(*a, *b, *c, *d));
                        answer.add_answer(Record::from_rdata(query.name().clone(), 60, data));
                    }
                }
            }
            server.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
        }
    });
    (address, questions)
}

#[tokio::test]
async fn only_a_records_are_asked_and_failures_differ_from_empty_answers() {
    let zone = BTreeMap::from([
        ("m.", Says::Records(&[[10, 0, 0, 1], [10, 0, 0, 2]])),
        ("broken.", Says::Code(ResponseCode::ServFail)),
        ("refused.", Says::Code(ResponseCode::Refused)),
        ("none.", Says::Code(ResponseCode::NXDomain)),
        ("empty.", Says::Records(&[])),
        ("silent.", Says::Nothing),
    ]);
    let (server, mut questions) = name_server(zone).await;
    let resolver = NameServers::only(server, Duration::from_millis(50)).resolver();
    for (name, want) in [
        ("m", ips(&["10.0.0.1", "10.0.0.2"])),
        // Again, although the TTL was a minute: it is asked again.
        ("m", ips(&["10.0.0.1", "10.0.0.2"])),
        ("broken", Answer::Failed),
        ("refused", Answer::Failed),
        ("none", ips(&[])),
        ("empty", ips(&[])),
        ("silent", Answer::Failed),
        ("not a name..", ips(&[])),
    ] {
        assert_eq!(resolver(name).await, want, "{name}");
    }
    let mut seen = BTreeMap::new();
    while let Ok((name, kind)) = questions.try_recv() {
        assert_eq!(kind, RecordType::A, "{name}");
        *seen.entry(name).or_insert(0) += 1;
    }
    assert_eq!(seen["m."], 2);
    assert_eq!(seen["none."], 1);
}

#[tokio::test]
async fn the_search_list_is_walked_past_empty_answers_only() {
    let zone = BTreeMap::from([
        ("m.ns.svc.", Says::Records(&[[10, 0, 0, 1]])),
        ("a.b.", Says::Records(&[[10, 0, 0, 2]])),
        ("flaky.ns.svc.", Says::Code(ResponseCode::ServFail)),
        ("flaky.", Says::Records(&[[10, 6, 6, 6]])),
    ]);
    let (server, mut questions) = name_server(zone).await;
    let servers = NameServers::only(server, Duration::from_secs(5));
    let resolver = servers.search("ns.svc", 5).search("svc", 5).resolver();
    for (name, want, asked) in [
        ("m", ips(&["10.0.0.1"]), &["m.ns.svc."][..]),
        ("a.b", ips(&["10.0.0.2"]), &["a.b.ns.svc.", "a.b.svc.", "a.b."]),
        ("a.b.", ips(&["10.0.0.2"]), &["a.b."]),
        ("nowhere", ips(&[]), &["nowhere.ns.svc.", "nowhere.svc.", "nowhere."]),
    ] {
        assert_eq!(resolver(name).await, want, "{name}");
        let mut seen = Vec::new();
        while let Ok((name, _)) = questions.try_recv() {
            seen.push(name);
        }
        assert_eq!(seen, asked, "{name}");
    }
    assert_eq!(resolver("flaky").await, Answer::Failed);
}

#[tokio::test]
async fn localhost_needs_no_name_server() {
    let (server, _questions) = name_server(BTreeMap::new()).await;
    let resolver = NameServers::only(server, Duration::from_secs(5)).resolver();
    assert_eq!(resolver("localhost").await, ips(&["127.0.0.1"]));
    assert_eq!(system_resolver()("localhost").await, ips(&["127.0.0.1"]));
}

#[tokio::test]
async fn a_resolver_is_made_anew_when_its_files_change() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("hosts");
    let make = {
        let file = file.clone();
        move || -> Resolver {
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            let answer = ips(&text.split_whitespace().collect::<Vec<_>>());
            Box::new(move |_: &str| -> Lookup { Box::pin(std::future::ready(answer.clone())) })
        }
    };
    let resolver = resolver::renewed(vec![file.clone()], Duration::ZERO, make);
    assert_eq!(resolver("m").await, ips(&[]), "no file");
    std::fs::write(&file, "10.0.0.1").unwrap();
    assert_eq!(resolver("m").await, ips(&["10.0.0.1"]));
    std::fs::write(&file, "10.0.0.1 10.0.0.22").unwrap();
    assert_eq!(resolver("m").await, ips(&["10.0.0.1", "10.0.0.22"]));
    std::fs::remove_file(&file).unwrap();
    assert_eq!(resolver("m").await, ips(&[]));
}
