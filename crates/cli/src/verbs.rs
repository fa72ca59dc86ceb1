//! The lock verbs: each makes one call of the SDK and shows its answer.

use crate::args::{self, Gateways};
use crate::duration::show_ms;
use crate::failure::{Exit, Failure};
use crate::lock::at_start::AtStart;
use crate::lock::signals::{Heard, Signals};
use crate::output::*;
use crate::shown::{counted, date_time, shown};
use crate::{end, pages, profiles, queue, voice};
use client::{AcquireOptions, Cancelled, Client, ClientOptions, RequestId};
use std::ffi::OsString;
use std::time::Duration;
use tokio::time::Instant;
use wire::json;
use wire::limits::METADATA_BYTES_MAX;
use wire::v1::{Consistency, ErrorCode, Grant, ListRequest, Mode, Tenure, Waiter};

/// First lease of a grant out of the queue, until the grant is claimed.
const CLAIM_TTL: Duration = Duration::from_secs(5);
/// How long the end of a verb may wait while the SDK releases locks in the background.
pub const LET_GO_WITHIN: Duration = Duration::from_millis(500);
/// Time between two cancels, if the first was refused.
const CANCEL_AGAIN: Duration = Duration::from_millis(100);
/// Signals that end a process, and that a user or program may send for this purpose.
const INTERRUPTS: [i32; 8] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGXCPU,
];

/// Makes a client of the gateways that the command line, the environment or a profile names.
///
/// # Errors
/// If it is not clear how to reach them.
pub fn connect(gateways: &Gateways) -> Result<Client, Failure> {
    connect_within(gateways, gateways.timeout)
}

/// Like [`connect`], with a separate timeout for each operation.
///
/// # Errors
/// Those of [`connect`].
pub fn connect_within(gateways: &Gateways, timeout: Duration) -> Result<Client, Failure> {
    let reach = profiles::reach(gateways)?;
    let mut options = ClientOptions::new().timeout(timeout).owner(args::default_owner());
    options.security = reach.security();
    Ok(Client::with_options(reach.endpoints, options))
}

/// Draws a new request id at random.
pub fn new_request_id() -> RequestId {
    rand::random()
}

/// Adds the hold that the command line asks for to the options.
///
/// # Errors
/// If permits are given for a lock that is no semaphore.
pub fn held_as(options: AcquireOptions, held: &args::Held) -> Result<AcquireOptions, Failure> {
    match held.mode {
        args::Mode::Semaphore => {
            let permits = held.permits.unwrap_or(1);
            Ok(options.permits(permits, held.limit.unwrap_or(permits)))
        }
        _ if held.permits.is_some() || held.limit.is_some() => {
            let next = "add --mode semaphore, or leave --permits and --limit out";
            Err(Failure::new(Exit::Usage, "INVALID_ARGUMENT", "only a semaphore has permits", next))
        }
        args::Mode::Exclusive => Ok(options.mode(Mode::Exclusive)),
        args::Mode::Shared => Ok(options.mode(Mode::Shared)),
    }
}

/// A command line as metadata, cut to the permitted length.
pub fn as_metadata(command: &[OsString]) -> String {
    let words: Vec<_> = command.iter().map(|word| word.to_string_lossy()).collect();
    let mut text = words.join(" ").replace(char::is_control, " ");
    while text.len() > METADATA_BYTES_MAX {
        text.pop();
    }
    text
}

/// Leaves the queue, and releases a lock that was granted meanwhile. The cancel is repeated until
/// it is answered or `until` has come. The result says whether it was answered. Otherwise the
/// request may still be granted, and the grant ends with its TTL.
pub async fn let_go(client: &Client, name: &str, request_id: RequestId, until: Instant) -> bool {
    let answered = async {
        loop {
            let done = match client.cancel_wait(name, request_id).await {
                Ok(Cancelled { grant: Some(grant), .. }) => {
                    client.release(name, grant.fencing_token).await.map(drop)
                }
                cancelled => cancelled.map(drop),
            };
            match done {
                Err(error) if !error.is_fenced() && !error.is_invalid() => {
                    tokio::time::sleep(CANCEL_AGAIN).await
                }
                _ => return,
            }
        }
    };
    tokio::time::timeout_at(until, answered).await.is_ok()
}

/// Listens for the signals that would end this process, except those that its caller ignores. From
/// now on these signals no longer end the process.
///
/// # Errors
/// If that is not possible.
pub fn interrupts() -> Result<Heard, Failure> {
    let listen = || {
        let at_start = AtStart::of_this_process()?;
        let heard = Signals::of(&INTERRUPTS).without(at_start.ignored);
        heard.with(at_start.blocked).block()?;
        Heard::listen(heard)
    };
    listen().map_err(|error| {
        Failure::new(Exit::Error, "SIGNALS", format!("cannot listen for signals: {error}"), "")
    })
}

/// Runs `palisade acquire`: takes a lock, and waits for it if asked to.
pub async fn acquire(args: &args::Acquire) -> Result<(), Failure> {
    let client = connect(&args.remote.gateways)?;
    let request_id = args.request_id.map_or_else(new_request_id, u128::to_be_bytes);
    let interrupts = interrupts()?;
    let owner = args.owner.clone().unwrap_or_else(args::default_owner);
    let mut options = AcquireOptions::new(&args.name)
        .owner(&owner)
        .ttl(Duration::from_millis(args.ttl.into()))
        .wait(Duration::from_millis(args.wait.into()))
        .metadata(&args.metadata)
        .request_id(request_id);
    options = held_as(options, &args.held)?;
    if args.wait > 0 {
        // The short lease keeps a command that is killed in the queue from blocking the name for a
        // whole TTL.
        options = options.claim_ttl(CLAIM_TTL);
    }
    if let Some(session) = &args.session {
        options = options.session(session);
    }
    // A terminal that is stopped must not hold up the acquire.
    let acquiring = client.acquire(options);
    let acquiring = queue::shown_while(&client, &args.name, &owner, voice::say, acquiring);
    let acquired = tokio::select! {
        acquired = acquiring => acquired,
        signal = interrupts.next() => {
            let until = Instant::now() + args.remote.gateways.timeout;
            let left = tokio::select! {
                left = let_go(&client, &args.name, request_id, until) => left,
                _ = interrupts.next() => false,
            };
            let next = match left {
                true => "the place in the queue was given up",
                false => "the place in the queue may be left for a while: nothing has answered that it was given up",
            };
            let message = format!("interrupted while acquiring {}", args.name);
            return Err(Failure::new(Exit::Signal(signal as u8), "INTERRUPTED", message, next));
        }
    };
    // The line of the progress is cleared before the grant is printed.
    voice::flush(end::WORDS_WITHIN);
    if acquired.is_err() {
        // An earlier try may be on its way. Its cancel runs in the background, which ends with this
        // process.
        let _ = tokio::time::timeout(LET_GO_WITHIN, client.let_go_of_all()).await;
    }
    let grant = acquired.map_err(|error| {
        let unknown = error.code == ErrorCode::OutcomeUnknown;
        let mut failure = Failure::from(error);
        if unknown {
            let hex = u128::from_be_bytes(request_id);
            failure.next =
                format!("run it again with --request-id {hex:032x}: at most one grant comes of it");
        }
        failure
    })?;
    if args.remote.json {
        print_json(&json::Grant::from(&grant));
    } else {
        print_grant("acquired", &grant, Times::Relative, Vec::new());
    }
    Ok(())
}

/// Runs `palisade renew`: extends the lease of a held lock.
pub async fn renew(args: &args::Renew) -> Result<(), Failure> {
    let renewal = connect(&args.remote.gateways)?.renew(&args.name, args.token).await?;
    if args.remote.json {
        print_json(&json::Renewed::new(&args.name, args.token, &renewal));
        return Ok(());
    }
    let paint = Paint::stdout();
    emit(&format!("{} {}", paint.good("renewed"), paint.bold(&shown(&args.name))));
    print_pairs(&[
        ("token", args.token.to_string()),
        ("expires", format!("in {}", show_ttl(renewal.ttl_ms))),
        ("renewals", renewal.renewal_count.to_string()),
        ("shard", renewal.shard.to_string()),
    ]);
    Ok(())
}

/// Runs `palisade check`: shows the holders of a lock.
pub async fn check(args: &args::Check) -> Result<(), Failure> {
    let consistency = match args.consistency {
        args::Consistency::Linearizable => Consistency::Linearizable,
        args::Consistency::Stale => Consistency::Stale,
    };
    let client = connect(&args.remote.gateways)?;
    let mut answer = client.check_queue(&args.name, consistency, 0, args.waiters).await?;
    if args.all {
        pages::all_holders(&client, &args.name, consistency, &mut answer).await?;
    }
    if args.remote.json {
        print_json(&json::Check::new(&args.name, &answer));
        return Ok(());
    }
    let mut about = vec![("waiters", answer.waiters.to_string())];
    if consistency == Consistency::Stale {
        about.push((
            "as of",
            format!("{} ago, by node {}", show_ms(answer.stale_by_ms), answer.answered_by),
        ));
    }
    let (paint, now) = (Paint::stdout(), wall_ms());
    match answer.holders.split_last() {
        None => {
            emit(&format!("{} {}", paint.good("free"), paint.bold(&shown(&args.name))));
            print_pairs(&[vec![("shard", answer.shard.to_string())], about].concat());
        }
        Some((last, others)) => {
            let held_for = |grant: &Grant| {
                let (since, for_ms) =
                    (date_time(grant.acquired_at_ms), now.saturating_sub(grant.acquired_at_ms));
                ("held for", format!("{}, since {since}", show_ms(for_ms)))
            };
            for grant in others {
                print_grant("held", grant, args.time, vec![held_for(grant)]);
            }
            print_grant("held", last, args.time, [vec![held_for(last)], about].concat());
        }
    }
    print_queue(&answer.queue, answer.waiters, args.time, now);
    if answer.more {
        emit(&pages::holders_left_out(&answer));
    }
    Ok(())
}

/// Prints the first waiters of a name, which has `all` of them.
fn print_queue(queue: &[Waiter], all: u32, times: Times, now_ms: u64) {
    if queue.is_empty() {
        return;
    }
    let mut rows = vec![["place", "owner", "waits"].map(String::from).to_vec()];
    for waiter in queue {
        rows.push(vec![
            waiter.place.to_string(),
            by_identity(&waiter.owner_id, &waiter.principal),
            since(waiter.queued_at_ms, times, now_ms),
        ]);
    }
    print_table(&rows);
    if queue.len() < all as usize {
        let shown = counted(queue.len() as u64, "waiter");
        emit(&format!("showing the first {shown} of {all}: --waiters shows more, up to 1000"));
    }
}

/// The time since a moment, or the moment.
fn since(at_ms: u64, times: Times, now_ms: u64) -> String {
    match times {
        Times::Relative => format!("for {}", show_ms(now_ms.saturating_sub(at_ms))),
        Times::Absolute => format!("since {}", date_time(at_ms)),
    }
}

/// Runs `palisade release`: releases a held lock.
pub async fn release(args: &args::Release) -> Result<(), Failure> {
    let released = connect(&args.remote.gateways)?.release(&args.name, args.token).await?;
    if args.remote.json {
        print_json(&json::Released::new(&args.name, args.token, &released));
        return Ok(());
    }
    let paint = Paint::stdout();
    let word = if released.already_released { "already released" } else { "released" };
    emit(&format!("{} {}", paint.good(word), paint.bold(&shown(&args.name))));
    print_pairs(&[("token", args.token.to_string()), ("shard", released.shard.to_string())]);
    Ok(())
}

/// Runs `palisade history`: shows the tenures of a lock, newest first.
pub async fn history(args: &args::History) -> Result<(), Failure> {
    let tenures = connect(&args.remote.gateways)?.history(&args.name, args.limit).await?;
    if args.remote.json {
        print_json(&json::History::new(&args.name, &tenures));
        return Ok(());
    }
    if tenures.is_empty() {
        emit(&format!(
            "nobody has held {} within the time that history is kept for",
            shown(&args.name)
        ));
        return Ok(());
    }
    let now = wall_ms();
    let mut rows = vec![
        ["token", "owner", "acquired", "", "held for", "ended", "", "renewals"]
            .map(String::from)
            .to_vec(),
    ];
    for tenure in &tenures {
        let held_until = if tenure.ended_at_ms == 0 { now } else { tenure.ended_at_ms };
        rows.push(vec![
            tenure.fencing_token.to_string(),
            by_identity(&tenure.owner_id, &tenure.principal),
            date_time(tenure.acquired_at_ms),
            match args.time {
                Times::Relative => ago(tenure.acquired_at_ms, now),
                Times::Absolute => String::new(),
            },
            show_ms(held_until.saturating_sub(tenure.acquired_at_ms)),
            if tenure.ended_at_ms == 0 { String::new() } else { date_time(tenure.ended_at_ms) },
            ending(tenure),
            tenure.renewal_count.to_string(),
        ]);
    }
    print_table(&rows);
    Ok(())
}

/// The name that a client gives itself, and its proven identity if it has one.
pub fn by_identity(said: &str, principal: &str) -> String {
    match (said, principal) {
        (said, "") => said.to_owned(),
        ("", principal) => principal.to_owned(),
        (said, principal) => format!("{said} ({principal})"),
    }
}

fn ending(tenure: &Tenure) -> String {
    let state = json::state_name(tenure.state());
    let by = by_identity(&tenure.broken_by, &tenure.broken_by_principal);
    match (by.as_str(), tenure.break_reason.as_str()) {
        _ if tenure.ended_at_ms == 0 => "holds it".into(),
        ("", "") => state.into(),
        ("", reason) => format!("{state}: {reason}"),
        (by, reason) => format!("{state} by {by}: {reason}"),
    }
}

/// Runs `palisade ls`: lists the locks of a prefix.
pub async fn list(args: &args::Ls) -> Result<(), Failure> {
    let client = connect(&args.remote.gateways)?;
    let request = ListRequest {
        prefix: args.prefix.clone(),
        limit: args.limit,
        cursor: args.cursor.clone(),
        owner: args.owner.clone().unwrap_or_default(),
        older_than_ms: args.older_than.map_or(0, |age| age.as_millis() as u64),
        waiting: args.waiting,
    };
    let listing = pages::list(&client, request, args.all).await?;
    if args.remote.json {
        print_json(&json::Listing::from(&listing));
    } else {
        let mut rows =
            vec![["name", "owner", "token", "expires", "shard"].map(String::from).to_vec()];
        for grant in &listing.grants {
            rows.push(vec![
                grant.resource_name.clone(),
                by_identity(&grant.owner_id, &grant.principal),
                grant.fencing_token.to_string(),
                expires(grant, args.time),
                grant.shard.to_string(),
            ]);
        }
        print_table(&rows);
        print_waiters(&listing.waiters, args.time);
        if listing.more {
            emit(&pages::locks_left_out(&listing));
        }
    }
    if listing.missing_shards.is_empty() {
        return Ok(());
    }
    let missing: Vec<String> = listing.missing_shards.iter().map(u32::to_string).collect();
    let these = if missing.len() == 1 { "shard" } else { "shards" };
    eprintln!(
        "warning: {these} {} could not be asked: locks there are not listed",
        missing.join(", ")
    );
    Err(Failure::already_told(Exit::Error))
}

/// Prints the waiters of a listing.
fn print_waiters(waiters: &[Waiter], times: Times) {
    if waiters.is_empty() {
        return;
    }
    let (now, mut rows) =
        (wall_ms(), vec![["name", "place", "owner", "waits"].map(String::from).to_vec()]);
    for waiter in waiters {
        rows.push(vec![
            waiter.resource_name.clone(),
            waiter.place.to_string(),
            by_identity(&waiter.owner_id, &waiter.principal),
            since(waiter.queued_at_ms, times, now),
        ]);
    }
    print_table(&rows);
}

/// Runs `palisade break`: looks up the holder, and breaks that hold and no other.
pub async fn break_lock(args: &args::Break) -> Result<(), Failure> {
    let client = connect(&args.remote.gateways)?;
    let token = match args.token {
        Some(token) => token,
        None => holding_token(&client, &args.name).await?,
    };
    let by = args.by.clone().unwrap_or_else(args::user_at_host);
    let tenure = client.break_lock(&args.name, token, &args.reason, &by).await?;
    if args.remote.json {
        print_json(&json::Tenure::from(&tenure));
        return Ok(());
    }
    let paint = Paint::stdout();
    emit(&format!("{} {}", paint.bad("broke"), paint.bold(&shown(&args.name))));
    print_pairs(&[
        ("owner", shown(&by_identity(&tenure.owner_id, &tenure.principal))),
        ("token", tenure.fencing_token.to_string()),
        ("held for", show_ms(tenure.ended_at_ms.saturating_sub(tenure.acquired_at_ms))),
        ("broken by", shown(&by_identity(&tenure.broken_by, &tenure.broken_by_principal))),
        ("reason", shown(&tenure.break_reason)),
        ("shard", tenure.shard.to_string()),
    ]);
    Ok(())
}

/// Most tokens that one message names.
const TOKENS_NAMED_MAX: usize = 20;

async fn holding_token(client: &Client, name: &str) -> Result<u64, Failure> {
    let checked = client.check(name, Consistency::Linearizable).await?;
    let holders = checked.holders;
    match holders.as_slice() {
        [] => Err(Failure::new(
            Exit::Error,
            "NOT_HELD",
            format!("nobody holds {name}"),
            "there is nothing to break",
        )),
        [only] => Ok(only.fencing_token),
        several => {
            let named = several.iter().take(TOKENS_NAMED_MAX);
            let tokens: Vec<String> = named.map(|grant| grant.fencing_token.to_string()).collect();
            let others = if tokens.len() < checked.holder_count as usize { ", …" } else { "" };
            let holders = counted(checked.holder_count, "holder");
            let message =
                format!("{name} has {holders}, with tokens {}{others}", tokens.join(", "));
            Err(Failure::new(
                Exit::Usage,
                "SEVERAL_HOLDERS",
                message,
                "name the one to break with --token",
            ))
        }
    }
}

fn show_ttl(ttl_ms: u32) -> String {
    show_ms(ttl_ms.into())
}
