//! S: statistics, the utility listener and admin.

use std::time::Duration;

use super::{Case, With, alone, case};
use crate::oracle::plain_http;
use crate::probe::Probe;
use crate::upstream::{Act, Script, acts, always, ok, status};

/// Counters and gauges of a cluster that dashboards and people look at.
pub const CLUSTER: &[&str] = &[
    "upstream_rq_total",
    "upstream_rq_completed",
    "upstream_rq_2xx",
    "upstream_rq_4xx",
    "upstream_rq_5xx",
    "upstream_rq_200",
    "upstream_rq_404",
    "upstream_rq_500",
    "upstream_rq_502",
    "upstream_rq_503",
    "upstream_rq_504",
    "upstream_rq_retry",
    "upstream_rq_retry_success",
    "upstream_rq_retry_limit_exceeded",
    "upstream_rq_retry_overflow",
    "upstream_rq_retry_backoff_exponential",
    "retry_or_shadow_abandoned",
    "retry.upstream_rq_503",
    "retry.upstream_rq_completed",
    "external.upstream_rq_503",
    "external.upstream_rq_200",
    "external.upstream_rq_completed",
    "internal.upstream_rq_completed",
    "upstream_cx_connect_fail",
    "upstream_cx_connect_timeout",
    "upstream_cx_none_healthy",
    "upstream_rq_pending_overflow",
    "upstream_rq_rx_reset",
    "upstream_rq_tx_reset",
    "upstream_rq_cancelled",
    "upstream_rq_active",
    "upstream_rq_pending_active",
    "membership_total",
    "membership_healthy",
    "upstream_cx_total",
    "upstream_cx_active",
    "upstream_rq_timeout",
    "upstream_cx_http1_total",
    "upstream_cx_http2_total",
];

/// Of a cluster, how its connections ended.
const CONNECTIONS: &[&str] = &[
    "upstream_cx_destroy",
    "upstream_cx_destroy_local",
    "upstream_cx_destroy_remote",
    "upstream_cx_destroy_with_active_rq",
    "upstream_cx_destroy_local_with_active_rq",
    "upstream_cx_destroy_remote_with_active_rq",
    "upstream_cx_protocol_error",
    "upstream_rq_pending_total",
    "upstream_rq_pending_failure_eject",
];

/// Of a connection manager.
const DOWNSTREAM: &[&str] = &[
    "downstream_rq_total",
    "downstream_rq_completed",
    "downstream_rq_1xx",
    "downstream_rq_2xx",
    "downstream_rq_3xx",
    "downstream_rq_4xx",
    "downstream_rq_5xx",
    "downstream_rq_rx_reset",
    "downstream_rq_tx_reset",
    "downstream_rq_active",
    "downstream_rq_http1_total",
    "downstream_rq_http2_total",
    "downstream_rq_response_before_rq_complete",
    "downstream_rq_ws_on_non_ws_route",
    "downstream_rq_failed_path_normalization",
    "downstream_rq_non_relative_path",
    "downstream_cx_total",
    "downstream_cx_http1_total",
    "downstream_cx_http2_total",
    "downstream_cx_protocol_error",
    "downstream_rq_too_large",
    "downstream_rq_timeout",
    "downstream_rq_idle_timeout",
    "no_route",
    "no_cluster",
    "rq_total",
    "rq_direct_response",
    "rq_retry_skipped_request_not_complete",
    "lua.errors",
    "tap.rq_tapped",
    "rq_reset_after_downstream_response_started",
];

pub fn cases() -> Vec<Case> {
    let mut cases = counting();
    cases.extend(utility());
    cases.extend(admin());
    cases
}

/// How one request changes a connection manager's statistics.
fn counted(id: &'static str, raw: &'static str) -> Case {
    alone(id, move |p| {
        let _upstream = p.serve(ok());
        count(p, |p| {
            let mut client = p.connect();
            client.send(p.fill(raw));
            let reply = client.reply_within(raw.starts_with("HEAD"), Duration::from_secs(3));
            p.note_reply(reply.as_ref());
            drop(client);
        });
    })
}

/// How one request of an upstream with this script changes the statistics of
/// the upstream connections.
fn connections(id: &'static str, script: Script) -> Case {
    case(id, move |p| {
        let _upstream = p.serve(script.clone());
        let prefix = format!("cluster.{}_1_http.", p.id);
        let before = p.stats(&prefix);
        p.infer("");
        p.note_stats(&prefix, &before, CONNECTIONS);
    })
}

/// Notes how `act` changes both kinds of statistics.
pub fn count(p: &mut Probe<'_>, act: impl FnOnce(&mut Probe<'_>)) {
    let http = "http.seldon_http.";
    let kind = if p.id.contains("http2") { "grpc" } else { "http" };
    let cluster = format!("cluster.{}_1_{kind}.", p.id);
    let (before, before_cluster) = (p.stats(http), p.stats(&cluster));
    act(p);
    let changes = p.note_stats(http, &before, DOWNSTREAM);
    p.expect(changes["downstream_rq_total"] > 0, "count the request");
    p.note_stats(&cluster, &before_cluster, CLUSTER);
    p.note_stats(&cluster, &before_cluster, CONNECTIONS);
}

fn counting() -> Vec<Case> {
    vec![
        counted("S07", "GET /v2/models/{m}/x HTTP/1.1\r\nhost: h\r\n\r\n"),
        counted(
            "S07/post",
            "POST /v2/models/{m}/x HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\n{}",
        ),
        counted(
            "S07/close",
            "GET /v2/models/{m}/x HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n",
        ),
        counted("S08", "GET /nowhere HTTP/1.1\r\nhost: h\r\n\r\n"),
        counted("S08/garbage", "garbage\r\n\r\n"),
        counted("S08/1.0", "GET / HTTP/1.0\r\n\r\n"),
        counted("S08/no-host", "GET / HTTP/1.1\r\n\r\n"),
        counted("S08/fragment", "GET /#a HTTP/1.1\r\nhost: h\r\n\r\n"),
        counted("S08/star", "OPTIONS * HTTP/1.1\r\nhost: h\r\n\r\n"),
        counted(
            "S08/upgrade",
            "GET /v2/x HTTP/1.1\r\nhost: h\r\nseldon-model: {m}\r\nconnection: upgrade\r\nupgrade: a\r\n\r\n",
        ),
        counted("S08/unread", "POST /nowhere HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\n"),
        counted("S08/lua", "GET /v2/pipelines/p HTTP/1.1\r\nhost: h\r\n\r\n"),
        counted("S08/encoding", "GET / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: gzip\r\n\r\n"),
        counted(
            "S08/grpc",
            "POST /nowhere HTTP/1.1\r\nhost: h\r\ncontent-type: application/grpc\r\ncontent-length: 0\r\n\r\n",
        ),
        alone("S09", |p| {
            let _upstream = p.serve(always(status(503, "", "")));
            count(p, |p| {
                p.infer("");
            });
        }),
        connections("S09/kept", always(status(200, "", ""))),
        connections("S09/retried", always(status(503, "", ""))),
        connections("S09/closed", acts(vec![Act::Body, Act::Close])),
        connections("S09/nonsense", always("nonsense\r\n\r\n")),
        alone("S10", |p| {
            p.model(&[1]);
            count(p, |p| {
                p.infer("");
            });
        }),
        alone("S10/none", |p| {
            p.model(&[]);
            count(p, |p| {
                p.infer("");
            });
        }),
        alone("S11", |p| {
            let before = p.stats("cluster_manager.");
            p.model(&[1]);
            p.note_stats(
                "cluster_manager.",
                &before,
                &[
                    "cluster_added",
                    "cluster_modified",
                    "cluster_removed",
                    "active_clusters",
                    "warming_clusters",
                    "cds.update_success",
                    "cds.update_rejected",
                    "cds.update_attempt",
                    "cds.update_failure",
                ],
            );
        }),
    ]
}

/// A request to the utility listener.
fn asked(id: &'static str, raw: &'static str) -> Case {
    case(id, move |p| util(p, raw))
}

fn util(p: &mut Probe<'_>, raw: &str) {
    let mut client = crate::client::Client::connect(p.side.ports.utility);
    client.send(raw);
    let reply = client.reply(raw.starts_with("HEAD"));
    if let Some(mut reply) = reply {
        reply.body.clear();
        p.note_reply(Some(&reply));
    }
}

fn utility() -> Vec<Case> {
    vec![
        asked("S01", "GET /ready HTTP/1.1\r\nhost: h\r\n\r\n"),
        asked("S01/post", "POST /ready HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n"),
        asked("S01/head", "HEAD /ready HTTP/1.1\r\nhost: h\r\n\r\n"),
        asked("S03/query", "GET /ready?x HTTP/1.1\r\nhost: h\r\n\r\n"),
        asked("S03/clusters", "GET /clusters HTTP/1.1\r\nhost: h\r\n\r\n"),
        asked("S04/head", "GET /stats/prometheus HTTP/1.1\r\nhost: h\r\n\r\n"),
        asked("S04/bare", "GET /stats HTTP/1.1\r\nhost: h\r\n\r\n"),
        asked("S04/foo", "GET /statsfoo HTTP/1.1\r\nhost: h\r\n\r\n"),
        alone("S02", |p| {
            for change in ["fail", "ok"] {
                let (head, body) = p.side.admin("POST", &format!("/healthcheck/{change}"));
                p.note(change, format!("{} {body}", head.lines().next().unwrap_or_default()));
                util(p, "GET /ready HTTP/1.1\r\nhost: h\r\n\r\n");
                util(p, "GET /ready?x HTTP/1.1\r\nhost: h\r\n\r\n");
                let (head, body) = p.side.admin("GET", "/ready");
                p.note("admin", format!("{} {body}", head.lines().next().unwrap_or_default()));
            }
        }),
    ]
}

/// Names and labels of the metrics of interest.
fn metrics(p: &mut Probe<'_>, filter: impl Fn(&str) -> bool) {
    let text = plain_http(p.side.ports.utility, "GET", "/stats/prometheus").map(|(_, body)| body);
    let text = text.unwrap_or_default();
    let mut lines: Vec<String> = text
        .lines()
        .filter(|line| filter(line))
        .map(|line| line.rsplit_once(' ').map_or(line, |(name, _)| name).to_owned())
        .collect();
    lines.sort();
    p.expect(!lines.is_empty(), "have such metrics");
    for line in lines {
        p.note("metric", line);
    }
}

fn admin() -> Vec<Case> {
    let get = |id: &'static str, method: &'static str, target: &'static str| {
        case(id, move |p| {
            let (head, body) = p.side.admin(method, target);
            let head: Vec<&str> =
                head.lines().filter(|l| !l.to_lowercase().starts_with("date")).collect();
            p.note("head", head.join(" | "));
            p.note("body", body);
        })
    };
    vec![
        get("S14", "GET", "/ready"),
        get("S16", "GET", "/healthcheck/fail"),
        // Without those of other cases.
        Case { with: With::Alone, ..get("S17/listeners", "GET", "/listeners") },
        case("S04", |p| {
            let _upstream = p.serve(ok());
            p.infer("");
            let label = format!("envoy_cluster_name=\"{}_1_http\"", p.id);
            let wanted = [
                "envoy_cluster_upstream_rq_xx",
                "envoy_cluster_upstream_rq{",
                "envoy_cluster_upstream_rq_total",
                "envoy_cluster_upstream_rq_retry{",
                "envoy_cluster_upstream_cx_active",
                "envoy_cluster_membership",
                "envoy_cluster_upstream_rq_time_bucket",
                "envoy_cluster_upstream_cx_destroy{",
                "envoy_cluster_upstream_cx_connect_timeout",
                "envoy_cluster_external_upstream_rq",
            ];
            metrics(p, |line| line.contains(&label) && wanted.iter().any(|w| line.starts_with(w)));
        }),
        case("S04/codecs", |p| {
            let _upstream = p.serve(ok());
            p.infer("");
            let label = format!("envoy_cluster_name=\"{}_1_", p.id);
            metrics(p, |line| {
                let codec = line.starts_with("envoy_cluster_http");
                line.contains(&label)
                    && (codec || line.starts_with("envoy_cluster_upstream_rq_total"))
            });
        }),
        case("S05", |p| {
            metrics(p, |line| {
                line.starts_with("envoy_server_live")
                    || line.starts_with("envoy_server_concurrency")
                    || line.starts_with("envoy_cluster_manager_cluster_")
                    || line.starts_with("envoy_listener_manager_lds_update_")
                    || line.starts_with("envoy_http_rds_update_")
                    || line.starts_with("envoy_cluster_manager_cds_update_")
            })
        }),
        case("S06", |p| {
            metrics(p, |line| {
                line.starts_with("envoy_http_downstream_rq_time_bucket{envoy_http_conn_manager_prefix=\"seldon_http\"")
                || line.starts_with("envoy_http_downstream_rq_xx{") && line.contains("seldon")
            })
        }),
    ]
}
