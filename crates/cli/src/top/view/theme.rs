//! Styles that can be read on dark and on light terminals, and without colours.
//!
//! * The foreground and the background are those of the terminal. Yellow, blue and cyan are left
//!   out, because each of them can hardly be read on one of the usual backgrounds.
//! * The text says all without colours, too.

use ratatui::style::{Color, Modifier, Style};

/// The styles. `NO_COLOR` leaves bold, dim, underlined and reversed.
#[derive(Clone, Copy, Debug)]
pub struct Theme {
    has_colours: bool,
}

impl Theme {
    pub const fn new(has_colours: bool) -> Theme {
        Theme { has_colours }
    }

    /// As the environment wants it (<https://no-color.org>).
    pub fn of_environment() -> Theme {
        Theme::new(std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()))
    }

    pub fn plain(self) -> Style {
        Style::new()
    }

    pub fn bold(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    pub fn dim(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    pub fn good(self) -> Style {
        self.colour(Color::Green, Style::new())
    }

    pub fn bad(self) -> Style {
        self.colour(Color::Red, self.bold())
    }

    /// For notices that say that something cannot be relied on.
    pub fn notice(self) -> Style {
        self.bad().add_modifier(Modifier::REVERSED)
    }

    pub fn title(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD | Modifier::UNDERLINED)
    }

    /// For the selected row and the chosen pane.
    pub fn selected(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    fn colour(self, colour: Color, style: Style) -> Style {
        if self.has_colours { style.fg(colour) } else { style }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_colours_no_style_has_one() {
        let all = |theme: Theme| {
            [
                theme.plain(),
                theme.bold(),
                theme.dim(),
                theme.good(),
                theme.bad(),
                theme.notice(),
                theme.title(),
                theme.selected(),
            ]
        };
        assert!(all(Theme::new(false)).iter().all(|style| style.fg.is_none()));
        assert!(all(Theme::new(true)).iter().any(|style| style.fg.is_some()));
        assert!(all(Theme::new(true)).iter().all(|style| style.bg.is_none()));
    }
}
