//! The admin paths: table, help text and dispatch.

use std::fmt::Write;

use http::{Method, StatusCode};
use regex::Regex;

use super::metrics::json::Json;
use super::metrics::prometheus::Exposition;
use super::metrics::text::{Text, Walk};
use super::metrics::{HistogramForm, Selection, cluster, fixed};
use super::ops::DrainRequest;
use super::query::Query;
use super::reply::{JSON, Reply, TEXT};
use super::server::Request;
use super::{AdminOps, certs, config_dump, details, status};
use crate::plane::{Plane, ServerState};
use crate::stats::{ClusterShard, Counter, ListenerShard};

struct Path {
    path: &'static str,
    /// Changes something: POST only.
    post: bool,
    help: &'static str,
    parameters: &'static [(&'static str, &'static str)],
    handler: fn(&Call<'_>) -> Reply,
}

/// One request to a path.
struct Call<'a> {
    plane: &'a Plane,
    ops: &'a AdminOps,
    query: Query,
}

const FILTER: (&str, &str) = ("filter", "Regular expression for filtering stats");
const USED: (&str, &str) =
    ("usedonly", "Only include stats that have been written by system since restart");
const BUCKETS: (&str, &str) = (
    "histogram_buckets",
    "Histogram bucket display mode; One of (cumulative, disjoint, detailed, summary)",
);
const INVERT: (&str, &str) = ("invert_filter", "Invert the filter regex");

/// Sorted by path, as `/help` prints them.
const PATHS: &[Path] = &[
    Path { path: "/", post: false, help: "Admin home page", parameters: &[], handler: home },
    Path {
        path: "/certs",
        post: false,
        help: "print certs on machine",
        parameters: &[],
        handler: |call| Reply::json(&certs::all(call.plane)),
    },
    Path {
        path: "/clusters",
        post: false,
        help: "upstream cluster status",
        parameters: &[
            ("filter", "Regular expression for filtering clusters by name"),
            ("format", "File format to use; One of (text, json)"),
        ],
        handler: clusters,
    },
    Path {
        path: "/config_dump",
        post: false,
        help: "dump current configs",
        parameters: &[
            ("resource", "The resource to dump"),
            (
                "mask",
                "The mask to apply. When both resource and mask are specified, the mask is applied to every element in the desired repeated field so that only a subset of fields are returned.",
            ),
            (
                "name_regex",
                "Dump only the currently loaded configurations whose names match the specified regex. Can be used with both resource and mask query parameters.",
            ),
        ],
        handler: |call| config_dump::reply(call.plane, call.ops, &call.query),
    },
    Path {
        path: "/drain_listeners",
        post: true,
        help: "drain listeners",
        parameters: &[
            (
                "graceful",
                "When draining listeners, enter a graceful drain period prior to closing listeners. This behaviour and duration is configurable via server options or CLI",
            ),
            (
                "skip_exit",
                "When draining listeners, drain the connections but never stop the listeners. The graceful parameter has no effect when this is set, since the drain period only delays stopping the listeners",
            ),
            (
                "inboundonly",
                "Drains all inbound listeners. The scheduler's listeners have no traffic direction, so this drains none.",
            ),
        ],
        handler: drain_listeners,
    },
    Path {
        path: "/healthcheck/fail",
        post: true,
        help: "cause the server to fail health checks",
        parameters: &[],
        handler: |call| {
            call.plane.set_healthcheck_failed(true);
            ok()
        },
    },
    Path {
        path: "/healthcheck/ok",
        post: true,
        help: "cause the server to pass health checks",
        parameters: &[],
        handler: |call| {
            call.plane.set_healthcheck_failed(false);
            ok()
        },
    },
    Path {
        path: "/help",
        post: false,
        help: "print out list of admin commands",
        parameters: &[],
        handler: |_| Reply::text(format!("admin commands are:\n{}", help())),
    },
    Path {
        path: "/hot_restart_version",
        post: false,
        help: "print the hot restart compatibility version",
        parameters: &[],
        handler: |_| Reply::text("disabled"),
    },
    Path {
        path: "/init_dump",
        post: false,
        help: "dump what the start is waiting for",
        parameters: &[],
        handler: |call| Reply::json(&details::init_dump(call.plane, call.ops)),
    },
    Path {
        path: "/listeners",
        post: false,
        help: "print listener info",
        parameters: &[("format", "File format to use; One of (text, json)")],
        handler: |call| status::listeners(call.plane, is_json(&call.query)),
    },
    Path {
        path: "/logging",
        post: true,
        help: "query/change logging levels",
        parameters: &[
            (
                "paths",
                "Change multiple logging levels by setting to <logger_name1>:<desired_level1>,<logger_name2>:<desired_level2>.",
            ),
            (
                "level",
                "desired logging level, this will change all loggers's level; One of (, trace, debug, info, warning, error, critical, off)",
            ),
        ],
        handler: logging,
    },
    Path {
        path: "/memory",
        post: false,
        help: "print current allocation/heap usage",
        parameters: &[],
        handler: |_| status::memory(),
    },
    Path {
        path: "/quitquitquit",
        post: true,
        help: "exit the server",
        parameters: &[],
        handler: |call| {
            (call.ops.quit)();
            ok()
        },
    },
    Path {
        path: "/ready",
        post: false,
        help: "print server state, return 200 if LIVE, otherwise return 503",
        parameters: &[("details", "Also print what is served and what is waited for")],
        handler: ready,
    },
    Path {
        path: "/reopen_logs",
        post: true,
        help: "reopen access logs",
        parameters: &[],
        handler: |call| {
            (call.ops.reopen_logs)();
            ok()
        },
    },
    Path {
        path: "/reset_counters",
        post: true,
        help: "reset all counters to zero",
        parameters: &[],
        handler: |call| {
            reset_counters(call.plane);
            ok()
        },
    },
    Path {
        path: "/runtime",
        post: false,
        help: "print runtime values",
        parameters: &[],
        handler: |_| Reply::json(&serde_json::json!({"entries": {}, "layers": []})),
    },
    Path {
        path: "/server_info",
        post: false,
        help: "print server version/status information",
        parameters: &[],
        handler: |call| status::server_info(call.plane, call.ops),
    },
    Path {
        path: "/stats",
        post: false,
        help: "print server stats",
        parameters: &[
            USED,
            FILTER,
            INVERT,
            ("format", "Format to use; One of (text, json, prometheus)"),
            BUCKETS,
            (
                "type",
                "Stat types to include.; One of (All, Counters, Histograms, Gauges, TextReadouts)",
            ),
        ],
        handler: stats,
    },
    Path {
        path: "/stats/prometheus",
        post: false,
        help: "print server stats in prometheus format",
        parameters: &[USED, FILTER, INVERT, BUCKETS],
        handler: prometheus,
    },
];

/// Answers a request. What it asks to change has changed on return.
pub(super) fn answer(plane: &Plane, ops: &AdminOps, request: &Request) -> Reply {
    let Some(path) = PATHS.iter().find(|p| p.path == request.path) else {
        let text = format!("invalid path. admin commands are:\n{}", help());
        return Reply::error(StatusCode::NOT_FOUND, text);
    };
    if path.post && request.method != Method::POST {
        let text = format!("Method {} not allowed, POST required.", request.method);
        return Reply::error(StatusCode::METHOD_NOT_ALLOWED, text);
    }
    (path.handler)(&Call { plane, ops, query: Query::parse(&request.query) })
}

fn ok() -> Reply {
    Reply::text("OK\n")
}

fn help() -> String {
    let mut out = String::new();
    for Path { path, post, help, parameters, .. } in PATHS {
        let post = if *post { " (POST)" } else { "" };
        // Writing to a string cannot fail.
        let _ = writeln!(out, "  {path}{post}: {help}");
        for (name, help) in *parameters {
            let _ = writeln!(out, "      {name}: {help}");
        }
    }
    out
}

fn home(_: &Call<'_>) -> Reply {
    let mut rows = String::new();
    for Path { path, post, help, .. } in PATHS.iter().skip(1) {
        let name = path.trim_start_matches('/');
        let cell = if *post {
            format!(
                "<form action='{name}' method='post'><button class='button-as-link'>{name}</button></form>"
            )
        } else {
            format!("<a href='{name}'>{name}</a>")
        };
        let _ = writeln!(
            rows,
            "  <tr><td class='home-data'>{cell}</td><td class='home-data'>{help}</td></tr>"
        );
    }
    let page = format!(
        "<!DOCTYPE html>\n<html lang='en'>\n<head>\n  <title>Radiant Admin</title>\n  <style>\n    \
         .home-table {{ font-family: sans-serif; border-collapse: collapse; }}\n    \
         .home-data {{ text-align: left; padding: 4px; }}\n  </style>\n</head>\n<body>\n\
         <table class='home-table'>\n  <tr><th>Command</th><th>Description</th></tr>\n{rows}\
         </table>\n</body>\n</html>\n"
    );
    Reply::whole(StatusCode::OK, super::reply::HTML, page)
}

fn ready(call: &Call<'_>) -> Reply {
    let (status, name) = match call.plane.state() {
        ServerState::Live if call.plane.healthcheck_failed() => {
            (StatusCode::SERVICE_UNAVAILABLE, "DRAINING")
        }
        ServerState::Live => (StatusCode::OK, "LIVE"),
        ServerState::PreInitializing => (StatusCode::SERVICE_UNAVAILABLE, "PRE_INITIALIZING"),
        ServerState::Initializing => (StatusCode::SERVICE_UNAVAILABLE, "INITIALIZING"),
    };
    let mut text = format!("{name}\n");
    if call.query.has("details") {
        text += &details::text(call.plane, call.ops);
    }
    Reply::error(status, text)
}

fn is_json(query: &Query) -> bool {
    query.first("format") == Some("json")
}

fn clusters(call: &Call<'_>) -> Reply {
    let filter = match call.query.first("filter").map(Regex::new).transpose() {
        Ok(filter) => filter,
        Err(_) => return Reply::error(StatusCode::BAD_REQUEST, "Invalid re2 regex"),
    };
    status::clusters(call.plane, filter, is_json(&call.query))
}

fn drain_listeners(call: &Call<'_>) -> Reply {
    if !call.query.has("inboundonly") {
        (call.ops.drain_listeners)(DrainRequest {
            graceful: call.query.has("graceful"),
            skip_exit: call.query.has("skip_exit"),
        });
    }
    ok()
}

fn logging(call: &Call<'_>) -> Reply {
    let logging = &call.ops.logging;
    match logging.apply_query(&call.query) {
        Ok(()) => Reply::text(logging.active()),
        Err(reason) => Reply::error(StatusCode::BAD_REQUEST, logging.failure(&reason)),
    }
}

fn stats(call: &Call<'_>) -> Reply {
    let format = call.query.first("format").unwrap_or("text");
    if format == "prometheus" {
        return prometheus(call);
    }
    let selection = match Selection::from_query(&call.query) {
        Ok(selection) => selection,
        Err(text) => return Reply::error(StatusCode::BAD_REQUEST, text),
    };
    let form = match HistogramForm::from_query(&call.query) {
        Ok(form) => form.unwrap_or(HistogramForm::Summary),
        Err(text) => return Reply::error(StatusCode::BAD_REQUEST, text),
    };
    let walk = || Walk::new(call.plane, selection);
    match format {
        "json" => Reply::streamed(JSON, Box::new(Json::new(walk(), form))),
        // Envoy's pages for people; the text says the same.
        "" | "text" | "html" | "active-html" => {
            Reply::streamed(TEXT, Box::new(Text { walk: walk(), form }))
        }
        _ => Reply::error(
            StatusCode::BAD_REQUEST,
            "usage: /stats?format=(html|active-html|json|prometheus|text)\n\n",
        ),
    }
}

fn prometheus(call: &Call<'_>) -> Reply {
    let asked = Selection::from_query(&call.query)
        .and_then(|selection| Ok((selection, HistogramForm::from_query(&call.query)?)));
    let summaries = |form| match form {
        None | Some(HistogramForm::Cumulative) => Ok(false),
        Some(HistogramForm::Summary) => Ok(true),
        Some(HistogramForm::Disjoint | HistogramForm::Detailed) => {
            Err("unsupported prometheus histogram bucket mode".to_owned())
        }
    };
    match asked.and_then(|(selection, form)| Ok((selection, summaries(form)?))) {
        Ok((selection, summaries)) => {
            let seldon = &call.ops.seldon;
            let exposition = Exposition::new(call.plane, seldon, selection, summaries);
            Reply::streamed(TEXT, Box::new(exposition))
        }
        Err(text) => Reply::error(StatusCode::BAD_REQUEST, text),
    }
}

/// All counters, gauges and histograms aside. An increment in flight on a
/// worker may survive.
fn reset_counters(plane: &Plane) {
    for slot in cluster::sorted(plane) {
        for shard in slot.stats.shards() {
            ClusterShard::COUNTERS.iter().for_each(|(_, cell)| cell(shard).reset());
            let groups = [Some(&shard.external), shard.internal.get(), shard.retry.get()];
            groups.into_iter().flatten().for_each(|group| group.codes.reset());
        }
    }
    for listener in plane.stats.listeners() {
        for shard in listener.shards() {
            ListenerShard::COUNTERS.iter().for_each(|(_, cell)| cell(shard).reset());
        }
    }
    let control = &plane.stats.control;
    for stats in [&control.cds, &control.lds, &control.rds, &control.sds] {
        fixed::subscription_counters(stats).iter().for_each(|(_, c): &(_, &Counter)| c.reset());
    }
    fixed::control_counters(plane).iter().for_each(|(_, c)| c.reset());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_sorted_and_the_help_names_them() {
        assert!(PATHS.is_sorted_by(|a, b| a.path < b.path));
        let help = help();
        assert!(help.starts_with("  /: Admin home page\n  /certs: print certs on machine\n"));
        assert!(
            help.contains("\n  /healthcheck/fail (POST): cause the server to fail health checks\n")
        );
        assert!(help.contains("\n      usedonly: Only include stats"));
    }
}
