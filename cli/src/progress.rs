//! The bar on standard error; nothing is drawn when that is no terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::failure::Failure;

pub(super) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    pub(super) fn start(total: Option<u64>, already: u64) -> Self {
        let (bar, template) = match total {
            Some(total) => {
                let template = "{bar:40.cyan/dim} {human_pos}/{human_len} events  {per_sec}  {eta} left  {wide_msg}";
                (ProgressBar::new(total), template)
            }
            None => (ProgressBar::new_spinner(), "{spinner} {human_pos} events  {per_sec}  {wide_msg}"),
        };
        bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_position(already);
        bar.reset_eta();
        bar.enable_steady_tick(Duration::from_millis(100));
        Self { bar }
    }

    pub(super) fn set(&self, events: u64) {
        self.bar.set_position(events);
        self.bar.set_message("");
    }

    /// Why it does not go on.
    pub(super) fn waiting(&self, failure: &Failure) {
        let text = failure.to_string();
        self.bar.set_message(format!("trying again: {}", text.lines().next().unwrap_or_default()));
    }

    pub(super) fn finish(self) {
        self.bar.finish_and_clear();
    }
}
