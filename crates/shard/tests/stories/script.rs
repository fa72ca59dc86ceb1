//! The language of the scripts.
//!
//! A block is a moment: its lines happen in their order and at the same time, then everything
//! travels until nothing is under way. `do` begins a block, `do messages` one that is traced with
//! all messages between nodes and all that reaches a disk; in a block that `hold` begins, nothing
//! travels by itself.
//!
//! ```text
//! nodes 3 [keep_log_bytes=N]           replicas n1, n2, … of one shard; n1 is to lead. Log kept below a checkpoint
//!         [append_hold_ms=N]           and how long appends for spare followers wait; 0 if not said
//! run 500ms | run 2s                   time passes in ticks of 50 ms, and everything travels after each
//! pass 10ms                            as much time, and no tick
//! tick                                 one tick, of which nobody has made anything yet
//! step n1                              n1 takes what has come to it; what it sends arrives, and nobody else moves
//! crash n1 | start n1                  power cut: all that was not synced is gone
//! flush n1                             its checkpoints so far are on disk too: a crash may take the last of them back otherwise
//! reseed n1                            it loses its disk, starts on an empty one, and everybody hears of that
//! add n4#7                             an empty replica of birth 7 starts on a further node; it is no member
//! want n1 n2 n4#7 version=2 [at=n1]    the host's wish for these members, told to the leader or to a node
//! level 2 [at=n1]                      the host has heard of a level, told to the leader or to a node
//! pause n1 | resume n1                 stopped like by SIGSTOP: what is sent to it waits, its clock runs on
//! isolate n1 | cut n1 n2 | heal        nothing passes between them; heal mends all
//! disk n2 hangs | disk n2 works        writes wait
//! campaign n2 | transfer n3            n2 is to ask for votes; the leader is to hand over to n3
//! compare                              have all nodes that run the same table?
//! c1 acquire a [ttl=30s] [wait=10s] [mode=shared] [permits=1/3] [session=s1] [claim=500ms]
//! c1 retry a                           the same acquire once more: the same request id
//! c1 renew a | c1 release a            with the last token that c1 was given for a, or [token=N]
//! c1 check a [stale] | c1 cancel a | c1 break a token=N reason=WORD
//! c1 heartbeat s1 [life=N [seen=N]]    of any life, or of one, with so many of its broken grants seen
//! c1 close s1
//! c1 hangs_up                          its stream is gone; nobody hears the answers
//! ```
//! An operation is asked by an identity with `as=NAME`, whose quota of locks is `locks=N`. A cancel is of
//! the client's own acquire, or `of=c2`. Whatever a client asks goes to the leader, or with `at=n2` to a node.

use crate::stage::Stage;
use datadriven::TestCase;
use locks::{Caller, Command, LeaseId, Mode, Quota, RequestId, Token};
use palisade_shard::{Input, Query, Wait, Wanted};
use routing::NodeId;
use std::collections::BTreeMap;

type Result<T> = std::result::Result<T, String>;

/// What a client asked for when it last acquired a name, so that it can try again.
#[derive(Clone)]
struct Acquire {
    request_id: RequestId,
    ttl_ms: u32,
    wait_ms: u32,
    mode: Mode,
    session: String,
    claim_ttl_ms: u32,
}

#[derive(Default)]
pub struct Script {
    stage: Option<Stage>,
    acquires: BTreeMap<(String, String), Acquire>,
}

impl Script {
    /// Runs a block. Returns its trace.
    pub fn run(&mut self, block: &mut TestCase) -> Result<String> {
        let messages = block.take_flag("messages").map_err(|error| error.to_string())?;
        block.expect_empty().map_err(|error| error.to_string())?;
        let settles = match block.directive.as_str() {
            "do" => true,
            "hold" => false,
            other => return Err(format!("a block begins with do or hold, not {other}")),
        };
        if let Some(stage) = &mut self.stage {
            stage.messages = messages;
        }
        for line in block.input.lines() {
            self.line(line).map_err(|error| format!("{line}: {error}"))?;
        }
        let stage = self.stage()?;
        if settles {
            stage.settle();
        }
        Ok(stage.take_lines())
    }

    fn stage(&mut self) -> Result<&mut Stage> {
        self.stage.as_mut().ok_or_else(|| "a script begins with nodes N".to_owned())
    }

    fn line(&mut self, line: &str) -> Result<()> {
        let mut words = Words::new(line);
        let first = words.next()?;
        match first {
            "nodes" => {
                let count = number(words.next()?)?;
                let mut value =
                    |key: &str, default: &'static str| number(words.value(key).unwrap_or(default));
                self.stage = Some(Stage::new(
                    count,
                    value("keep_log_bytes", "1048576")?,
                    value("append_hold_ms", "0")?,
                ));
            }
            "run" => {
                let ms = milliseconds(words.next()?)?;
                self.stage()?.run_ms(ms.into());
            }
            "pass" => {
                let ms = milliseconds(words.next()?)?;
                self.stage()?.pass_ms(ms.into());
            }
            "tick" => self.stage()?.tick(),
            "compare" => self.stage()?.compare(),
            "add" => {
                let (id, birth) = member(words.next()?)?;
                self.stage()?.add(id, birth);
            }
            "want" => {
                let version = number(words.value("version").ok_or("say version=N")?)?;
                let at = words.value("at").map(node).transpose()?;
                let at = at.or(self.stage()?.cluster.leader()).ok_or("nobody leads: say at=n1")?;
                let mut members = Vec::new();
                while let Ok(word) = words.next() {
                    let (id, birth) = member(word)?;
                    members.push((NodeId(id), birth));
                }
                let wanted = Wanted::new(version, members).map_err(|error| error.to_string())?;
                self.stage()?.put(at, Input::Want(wanted));
            }
            "level" => {
                let level = number(words.next()?)?;
                let level = u32::try_from(level).map_err(|error| error.to_string())?;
                let at = words.value("at").map(node).transpose()?;
                let at = at.or(self.stage()?.cluster.leader()).ok_or("nobody leads: say at=n1")?;
                self.stage()?.put(at, Input::Level(level));
            }
            "heal" => self.stage()?.cluster.cut.clear(),
            "step" | "crash" | "start" | "flush" | "reseed" | "pause" | "resume" | "isolate"
            | "campaign" | "transfer" | "disk" | "cut" => {
                let id = node(words.next()?)?;
                self.node(first, id, &mut words)?;
            }
            client if client.strip_prefix('c').is_some_and(|rest| rest.parse::<u32>().is_ok()) => {
                let verb = words.next()?;
                self.client(client, verb, &mut words)?;
            }
            other => return Err(format!("{other} is no word of this language")),
        }
        words.end()
    }

    fn node(&mut self, verb: &str, id: u64, words: &mut Words<'_>) -> Result<()> {
        let stage = self.stage()?;
        match verb {
            "step" => stage.step_alone(id),
            "crash" => stage.crash(id),
            "start" => stage.start(id),
            "flush" => stage.cluster.peers[&id].engine.flush(),
            "reseed" => stage.reseed(id),
            "pause" => stage.pause(id, true),
            "resume" => stage.pause(id, false),
            "isolate" => stage.cluster.isolate(id),
            "campaign" => stage.put(id, Input::Campaign),
            "transfer" => {
                let leader = stage.cluster.leader().ok_or("nobody leads")?;
                stage.put(leader, Input::Transfer { to: NodeId(id) });
            }
            "cut" => {
                let other = node(words.next()?)?;
                stage.cluster.cut.extend([(id, other), (other, id)]);
            }
            _ => {
                let works = match words.next()? {
                    "works" => true,
                    "hangs" => false,
                    other => return Err(format!("a disk works or hangs, not {other}")),
                };
                stage.cluster.peers.get_mut(&id).ok_or("no such node")?.disk_works = works;
            }
        }
        Ok(())
    }

    fn client(&mut self, client: &str, verb: &str, words: &mut Words<'_>) -> Result<()> {
        if verb == "hangs_up" {
            self.stage()?.hang_up(client);
            return Ok(());
        }
        let subject = words.next()?;
        let at = match words.value("at") {
            Some(at) => node(at)?,
            None => self.stage()?.cluster.leader().ok_or("nobody leads: say at=n1")?,
        };
        let what = format!("{verb} {subject}");
        match verb {
            "acquire" | "retry" => return self.acquire(client, at, what, subject, words),
            "check" => {
                let linearizable = !words.flag("stale");
                let stage = self.stage()?;
                let ticket = stage.ask(client, at, what, None);
                stage.put(at, Input::Read { ticket, query: Query::check(subject), linearizable });
                return Ok(());
            }
            _ => {}
        }
        let token = match words.value("token") {
            Some(token) => Some(number(token)?),
            None => self.stage()?.token(client, subject),
        };
        let token = || {
            token
                .map(Token)
                .ok_or_else(|| format!("{client} was given no token for {subject}: say token=N"))
        };
        let command = match verb {
            "renew" => Command::Renew { name: subject, token: token()? },
            "release" => Command::Release { name: subject, token: token()?, by: Some(LeaseId(0)) },
            "heartbeat" => {
                let life = words.value("life").map_or(Ok(0), number)?;
                Command::Heartbeat {
                    session: subject,
                    life: LeaseId(life),
                    broken_seen: words.value("seen").map_or(Ok(0), number)?,
                }
            }
            "close" => Command::CloseSession { session: subject },
            "cancel" => {
                let of = words.value("of").unwrap_or(client);
                let acquire = self
                    .acquires
                    .get(&(of.to_owned(), subject.to_owned()))
                    .ok_or("nothing to cancel")?;
                Command::CancelWait {
                    name: subject,
                    request_id: acquire.request_id,
                    given_up: true,
                }
            }
            "break" => {
                let reason = words.value("reason").ok_or("say reason=WORD")?;
                Command::Break { name: subject, token: token()?, by: client, reason }
            }
            other => return Err(format!("clients do not {other}")),
        };
        self.propose(client, at, what, &command, None, words)
    }

    fn acquire(
        &mut self,
        client: &str,
        at: u64,
        what: String,
        name: &str,
        words: &mut Words<'_>,
    ) -> Result<()> {
        let key = (client.to_owned(), name.to_owned());
        let acquire = if what.starts_with("retry") {
            self.acquires.get(&key).cloned().ok_or("nothing to try again")?
        } else {
            Acquire {
                request_id: self.stage()?.cluster.request_id(),
                ttl_ms: milliseconds(words.value("ttl").unwrap_or("30s"))?,
                wait_ms: words.value("wait").map_or(Ok(0), milliseconds)?,
                mode: mode(words)?,
                session: words.value("session").unwrap_or_default().to_owned(),
                claim_ttl_ms: words.value("claim").map_or(Ok(0), milliseconds)?,
            }
        };
        self.acquires.insert(key, acquire.clone());
        let Acquire { request_id, ttl_ms, wait_ms, mode, session, claim_ttl_ms } = acquire;
        self.stage()?.name_request(request_id, format!("{client}'s wait for {name}"));
        let command = Command::Acquire {
            request_id,
            name,
            owner: client,
            ttl_ms,
            mode,
            wait: wait_ms > 0,
            session: &session,
            metadata: "",
            claim_ttl_ms,
        };
        let wait = (wait_ms > 0).then_some(Wait { request_id, wait_ms });
        self.propose(client, at, what, &command, wait, words)
    }

    fn propose(
        &mut self,
        client: &str,
        at: u64,
        what: String,
        command: &Command<'_>,
        wait: Option<Wait>,
        words: &mut Words<'_>,
    ) -> Result<()> {
        locks::validate(command).map_err(|error| error.to_string())?;
        let mut caller = Caller::of(words.value("as").unwrap_or_default());
        if let Some(locks) = words.value("locks") {
            let locks = locks.parse().map_err(|_| format!("{locks} is no number"))?;
            caller.quota = Quota { locks, ..Quota::default() };
        }
        let mut bytes = Vec::new();
        command.encode_as(caller, &mut bytes);
        let stage = self.stage()?;
        let name = match command {
            Command::Acquire { name, .. } => Some(*name),
            _ => None,
        };
        let ticket = stage.ask(client, at, what, name);
        stage.put(at, Input::Propose { ticket, command: bytes, wait, give_up_at_ms: u64::MAX });
        Ok(())
    }
}

/// The words of a line. All must have been used at its end.
struct Words<'a> {
    left: Vec<&'a str>,
}

impl<'a> Words<'a> {
    fn new(line: &'a str) -> Words<'a> {
        Words { left: line.split_whitespace().collect() }
    }

    /// The next word that is no `key=value`.
    fn next(&mut self) -> Result<&'a str> {
        let at =
            self.left.iter().position(|word| !word.contains('=')).ok_or("a word is missing")?;
        Ok(self.left.remove(at))
    }

    fn value(&mut self, key: &str) -> Option<&'a str> {
        let at = self
            .left
            .iter()
            .position(|word| word.split_once('=').is_some_and(|(k, _)| k == key))?;
        Some(self.left.remove(at).split_once('=').expect("just seen").1)
    }

    fn flag(&mut self, flag: &str) -> bool {
        let at = self.left.iter().position(|word| *word == flag);
        at.map(|at| self.left.remove(at)).is_some()
    }

    fn end(self) -> Result<()> {
        if self.left.is_empty() {
            Ok(())
        } else {
            Err(format!("not understood: {}", self.left.join(" ")))
        }
    }
}

fn node(word: &str) -> Result<u64> {
    number(word.strip_prefix('n').ok_or_else(|| format!("{word} is no node: write n1"))?)
}

/// A node and the birth of the replica there: `n4#7`, or `n4` for birth 0.
fn member(word: &str) -> Result<(u64, u32)> {
    let (id, birth) = word.split_once('#').unwrap_or((word, "0"));
    let birth = birth.parse().map_err(|_| format!("{birth} is no birth"))?;
    Ok((node(id)?, birth))
}

fn number(word: &str) -> Result<u64> {
    word.parse().map_err(|_| format!("{word} is no number"))
}

fn milliseconds(word: &str) -> Result<u32> {
    let (digits, factor) = match (word.strip_suffix("ms"), word.strip_suffix('s')) {
        (Some(digits), _) => (digits, 1),
        (None, Some(digits)) => (digits, 1_000),
        (None, None) => return Err(format!("{word} is no time: write 500ms or 2s")),
    };
    digits
        .parse::<u32>()
        .map(|number| number * factor)
        .map_err(|_| format!("{word} is no time: write 500ms or 2s"))
}

fn mode(words: &mut Words<'_>) -> Result<Mode> {
    if let Some(permits) = words.value("permits") {
        let (count, limit) = permits.split_once('/').ok_or("permits are COUNT/LIMIT")?;
        let parse = |part: &str| part.parse::<u32>().map_err(|_| format!("{part} is no number"));
        return Ok(Mode::Permits { count: parse(count)?, limit: parse(limit)? });
    }
    match words.value("mode") {
        None | Some("exclusive") => Ok(Mode::Exclusive),
        Some("shared") => Ok(Mode::Shared),
        Some(other) => Err(format!("{other} is no mode: write exclusive or shared")),
    }
}
