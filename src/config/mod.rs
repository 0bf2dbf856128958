//! Configuration: flags, environment, Envoy bootstraps, native files and saved
//! snapshots, brought together into one [`Settings`].
//!
//! Precedence, strongest first: flags, environment, the file given with `-c`,
//! defaults. Nothing starts half-configured: [`load`] returns either complete
//! settings or every [`Problem`] that it found, each with the name of the
//! setting (flag, variable, or file, line and field) and its value.

mod bootstrap;
mod bootstrap_ads;
mod bootstrap_json;
mod bootstrap_secret;
mod bootstrap_utility;
mod cgroup;
mod check;
pub mod descriptors;
mod environment;
mod fields;
mod file;
mod flags;
mod native;
mod native_fields;
mod native_read;
mod proto_json;
mod reference;
pub mod saved;
mod settings;
mod spec;
mod watch;
mod yaml;

pub use cgroup::default_workers;
pub use check::check;
pub use environment::{Environment, VARIABLES, VariableSpec};
pub use fields::{ADS_CLUSTER_FIELDS, BOOTSTRAP_FIELDS, FieldEffect, FieldSpec, UTILITY_FIELDS};
pub use flags::{Command, DemoFlags, Flags, parse as parse_flags};
pub use native::{NativeFile, updates};
pub use native_fields::{NATIVE_FIELDS, NativeField};
pub use reference::reference;
pub use settings::{
    AdsSettings, AdsTls, ClientIdentity, ConfigError, LogFormat, LogSettings, Notice, Problem,
    Settings, Source, UtilityListener, XdsVariant, load,
};
pub use spec::{Effect, FLAGS, FlagSpec, usage};
pub use watch::{FileWatch, POLL_INTERVAL};
