//! `/config_dump` over the resources that Envoy was given.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Value, json};

use super::world::{World, sample, sample_json};
use crate::model::{RawResource, RawValue, ResourceSet};

/// A world with the recorded bootstrap and resources: the bytes of a resource
/// are its JSON.
async fn world() -> World {
    let from_bytes = |name: &str, bytes: &[u8]| {
        assert!(name.starts_with("envoy."), "{name}");
        serde_json::from_slice(bytes).map_err(|e| e.to_string())
    };
    let world = World::with(Arc::new(from_bytes)).await;
    let dump = sample_json("config_dump");
    *world.plane.bootstrap.write().unwrap() = dump["configs"][0]["bootstrap"].clone();
    let mut resources = world.plane.resources.write().unwrap();
    let version = |i: usize| dump["configs"][i]["version_info"].as_str().unwrap().to_owned();
    resources.clusters.version_info = version(1);
    for entry in dump["configs"][1]["dynamic_active_clusters"].as_array().unwrap() {
        accept(&mut resources.clusters, entry, &entry["cluster"]);
    }
    resources.listeners.version_info = version(2);
    let listener = &dump["configs"][2]["dynamic_listeners"][0]["active_state"];
    accept(&mut resources.listeners, listener, &listener["listener"]);
    let routes = &dump["configs"][4]["dynamic_route_configs"][0];
    accept(&mut resources.routes, routes, &routes["route_config"]);
    drop(resources);
    world
}

fn accept(set: &mut ResourceSet, entry: &Value, resource: &Value) {
    let accepted = RawResource {
        version: entry["version_info"].as_str().unwrap().to_owned(),
        value: RawValue::Message(resource.to_string().into()),
        updated: UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
    };
    set.by_name.insert(resource["name"].as_str().unwrap().to_owned(), accepted);
}

/// Blots out the times.
fn timeless(text: &str) -> String {
    let lines = text.lines().map(|line| match line.split_once("\"last_updated\": \"") {
        Some((before, time)) => {
            assert!(time.trim_end_matches(['"', ',']).len() == "2023-11-14T22:13:20.123Z".len());
            format!("{before}\"last_updated\": -{}", &time[time.find('"').unwrap() + 1..])
        }
        None => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn the_dump_is_envoys_to_the_byte() {
    let world = world().await;
    for (name, request) in [
        ("config_dump", "GET /config_dump"),
        ("config_dump_resource", "GET /config_dump?resource=dynamic_route_configs"),
        ("config_dump_mask", "GET /config_dump?mask=static_listeners"),
        ("config_dump_none", "GET /config_dump?resource=static_clusters&name_regex=nope"),
        ("config_dump_unknown", "GET /config_dump?resource=foo"),
        (
            "config_dump_resource_mask",
            "GET /config_dump?resource=dynamic_active_clusters&mask=cluster.name,version_info",
        ),
    ] {
        let answer = timeless(&world.admin(request).await);
        // Envoy sends this header twice with the 404.
        let twice = "Not Found\nx-content-type-options: nosniff\n";
        let expected = sample(name).replacen(twice, "Not Found\n", 1);
        assert_eq!(answer, timeless(&expected), "{request}");
    }
}

#[tokio::test]
async fn fields_that_are_empty_or_no_lists() {
    let world = world().await;
    let answer = world.admin("GET /config_dump?resource=dynamic_warming_clusters").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\n") && answer.ends_with("\n\n{}\n"), "{answer}");
    let answer = world.admin("GET /config_dump?resource=bootstrap").await;
    assert!(answer.starts_with("HTTP/1.1 400 Bad Request\n"), "{answer}");
    assert!(answer.contains("Use ?mask=bootstrap to get only this field"), "{answer}");
}

#[tokio::test]
async fn names_are_matched_in_full() {
    let world = world().await;
    let answer = world.admin("GET /config_dump?name_regex=iris").await;
    assert!(!answer.contains("iris_1_http\""), "{answer}");
    let answer = world.admin("GET /config_dump?name_regex=iris.*").await;
    assert!(answer.contains("\"name\": \"iris_1_http\"") && !answer.contains("unused_1_http"));
    let answer = world.admin("GET /config_dump?name_regex=(").await;
    assert!(answer.starts_with("HTTP/1.1 400 Bad Request\ncontent-type: text/plain\n"), "{answer}");
    assert!(answer.contains("\n\nINVALID_ARGUMENT: Error while parsing name_regex from (: "));
}

#[tokio::test]
async fn private_keys_stay_private() {
    let world = world().await;
    let secret = json!({"name": "downstream_server", "tls_certificate": {
        "certificate_chain": {"inline_string": "CHAIN"},
        "private_key": {"inline_string": "KEY", "inline_bytes": "S0VZ"},
        "password": {"filename": "KEY"},
    }});
    let entry = json!({"version_info": "3"});
    accept(&mut world.plane.resources.write().unwrap().secrets, &entry, &secret);
    *world.plane.bootstrap.write().unwrap() = json!({"static_resources": {"secrets": [secret]}});
    let answer = world.admin("GET /config_dump").await;
    assert!(!answer.contains("KEY") && !answer.contains("S0VZ"), "{answer}");
    let body: Value = serde_json::from_str(answer.split_once("\n\n").unwrap().1).unwrap();
    let shown = &body["configs"][5]["dynamic_active_secrets"][0];
    assert_eq!(shown["version_info"], "3");
    let shown = &shown["secret"]["tls_certificate"];
    assert_eq!(shown["certificate_chain"]["inline_string"], "CHAIN");
    assert_eq!(shown["private_key"]["inline_string"], "[redacted]");
    assert_eq!(shown["private_key"]["inline_bytes"], "W3JlZGFjdGVkXQ==");
    assert_eq!(shown["password"]["filename"], "[redacted]");
    assert_eq!(body["configs"][5]["static_secrets"][0]["name"], "downstream_server");
}

#[tokio::test]
async fn a_resource_that_cannot_be_shown_does_not_hide_the_others() {
    let world = world().await;
    let value = RawValue::Message("{".into());
    let broken = RawResource { version: "1".to_owned(), value, updated: UNIX_EPOCH };
    world.plane.resources.write().unwrap().clusters.by_name.insert("a_broken".to_owned(), broken);
    let answer = world.admin("GET /config_dump?resource=dynamic_active_clusters").await;
    assert!(answer.contains("\"name\": \"a_broken\",\n    \"error\": \"EOF"), "{answer}");
    assert!(answer.contains("\"name\": \"iris_1_http\""));
}
