//! The program's arguments, output and exit codes, seen from outside.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn program(name: &str, directory: &Path) -> PathBuf {
    let link = directory.join(name);
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_radiant"), &link).expect("a link");
    link
}

fn run(program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> Output {
    Command::new(program)
        .args(arguments)
        .env_clear()
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("the program starts")
}

fn radiant(arguments: &[&str]) -> (i32, String, String) {
    told(&run(env!("CARGO_BIN_EXE_radiant"), arguments))
}

fn told(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

#[test]
fn version_and_help() {
    let version = format!("radiant {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(radiant(&["--version"]), (0, version.clone(), String::new()));
    let directory = tempfile::tempdir().expect("a directory");
    let envoy = program("envoy", directory.path());
    assert_eq!(told(&run(&envoy, &["--version"])), (0, version, String::new()));
    let (code, out, _) = radiant(&["--help"]);
    assert!(code == 0 && out.contains("radiant check FILE"), "{out}");
}

#[test]
fn mistakes_end_with_exit_code_1_and_a_name() {
    for (arguments, error) in [
        (&["--foo"][..], "error: unknown option '--foo'\n"),
        (
            &["run", "--concurrency", "x"],
            "error: option '--concurrency': 'x' is not a number of worker threads\n",
        ),
        (&["-c", "/nonexistent"], "error: /nonexistent: No such file or directory (os error 2)\n"),
        (&["check"], "error: check needs a file\n"),
    ] {
        assert_eq!(radiant(arguments), (1, String::new(), error.to_owned()));
    }
    let directory = tempfile::tempdir().expect("a directory");
    let envoy = program("envoy", directory.path());
    let (code, _, error) = told(&run(envoy, &["demo"]));
    assert_eq!((code, error.as_str()), (1, "error: unexpected argument 'demo'\n"));
}

#[test]
fn every_mistake_of_a_file_is_a_line() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("f.yaml");
    std::fs::write(&file, "kind: Model\nspec: {a: 1}\n---\nkind: Nothing\n").expect("a file");
    let name = file.display().to_string();
    let (code, out, error) = radiant(&["check", &name]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert_eq!(
        error.replace(&name, "F"),
        "error: F:2: spec.a: unknown field (known: endpoints, modelName, version, logger)\n\
         error: F:4: kind: 'Nothing' is none of Model, Experiment, Pipeline, Radiant\n"
    );
}

#[test]
fn check_says_what_a_file_means() {
    for (arguments, part) in [
        (&["check", "config/radiant.yaml"][..], "70.00 %  baseline-predictor"),
        (&["check", "config/envoy.yaml"], "scheduler seldon-scheduler:9002, delta ADS"),
        (&["--mode", "validate", "-c", "config/envoy.yaml"], "security:    plain text"),
    ] {
        let (code, out, error) = radiant(arguments);
        assert!(code == 0 && error.is_empty() && out.contains(part), "{out}{error}");
    }
}
