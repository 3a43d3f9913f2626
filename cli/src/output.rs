//! Tables for people.

use comfy_table::Table;
use comfy_table::presets::NOTHING;

/// A table as kubectl prints them.
pub(crate) fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(header.map(str::to_uppercase));
    table.add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    table
}

/// Enough of a hash to tell two apart.
pub(crate) fn short(hash: &str) -> String {
    hash.chars().take(12).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_neither_borders_nor_trailing_space() {
        let table = table(["name", "n"], [["permits".to_owned(), "12".to_owned()]]);
        assert_eq!(table.trim_fmt(), "NAME      N\npermits   12");
    }
}
