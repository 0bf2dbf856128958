//! The program: arguments in, exit code out. Everything else is the library's.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use radiant::admin::init_logging;
use radiant::config::{self, Command, DemoFlags, Environment, Flags, Settings};
use radiant::demo::DemoOptions;
use radiant::run::{Hooks, Proxy};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match execute() {
        Ok(code) => code,
        Err(error) => {
            for line in format!("{error:#}").lines() {
                eprintln!("error: {line}");
            }
            ExitCode::FAILURE
        }
    }
}

fn execute() -> anyhow::Result<ExitCode> {
    // An argument that is no UTF-8 can only be a mistake, and is shown as such.
    let argv = std::env::args_os().map(|a| a.to_string_lossy().into_owned());
    match config::parse_flags(argv).map_err(|problem| anyhow::anyhow!("{problem}"))? {
        Command::Version => println!("radiant {}", env!("CARGO_PKG_VERSION")),
        Command::Help => print!("{}", config::usage()),
        Command::Run(flags) => serve(settings(&flags)?)?,
        Command::Check(flags) => {
            print!("{}", config::check(&flags, &Environment::from_process())?);
        }
        Command::Reference => print!("{}", config::reference()),
        Command::Demo(demo, flags) => demo_mode(&demo, settings(&flags)?)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads the configuration, on a thread of its own: the descriptors that a
/// bootstrap is read by are 5 MiB, which the allocator gives back when the thread
/// ends.
fn settings(flags: &Flags) -> anyhow::Result<Settings> {
    let load = || config::load(flags, &Environment::from_process());
    let loaded = std::thread::scope(|scope| scope.spawn(load).join());
    Ok(loaded.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?)
}

fn serve(settings: Settings) -> anyhow::Result<()> {
    let hooks = hooks(&settings)?;
    Proxy::start(settings, hooks)?.join();
    Ok(())
}

fn demo_mode(demo: &DemoFlags, settings: Settings) -> anyhow::Result<()> {
    let hooks = hooks(&settings)?;
    Ok(radiant::demo::main(&demo_options(demo), settings, hooks)?)
}

/// Installs logging and says what was given without effect.
fn hooks(settings: &Settings) -> anyhow::Result<Hooks> {
    let log = init_logging(&settings.log).with_context(|| {
        format!("--log-path {}", settings.log.path.as_deref().unwrap_or(Path::new("")).display())
    })?;
    for notice in &settings.notices {
        tracing::warn!("{notice}");
    }
    Ok(Hooks { log: Some(log), signals: true })
}

fn demo_options(flags: &DemoFlags) -> DemoOptions {
    DemoOptions {
        port: flags.port,
        models: flags.models.unwrap_or(0),
        proxy: !flags.no_proxy,
        ..DemoOptions::default()
    }
}
