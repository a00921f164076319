//! Addresses that name several hosts: `scheme://user:password@host1:port1,host2:port2/rest`, as PostgreSQL's libpq reads them.

/// The address once for each of its hosts, in their order. One that cannot be taken apart comes back whole, for its reader to refuse.
pub fn each_host(url: &str) -> impl Iterator<Item = String> {
    let (scheme, rest) =
        url.split_once("://").map_or(("", url), |(_, rest)| url.split_at(url.len() - rest.len()));
    let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let (user, hosts) = authority.split_at(authority.rfind('@').map_or(0, |at| at + 1));
    hosts.split(',').map(move |host| format!("{scheme}{user}{host}{tail}"))
}

#[cfg(test)]
mod tests {
    use super::each_host;

    #[test]
    fn each_host_keeps_user_password_and_path() {
        for (url, expected) in [
            ("redis://localhost:6379", vec!["redis://localhost:6379"]),
            (
                "amqp://u:p,w@a:1,b/%2f?heartbeat=5",
                vec!["amqp://u:p,w@a:1/%2f?heartbeat=5", "amqp://u:p,w@b/%2f?heartbeat=5"],
            ),
            ("postgres://u@[::1]:1,h:2/db", vec!["postgres://u@[::1]:1/db", "postgres://u@h:2/db"]),
            ("not an address", vec!["not an address"]),
            ("", vec![""]),
        ] {
            assert_eq!(each_host(url).collect::<Vec<_>>(), expected, "{url}");
        }
    }
}
