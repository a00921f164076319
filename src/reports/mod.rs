//! What finance and support take away, the same by command line, page and API: for which days it is asked, and tables, for people and as CSV. What
//! must not live here: SQL, HTTP, and the arguments of a command.

pub mod asked;
mod cells;
mod csv;
mod finance;
mod lists;
mod statement;

pub use cells::{Cell, Table};
pub use csv::csv;
pub use finance::{Part, report_json};
pub use lists::{ROWS_MAX, actions_table, cases_table};
pub use statement::{ENTRIES_MAX, statement_json, statement_table};
