//! The state of the screen: the answers of the cluster, and the choices of the user.
//!
//! It takes keys and news, and answers with the next task. It draws nothing, sends nothing and
//! reads no clock.

use super::cluster::{Cluster, NodeOrder, ShardOrder};
use super::cursor::{Cursor, Step};
use super::gateways::Gateways;
use super::locks::{LockOrder, Locks, Ranking, Row};
use super::moment::Moment;
use super::news::{LockAnswer, News, Watched};
use crate::failure::{Exit, Failure};
use client::{Checked, Tenure};
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

/// Rows of a ranking. A search by prefix finds the names after them.
const ROWS_MAX: usize = 1_000;
/// Rows of the rankings beside the list.
const SIDE_ROWS_MAX: usize = 50;
/// Longest prefix that can be typed. Names are not longer.
const PREFIX_BYTES_MAX: usize = wire::limits::NAME_BYTES_MAX;

/// The contents of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pane {
    Locks,
    Shards,
    Nodes,
}

impl Pane {
    pub const ALL: [Pane; 3] = [Pane::Locks, Pane::Shards, Pane::Nodes];
}

/// The task of the loop after a key, or after news.
#[derive(Debug)]
pub enum Ask {
    Quit,
    Suspend,
    /// Watch anew, with the present prefix.
    Watch,
    /// End the watch.
    EndWatch,
    /// Ask about this lock, until told to close.
    Open(String),
    Close,
    /// Ask for all anew, at once.
    Again,
    /// End the program.
    Fail(Failure),
}

/// The state of the watch.
#[derive(Debug)]
pub enum WatchLink {
    Opening,
    Open,
    Lost(Moment),
    Refused(Failure),
    /// There are more names than are kept, so the watch was ended.
    Full,
}

/// The lock that is open.
#[derive(Debug)]
pub struct Opened {
    pub name: String,
    pub checked: Option<(Moment, Checked)>,
    pub history: Option<Vec<Tenure>>,
    pub failure: Option<Failure>,
    pub cursor: Cursor,
}

/// How the program was started.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The gateways, for the first line.
    pub gateways: String,
    pub interval_ms: u64,
    /// Whether metrics of gateways are read.
    pub has_metrics: bool,
    pub prefix: String,
}

/// All that is on the screen.
#[derive(Debug)]
pub struct Top {
    pub setup: Setup,
    pub prefix: String,
    /// The prefix that is being typed.
    pub typed: Option<String>,
    pub pane: Pane,
    pub lock_order: LockOrder,
    pub shard_order: ShardOrder,
    pub node_order: NodeOrder,
    pub has_help: bool,
    pub is_paused: bool,
    pub opened: Option<Opened>,
    cursors: [Cursor; Pane::ALL.len()],
    pub locks: Locks,
    pub ranking: Ranking,
    /// The rankings in the other orders, if there is room for them.
    pub sides: Vec<(LockOrder, Ranking)>,
    has_sides: bool,
    pub cluster: Option<Cluster>,
    /// Since when no status came, and why.
    pub status_failure: Option<(Moment, Failure)>,
    pub gateways: Gateways,
    pub watch: WatchLink,
    /// The number of the present watch.
    number: u64,
}

impl Top {
    pub fn new(setup: Setup, now: Moment) -> Top {
        Top {
            prefix: setup.prefix.clone(),
            setup,
            typed: None,
            pane: Pane::Locks,
            lock_order: LockOrder::Changes,
            shard_order: ShardOrder::Number,
            node_order: NodeOrder::File,
            has_help: false,
            is_paused: false,
            opened: None,
            cursors: Default::default(),
            locks: Locks::new(now),
            ranking: Ranking::default(),
            sides: Vec::new(),
            has_sides: false,
            cluster: None,
            status_failure: None,
            gateways: Gateways::default(),
            watch: WatchLink::Opening,
            number: 0,
        }
    }

    /// The number of the present watch.
    pub fn number(&self) -> u64 {
        self.number
    }

    pub fn cursor(&self) -> &Cursor {
        &self.cursors[self.pane as usize]
    }

    /// The number of rows of the present list.
    pub fn rows(&self) -> usize {
        let status = self.cluster.as_ref().map(|cluster| &cluster.status);
        match self.pane {
            Pane::Locks => self.ranking.rows.len(),
            Pane::Shards => status.map_or(0, |status| status.shards.len()),
            Pane::Nodes => status.map_or(0, |status| status.nodes.len()),
        }
    }

    /// Sets the rows on the screen, and whether there is room for further rankings.
    pub fn resize(&mut self, height: usize, has_sides: bool, now: Moment) {
        let len = self.rows();
        self.cursors[self.pane as usize].resize(len, height);
        if self.has_sides != has_sides {
            self.has_sides = has_sides;
            self.rank_sides(now);
        }
    }

    /// Puts the names in order anew, unless the user has paused that.
    pub fn rank(&mut self, now: Moment) {
        self.locks.prune(now);
        if self.is_paused {
            return;
        }
        let selected = self.selected().map(|row| row.name.clone());
        self.ranking = self.locks.rank(self.lock_order, ROWS_MAX, now);
        self.rank_sides(now);
        let cursor = &mut self.cursors[Pane::Locks as usize];
        let at = cursor.selected();
        // The first row stays the first. Any other selection follows its name.
        let found = selected
            .filter(|_| at > 0)
            .and_then(|name| self.ranking.rows.iter().position(|row| row.name == name));
        cursor.resize(self.ranking.rows.len(), cursor.height());
        cursor.select(found.unwrap_or(at));
    }

    fn rank_sides(&mut self, now: Moment) {
        self.sides.clear();
        if !self.has_sides {
            return;
        }
        for order in [LockOrder::Changes, LockOrder::Queue, LockOrder::Hold] {
            if order != self.lock_order {
                self.sides.push((order, self.locks.rank(order, SIDE_ROWS_MAX, now)));
            }
        }
    }

    /// The selected name.
    fn selected(&self) -> Option<&Row> {
        self.ranking.rows.get(self.cursors[Pane::Locks as usize].selected())
    }

    /// Takes news.
    pub fn take(&mut self, news: News, now: Moment) -> Option<Ask> {
        match news {
            News::Watch { number, watched } => self.take_watched(number, watched, now),
            News::Status(Ok(status)) => {
                self.cluster = Some(Cluster::new(&status, now, self.cluster.as_ref()));
                self.status_failure = None;
                None
            }
            News::Status(Err(error)) => {
                let is_invalid = error.is_invalid();
                let failure = Failure::from(error);
                if is_invalid {
                    // Such as an endpoint that is no address: no later try can succeed.
                    return Some(Ask::Fail(failure));
                }
                let since = self.status_failure.as_ref().map_or(now, |(since, _)| *since);
                self.status_failure = Some((since, failure));
                None
            }
            News::Lock { name, answer } => {
                self.take_lock(&name, *answer, now);
                None
            }
            News::Metrics(answers) => {
                self.gateways.take(answers, now);
                None
            }
        }
    }

    fn take_watched(&mut self, number: u64, watched: Watched, now: Moment) -> Option<Ask> {
        if number != self.number {
            return None;
        }
        match watched {
            Watched::Open => {
                if matches!(self.watch, WatchLink::Lost(_)) {
                    // Nothing was told meanwhile, which is no rate of zero.
                    self.locks.count_anew(now);
                }
                self.watch = WatchLink::Open;
            }
            Watched::Lost if matches!(self.watch, WatchLink::Lost(_)) => {}
            Watched::Lost => self.watch = WatchLink::Lost(now),
            Watched::Refused(error) => self.watch = WatchLink::Refused(error.into()),
            Watched::Told(told) => {
                self.watch = WatchLink::Open;
                self.locks.take(&told, now);
                if self.ranking.rows.is_empty() {
                    // The first names are shown at once.
                    self.rank(now);
                }
                if self.locks.is_full() {
                    self.forget_locks(now);
                    self.watch = WatchLink::Full;
                    return Some(Ask::EndWatch);
                }
            }
        }
        None
    }

    fn take_lock(&mut self, name: &str, answer: LockAnswer, now: Moment) {
        let Some(opened) = self.opened.as_mut().filter(|opened| opened.name == name) else {
            return;
        };
        opened.failure = None;
        match answer.checked {
            Ok(checked) => opened.checked = Some((now, checked)),
            Err(error) => opened.failure = Some(error.into()),
        }
        match answer.history {
            Ok(history) => opened.history = Some(history),
            Err(error) => opened.failure = Some(opened.failure.take().unwrap_or(error.into())),
        }
    }

    /// Since when the cluster has not answered, and why. A refusal is an answer.
    pub fn is_cut_off(&self) -> Option<(Moment, &Failure)> {
        let (since, failure) = self.status_failure.as_ref()?;
        (failure.exit != Exit::Denied).then_some((*since, failure))
    }

    /// The reason why the cluster's state is not told to this client.
    pub fn is_denied_status(&self) -> Option<&Failure> {
        let (_, failure) = self.status_failure.as_ref()?;
        (failure.exit == Exit::Denied).then_some(failure)
    }

    /// Whether a watch tells the locks, or did until its connection broke.
    pub fn is_told_locks(&self) -> bool {
        matches!(self.watch, WatchLink::Open | WatchLink::Lost(_))
    }

    fn forget_locks(&mut self, now: Moment) {
        self.locks = Locks::new(now);
        self.ranking = Ranking::default();
        self.sides.clear();
        self.is_paused = false;
        self.cursors[Pane::Locks as usize] = Cursor::default();
        // News that the former watch has sent already is out of date.
        self.number += 1;
        self.watch = WatchLink::Opening;
    }

    /// Takes a key.
    pub fn key(&mut self, key: KeyEvent, now: Moment) -> Option<Ask> {
        if key.kind == KeyEventKind::Release {
            return None;
        }
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            match key.code {
                KeyCode::Char('c') => return Some(Ask::Quit),
                KeyCode::Char('z') => return Some(Ask::Suspend),
                _ => {}
            }
        }
        if self.typed.is_some() {
            return self.key_typed(key, now);
        }
        if self.has_help {
            // Any key closes the help.
            self.has_help = false;
            return None;
        }
        match key.code {
            KeyCode::Char('q') => return Some(Ask::Quit),
            KeyCode::Char('?') | KeyCode::F(1) => self.has_help = true,
            KeyCode::Char('r') => return Some(Ask::Again),
            KeyCode::Up | KeyCode::Char('k') => self.step(Step::Up),
            KeyCode::Down | KeyCode::Char('j') => self.step(Step::Down),
            KeyCode::PageUp => self.step(Step::PageUp),
            KeyCode::PageDown | KeyCode::Char(' ') => self.step(Step::PageDown),
            KeyCode::Home | KeyCode::Char('g') => self.step(Step::First),
            KeyCode::End | KeyCode::Char('G') => self.step(Step::Last),
            _ if self.opened.is_some() => return self.key_opened(key),
            _ => return self.key_list(key, now),
        }
        None
    }

    fn key_opened(&mut self, key: KeyEvent) -> Option<Ask> {
        let closes = [KeyCode::Esc, KeyCode::Backspace, KeyCode::Left, KeyCode::Char('h')];
        closes.contains(&key.code).then(|| {
            self.opened = None;
            Ask::Close
        })
    }

    fn key_list(&mut self, key: KeyEvent, now: Moment) -> Option<Ask> {
        let pane = self.pane as usize;
        match key.code {
            KeyCode::Tab | KeyCode::Right => self.pane = next(&Pane::ALL, self.pane),
            KeyCode::BackTab | KeyCode::Left => {
                self.pane = Pane::ALL[(pane + Pane::ALL.len() - 1) % Pane::ALL.len()];
            }
            KeyCode::Char(digit @ '1'..='3') => {
                self.pane = Pane::ALL[digit as usize - '1' as usize];
            }
            KeyCode::Char('/') => self.typed = Some(self.prefix.clone()),
            KeyCode::Char('s') => self.next_order(now),
            KeyCode::Char('c') => self.order_locks(LockOrder::Changes, now),
            KeyCode::Char('w') => self.order_locks(LockOrder::Queue, now),
            KeyCode::Char('o') => self.order_locks(LockOrder::Hold, now),
            KeyCode::Char('n') => self.order_locks(LockOrder::Name, now),
            KeyCode::Char('p') => {
                self.is_paused = !self.is_paused;
                self.rank(now);
            }
            KeyCode::Enter if self.pane == Pane::Locks => return self.open(),
            _ => {}
        }
        None
    }

    fn open(&mut self) -> Option<Ask> {
        let name = self.selected()?.name.clone();
        self.opened = Some(Opened {
            name: name.clone(),
            checked: None,
            history: None,
            failure: None,
            cursor: Cursor::default(),
        });
        Some(Ask::Open(name))
    }

    fn key_typed(&mut self, key: KeyEvent, now: Moment) -> Option<Ask> {
        let typed = self.typed.as_mut()?;
        let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Esc => self.typed = None,
            KeyCode::Backspace => drop(typed.pop()),
            KeyCode::Char('u') if is_control => typed.clear(),
            KeyCode::Char('w') if is_control => {
                // The last word, and the one sign before it.
                typed.truncate(typed.trim_end_matches(char::is_alphanumeric).len());
                typed.pop();
            }
            KeyCode::Char(c) if !is_control && !key.modifiers.contains(KeyModifiers::ALT) => {
                push(typed, c);
            }
            KeyCode::Enter => {
                let prefix = self.typed.take().unwrap_or_default();
                let is_same = prefix == self.prefix
                    && !matches!(self.watch, WatchLink::Refused(_) | WatchLink::Full);
                self.pane = Pane::Locks;
                if !is_same {
                    self.prefix = prefix;
                    self.forget_locks(now);
                    return Some(Ask::Watch);
                }
            }
            _ => {}
        }
        None
    }

    /// Takes a text that was pasted.
    pub fn paste(&mut self, text: &str) {
        let Some(typed) = self.typed.as_mut() else { return };
        for c in text.trim_end_matches(['\r', '\n']).chars() {
            push(typed, c);
        }
    }

    /// Begins the watch anew, after it was refused or ended.
    pub fn again(&mut self, now: Moment) -> bool {
        let has_ended = matches!(self.watch, WatchLink::Refused(_) | WatchLink::Full);
        if has_ended {
            self.forget_locks(now);
        }
        has_ended
    }

    fn step(&mut self, step: Step) {
        match &mut self.opened {
            Some(opened) => opened.cursor.step(step),
            None => self.cursors[self.pane as usize].step(step),
        }
    }

    fn next_order(&mut self, now: Moment) {
        match self.pane {
            Pane::Locks => self.order_locks(next(&LockOrder::ALL, self.lock_order), now),
            Pane::Shards => self.shard_order = next(&ShardOrder::ALL, self.shard_order),
            Pane::Nodes => self.node_order = next(&NodeOrder::ALL, self.node_order),
        }
        self.cursors[self.pane as usize].step(Step::First);
    }

    fn order_locks(&mut self, order: LockOrder, now: Moment) {
        if self.pane != Pane::Locks {
            return;
        }
        self.lock_order = order;
        self.is_paused = false;
        self.cursors[Pane::Locks as usize].step(Step::First);
        self.rank(now);
    }
}

/// Adds a character to a prefix that has room for it.
fn push(typed: &mut String, c: char) {
    if typed.len() + c.len_utf8() <= PREFIX_BYTES_MAX {
        typed.push(c);
    }
}

/// The value after this one, and the first after the last.
fn next<T: Copy + PartialEq>(all: &[T], present: T) -> T {
    let at = all.iter().position(|one| *one == present).unwrap_or(0);
    all[(at + 1) % all.len()]
}

#[cfg(test)]
mod tests;
