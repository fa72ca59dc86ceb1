//! The selected row of a list, and the part of the list that is on the screen.

/// The place in a list.
///
/// * The selected row is on the screen.
/// * No row is left empty while there are rows above.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    selected: usize,
    /// The first row on the screen.
    first: usize,
    /// Rows on the screen.
    height: usize,
    /// Rows of a step by a page.
    page: usize,
    /// Rows of the list.
    len: usize,
}

/// A move by a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Up,
    Down,
    PageUp,
    PageDown,
    First,
    Last,
}

impl Cursor {
    pub fn selected(&self) -> usize {
        self.selected
    }

    pub fn first(&self) -> usize {
        self.first
    }

    pub fn height(&self) -> usize {
        self.height
    }

    /// The rows on the screen, as places in the list.
    pub fn shown(&self) -> std::ops::Range<usize> {
        self.first..(self.first + self.height).min(self.len)
    }

    /// Sets the lengths of the list and of the screen.
    pub fn resize(&mut self, len: usize, height: usize) {
        (self.len, self.height, self.page) = (len, height.max(1), height.saturating_sub(1).max(1));
        self.select(self.selected);
    }

    /// As [`resize`](Self::resize), for a text without selected rows: each step scrolls.
    pub fn scroll(&mut self, lines: usize, height: usize) {
        (self.len, self.height) = (lines.saturating_sub(height) + 1, 1);
        self.page = height.saturating_sub(1).max(1);
        self.select(self.selected);
    }

    /// Selects a row, or the last one if there are fewer.
    pub fn select(&mut self, at: usize) {
        self.selected = at.min(self.len.saturating_sub(1));
        // The list is not measured before it is drawn for the first time.
        let height = self.height.max(1);
        let first_min = (self.selected + 1).saturating_sub(height);
        let first_max = self.selected.min(self.len.saturating_sub(height));
        self.first = self.first.clamp(first_min, first_max);
    }

    pub fn step(&mut self, step: Step) {
        let page = self.page;
        self.select(match step {
            Step::Up => self.selected.saturating_sub(1),
            Step::Down => self.selected + 1,
            Step::PageUp => self.selected.saturating_sub(page),
            Step::PageDown => self.selected + page,
            Step::First => 0,
            Step::Last => self.len,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_selected_row_stays_on_the_screen() {
        let mut cursor = Cursor::default();
        cursor.resize(100, 10);
        for (step, selected, first) in [
            (Step::Up, 0, 0),
            (Step::Down, 1, 0),
            (Step::PageDown, 10, 1),
            (Step::PageDown, 19, 10),
            (Step::Up, 18, 10),
            (Step::PageUp, 9, 9),
            (Step::Last, 99, 90),
            (Step::Down, 99, 90),
            (Step::First, 0, 0),
        ] {
            cursor.step(step);
            assert_eq!((cursor.selected(), cursor.first()), (selected, first), "{step:?}");
        }
        cursor.step(Step::Last);
        cursor.resize(95, 20);
        assert_eq!((cursor.selected(), cursor.shown()), (94, 75..95), "a shorter list");
        cursor.resize(5, 20);
        assert_eq!((cursor.selected(), cursor.shown()), (4, 0..5));
        cursor.resize(0, 20);
        assert_eq!((cursor.selected(), cursor.shown()), (0, 0..0));
        Cursor::default().step(Step::Down);
        cursor.resize(3, 0);
        cursor.step(Step::Last);
        assert_eq!(cursor.shown(), 2..3, "a screen without room shows the selected row");
    }

    #[test]
    fn a_text_scrolls_with_each_step_and_not_past_its_end() {
        let mut cursor = Cursor::default();
        cursor.scroll(30, 10);
        let mut firsts = Vec::new();
        for step in [Step::Down, Step::PageDown, Step::Last, Step::Down, Step::Up, Step::First] {
            cursor.step(step);
            firsts.push(cursor.first());
        }
        assert_eq!(firsts, [1, 10, 20, 20, 19, 0]);
        cursor.scroll(5, 10);
        cursor.step(Step::Down);
        assert_eq!(cursor.first(), 0, "a text that fits does not scroll");
    }
}
