//! The CPU limit of the cgroup: how many workers are worth having.

use std::path::{Path, PathBuf};

/// Workers when `--concurrency` is not given: the CPU limit of the cgroup,
/// rounded up, at most the CPUs that the process may run on; without a limit,
/// those CPUs. At least 1.
#[must_use]
pub fn default_workers() -> usize {
    let cpus = affinity_cpus(&read(Path::new("/proc/self/status")))
        .or_else(|| std::thread::available_parallelism().ok().map(usize::from))
        .unwrap_or(1);
    let memberships = read(Path::new("/proc/self/cgroup"));
    let quotas = quota_files(&memberships).into_iter().filter_map(|file| match file {
        QuotaFile::V2(path) => v2_limit(&read(&path)),
        QuotaFile::V1(dir) => {
            v1_limit(&read(&dir.join("cpu.cfs_quota_us")), &read(&dir.join("cpu.cfs_period_us")))
        }
    });
    workers(quotas.min(), cpus)
}

/// The rule of [`default_workers`] without its sources.
fn workers(limit: Option<usize>, cpus: usize) -> usize {
    limit.unwrap_or(cpus).min(cpus).max(1)
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// CPUs of the affinity mask (`Cpus_allowed_list: 0-3,8`). Read here because
/// the standard library's answer has the quota in it, rounded down.
fn affinity_cpus(status: &str) -> Option<usize> {
    let list = status.lines().find_map(|l| l.strip_prefix("Cpus_allowed_list:"))?.trim();
    let mut count = 0usize;
    for range in list.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        count = count.checked_add(last.checked_sub(first)?.checked_add(1)?)?;
    }
    (count > 0).then_some(count)
}

#[derive(Debug, PartialEq, Eq)]
enum QuotaFile {
    V2(PathBuf),
    V1(PathBuf),
}

/// Where limits may stand, from `/proc/self/cgroup`: the own group and all its
/// parents, since each of them binds. Inside a container's cgroup namespace
/// that is the mount itself.
fn quota_files(memberships: &str) -> Vec<QuotaFile> {
    let mut files = Vec::new();
    for line in memberships.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let relative = Path::new(path.trim_start_matches('/'));
        let v1 = controllers.split(',').any(|c| c == "cpu");
        if !v1 && !controllers.is_empty() {
            continue;
        }
        let mount = Path::new("/sys/fs/cgroup");
        for group in relative.ancestors() {
            files.push(if v1 {
                QuotaFile::V1(mount.join("cpu").join(group))
            } else {
                QuotaFile::V2(mount.join(group).join("cpu.max"))
            });
        }
    }
    files
}

/// `cpu.max`: `<quota|max> <period>`, microseconds.
fn v2_limit(text: &str) -> Option<usize> {
    let (quota, period) = text.trim().split_once(' ')?;
    limit(quota.parse().ok()?, period.trim().parse().ok()?)
}

/// `cpu.cfs_quota_us` (-1: none) and `cpu.cfs_period_us`.
fn v1_limit(quota: &str, period: &str) -> Option<usize> {
    limit(quota.trim().parse().ok()?, period.trim().parse().ok()?)
}

/// Quota over period in CPUs, rounded up.
fn limit(quota: u64, period: u64) -> Option<usize> {
    if quota == 0 || period == 0 {
        return None;
    }
    usize::try_from(quota.div_ceil(period)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_rounded_up() {
        for (text, expected) in [
            ("max 100000\n", None),
            ("50000 100000\n", Some(1)),
            ("100000 100000\n", Some(1)),
            ("100001 100000\n", Some(2)),
            ("250000 100000\n", Some(3)),
            ("", None),
            ("garbage", None),
            ("0 100000", None),
            ("100000 0", None),
        ] {
            assert_eq!(v2_limit(text), expected, "{text:?}");
        }
        assert_eq!(v1_limit("-1\n", "100000\n"), None);
        assert_eq!(v1_limit("150000\n", "100000\n"), Some(2));
        assert_eq!(v1_limit("", ""), None);
    }

    #[test]
    fn never_more_than_the_cpus_and_never_none() {
        assert_eq!(workers(None, 8), 8);
        assert_eq!(workers(Some(3), 8), 3);
        assert_eq!(workers(Some(64), 8), 8);
        assert_eq!(workers(Some(0), 0), 1);
        assert!(default_workers() >= 1);
    }

    #[test]
    fn affinity_lists() {
        for (list, expected) in
            [("0", Some(1)), ("0-3", Some(4)), ("0-1,4,6-7", Some(5)), ("", None), ("3-1", None)]
        {
            let status = format!("Name:\tx\nCpus_allowed_list:\t{list}\n");
            assert_eq!(affinity_cpus(&status), expected, "{list:?}");
        }
        assert_eq!(affinity_cpus(""), None);
    }

    #[test]
    fn every_parent_group_binds() {
        let v2 = |p: &str| QuotaFile::V2(PathBuf::from(p));
        assert_eq!(quota_files("0::/\n"), [v2("/sys/fs/cgroup/cpu.max")]);
        assert_eq!(
            quota_files("0::/a/b\n"),
            [
                v2("/sys/fs/cgroup/a/b/cpu.max"),
                v2("/sys/fs/cgroup/a/cpu.max"),
                v2("/sys/fs/cgroup/cpu.max")
            ]
        );
        let v1 = |p: &str| QuotaFile::V1(PathBuf::from(p));
        assert_eq!(
            quota_files("5:memory:/m\n4:cpu,cpuacct:/a\n"),
            [v1("/sys/fs/cgroup/cpu/a"), v1("/sys/fs/cgroup/cpu/")]
        );
        assert_eq!(quota_files("nonsense"), []);
    }
}
