//! What comes to an end or fills up: callbacks that wait, the database's disk, the certificate that servers are shown. What must not live here:
//! where these are read.

use std::time::Duration;

use metrics::{Unit, describe_gauge, gauge};

const WAITING_OLDEST: &str = "payonce_waiting_oldest_timestamp_seconds";
const WAITING_MAX: &str = "payonce_waiting_max_seconds";
const DATABASE_BYTES: &str = "payonce_database_bytes";
const TABLE_BYTES: &str = "payonce_table_bytes";
const LINK_CERTIFICATE: &str = "payonce_link_certificate_not_after_timestamp_seconds";

/// Since when the callback that has waited longest for this reason has waited, in seconds since 1970 (`None`: none waits, which is said by 0), and
/// after how long one becomes an open case.
pub fn waiting(reason: &'static str, oldest_s: Option<f64>, max: Duration) {
    describe_gauge!(
        WAITING_OLDEST,
        Unit::Seconds,
        "Since when the callback that has waited longest for this reason has waited; 0: none waits."
    );
    describe_gauge!(
        WAITING_MAX,
        Unit::Seconds,
        "How long a callback waits for this reason before it is an open case, by the settings of this process."
    );
    gauge!(WAITING_OLDEST, "reason" => reason).set(oldest_s.unwrap_or(0.0));
    gauge!(WAITING_MAX, "reason" => reason).set(max.as_secs_f64());
}

/// Bytes on disk: of the database, and of tables that grow with traffic.
pub fn sizes<'a>(database_bytes: i64, tables: impl Iterator<Item = (&'a str, i64)>) {
    describe_gauge!(DATABASE_BYTES, Unit::Bytes, "Bytes of the database on disk.");
    describe_gauge!(TABLE_BYTES, Unit::Bytes, "Of these, those of a table with its indexes.");
    #[expect(clippy::cast_precision_loss, reason = "for alerts and curves")]
    gauge!(DATABASE_BYTES).set(database_bytes as f64);
    for (table, bytes) in tables {
        #[expect(clippy::cast_precision_loss, reason = "for alerts and curves")]
        gauge!(TABLE_BYTES, "table" => table.to_owned()).set(bytes as f64);
    }
}

/// Until when the certificate of `tls_certificate_file` is valid, in seconds since 1970; `None`: there is none, which is said by infinity.
pub fn link_certificate(not_after_s: Option<i64>) {
    describe_gauge!(
        LINK_CERTIFICATE,
        Unit::Seconds,
        "Until when the certificate is valid that servers are shown (tls_certificate_file, as it was read at the start); +Inf: there is none."
    );
    #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 have 53 bits and more to spare")]
    gauge!(LINK_CERTIFICATE).set(not_after_s.map_or(f64::INFINITY, |at| at as f64));
}
