"""The project's targets, each as a line of the report: reached, not reached, or
not measured. Ratios within one run."""

from .cells import all_cells
from .proxies import NAMES, RELAY

NONE_VALID = "no valid round"
OTHERS = [name for name in NAMES if name != "Radiant"]


def lines(results):
    rows = [*cpu(results), *latency(results), *within(results), *models(results), *updates(results), *quota(results)]
    out = ["| target | measured | |", "|---|---|---|"]
    for what, measured, reached in rows:
        out.append(f"| {what} | {measured} | {'yes' if reached else '**no**'} |")
    return out if rows else ["None of the targets was measured."]


def _cells(group):
    return [cell for cell in all_cells() if cell.group == group]


def _others(results, cell, key, names):
    found = {name: results.median(cell, name, key) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def cpu(results):
    for cell in _cells("cpu"):
        mine = results.median(cell.name, "Radiant", "cpu_us")
        best = _others(results, cell.name, "cpu_us", ("HAProxy", "NGINX"))
        if not best:
            continue
        if mine is None:
            yield f"{cell.title}: not above the best of HAProxy and NGINX", NONE_VALID, False
            continue
        name = min(best, key=best.get)
        yield (f"{cell.title}: not above the best of HAProxy and NGINX",
               f"{mine:.3g} us, {name} {best[name]:.3g}: {mine / best[name]:.2f} times",
               mine <= best[name])
        envoy = results.median(cell.name, "Envoy", "cpu_us")
        if envoy and cell.name in ("http1-1k", "grpc-128", "grpc-stream"):
            floor = results.median(cell.name, RELAY, "cpu_us")
            least = f"; a relay that looks at nothing {floor / envoy:.2f} times" if floor else ""
            yield (f"{cell.title}: at most a quarter of Envoy's",
                   f"{mine:.3g} us, Envoy {envoy:.3g}: {mine / envoy:.2f} times{least}",
                   mine <= envoy / 4)


def latency(results):
    for cell in _cells("latency"):
        for key in ("added_p95", "added_p99"):
            mine = results.median(cell.name, "Radiant", key)
            best = _others(results, cell.name, key, OTHERS)
            if not best:
                continue
            what = (f"{cell.title}: {key.replace('_p', ' P')} not above the best of the others, and "
                    "under 0.5 ms")
            if mine is None:
                yield what, NONE_VALID, False
                continue
            name = min(best, key=best.get)
            yield (what, f"{mine:.2f} ms, {name} {best[name]:.2f}",
                   mine <= best[name] and mine < 0.5)


def within(results):
    for cell in _cells("within"):
        for key, title in (("p95_us", "P95"), ("p99_us", "P99")):
            mine = results.median(cell.name, "Radiant", key)
            best = _others(results, cell.name, key, OTHERS)
            if best:
                name = min(best, key=best.get)
                measured = NONE_VALID if mine is None else f"{mine:.0f} us, {name} {best[name]:.0f}"
                yield (f"{cell.title}: {title} within the proxy not above the best of the others",
                       measured, mine is not None and mine <= best[name])


def models(results):
    few = {key: results.median("models-1", "Radiant", key) for key in ("cpu_us", "p99", "idle_mib")}
    limits = {1: 16, 10_000: 64, 100_000: 512}
    for cell in _cells("models"):
        count = cell.settings["models"]
        now = {key: results.median(cell.name, "Radiant", key) for key in ("cpu_us", "p99", "idle_mib")}
        if now["cpu_us"] is None:
            if results.measured(cell.name, "Radiant"):
                yield f"{cell.title}: CPU and memory", NONE_VALID, False
            continue
        if count > 1 and few["cpu_us"]:
            ratio = now["cpu_us"] / few["cpu_us"]
            yield (f"{cell.title}: CPU per request flat within 10 %",
                   f"{now['cpu_us']:.1f} us, {ratio:.2f} times one model's", ratio <= 1.1)
        if count > 1 and few["p99"] and now["p99"]:
            ratio = now["p99"] / few["p99"]
            yield (f"{cell.title}: P99 flat (read as: within 10 %)",
                   f"{now['p99']:.2f} ms, {ratio:.2f} times one model's", ratio <= 1.1)
        if count in limits:
            each = ""
            if count > 1 and few["idle_mib"]:
                each = f", {(now['idle_mib'] - few['idle_mib']) * 1024 / count:.2f} KiB per model"
            yield (f"{cell.title}: under {limits[count]} MiB resident before load",
                   f"{now['idle_mib']:.1f} MiB{each}", now["idle_mib"] < limits[count])
        sockets = results.median(cell.name, "Radiant", "sockets")
        if sockets is not None:
            yield (f"{cell.title}: one upstream pool for all (16 client connections)",
                   f"{sockets:.0f} connections", sockets <= 17)


def updates(results):
    for name, title in (("updates-10000", "10,000 models"), ("updates-1000", "1,000 models")):
        after = results.median(name, "Radiant", "after_arrival_ms")
        if after is not None:
            yield (f"{title}: a change in force within 20 ms of its arrival", f"{after:.1f} ms",
                   after <= 20)
        elif results.measured(name, "Radiant"):
            yield f"{title}: a change in force within 20 ms of its arrival", NONE_VALID, False
        quiet = results.median(name, "Radiant", "quiet_p99")
        churn = results.median(name, "Radiant", "churn_p99")
        if quiet and churn:
            past = results.median(name, "Radiant", "direct_churn_p99")
            base = results.median(name, "Radiant", "direct_quiet_p99")
            pour = results.median(name, "Radiant", "pour_p99")
            beside = f"; a process that only takes them in: {pour / quiet:.2f} times" if pour else ""
            yield (f"{title}: P99 under 20 changes a second within 1.2 times the quiet one",
                   f"{quiet:.2f} to {churn:.2f} ms, {churn / quiet:.2f} times (past the proxy: "
                   f"{base:.2f} to {past:.2f} ms{beside})", churn <= 1.2 * quiet)
        quiet = results.median(name, "Radiant", "within_quiet_p99_us")
        churn = results.median(name, "Radiant", "within_churn_p99_us")
        if quiet and churn:
            pour = results.median(name, "Radiant", "within_pour_p99_us")
            beside = f" (a process that only takes them in: {pour / quiet:.2f} times)" if pour else ""
            yield (f"{title}: the same of the time within the proxy, by packets",
                   f"{quiet:.0f} to {churn:.0f} us, {churn / quiet:.2f} times{beside}",
                   churn <= 1.2 * quiet)


def quota(results):
    mine = results.median("quota-throughput", "Radiant", "per_second")
    envoy = results.median("quota-throughput", "Envoy", "per_second")
    if mine and envoy:
        yield ("half a CPU: at least three times Envoy's throughput",
               f"{mine:.0f} against {envoy:.0f} per second: {mine / envoy:.1f} times",
               mine >= 3 * envoy)
    for cell in _cells("quota"):
        mine = results.median(cell.name, "Radiant", "added_p99")
        envoy = results.median(cell.name, "Envoy", "added_p99")
        if envoy is not None:
            measured = NONE_VALID if mine is None else f"{mine:.2f} against {envoy:.2f} ms"
            yield (f"half a CPU, {cell.title}: added P99 below Envoy's", measured,
                   mine is not None and mine < envoy)
