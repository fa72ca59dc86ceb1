//! `palisade session`: sessions by hand, for scripts and for inspection. The SDK manages its
//! sessions by itself.

use crate::args::{self, Session, SessionOn, SessionOpen};
use crate::duration::show_ms;
use crate::failure::{Exit, Failure};
use crate::output::{Paint, emit, print_json, print_pairs};
use crate::shown::{counted, shown};
use crate::verbs::connect;
use client::SessionOptions;
use std::time::Duration;
use wire::json;

/// Runs one of the session verbs.
///
/// # Errors
/// The error of the service. A heartbeat fails as fenced if the session is lost on any of the
/// shards.
pub async fn run(verb: &Session) -> Result<(), Failure> {
    match verb {
        Session::Open(args) => open(args).await,
        Session::Heartbeat(args) => heartbeat(args).await,
        Session::Close(args) => close(args).await,
    }
}

async fn open(args: &SessionOpen) -> Result<(), Failure> {
    let owner = args.owner.clone().unwrap_or_else(args::default_owner);
    let options = SessionOptions::new().owner(owner).ttl(Duration::from_millis(args.ttl.into()));
    let opened = connect(&args.remote.gateways)?.open_session_raw(options).await?;
    if args.remote.json {
        print_json(&json::SessionOpened::from(&opened));
        return Ok(());
    }
    emit(&format!("{} {}", Paint::stdout().good("opened"), shown(&opened.session_id)));
    print_pairs(&[("ttl", show_ms(opened.ttl_ms.into()))]);
    Ok(())
}

async fn heartbeat(args: &SessionOn) -> Result<(), Failure> {
    let heartbeat = connect(&args.remote.gateways)?.heartbeat(&args.id, &args.shards).await?;
    if args.remote.json {
        print_json(&json::SessionRenewed::new(&args.id, &heartbeat));
    } else {
        emit(&format!(
            "renewed on {} of {}",
            heartbeat.renewed_shards,
            counted(args.shards.len(), "shard")
        ));
    }
    let told = |exit| if args.remote.json { Some(Failure::already_told(exit)) } else { None };
    if !heartbeat.lost_shards.is_empty() {
        let shards = numbered(&heartbeat.lost_shards);
        let message =
            format!("the session is lost on {shards}: what it held there is not held any more");
        let next = "stop acting on those locks; open a new session and acquire again";
        return Err(told(Exit::Fenced)
            .unwrap_or_else(|| Failure::new(Exit::Fenced, "SESSION_LOST", message, next)));
    }
    if !heartbeat.failed_shards.is_empty() {
        let message = format!(
            "{} could not be asked: nothing was renewed there",
            numbered(&heartbeat.failed_shards)
        );
        let next = "try again before the TTL runs out";
        return Err(told(Exit::Error)
            .unwrap_or_else(|| Failure::new(Exit::Error, "NO_LEADER", message, next)));
    }
    Ok(())
}

async fn close(args: &SessionOn) -> Result<(), Failure> {
    let released = connect(&args.remote.gateways)?.close_session(&args.id, &args.shards).await?;
    if args.remote.json {
        print_json(&json::SessionClosed { released, session_id: args.id.clone() });
    } else {
        emit(&format!("closed; {} released", counted(released, "lock")));
    }
    Ok(())
}

/// Names shards: `shard 1`, `shards 1, 2`.
fn numbered(shards: &[u32]) -> String {
    let numbers: Vec<String> = shards.iter().map(u32::to_string).collect();
    format!("shard{} {}", if shards.len() == 1 { "" } else { "s" }, numbers.join(", "))
}
