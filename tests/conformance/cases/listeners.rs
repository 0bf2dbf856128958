//! X: listeners that come, go and are refused. Each case has proxies of its own.

use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, http_connection_manager::RouteSpecifier,
};
use radiant::demo::scheduler::Push;
use radiant::demo::scheduler::cache::LISTENER;
use radiant::seldon::listener::HTTP_LISTENER;
use radiant::seldon::{self, route_table};

use super::discovery::{living, note_answers};
use super::{Case, own};
use crate::client::Client;
use crate::discovery::LIMIT;
use crate::lab::{Lab, eventually, listener};
use crate::oracle;
use crate::probe::Probe;

pub fn cases() -> Vec<Case> {
    vec![
        own("X23", |p| {
            let (lab, _upstream) = living(p);
            let broken = edited(&lab, |manager| {
                manager.http_filters.pop();
            });
            lab.push(vec![listener(&broken)]);
            refused(p, &lab);
            p.expect(lab.get("m").status() == 200, "serve with the old listener");
        }),
        own("X24", |p| {
            let (lab, _upstream) = living(p);
            let mut twin = seldon::listeners(&lab.options).remove(0);
            twin.name = "twin".to_owned();
            lab.push(vec![listener(&twin)]);
            let words = refused(p, &lab);
            p.expect(words.contains("has duplicate address"), "say so");
            p.expect(lab.get("m").status() == 200, "serve with the old listener");
        }),
        own("X25", |p| {
            let (lab, _upstream) = living(p);
            lab.push(vec![remove(HTTP_LISTENER)]);
            let closed = || !Lab::is_open(lab.ports.http);
            p.expect(eventually(LIMIT, closed), "close the port");
            note_answers(p, &lab, &["Listener"]);
            p.note("state", lab.admin("GET", "/ready").1);
            p.note("mirrors open", Lab::is_open(lab.ports.mirrors));
        }),
        own("X26", |p| {
            let (lab, _upstream) = living(p);
            lab.push(vec![remove(HTTP_LISTENER)]);
            let closed = || !Lab::is_open(lab.ports.http);
            p.expect(eventually(LIMIT, closed), "close the port");
            let all = oracle::listeners(&lab.options, &lab.dir);
            lab.push(vec![Push::Upsert(LISTENER, all)]);
            lab.wait_open();
            p.expect(lab.get("m").status() == 200, "serve again");
            note_answers(p, &lab, &["Listener"]);
        }),
        own("X27", |p| {
            let (lab, _upstream) = living(p);
            // The embedded scheduler sends tables of any name.
            let routes = radiant::seldon::Mesh::default().resources(&lab.options).routes;
            let mut more = edited(&lab, |manager| {
                if let Some(RouteSpecifier::Rds(rds)) = &mut manager.route_specifier {
                    rds.route_config_name = "listener_9".to_owned();
                }
            });
            more.name = "nine".to_owned();
            more.address = seldon::listeners(&radiant::seldon::ListenerOptions {
                http_port: lab.ports.control,
                ..lab.options.clone()
            })[0]
                .address
                .clone();
            let before = lab.server().asked("RouteConfiguration").len();
            lab.server().push(vec![listener(&more)]);
            p.expect(lab.server().wait_asked("RouteConfiguration", before + 1), "ask for it");
            let asked = lab.server().asked("RouteConfiguration").remove(before);
            p.expect(asked.subscribe == ["listener_9"], "ask for it alone");
            p.note("asked", asked.line());
            p.note("open", Lab::is_open(lab.ports.control));
            let tables = ["listener_0", "listener_1", "listener_9"].map(|name| {
                oracle::table(&route_table(name, routes.virtual_hosts[0].routes.clone()))
            });
            lab.push(vec![Push::Routes(tables.into())]);
            let open = || Lab::is_open(lab.ports.control);
            p.expect(eventually(LIMIT, open), "open the port");
            let mut client = Client::connect(lab.ports.control);
            client.send("GET / HTTP/1.1\r\nhost: h\r\n\r\n");
            p.note_reply(client.reply(false).as_ref());
            let before = lab.server().asked("RouteConfiguration").len();
            lab.server().push(vec![remove("nine")]);
            // Envoy lets go of the name when its connections have ended.
            drop(client);
            p.expect(lab.server().wait_asked("RouteConfiguration", before + 1), "let go of it");
            let asked = lab.server().asked("RouteConfiguration").remove(before);
            p.expect(asked.unsubscribe == ["listener_9"], "let go of it alone");
            p.note("asked", asked.line());
        }),
    ]
}

fn remove(name: &str) -> Push {
    Push::Remove(LISTENER, vec![name.to_owned()])
}

/// The listener for requests with another connection manager.
fn edited(lab: &Lab, edit: impl FnOnce(&mut HttpConnectionManager)) -> Listener {
    let mut listener = seldon::listeners(&lab.options).remove(0);
    oracle::edit_manager(&mut listener, edit);
    listener
}

/// Notes the words of the last refusal.
fn refused(p: &mut Probe<'_>, lab: &Lab) -> String {
    let answer = lab.server().asked("Listener").pop().expect("an answer");
    let (code, words) = answer.error.unwrap_or_default();
    p.expect(code == 13 && !words.is_empty(), "refuse it");
    p.note("refused", &words);
    words
}
