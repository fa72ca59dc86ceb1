//! The terminal: it is taken over while the screen is shown, and given back at each end.

use crate::failure::{Exit, Failure};
use nix::sys::signal::{Signal, raise};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::event::{DisableBracketedPaste, EnableBracketedPaste, Event};
use ratatui::crossterm::style::Print;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use ratatui::crossterm::{cursor, event, execute};
use std::io::{self, IsTerminal, Stdout, stdout};
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// Tells a terminal to leave the order of characters alone (BDSM of ECMA-48). Otherwise one that
/// implements right-to-left text would move the columns beside a Hebrew name.
const AS_WRITTEN: &str = "\x1b[8l";
/// Tells it to order characters as before.
const REORDERED: &str = "\x1b[8h";
/// The exit code of a program of Rust that panicked.
const PANICKED: i32 = 101;

/// Whether the terminal is taken over.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// Checks that there is a terminal to show the screen on.
///
/// # Errors
/// If there is none.
pub fn check() -> Result<(), Failure> {
    let next = "run it in a terminal; for scripts there are `palisade cluster status --json`, \
                `palisade ls --waiting --json` and `palisade watch --json`";
    let message = match (io::stdin().is_terminal(), stdout().is_terminal()) {
        (true, true) => match std::env::var_os("TERM") {
            Some(term) if term == "dumb" => "TERM=dumb has no screen to write on",
            _ => return Ok(()),
        },
        (false, _) => "standard input is no terminal",
        (true, false) => "standard output is no terminal",
    };
    Err(Failure::new(Exit::Usage, "NO_TERMINAL", message, next))
}

/// The failure of a terminal that was there.
pub fn failure(error: &io::Error) -> Failure {
    let next = "run it in another terminal";
    Failure::new(Exit::Error, "TERMINAL", format!("the terminal failed: {error}"), next)
}

/// The screen. Its drop gives the terminal back, and so does a panic.
#[derive(Debug)]
pub struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
}

impl Screen {
    /// Takes the terminal over.
    ///
    /// # Errors
    /// If the terminal refuses.
    pub fn enter() -> io::Result<Screen> {
        end_at_panic();
        take()?;
        Ok(Screen { terminal: Terminal::new(CrosstermBackend::new(stdout()))? })
    }

    pub fn terminal(&mut self) -> &mut Terminal<CrosstermBackend<Stdout>> {
        &mut self.terminal
    }

    /// Gives the terminal back and stops the process, as Ctrl-Z does. Takes the terminal over again
    /// when the process goes on.
    ///
    /// # Errors
    /// If the terminal refuses.
    pub fn suspend(&mut self) -> io::Result<()> {
        give_back();
        raise(Signal::SIGTSTP)?;
        take()?;
        // A new one knows nothing of the screen before, so that it draws all anew. A clear would
        // ask the terminal where the cursor is, and the thread of the keys would take the answer.
        self.terminal = Terminal::new(CrosstermBackend::new(stdout()))?;
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

fn take() -> io::Result<()> {
    TAKEN.store(true, Ordering::SeqCst);
    enable_raw_mode()?;
    execute!(stdout(), EnterAlternateScreen, EnableBracketedPaste, cursor::Hide, Print(AS_WRITTEN))
}

/// Gives the terminal back once. An error means that it is gone.
fn give_back() {
    if !TAKEN.swap(false, Ordering::SeqCst) {
        return;
    }
    let _ = execute!(
        stdout(),
        Print(REORDERED),
        DisableBracketedPaste,
        cursor::Show,
        LeaveAlternateScreen
    );
    let _ = disable_raw_mode();
}

/// Makes a panic of any thread end the program, after the terminal was given back. Without this its
/// message would be drawn over, and the shell would be left in raw mode.
fn end_at_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        give_back();
        report(panic);
        std::process::exit(PANICKED);
    }));
}

/// The keys and other events of the terminal. A thread reads them, because a read blocks. The last
/// one is an error.
pub fn events() -> UnboundedReceiver<io::Result<Event>> {
    let (sender, receiver) = unbounded_channel();
    std::thread::spawn(move || {
        loop {
            let event = event::read();
            let is_last = event.is_err();
            if sender.send(event).is_err() || is_last {
                return;
            }
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// Set where this test runs itself in a terminal of its own.
    const PANICS: &str = "PALISADE_TEST_PANICS";

    #[test]
    fn a_panic_gives_the_terminal_back_before_its_message() {
        if std::env::var_os(PANICS).is_some() {
            let _screen = Screen::enter().expect("a screen");
            panic!("on purpose");
        }
        let test = std::env::current_exe().expect("this program");
        let name = "top::terminal::tests::a_panic_gives_the_terminal_back_before_its_message";
        let line = format!(
            "{PANICS}=1 '{}' --exact {name} --nocapture; echo \"code $?\"; stty -a",
            test.display()
        );
        // `script` of bsdutils, which every Debian has, runs a command in a terminal.
        let output = Command::new("script").args(["-qec", &line, "/dev/null"]).output();
        let written = String::from_utf8_lossy(&output.expect("start script").stdout).into_owned();
        let left = written.find("\x1b[?1049l").expect("the alternate screen is left");
        let message = written.find("on purpose").expect("the message of the panic");
        assert!(left < message, "{written}");
        assert!(written.contains("code 101"), "{written}");
        assert!(written.contains(" icanon ") && written.contains(" echo "), "{written}");
    }
}
