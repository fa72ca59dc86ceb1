//! The promises of the public protocol: its style, its frozen parts, and the table of its errors.

use palisade_tests::tools::{self, Skipped};
use std::path::{Path, PathBuf};
use std::process::Command;
use tonic::Code;
use wire::ErrorClass;
use wire::v1::ErrorCode;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

#[test]
fn the_protocol_has_buf_s_style_and_breaks_nothing_that_was_frozen() {
    let buf = match tools::buf() {
        Ok(buf) => buf,
        Err(Skipped(why)) => return eprintln!("skipped: {why}"),
    };
    for args in [&["lint"][..], &["breaking", "--against", "proto/frozen.binpb"]] {
        let output = Command::new(&buf).args(args).current_dir(root()).output().expect("buf runs");
        let said =
            String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "buf {}:\n{said}see docs/protocol.md", args.join(" "));
    }
}

/// The first four columns are the code's. The others are for people.
#[test]
fn the_table_of_errors_is_the_code_s() {
    let page = std::fs::read_to_string(root().join("docs/protocol.md")).expect("docs/protocol.md");
    let row = |line: &str| -> Vec<String> {
        line.trim_matches('|')
            .split('|')
            .map(|cell| cell.trim().trim_matches('`').to_owned())
            .collect()
    };
    let table = page.lines().skip_while(|line| !line.starts_with("| error |")).skip(2);
    let told: Vec<Vec<String>> = table.take_while(|line| line.starts_with('|')).map(row).collect();
    let codes = (1..=i32::from(u8::MAX)).filter_map(|number| ErrorCode::try_from(number).ok());
    let coded: Vec<Vec<String>> = codes
        .map(|code| {
            let number = (code as i32).to_string();
            [code.name(), &number, grpc(code.status_code()), class(code.class())]
                .map(str::to_owned)
                .to_vec()
        })
        .collect();
    let first_four: Vec<Vec<String>> = told.iter().map(|row| row[..4].to_vec()).collect();
    assert_eq!(first_four, coded);
    assert!(
        told.iter().all(|row| row.len() == 6 && row.iter().all(|cell| !cell.is_empty())),
        "{told:?}"
    );
}

fn grpc(code: Code) -> &'static str {
    match code {
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::Aborted => "ABORTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::Unavailable => "UNAVAILABLE",
        Code::Unknown => "UNKNOWN",
        Code::Internal => "INTERNAL",
        Code::Unauthenticated => "UNAUTHENTICATED",
        Code::PermissionDenied => "PERMISSION_DENIED",
        other => panic!("no error has {other:?}"),
    }
}

fn class(class: ErrorClass) -> &'static str {
    match class {
        ErrorClass::FixInput => "fix input",
        ErrorClass::TryLater => "try later",
        ErrorClass::Fenced => "fenced",
        ErrorClass::Retry => "retry",
        ErrorClass::Unknown => "unknown",
        ErrorClass::Denied => "denied",
        ErrorClass::Internal => "internal",
    }
}
