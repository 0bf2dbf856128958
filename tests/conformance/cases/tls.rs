//! H15 to H24: TLS towards clients and upstreams, its secrets by SDS.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::{
    DataSource, WatchedDirectory, data_source::Specifier,
};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    DownstreamTlsContext, Secret, UpstreamTlsContext, secret,
};
use envoy_types::pb::google::protobuf::BoolValue;
use radiant::demo::scheduler::Push;
use radiant::demo::scheduler::cache::SECRET;
use rustls::version::{TLS12, TLS13};

use super::extra::{
    eventually, fresh, is_open, listener, open_listener, push_listener, push_secrets,
    refused_secrets, remove_listener, secure, secure_model,
};
use super::{Case, With, case};
use crate::certificates::{
    self, Authority, Leaf, client, client_of, downstream_context, identity, identity_from, trust,
    upstream_context,
};
use crate::oracle::{LOOPBACK, Launch};
use crate::probe::Probe;
use crate::terminator::{Asks, Terminator};
use crate::tls::{meets, shake};
use crate::upstream::{Upstream, ok};

const HTTP1: &[u8] = b"GET /fate HTTP/1.1\r\nhost: h\r\n\r\n";
/// Preface and an empty SETTINGS frame.
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const LIMIT: Duration = Duration::from_secs(10);

pub fn cases() -> Vec<Case> {
    let mut cases = handshakes();
    cases.extend(client_certificates());
    cases.extend(secrets());
    cases.extend(upstreams());
    cases.extend(accounts());
    cases.push(scheduler());
    cases
}

/// A TLS listener of the case.
struct Secure {
    ca: Authority,
    leaf: Leaf,
    port: u16,
}

impl Secure {
    fn server(p: &Probe<'_>) -> String {
        format!("{}-server", p.id)
    }

    fn client(p: &Probe<'_>) -> String {
        format!("{}-client", p.id)
    }

    fn context(p: &Probe<'_>) -> DownstreamTlsContext {
        downstream_context(&Self::server(p), Some(&Self::client(p)))
    }

    /// As the scheduler does it: a certificate, and a CA for clients.
    fn open(p: &mut Probe<'_>) -> Self {
        let context = Self::context(p);
        Self::open_with(p, &context)
    }

    fn open_with(p: &mut Probe<'_>, context: &DownstreamTlsContext) -> Self {
        let ca = Authority::new("ca");
        let leaf = ca.issue("proxy");
        let both = [identity(&Self::server(p), &leaf), trust(&Self::client(p), &ca.pem)];
        push_secrets(p, &both);
        let (mut listener, port) = listener(p);
        secure(&mut listener, context);
        open_listener(p, &listener, port);
        Self { ca, leaf, port }
    }
}

/// A case with a TLS listener, which is gone afterwards.
fn secured(id: &str, run: impl Fn(&mut Probe<'_>, &Secure) + Send + Sync + 'static) -> Case {
    case(id, move |p| {
        let secure = Secure::open(p);
        run(p, &secure);
        remove_listener(p);
    })
}

/// [`secured`], when no other case runs.
fn alone_secured(id: &str, run: impl Fn(&mut Probe<'_>, &Secure) + Send + Sync + 'static) -> Case {
    Case { with: With::Alone, ..secured(id, run) }
}

/// Statistics of handshakes, and `/certs`.
fn accounts() -> Vec<Case> {
    vec![
        secured("S04/listener-ssl", |p, secure| {
            for version in [&TLS12, &TLS13] {
                let good = client_of(&[version], &["http/1.1"], Some(&secure.ca.issue("x")));
                let bad = Authority::new("other").issue("x");
                let bad = client_of(&[version], &["http/1.1"], Some(&bad));
                for config in [client_of(&[version], &["http/1.1"], None), good, bad] {
                    meets(secure.port, &config, HTTP1);
                }
            }
            plain(secure.port, HTTP1);
            note_ssl(p, &format!("listener.127.0.0.1_{}.", secure.port));
        }),
        case("S04/cluster-ssl", |p| {
            let behind = Behind::start(p, Asks::Maybe, |ca| ca.issue("model"), None, |_| {});
            behind.ask(p, 200);
            note_ssl(p, &format!("cluster.{}_1_http.", p.id));
        }),
        case("S17/certs", |p| {
            let secure = Secure::open(p);
            let odd = secure.ca.issue_odd("odd");
            push_secrets(p, &[identity(&Secure::server(p), &odd)]);
            shows(p, secure.port, &odd);
            let (head, body) = p.side.admin("GET", "/certs");
            p.note("head", head.lines().next().unwrap_or_default());
            let quoted = |pem: &str| format!("\"{}\"", certificates::serial(pem));
            let body = body.replace(&quoted(&odd.chain), "LEAF");
            let body = body.replace(&quoted(&secure.ca.pem), "CA");
            // Other cases have theirs.
            let each = body.split("\n  {\n").filter(|each| each.contains("LEAF"));
            for line in each.flat_map(str::lines).filter(|line| line.starts_with("   ")) {
                p.note("certs", line);
            }
            remove_listener(p);
        }),
    ]
}

/// What the TLS library does not tell: signature algorithms, and whether a
/// client asked for OCSP. Ciphers are agreed on by another taste.
const UNKNOWN: [&str; 4] = ["sigalgs", "ocsp_staple", "ciphers", "ssl_socket_factory"];

/// Counters and gauges of handshakes under a prefix.
fn note_ssl(p: &mut Probe<'_>, prefix: &str) {
    let all = p.stats(prefix);
    for (name, value) in all {
        if let Some(name) = name.strip_prefix(prefix).filter(|name| name.starts_with("ssl."))
            && !UNKNOWN.iter().any(|unknown| name.contains(unknown))
        {
            p.note("stat", format!("{name}: {value}"));
        }
    }
    let (_, text) = p.side.admin("GET", "/stats/prometheus");
    let label = prefix.trim_end_matches('.').split_once('.').unwrap().1;
    let label = format!("\"{label}\"");
    let known = |line: &str| {
        let ssl = line.contains("r_ssl_") && line.contains(&label);
        ssl && !UNKNOWN.iter().any(|unknown| line.contains(unknown))
    };
    for line in text.lines().filter(|line| known(line)) {
        p.note("prometheus", line);
    }
}

fn handshakes() -> Vec<Case> {
    let offers: [(&str, &'static [&'static str], &'static [u8]); 9] = [
        ("H15", &["h2", "http/1.1"], HTTP2),
        ("H15/other-order", &["http/1.1", "h2"], HTTP2),
        ("H15/h2", &["h2"], HTTP2),
        ("H15/http1", &["http/1.1"], HTTP1),
        ("H15/none", &[], HTTP1),
        ("H15/none-h2", &[], HTTP2),
        ("H15/unknown", &["spdy/3"], HTTP1),
        ("H15/http1-lies", &["http/1.1"], HTTP2),
        ("H15/h2-lies", &["h2"], HTTP1),
    ];
    let mut cases: Vec<Case> = Vec::new();
    for (id, offered, request) in offers {
        cases.push(secured(id, move |p, secure| {
            p.note("client", meets(secure.port, &client(offered, None), request));
        }));
    }
    cases.extend([
        secured("H16", |p, secure| {
            for version in [&TLS12, &TLS13] {
                let config = client_of(&[version], &["http/1.1"], None);
                p.note("client", meets(secure.port, &config, HTTP1));
            }
        }),
        secured("H16/old", |p, secure| {
            for (name, version) in [("TLS 1.1", 2), ("TLS 1.0", 1), ("SSL 3", 0)] {
                p.note(name, old_hello(secure.port, version));
            }
        }),
        secured("H19", |p, secure| {
            for text in [HTTP1, HTTP2, b"\r\n", b"x"] {
                p.note("plain", plain(secure.port, text));
            }
        }),
        secured("L31/tls", |p, secure| {
            let upstream = p.serve(ok());
            for headers in ["", "x-forwarded-proto: other\r\n"] {
                let mut client = shake(secure.port, &client(&[], None), None).unwrap().client();
                client.send(p.fill(&format!(
                    "GET /v2/models/{{m}}/infer HTTP/1.1\r\nhost: h\r\n{headers}\r\n"
                )));
                let reply = client.reply(false);
                p.note_reply(reply.as_ref());
                p.note("connection", client.fate(false));
            }
            p.note_received(&upstream);
        }),
    ]);
    cases
}

/// What a ClientHello of `3.version` is answered with.
fn old_hello(port: u16, version: u8) -> String {
    let mut hello = vec![3, version];
    hello.extend([9; 32]);
    hello.extend([0, 0, 2, 0xc0, 0x13, 1, 0, 0, 8, 0, 13, 0, 4, 0, 2, 4, 1]);
    let length = u8::try_from(hello.len()).unwrap();
    let record = [&[22, 3, 1, 0, length + 4, 1, 0, 0, length][..], &hello].concat();
    let answer = plain(port, &record);
    format!("{} bytes sent, {answer}", record.len())
}

/// What is answered to bytes, and whether the connection is closed then.
fn plain(port: u16, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect((LOOPBACK, port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let end = match stream.read_to_end(&mut answer) {
        Ok(_) => "closed",
        Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => "closed",
        Err(_) => "open",
    };
    format!("\"{}\", {end}", answer.escape_ascii())
}

fn client_certificates() -> Vec<Case> {
    let both = |p: &mut Probe<'_>, secure: &Secure, name: &str, leaf: Option<&Leaf>| {
        for version in [&TLS12, &TLS13] {
            let config = client_of(&[version], &["http/1.1"], leaf);
            let met = meets(secure.port, &config, HTTP1);
            p.note(name, format!("{version:?}: {met}"));
        }
    };
    vec![
        secured("H17", move |p, secure| both(p, secure, "none", None)),
        secured("H17/given", move |p, secure| {
            both(p, secure, "of the CA", Some(&secure.ca.issue("anybody")));
        }),
        case("H17/required", move |p| {
            let mut context = Secure::context(p);
            context.require_client_certificate = Some(BoolValue { value: true });
            let secure = Secure::open_with(p, &context);
            both(p, &secure, "none", None);
            both(p, &secure, "of the CA", Some(&secure.ca.issue("anybody")));
            remove_listener(p);
        }),
        secured("H18", move |p, secure| {
            both(p, secure, "of another CA", Some(&Authority::new("other").issue("proxy")));
        }),
        // The same name, another key.
        secured("H18/same-name", move |p, secure| {
            both(p, secure, "of a CA of that name", Some(&Authority::new("ca").issue("proxy")));
        }),
        secured("H18/self-signed", move |p, secure| {
            both(p, secure, "of nobody", Some(&Leaf::self_signed("me")));
        }),
        case("H18/own-ca", move |p| {
            // A client that is its own CA, and is trusted as such.
            let secure = Secure::open(p);
            let own = Leaf::self_signed("me");
            push_secrets(p, &[trust(&Secure::client(p), &own.chain)]);
            let config = client(&["http/1.1"], Some(&own));
            let accepted = || meets(secure.port, &config, HTTP1).contains("HTTP/1.1 ");
            p.expect(eventually(LIMIT, accepted), "accept it");
            both(p, &secure, "its own CA", Some(&own));
            remove_listener(p);
        }),
        secured("H18/expired", move |p, secure| {
            both(p, secure, "out of date", Some(&secure.ca.issue_expired("old")));
        }),
    ]
}

fn secrets() -> Vec<Case> {
    vec![
        secured("H20", |p, secure| {
            let config = client(&["http/1.1"], None);
            let before = shake(secure.port, &config, None).unwrap();
            p.expect(before.certificate == secure.leaf.der(), "show the first certificate");
            let mut before = before.client();
            before.send(HTTP1);
            p.note("before", before.reply(false).unwrap_or_default().line);
            let renewed = secure.ca.issue("renewed");
            push_secrets(p, &[identity(&Secure::server(p), &renewed)]);
            shows(p, secure.port, &renewed);
            // The open connection goes on.
            before.send(HTTP1);
            p.note("after", before.reply(false).unwrap_or_default().line);
            p.note("connection", before.fate(false));
        }),
        secured("H20/trust", |p, secure| {
            let other = Authority::new("other");
            push_secrets(p, &[trust(&Secure::client(p), &other.pem)]);
            let config = |ca: &Authority| client(&["http/1.1"], Some(&ca.issue("x")));
            let accepted = || meets(secure.port, &config(&other), HTTP1).contains("HTTP/1.1");
            p.expect(eventually(LIMIT, accepted), "accept those of the new CA");
            p.note("new CA", meets(secure.port, &config(&other), HTTP1));
            p.note("old CA", meets(secure.port, &config(&secure.ca), HTTP1));
        }),
        case("H20/watched-directory", watched_directory),
        // Alone: what is refused is told of all secrets at once.
        alone_secured("H21", |p, secure| {
            let other = secure.ca.issue("other");
            let mixed = Leaf { chain: other.chain.clone(), key: secure.leaf.key.clone() };
            let of = |chain: &str, key: &str| Leaf { chain: chain.into(), key: key.into() };
            let spoiled = [
                ("no chain", of("", &other.key)),
                ("no PEM", of("this is no certificate", &other.key)),
                ("no key", of(&other.chain, "")),
                ("key that is none", of(&other.chain, "this is no key")),
                ("another key", mixed),
            ];
            for (name, leaf) in spoiled {
                push_secrets(p, &[identity(&Secure::server(p), &leaf)]);
                p.note(name, format!("refused: {}", !refused_secrets_any(p).is_empty()));
                shows(p, secure.port, &secure.leaf);
            }
            push_secrets(p, &[identity(&Secure::server(p), &other)]);
            shows(p, secure.port, &other);
            p.note("mended", format!("{:?}", refused_secrets(p)));
        }),
        secured("X29", |p, secure| {
            p.side.push(Push::Remove(SECRET, vec![Secure::server(p), Secure::client(p)]));
            p.note("refused", format!("{:?}", p.side.refused(SECRET)));
            shows(p, secure.port, &secure.leaf);
        }),
        case("X33", |p| {
            let (ca, context) = (Authority::new("ca"), Secure::context(p));
            let (mut listener, port) = listener(p);
            secure(&mut listener, &context);
            push_listener(p, &listener);
            push_secrets(p, &[trust(&Secure::client(p), &ca.pem)]);
            std::thread::sleep(Duration::from_millis(500));
            p.note("without certificate", if is_open(port) { "open" } else { "closed" });
            let leaf = ca.issue("proxy");
            push_secrets(p, &[identity(&Secure::server(p), &leaf)]);
            p.expect(eventually(LIMIT, || is_open(port)), "open when the secret is there");
            shows(p, port, &leaf);
            remove_listener(p);
        }),
    ]
}

/// The NACK of a secret need not name it.
fn refused_secrets_any(p: &Probe<'_>) -> Vec<String> {
    p.side.refused(SECRET)
}

/// Waits until new handshakes show `leaf`.
fn shows(p: &mut Probe<'_>, port: u16, leaf: &Leaf) {
    let shown = || {
        let shaken = shake(port, &client(&["http/1.1"], None), None);
        shaken.is_ok_and(|shaken| shaken.certificate == leaf.der())
    };
    p.expect(eventually(LIMIT, shown), "show the certificate");
}

/// Files as Kubernetes mounts them: `..data` points to a directory, and another
/// one is renamed over it.
fn watched_directory(p: &mut Probe<'_>) {
    let ca = Authority::new("ca");
    let dir = p.side.dir.join(&p.id);
    let first = ca.issue("first");
    mount(&dir, "first", &first);
    let file = |name: &str| DataSource {
        specifier: Some(Specifier::Filename(dir.join(name).display().to_string())),
        watched_directory: None,
    };
    let mut secret: Secret = identity_from(&Secure::server(p), file("tls.crt"), file("tls.key"));
    if let Some(secret::Type::TlsCertificate(certificate)) = &mut secret.r#type {
        let path = dir.display().to_string();
        certificate.watched_directory = Some(WatchedDirectory { path, ..Default::default() });
    }
    push_secrets(p, &[secret]);
    let (mut listener, port) = listener(p);
    secure(&mut listener, &downstream_context(&Secure::server(p), None));
    open_listener(p, &listener, port);
    shows(p, port, &first);
    let config = client(&["http/1.1"], None);
    let mut open = shake(port, &config, None).unwrap().client();
    let second = ca.issue("second");
    mount(&dir, "second", &second);
    shows(p, port, &second);
    // A broken mount does no harm, and the next good one is taken.
    mount(&dir, "broken", &Leaf { chain: "none".into(), key: "none".into() });
    std::thread::sleep(Duration::from_millis(2500));
    shows(p, port, &second);
    let third = ca.issue("third");
    mount(&dir, "third", &third);
    shows(p, port, &third);
    open.send(HTTP1);
    p.note("old connection", open.reply(false).unwrap_or_default().line);
    remove_listener(p);
}

fn mount(dir: &Path, version: &str, leaf: &Leaf) {
    let real: PathBuf = dir.join(format!("..{version}"));
    fs::create_dir_all(&real).unwrap();
    fs::write(real.join("tls.crt"), &leaf.chain).unwrap();
    fs::write(real.join("tls.key"), &leaf.key).unwrap();
    let next = dir.join("..data_tmp");
    symlink(&real, &next).unwrap();
    fs::rename(next, dir.join("..data")).unwrap();
    for name in ["tls.crt", "tls.key"] {
        let link = dir.join(name);
        if !link.exists() {
            symlink(Path::new("..data").join(name), link).unwrap();
        }
    }
}

/// The case's model behind a terminator.
struct Behind {
    ca: Authority,
    own: Leaf,
    terminator: Terminator,
    upstream: Upstream,
}

impl Behind {
    /// `trusted`: the CA that the proxy checks, none: it checks nothing.
    fn start(
        p: &mut Probe<'_>,
        asks: Asks,
        shown: impl Fn(&Authority) -> Leaf,
        trusted: Option<&Authority>,
        edit: impl Fn(&mut UpstreamTlsContext),
    ) -> Self {
        let ca = Authority::new("ca");
        let upstream = p.upstream(ok());
        let to = (LOOPBACK, upstream.port).into();
        let terminator = Terminator::start_asking(asks, &shown(&ca), &ca, to);
        p.name_port(terminator.addr.port(), "tls");
        let own = ca.issue("proxy");
        let names = [format!("{}-own", p.id), format!("{}-ca", p.id)];
        let ca_pem = trusted.map_or(&ca.pem, |other| &other.pem);
        push_secrets(p, &[identity(&names[0], &own), trust(&names[1], ca_pem)]);
        let mut context = upstream_context(&names[0], Some(&names[1]));
        edit(&mut context);
        // By name: an address would have no SNI anyway.
        secure_model(p, "localhost", terminator.addr.port(), &context);
        Self { ca, own, terminator, upstream }
    }

    fn ask(&self, p: &mut Probe<'_>, status: u16) {
        let reply = p.infer("x-request-id: {id}\r\n");
        p.expect(reply.status() == status, format!("answer {status}: {}", reply.line));
        p.note("requests", self.upstream.received().len());
        p.note_log("all", 1);
    }

    fn note_handshake(&self, p: &mut Probe<'_>) {
        let Some(handshake) = self.terminator.handshakes().pop() else {
            return p.note("handshake", "none");
        };
        p.note("sni", format!("{:?}", handshake.sni));
        p.note("own certificate", handshake.certificate == Some(self.own.der()));
    }
}

fn upstreams() -> Vec<Case> {
    let mesh = |ca: &Authority| ca.issue("unheard-of");
    vec![
        case("H22", move |p| {
            let behind = Behind::start(p, Asks::Maybe, mesh, None, |_| {});
            behind.ask(p, 200);
            behind.note_handshake(p);
            p.expect(behind.terminator.handshakes().len() == 1, "shake hands once");
        }),
        case("H22/versions", move |p| {
            let behind = Behind::start(p, Asks::Maybe, mesh, None, |_| {});
            behind.ask(p, 200);
            let handshake = behind.terminator.handshakes().remove(0);
            p.note("versions", format!("{:x?}", handshake.versions));
        }),
        case("H22/alpn", move |p| {
            let behind = Behind::start(p, Asks::Maybe, mesh, None, |_| {});
            behind.ask(p, 200);
            let handshake = behind.terminator.handshakes().remove(0);
            p.note("offered", format!("{:?}", handshake.offered));
        }),
        case("H22/sni", move |p| {
            let sni = "models.example";
            let behind = Behind::start(p, Asks::Maybe, mesh, None, |c| c.sni = sni.to_owned());
            behind.ask(p, 200);
            behind.note_handshake(p);
        }),
        case("H22/unasked", move |p| {
            let behind = Behind::start(p, Asks::Nothing, mesh, None, |_| {});
            behind.ask(p, 200);
            behind.note_handshake(p);
        }),
        case("H22/unchecked", |p| {
            let shown = |_: &Authority| Authority::new("other").issue("model");
            let behind = Behind::start(p, Asks::Maybe, shown, None, |context| {
                context.common_tls_context.as_mut().unwrap().validation_context_type = None;
            });
            behind.ask(p, 200);
            behind.note_handshake(p);
        }),
        case("H22/renewed", move |p| {
            let behind = Behind::start(p, Asks::Certificate, mesh, None, |_| {});
            behind.ask(p, 200);
            let renewed = behind.ca.issue("renewed");
            push_secrets(p, &[identity(&format!("{}-own", p.id), &renewed)]);
            // The open connection goes on; a second one is needed only if it is
            // in use.
            let shown = || {
                let last = behind.terminator.handshakes().pop();
                last.is_some_and(|h| h.certificate == Some(renewed.der()))
            };
            let renews = eventually(LIMIT, || {
                p.infer("connection: close\r\n");
                let mut slow = p.connect();
                slow.send(p.fill(
                    "POST /v2/models/{m}/infer HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\n{",
                ));
                p.infer("connection: close\r\n");
                slow.send("}");
                let _ = slow.reply(false);
                shown()
            });
            p.transcript.lines.clear();
            p.expect(renews, "show the new certificate");
        }),
        case("H22/own-ca", |p| {
            let own = Leaf::self_signed("model");
            let pem = own.chain.clone();
            let behind = Behind::start(
                p,
                Asks::Maybe,
                |_| own.clone(),
                None,
                |context| {
                    use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as pb;
                    let given = pb::CertificateValidationContext {
                        trusted_ca: Some(certificates::inline(&pem)),
                        ..Default::default()
                    };
                    context.common_tls_context.as_mut().unwrap().validation_context_type = Some(
                        pb::common_tls_context::ValidationContextType::ValidationContext(given),
                    );
                },
            );
            behind.ask(p, 200);
        }),
        case("H23", move |p| {
            let behind =
                Behind::start(p, Asks::Maybe, mesh, Some(&Authority::new("other")), |_| {});
            behind.ask(p, 503);
            p.note("alert", format!("{:?}", behind.terminator.failures().first()));
        }),
        case("H23/expired", |p| {
            let shown = |ca: &Authority| ca.issue_expired("model");
            let behind = Behind::start(p, Asks::Maybe, shown, None, |_| {});
            behind.ask(p, 503);
            p.note("alert", format!("{:?}", behind.terminator.failures().first()));
        }),
        case("H23/unknown-client", |p| {
            let behind = Behind::start(
                p,
                Asks::Certificate,
                |ca| ca.issue("model"),
                None,
                |context| {
                    let common = context.common_tls_context.as_mut().unwrap();
                    common.tls_certificate_sds_secret_configs.clear();
                },
            );
            behind.ask(p, 503);
        }),
        case("H23/plain", |p| {
            // An upstream that does not speak TLS.
            let ca = Authority::new("ca");
            let names = [format!("{}-own", p.id), format!("{}-ca", p.id)];
            push_secrets(p, &[identity(&names[0], &ca.issue("x")), trust(&names[1], &ca.pem)]);
            let context = upstream_context(&names[0], Some(&names[1]));
            secure_model(p, "127.0.0.1", rude(), &context);
            let reply = p.infer("x-request-id: {id}\r\n");
            p.expect(reply.status() == 503, "answer 503");
        }),
        case("H24", move |p| {
            // The terminator prefers h2; both kinds of cluster must work.
            let behind = Behind::start(p, Asks::Maybe, mesh, None, |_| {});
            behind.ask(p, 200);
        }),
    ]
}

/// The scheduler by mTLS, as with `ENVOY_SECURITY_PROTOCOL=SSL`.
fn scheduler() -> Case {
    case("X01/tls", |p| {
        let ca = Authority::new("ca");
        let (leaf, own) = (ca.issue("some-scheduler"), ca.issue("proxy"));
        let shown = own.der();
        let launch = Launch { scheduler_tls: Some((ca, leaf, own)), ..Launch::default() };
        fresh(p, &launch, |p| {
            let _upstream = p.serve(ok());
            let reply = p.infer("");
            p.expect(reply.status() == 200, "serve");
            let terminator = p.side.terminator.as_ref().expect("asked for");
            let handshake = terminator.handshakes().remove(0);
            p.note("sni", format!("{:?}", handshake.sni));
            p.note("ALPN", format!("{:?}", handshake.alpn));
            p.note("own certificate", handshake.certificate == Some(shown.clone()));
        });
    })
}

/// A port that answers the first bytes with plain HTTP.
fn rude() -> u16 {
    let listener = std::net::TcpListener::bind((LOOPBACK, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().take(20) {
            let Ok(mut stream) = stream else { return };
            let mut bytes = [0; 1024];
            let _ = stream.read(&mut bytes);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n");
        }
    });
    port
}
