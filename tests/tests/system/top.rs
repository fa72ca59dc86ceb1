//! `palisade top` in a terminal, against a cluster.

use client::{AcquireOptions, Client};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{Termios, tcgetattr};
use nix::unistd::Pid;
use palisade_tests::{Cluster, Spec, eventually, ignores, palisade_binary};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Enters the alternate screen, and leaves it.
const ENTERED: &str = "\x1b[?1049h";
const LEFT: &str = "\x1b[?1049l";
const COLUMNS: usize = 80;
const LINES: usize = 24;

/// What a terminal shows. It knows the few sequences that a full screen needs: to move, to clear,
/// and to ignore all others. Each character has one column.
struct Screen {
    cells: [[char; COLUMNS]; LINES],
    line: usize,
    column: usize,
    /// A sequence that has begun.
    sequence: String,
    /// All that was written.
    written: String,
}

impl Screen {
    fn new() -> Screen {
        let cells = [[' '; COLUMNS]; LINES];
        Screen { cells, line: 0, column: 0, sequence: String::new(), written: String::new() }
    }

    fn take(&mut self, text: &str) {
        self.written.push_str(text);
        text.chars().for_each(|c| self.take_one(c));
    }

    fn take_one(&mut self, c: char) {
        match (self.sequence.as_str(), c) {
            (_, '\x1b') => self.sequence = c.to_string(),
            ("", c) if c.is_control() => {}
            ("", c) => {
                if let Some(cell) =
                    self.cells.get_mut(self.line).and_then(|line| line.get_mut(self.column))
                {
                    *cell = c;
                }
                self.column += 1;
            }
            ("\x1b", '[') => self.sequence.push(c),
            ("\x1b", _) => self.sequence.clear(),
            (_, '\x40'..='\x7e') => self.end_of_sequence(c),
            (_, c) => self.sequence.push(c),
        }
    }

    fn end_of_sequence(&mut self, last: char) {
        let sequence = std::mem::take(&mut self.sequence);
        let mut numbers = sequence[2..].split(';').map(|text| text.parse().unwrap_or(1));
        match last {
            'H' => {
                let mut next = || numbers.next().unwrap_or(1usize).saturating_sub(1);
                (self.line, self.column) = (next(), next());
            }
            'J' => self.cells = [[' '; COLUMNS]; LINES],
            'h' | 'l' if sequence.ends_with("?1049") => self.cells = [[' '; COLUMNS]; LINES],
            _ => {}
        }
    }

    fn lines(&self) -> String {
        self.cells.map(|line| line.iter().collect::<String>()).join("\n")
    }
}

/// A terminal with `palisade top` in it.
struct Terminal {
    top: Child,
    slave: OwnedFd,
    keys: File,
    screen: Arc<Mutex<Screen>>,
    before: Termios,
}

impl Terminal {
    fn start(cluster: &Cluster, args: &[&str]) -> Terminal {
        let (ws_row, ws_col) = (LINES as u16, COLUMNS as u16);
        let size = Winsize { ws_row, ws_col, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None).expect("a terminal");
        let before = tcgetattr(&pty.slave).expect("its modes");
        let side = |stream: &OwnedFd| File::from(stream.try_clone().expect("a terminal's side"));
        let top = Command::new(palisade_binary())
            .args(["top", "--interval", "500ms"])
            .args(args)
            .env("PALISADE_ENDPOINT", cluster.endpoints())
            .env("TERM", "xterm-256color")
            .stdin(side(&pty.slave))
            .stdout(side(&pty.slave))
            .stderr(side(&pty.slave))
            .spawn()
            .expect("start palisade top");
        let (screen, mut written) = (Arc::new(Mutex::new(Screen::new())), side(&pty.master));
        let shown = screen.clone();
        std::thread::spawn(move || {
            let (mut bytes, mut rest) = ([0; 65_536], Vec::new());
            while let Ok(count @ 1..) = written.read(&mut bytes) {
                rest.extend_from_slice(&bytes[..count]);
                // The last character may have come in part.
                let whole = rest.utf8_chunks().next().map_or("", |chunk| chunk.valid()).to_owned();
                rest.drain(..whole.len());
                shown.lock().expect("no panic").take(&whole);
            }
        });
        Terminal { top, slave: pty.slave, keys: File::from(pty.master), screen, before }
    }

    fn types(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("type");
    }

    fn written(&self) -> String {
        self.screen.lock().expect("no panic").written.clone()
    }

    /// Waits until the screen has this text.
    async fn shows(&self, text: &str) {
        let what = format!("{text:?} on the screen");
        let has = async || self.screen.lock().ok()?.lines().contains(text).then_some(());
        eventually(&what, has).await;
    }

    /// Waits for the end. The terminal must be as it was before.
    async fn ends_with(mut self, code: i32) {
        let status = eventually("the end", async || self.top.try_wait().expect("its state")).await;
        assert_eq!(status.code(), Some(code), "{}", self.written());
        eventually("the alternate screen is left", async || {
            self.written().contains(LEFT).then_some(())
        })
        .await;
        assert!(self.written().contains("\x1b[?25h"), "the cursor is shown again");
        assert_eq!(tcgetattr(&self.slave).expect("its modes"), self.before);
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // An error means that it has ended, and was reaped.
        let _ = self.top.kill();
        let _ = self.top.wait();
    }
}

/// Takes a lock for long.
async fn hold(client: &Client, name: &str, owner: &str) -> u64 {
    let options = AcquireOptions::new(name).owner(owner).ttl(Duration::from_secs(3_600));
    client.acquire(options).await.expect("a grant").fencing_token
}

#[tokio::test(flavor = "multi_thread")]
async fn the_screen_follows_the_cluster_and_the_terminal_is_given_back() {
    let mut cluster = Cluster::start(Spec::default()).await;
    let client = cluster.client();
    hold(&client, "top:first", "ann").await;
    hold(&client, "evil\u{202e}name", "eve").await;
    let mut terminal = Terminal::start(&cluster, &[]);
    terminal.shows("top:first").await;
    terminal.shows("evil\\u{202e}").await;
    assert!(!terminal.written().contains('\u{202e}'), "no name can reorder its line");

    hold(&client, "top:second", "bob").await;
    terminal.shows("top:second").await;

    // A prefix, and the lock that it leaves.
    terminal.types("/top:f\r");
    terminal.shows("1–1 of 1  1 held").await;
    terminal.types("\r");
    terminal.shows("HOLDERS").await;
    terminal.shows("HISTORY").await;
    // Esc at once before another key would be Alt with that key.
    terminal.types("\x7f");

    // The shards and the nodes.
    terminal.types("2");
    terminal.shows("LEADER").await;
    terminal.types("3");
    terminal.shows("ADDRESS").await;
    terminal.types("1");

    // The gateway goes and comes back.
    cluster.kill_gateway(1);
    terminal.shows("NOT CONNECTED").await;
    terminal.shows("No answer for").await;
    cluster.start_gateway(1);
    terminal.shows("  connected").await;

    terminal.types("q");
    terminal.ends_with(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_and_control_c_give_the_terminal_back() {
    let cluster = Cluster::start(Spec::default()).await;
    let heard = |signal: &Signal| !ignores("self", *signal as i32);
    for signal in [Signal::SIGTERM, Signal::SIGHUP].into_iter().filter(heard) {
        let terminal = Terminal::start(&cluster, &[]);
        terminal.shows("palisade").await;
        kill(Pid::from_raw(terminal.top.id() as i32), signal).expect("send the signal");
        terminal.ends_with(128 + signal as i32).await;
    }
    let mut terminal = Terminal::start(&cluster, &[]);
    terminal.shows("palisade").await;
    terminal.types("\x03");
    terminal.ends_with(0).await;
}

/// Regression: a terminal that was taken over again was asked for the place of its cursor, and the
/// thread that reads keys took the answer.
#[tokio::test(flavor = "multi_thread")]
async fn control_z_gives_the_terminal_back_until_the_process_goes_on() {
    let cluster = Cluster::start(Spec::default()).await;
    let mut terminal = Terminal::start(&cluster, &[]);
    terminal.shows("palisade top").await;
    terminal.types("\x1a");
    eventually("the alternate screen is left", async || {
        terminal.written().contains(LEFT).then_some(())
    })
    .await;
    let pid = Pid::from_raw(terminal.top.id() as i32);
    eventually("the terminal is taken over again", async || {
        // It does not stop if nothing could continue it, such as a shell in its session.
        kill(pid, Signal::SIGCONT).expect("continue it");
        (terminal.written().matches(ENTERED).count() == 2).then_some(())
    })
    .await;
    terminal.shows("palisade top").await;
    terminal.types("q");
    terminal.ends_with(0).await;
}

#[test]
fn without_a_terminal_it_says_what_to_do() {
    let output = Command::new(palisade_binary())
        .args(["top", "--endpoint", "127.0.0.1:1"])
        .env("TERM", "xterm")
        .stdin(Stdio::null())
        .output()
        .expect("start palisade top");
    let said = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(2), &b""[..]));
    assert!(said.starts_with("error: standard input is no terminal\n  next: "), "{said}");
    assert!(said.contains("palisade cluster status --json"), "{said}");
}
