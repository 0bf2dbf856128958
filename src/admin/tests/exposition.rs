//! The Prometheus text.

use std::collections::BTreeSet;
use std::time::Duration;

use super::world::{WORKER, World, cluster, sample};
use crate::admin::metrics::Selection;
use crate::admin::metrics::prometheus::Exposition;
use crate::admin::reply::PIECE_BYTES;
use crate::model::Limits;

async fn exposition() -> String {
    let world = World::start().await;
    world.traffic();
    let series = world.ops.seldon.handle("financial-ab-test-experiment", "baseline-predictor");
    series.shard(WORKER).record(true, Duration::from_millis(3));
    let answer = world.admin("GET /stats/prometheus").await;
    answer.split_once("\n\n").unwrap().1.to_owned()
}

/// Metrics that Envoy has and did not show in the recording: nothing was
/// retried, nothing mirrored, no cluster changed, no scheduler, no tap.
fn unseen_by_the_recording(line: &str) -> bool {
    [
        "_cluster_retry_",
        "_cluster_internal_",
        "_membership_change",
        "_manager_cluster_updated",
        "rds_update_empty",
        "control_plane",
        "_tap_",
        "dns_cares",
    ]
    .iter()
    .any(|part| line.contains(part))
}

/// Lines about things that only one of the two has.
fn of_another_world(line: &str) -> bool {
    [
        "unused_1_http",
        "cold_1_http",
        "util_endpoint_http",
        "127.0.0.1",
        "rq_retry_skipped_request_not_complete",
        "radiant_",
        "seldon_request",
        "seldon_model",
    ]
    .iter()
    .any(|part| line.contains(part))
}

/// Every family, in Envoy's order, and every line's labels, in Envoy's order.
#[tokio::test]
async fn names_types_and_labels_are_envoys() {
    let recorded = sample("prometheus_names");
    let known: BTreeSet<&str> = recorded.lines().collect();
    let text = exposition().await;
    let mut unknown = Vec::new();
    for line in text.lines().filter(|l| !unseen_by_the_recording(l) && !of_another_world(l)) {
        let series = if line.starts_with('#') { line } else { line.rsplit_once(' ').unwrap().0 };
        if !known.contains(series) && !series.contains("_bucket{") {
            unknown.push(series);
        }
    }
    assert!(unknown.is_empty(), "{unknown:#?}");
    let ours: Vec<_> = text.lines().filter(|l| known.contains(l) && l.starts_with('#')).collect();
    let theirs: Vec<_> = recorded.lines().filter(|l| ours.contains(l)).collect();
    assert_eq!(ours, theirs);
}

/// The metrics contract of dashboards, tests and documents.
#[tokio::test]
async fn every_promised_metric_is_there() {
    let text = exposition().await;
    let conn = "{envoy_http_conn_manager_prefix=\"seldon_http\"}";
    let iris = "{envoy_cluster_name=\"iris_1_http\"}";
    let cold = "{envoy_cluster_name=\"unused_1_http\"}";
    let rds =
        "{envoy_rds_route_config=\"listener_0\",envoy_http_conn_manager_prefix=\"seldon_http\"}";
    let expected = [
        "envoy_server_live{} 1".to_owned(),
        "envoy_server_concurrency{} 2".to_owned(),
        "envoy_server_state{} 0".to_owned(),
        "envoy_server_uptime{} 0".to_owned(),
        format!("envoy_http_downstream_rq_total{conn} 4"),
        format!("envoy_http_downstream_rq_tx_reset{conn} 0"),
        format!("envoy_http_downstream_rq_active{conn} 0"),
        format!("envoy_http_no_route{conn} 1"),
        format!("envoy_http_no_cluster{conn} 0"),
        format!("envoy_http_lua_errors{conn} 0"),
        format!("envoy_http_tap_rq_tapped{conn} 0"),
        "envoy_http_downstream_rq_xx{envoy_response_code_class=\"2\",envoy_http_conn_manager_prefix=\"seldon_http\"} 3".to_owned(),
        "envoy_listener_http_downstream_rq_xx{envoy_response_code_class=\"4\",envoy_http_conn_manager_prefix=\"seldon_http\",envoy_listener_address=\"0.0.0.0_29000\"} 1".to_owned(),
        "envoy_http_downstream_rq_time_bucket{envoy_http_conn_manager_prefix=\"seldon_http\",le=\"5\"} 3".to_owned(),
        format!("envoy_http_downstream_rq_time_sum{conn} 6"),
        "envoy_cluster_upstream_rq_xx{envoy_response_code_class=\"2\",envoy_cluster_name=\"iris_1_http\"} 3".to_owned(),
        "envoy_cluster_external_upstream_rq_xx{envoy_response_code_class=\"2\",envoy_cluster_name=\"iris_1_http\"} 3".to_owned(),
        "envoy_cluster_upstream_rq{envoy_response_code=\"200\",envoy_cluster_name=\"iris_1_http\"} 3".to_owned(),
        "envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name=\"iris_1_http\",le=\"+Inf\"} 3".to_owned(),
        format!("envoy_cluster_upstream_rq_total{iris} 3"),
        format!("envoy_cluster_upstream_rq_retry{iris} 0"),
        format!("envoy_cluster_upstream_rq_retry_success{iris} 0"),
        format!("envoy_cluster_upstream_cx_destroy{iris} 0"),
        format!("envoy_cluster_upstream_cx_connect_timeout{iris} 0"),
        format!("envoy_cluster_upstream_cx_active{iris} 2"),
        format!("envoy_cluster_upstream_rq_total{cold} 0"),
        format!("envoy_cluster_membership_total{cold} 1"),
        format!("envoy_cluster_membership_healthy{cold} 1"),
        format!("envoy_cluster_membership_degraded{cold} 0"),
        format!("envoy_cluster_circuit_breakers_default_rq_open{iris} 0"),
        format!("envoy_cluster_warming_state{iris} 0"),
        "envoy_cluster_manager_cluster_added{} 0".to_owned(),
        "envoy_cluster_manager_cluster_modified{} 0".to_owned(),
        "envoy_cluster_manager_cluster_removed{} 0".to_owned(),
        "envoy_cluster_manager_active_clusters{} 2".to_owned(),
        "envoy_cluster_manager_warming_clusters{} 0".to_owned(),
        "envoy_cluster_manager_cds_update_success{} 1".to_owned(),
        "envoy_cluster_manager_cds_update_duration_bucket{le=\"0.5\"} 0".to_owned(),
        "envoy_listener_manager_lds_update_duration_bucket{le=\"3600000\"} 0".to_owned(),
        "envoy_listener_manager_lds_update_success{} 0".to_owned(),
        "envoy_listener_manager_lds_update_failure{} 0".to_owned(),
        "envoy_listener_manager_lds_update_rejected{} 0".to_owned(),
        "envoy_listener_manager_total_listeners_active{} 0".to_owned(),
        format!("envoy_http_rds_update_success{rds} 0"),
        format!("envoy_http_rds_update_failure{rds} 0"),
        format!("envoy_http_rds_update_rejected{rds} 0"),
        "envoy_http_rds_update_duration_bucket{envoy_rds_route_config=\"listener_0\",envoy_http_conn_manager_prefix=\"seldon_http\",le=\"0.5\"} 0".to_owned(),
        "envoy_control_plane_connected_state{} 1".to_owned(),
        "radiant_config_stale{} 0".to_owned(),
        "seldon_request_total{experiment_name=\"financial-ab-test-experiment\",model_name=\"baseline-predictor\",status=\"OK\"} 1".to_owned(),
    ];
    for line in expected {
        assert!(text.lines().any(|l| l == line), "{line} not in\n{text}");
    }
    let heap =
        text.lines().find_map(|l| l.strip_prefix("envoy_server_memory_heap_size{} ")).unwrap();
    assert!(heap.parse::<u64>().unwrap() > 0 || !cfg!(target_os = "linux"));
    assert!(!text.contains("upstream_rq_time_bucket{envoy_cluster_name=\"unused_1_http\""));
}

#[tokio::test]
async fn bucket_bounds_are_envoys_and_cumulative() {
    let text = exposition().await;
    let prefix = "envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name=\"iris_1_http\",le=\"";
    let (bounds, counts): (Vec<&str>, Vec<&str>) =
        text.lines().filter_map(|l| l.strip_prefix(prefix)?.split_once("\"} ")).unzip();
    let expected = "0.5 1 5 10 25 50 100 250 500 1000 2500 5000 10000 30000 60000 300000 600000 \
                    1800000 3600000 +Inf";
    assert_eq!(bounds.join(" "), expected);
    assert_eq!(counts[..3].join(" "), "0 0 3");
    assert!(counts[3..].iter().all(|n| *n == "3"));
}

/// A family's lines are together: Prometheus refuses a repeated TYPE.
#[tokio::test]
async fn families_are_whole() {
    let text = exposition().await;
    let mut seen = BTreeSet::new();
    let mut family = "";
    for line in text.lines() {
        if let Some(typed) = line.strip_prefix("# TYPE ") {
            family = typed.split(' ').next().unwrap();
            assert!(seen.insert(family), "{family} twice");
        } else {
            let name = line.split('{').next().unwrap();
            let suffix = name.strip_prefix(family).unwrap_or("?");
            assert!(matches!(suffix, "" | "_bucket" | "_sum" | "_count"), "{line} in {family}");
        }
    }
    if let Ok(path) = std::env::var("RADIANT_EXPOSITION") {
        std::fs::write(path, text).unwrap();
    }
}

/// Twenty thousand idle models: small pieces, and not much of them.
#[tokio::test]
async fn many_clusters_are_streamed() {
    let world = World::start().await;
    for i in 0..20_000 {
        cluster(&world.plane, &format!("model-{i}_1_http"), 9000, Limits::default());
    }
    let all = Exposition::new(&world.plane, &world.ops.seldon, Selection::default(), false);
    let sizes: Vec<_> = all.map(|piece| piece.len()).collect();
    assert!(sizes.iter().all(|size| *size < PIECE_BYTES + 4096), "{:?}", sizes.iter().max());
    let total: usize = sizes.iter().sum();
    assert!((10_000_000..20_000_000).contains(&total), "{total}");
}

#[tokio::test]
async fn used_only_leaves_zeros_out() {
    let world = World::start().await;
    world.traffic();
    let answer = world.admin("GET /stats/prometheus?usedonly").await;
    assert!(
        answer
            .contains("\nenvoy_cluster_upstream_rq_total{envoy_cluster_name=\"iris_1_http\"} 3\n")
    );
    assert!(
        !answer.contains("envoy_cluster_upstream_rq_total{envoy_cluster_name=\"unused_1_http\"}")
    );
    assert!(!answer.contains("envoy_cluster_manager_cds_update_duration"), "{answer}");
}

#[tokio::test]
async fn stats_as_json_is_json() {
    let world = World::start().await;
    world.traffic();
    let answer = world.admin("GET /stats?format=json").await;
    let body: serde_json::Value =
        serde_json::from_str(answer.split_once("\n\n").unwrap().1).unwrap();
    let stats = body["stats"].as_array().unwrap();
    assert_eq!(stats[0]["name"], "cluster_manager.cds.version_text");
    let find = |name: &str| stats.iter().find(|s| s["name"] == name).unwrap();
    assert_eq!(find("cluster.iris_1_http.upstream_rq_total")["value"], 3);
    let histograms = &stats.last().unwrap()["histograms"];
    assert_eq!(histograms["supported_quantiles"][9], 100.0);
    let computed = histograms["computed_quantiles"].as_array().unwrap();
    let time =
        computed.iter().find(|h| h["name"] == "cluster.iris_1_http.upstream_rq_time").unwrap();
    assert_eq!(time["values"].as_array().unwrap().len(), 10);
    assert!(time["values"][2]["cumulative"].is_f64());
}

#[tokio::test]
async fn stats_as_text_is_sorted() {
    let world = World::start().await;
    world.traffic();
    let answer = world.admin("GET /stats?type=Counters").await;
    let names: Vec<_> = answer
        .split_once("\n\n")
        .unwrap()
        .1
        .lines()
        .map(|line| line.split_once(": ").unwrap().0)
        .collect();
    assert!(names.len() > 100 && names.is_sorted(), "{names:#?}");
}
