//! The bar on standard error, for what takes more than a moment; nothing is drawn when that is no terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::failure::Failure;

pub(crate) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// Counts `things`, such as events, up to a total where one is known.
    pub(crate) fn start(things: &str, total: Option<u64>, already: u64) -> Self {
        let (bar, template) = if let Some(total) = total {
            let template = "{bar:40.cyan/dim} {human_pos}/{human_len} THINGS  {per_sec}  {eta} left  {wide_msg}";
            (ProgressBar::new(total), template)
        } else {
            (ProgressBar::new_spinner(), "{spinner} {human_pos} THINGS  {per_sec}  {wide_msg}")
        };
        let template = template.replace("THINGS", things);
        bar.set_style(ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_position(already);
        bar.reset_eta();
        bar.enable_steady_tick(Duration::from_millis(100));
        Self { bar }
    }

    pub(crate) fn set(&self, count: u64) {
        self.bar.set_position(count);
        self.bar.set_message("");
    }

    /// One more.
    pub(crate) fn step(&self) {
        self.bar.inc(1);
    }

    /// Why it does not go on.
    pub(crate) fn waiting(&self, failure: &Failure) {
        let text = failure.to_string();
        self.bar.set_message(format!("trying again: {}", text.lines().next().unwrap_or_default()));
    }

    /// Prints something without the bar in between.
    pub(crate) fn suspend<T>(&self, print: impl FnOnce() -> T) -> T {
        self.bar.suspend(print)
    }

    pub(crate) fn finish(self) {
        self.bar.finish_and_clear();
    }
}
