//! Watches a native file for changes, by looking at it: that works for editors
//! that replace the file, and for the links of a Kubernetes ConfigMap.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::native::NativeFile;
use super::settings::ConfigError;

/// How often to call [`FileWatch::poll`]. One `stat` each.
pub const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// A file whose time stamp is younger than this may change again within the
/// file system's resolution without another stamp, so it is read again.
const SETTLED: Duration = Duration::from_secs(3);

/// A native file and what was last seen of it.
#[derive(Debug)]
pub struct FileWatch {
    path: PathBuf,
    stamp: Option<Stamp>,
    seen: Option<Seen>,
}

/// What `stat` says; enough to notice every kind of replacement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    settled: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Content(u128),
    Unreadable(String),
}

impl FileWatch {
    /// Watches `path`; the first [`poll`](Self::poll) reads it.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path, stamp: None, seen: None }
    }

    /// The file that is watched.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the file if its content is another than at the last call; `None`
    /// if it is not. A bad edit (or a file that cannot be read) comes back once,
    /// as an error with line and field; the caller keeps serving what it has.
    pub fn poll(&mut self, now: SystemTime) -> Option<Result<NativeFile, ConfigError>> {
        let stamp = stamp(&self.path, now);
        if stamp.is_some_and(|s| s.settled) && stamp == self.stamp {
            return None;
        }
        self.stamp = stamp;
        let text = super::file::text(&self.path);
        let seen = match &text {
            Ok(text) => Seen::Content(xxhash_rust::xxh3::xxh3_128(text.as_bytes())),
            Err(problem) => Seen::Unreadable(problem.to_string()),
        };
        if self.seen.as_ref() == Some(&seen) {
            return None;
        }
        self.seen = Some(seen);
        let name = self.path.display().to_string();
        Some(text.map_err(ConfigError::from).and_then(|text| NativeFile::parse(&name, &text)))
    }
}

fn stamp(path: &Path, now: SystemTime) -> Option<Stamp> {
    let metadata = std::fs::metadata(path).ok()?;
    let age = metadata.modified().ok().and_then(|m| now.duration_since(m).ok());
    Some(Stamp {
        device: metadata.dev(),
        inode: metadata.ino(),
        length: metadata.len(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
        settled: age.is_some_and(|age| age >= SETTLED),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "kind: Model\nmetadata: {name: a}\nspec: {endpoints: [{http: 'h:1'}]}\n";

    fn models(result: Option<Result<NativeFile, ConfigError>>) -> Option<Result<usize, String>> {
        result.map(|r| r.map(|f| f.mesh.models.len()).map_err(|e| e.to_string()))
    }

    #[test]
    fn changes_are_seen_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f.yaml");
        std::fs::write(&path, GOOD).unwrap();
        let (now, later) = (SystemTime::now(), SystemTime::now() + Duration::from_secs(60));
        let mut watch = FileWatch::new(path.clone());
        assert_eq!(models(watch.poll(now)), Some(Ok(1)));
        assert_eq!(models(watch.poll(now)), None);
        assert_eq!(models(watch.poll(later)), None);

        // Same length, within the clock's resolution.
        std::fs::write(&path, GOOD.replace("name: a", "name: b")).unwrap();
        assert_eq!(models(watch.poll(now)), Some(Ok(1)));

        // A bad edit is told once; the good one after it is read.
        std::fs::write(&path, "kind: Model\nmetadata: {name: a}\nspec: {what: 1}\n").unwrap();
        let error = models(watch.poll(now)).unwrap().unwrap_err();
        assert!(error.contains("f.yaml:3: spec.what: unknown field"), "{error}");
        assert_eq!(models(watch.poll(now)), None);
        assert_eq!(models(watch.poll(later)), None);
        std::fs::write(&path, format!("{GOOD}---\n{}", GOOD.replace("name: a", "name: c")))
            .unwrap();
        assert_eq!(models(watch.poll(now)), Some(Ok(2)));

        // Gone, told once, and back with the same content.
        let content = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(models(watch.poll(now)).unwrap().is_err());
        assert_eq!(models(watch.poll(now)), None);
        std::fs::write(&path, content).unwrap();
        assert_eq!(models(watch.poll(now)), Some(Ok(2)));
    }

    #[test]
    fn a_config_map_swaps_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("1"), dir.path().join("2"));
        for (version, text) in [(&one, GOOD.to_owned()), (&two, GOOD.replace("name: a", "name: b"))]
        {
            std::fs::create_dir(version).unwrap();
            std::fs::write(version.join("f.yaml"), text).unwrap();
        }
        let data = dir.path().join("data");
        std::os::unix::fs::symlink(&one, &data).unwrap();
        let later = SystemTime::now() + Duration::from_secs(60);
        let mut watch = FileWatch::new(data.join("f.yaml"));
        assert_eq!(models(watch.poll(later)), Some(Ok(1)));
        assert_eq!(models(watch.poll(later)), None);
        let next = dir.path().join("next");
        std::os::unix::fs::symlink(&two, &next).unwrap();
        std::fs::rename(&next, &data).unwrap();
        assert_eq!(models(watch.poll(later)), Some(Ok(1)));
    }
}
