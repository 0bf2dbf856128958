//! The saved snapshot: the last accepted resources on disk, so that a proxy
//! that restarts without its scheduler has something to serve.
//!
//! Layout, little-endian: magic (8 bytes), format version (4), length of the
//! payload (8), SHA-256 over those twelve bytes and the payload (32), payload (a
//! protobuf message, below). A file that is damaged in any byte is refused.
//!
//! With TLS the resources hold private keys: the file is made with mode 0600.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use prost::Message;
use sha2::{Digest, Sha256};

use crate::model::{RawResource, RawValue, ResourceSet, Resources};

const MAGIC: &[u8; 8] = b"RADIANT\n";
const FORMAT: u32 = 1;
const HEADER: usize = 8 + 4 + 8 + 32;
/// Bytes; 10,000 models need about 20 MiB.
const MAX_FILE: u64 = 1 << 30;

/// Why a snapshot could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum SavedError {
    /// There is no such file: nothing was ever saved.
    #[error("{}: there is no saved snapshot", .0.display())]
    Missing(PathBuf),
    /// The file system says no.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// The file is not what was saved.
    #[error("{}: refused: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// Writes `resources` to `path`: all of them or nothing. The previous file
/// stays until the new one is on the disk. Blocks for the disk.
///
/// # Errors
/// The directory is not there or cannot be written to, or the disk is full.
pub fn save(path: &Path, resources: &Resources) -> Result<(), SavedError> {
    let failed = |source| SavedError::Io { path: path.to_owned(), source };
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = directory.join(name);
    let written = write(&temporary, &encode(resources))
        .and_then(|()| fs::rename(&temporary, path))
        .and_then(|()| File::open(directory)?.sync_all());
    if written.is_err() {
        // What remains is of no use; the first error is the one to tell.
        let _ = fs::remove_file(&temporary);
    }
    written.map_err(failed)
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Reads what [`save`] wrote.
///
/// # Errors
/// [`SavedError::Missing`] if there is no file; otherwise why it cannot be
/// used. Nothing of a damaged file is used.
pub fn load(path: &Path) -> Result<Resources, SavedError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => SavedError::Missing(path.to_owned()),
        _ => SavedError::Io { path: path.to_owned(), source },
    };
    let damaged = |reason| SavedError::Damaged { path: path.to_owned(), reason };
    if fs::metadata(path).map_err(failed)?.len() > MAX_FILE {
        return Err(damaged("it is over 1 GiB"));
    }
    decode(&Bytes::from(fs::read(path).map_err(failed)?)).map_err(damaged)
}

#[derive(Clone, PartialEq, Message)]
struct SavedResources {
    #[prost(message, repeated, tag = "1")]
    sets: Vec<SavedSet>,
}

/// One type: 0 clusters, 1 listeners, 2 routes, 3 secrets.
#[derive(Clone, PartialEq, Message)]
struct SavedSet {
    #[prost(uint32, tag = "1")]
    kind: u32,
    #[prost(string, tag = "2")]
    version_info: String,
    #[prost(message, repeated, tag = "3")]
    resources: Vec<SavedResource>,
}

#[derive(Clone, PartialEq, Message)]
struct SavedResource {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
    #[prost(bytes = "bytes", tag = "3")]
    value: Bytes,
    /// Milliseconds since 1970.
    #[prost(uint64, tag = "4")]
    updated: u64,
}

fn encode(resources: &Resources) -> Vec<u8> {
    let Resources { clusters, listeners, routes, secrets } = resources;
    let sets = (0..).zip([clusters, listeners, routes, secrets]);
    let message = SavedResources { sets: sets.map(|(kind, set)| saved_set(kind, set)).collect() };
    let length = message.encoded_len();
    let mut bytes = Vec::with_capacity(HEADER + length);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&FORMAT.to_le_bytes());
    bytes.extend_from_slice(&(length as u64).to_le_bytes());
    bytes.extend_from_slice(&[0; 32]);
    message.encode_raw(&mut bytes);
    let sum = checksum(&bytes);
    bytes[20..HEADER].copy_from_slice(&sum);
    bytes
}

fn saved_set(kind: u32, set: &ResourceSet) -> SavedSet {
    let resources = set.by_name.iter().map(|(name, resource)| SavedResource {
        name: name.clone(),
        version: resource.version.clone(),
        value: resource.value.message(),
        updated: resource
            .updated
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)),
    });
    SavedSet { kind, version_info: set.version_info.clone(), resources: resources.collect() }
}

/// Over everything behind the magic but the checksum itself.
fn checksum(file: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(&file[8..20]);
    hash.update(&file[HEADER..]);
    hash.finalize().into()
}

/// Resources share the file's memory.
fn decode(file: &Bytes) -> Result<Resources, &'static str> {
    if file.len() < HEADER {
        return Err("it is cut off");
    }
    if file[..8] != MAGIC[..] {
        return Err("it is no snapshot of Radiant");
    }
    if file[8..12] != FORMAT.to_le_bytes() {
        return Err("its format is of another version");
    }
    if file[12..20] != ((file.len() - HEADER) as u64).to_le_bytes() {
        return Err("its length is wrong: it is cut off or was appended to");
    }
    if checksum(file)[..] != file[20..HEADER] {
        return Err("its checksum is wrong: it was damaged");
    }
    let message = SavedResources::decode(file.slice(HEADER..))
        .map_err(|_| "its content is no list of resources")?;
    let mut resources = Resources::default();
    for set in message.sets {
        let target = match set.kind {
            0 => &mut resources.clusters,
            1 => &mut resources.listeners,
            2 => &mut resources.routes,
            3 => &mut resources.secrets,
            _ => return Err("it has resources of an unknown type"),
        };
        target.version_info = set.version_info;
        for r in set.resources {
            let updated = SystemTime::UNIX_EPOCH
                .checked_add(Duration::from_millis(r.updated))
                .unwrap_or(SystemTime::UNIX_EPOCH);
            let resource =
                RawResource { version: r.version, value: RawValue::Message(r.value), updated };
            target.by_name.insert(r.name, resource);
        }
    }
    Ok(resources)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Plain = Vec<(String, Vec<(String, String, Bytes, u128)>)>;

    fn plain(resources: &Resources) -> Plain {
        let Resources { clusters, listeners, routes, secrets } = resources;
        let millis = |t: SystemTime| t.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
        [clusters, listeners, routes, secrets]
            .into_iter()
            .map(|set| {
                let each = set.by_name.iter().map(|(name, r)| {
                    (name.clone(), r.version.clone(), r.value.message(), millis(r.updated))
                });
                (set.version_info.clone(), each.collect())
            })
            .collect()
    }

    fn sets() -> impl Strategy<Value = Resources> {
        let resource =
            (any::<String>(), any::<Vec<u8>>(), 0u64..1 << 45).prop_map(|(v, b, t)| RawResource {
                version: v,
                value: RawValue::Message(b.into()),
                updated: SystemTime::UNIX_EPOCH + Duration::from_millis(t),
            });
        let set =
            (any::<String>(), proptest::collection::btree_map(any::<String>(), resource, 0..4))
                .prop_map(|(version_info, by_name)| ResourceSet { version_info, by_name });
        (set.clone(), set.clone(), set.clone(), set).prop_map(
            |(clusters, listeners, routes, secrets)| Resources {
                clusters,
                listeners,
                routes,
                secrets,
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_saved_comes_back(resources in sets()) {
            let read = decode(&encode(&resources).into()).unwrap();
            prop_assert_eq!(plain(&read), plain(&resources));
        }

        #[test]
        fn a_changed_byte_is_noticed(
            resources in sets(),
            at in any::<prop::sample::Index>(),
            flip in 1u8..,
        ) {
            let mut bytes = encode(&resources);
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            prop_assert!(decode(&bytes.into()).is_err());
        }

        #[test]
        fn a_cut_or_longer_file_is_noticed(
            resources in sets(),
            cut in any::<prop::sample::Index>(),
        ) {
            let bytes = encode(&resources);
            prop_assert!(decode(&Bytes::copy_from_slice(&bytes[..cut.index(bytes.len())])).is_err());
            prop_assert!(decode(&[&bytes[..], b"x"].concat().into()).is_err());
        }

        #[test]
        fn any_bytes_are_refused(bytes in any::<Vec<u8>>()) {
            prop_assert!(decode(&bytes.into()).is_err());
        }
    }

    #[test]
    fn every_single_byte_of_a_file_counts() {
        let mut resources = Resources::default();
        resources.clusters.by_name.insert(
            "c".to_owned(),
            RawResource {
                version: "1".to_owned(),
                value: RawValue::Message("value".into()),
                updated: SystemTime::UNIX_EPOCH,
            },
        );
        let good = encode(&resources);
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bytes = good.clone();
                bytes[at] ^= 1 << bit;
                assert!(decode(&bytes.into()).is_err(), "byte {at}, bit {bit}");
            }
        }
    }

    #[test]
    fn files_are_replaced_as_a_whole() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("snapshot");
        assert!(matches!(load(&path), Err(SavedError::Missing(_))));
        let mut resources = Resources::default();
        save(&path, &resources).unwrap();
        resources.clusters.version_info = "2".to_owned();
        save(&path, &resources).unwrap();
        assert_eq!(load(&path).unwrap().clusters.version_info, "2");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let left = fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(left, 1, "no temporary file stays");
    }

    #[test]
    fn reasons_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("snapshot");
        let told = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            let error = load(&path).unwrap_err().to_string();
            error.rsplit(": refused: ").next().unwrap().to_owned()
        };
        let good = encode(&Resources::default());
        assert_eq!(told(b""), "it is cut off");
        assert_eq!(told(&[b'x'; 100]), "it is no snapshot of Radiant");
        assert_eq!(
            told(&good[..good.len() - 1]),
            "its length is wrong: it is cut off or was appended to"
        );
        let mut other = good.clone();
        other[8] = 9;
        assert_eq!(told(&other), "its format is of another version");
        let mut other = good;
        *other.last_mut().unwrap() ^= 1;
        assert_eq!(told(&other), "its checksum is wrong: it was damaged");
        assert!(save(&dir.path().join("no/such/dir"), &Resources::default()).is_err());
    }
}
