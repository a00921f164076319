//! Which links are open to whoever is on the way, and which files cannot be what a setting says.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
};

use payonce::{
    config::TlsConfig,
    tls::{load, risks, system_roots},
};

#[test]
fn an_open_link_to_another_machine_is_named_with_its_risk() {
    let safe = "postgres://u:secret@db/p?sslmode=verify-full";
    for (database, redis, amqp, words) in [
        ("postgres://u:secret@db/p", "rediss://r", "amqps://u:secret@q", "sslmode=prefer"),
        ("postgres://u:secret@db/p?sslmode=prefer", "rediss://r", "amqps://q", "sslmode=prefer"),
        ("postgres://u:secret@db/p?a=b&sslmode=require", "rediss://r", "amqps://q", "pose as the database"),
        ("postgres://u:secret@db/p?sslmode=verify-ca", "rediss://r", "amqps://q", "host name"),
        ("postgres://u:secret@db/p?sslmode=disable", "rediss://r", "amqps://q", "not encrypted"),
        ("postgres://u:secret@localhost,db/p", "rediss://r", "amqps://q", "host db"),
        (safe, "redis://:secret@10.0.0.1:6379", "amqps://q", "redis_url, host 10.0.0.1"),
        (safe, "rediss://r", "amqp://u:secret@q/%2f", "amqp_url, host q"),
    ] {
        let risks = risks(database, redis, amqp);
        assert_eq!(risks.len(), 1, "{risks:?}");
        assert!(risks[0].contains(words) && !risks[0].contains("secret"), "{words}: {risks:?}");
    }
    assert_eq!(risks(safe, "rediss://r", "amqps://q"), [""; 0]);
    for local in ["localhost", "127.0.0.1", "127.8.9.1", "[::1]"] {
        let url = |scheme: &str| format!("{scheme}://u:secret@{local}/x");
        assert_eq!(risks(&url("postgres"), &url("redis"), &url("amqp")), [""; 0], "{local}");
    }
    assert_eq!(risks("postgres://u@%2fvar%2frun/p", "", ""), [""; 0], "a socket");
}

#[test]
fn a_key_without_its_certificate_or_open_to_everybody_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let [pem, key, der] = ["c.pem", "k.pem", "c.der"].map(|name| folder.path().join(name));
    fs::write(&pem, "subject=x\n-----BEGIN CERTIFICATE-----\n").unwrap();
    fs::write(&key, "-----BEGIN PRIVATE KEY-----\n").unwrap();
    fs::write(&der, [0x30, 0x82]).unwrap();
    let both = TlsConfig { ca_file: None, certificate_file: Some(pem.clone()), key_file: Some(key.clone()) };
    for (mode, is_fine) in [(0o600, true), (0o640, true), (0o644, false), (0o604, false)] {
        fs::set_permissions(&key, Permissions::from_mode(mode)).unwrap();
        match load(&both) {
            Ok(found) => assert!(is_fine && found.identity.is_some(), "{mode:o}"),
            Err(problem) => assert!(!is_fine && problem.contains("chmod 600"), "{mode:o}: {problem}"),
        }
    }
    for (config, words) in [
        (TlsConfig { key_file: None, ..both.clone() }, "belong together"),
        (TlsConfig { certificate_file: None, ..both }, "belong together"),
        (TlsConfig { ca_file: Some(folder.path().join("none")), ..TlsConfig::default() }, "tls_ca_file"),
        (TlsConfig { ca_file: Some(der), ..TlsConfig::default() }, "not PEM"),
    ] {
        let problem = load(&config).err().expect("it is refused");
        assert!(problem.contains(words), "{problem}");
    }
    assert!(load(&TlsConfig::default()).is_ok_and(|pem| pem.ca.is_none() && pem.identity.is_none()));
}

#[test]
fn the_systems_authorities_are_read_as_pem() {
    let roots = system_roots();
    let begun = roots.matches("-----BEGIN CERTIFICATE-----\n").count();
    assert_eq!(begun, roots.matches("\n-----END CERTIFICATE-----\n").count());
    // Any system that can verify a public host has dozens.
    assert!(begun > 10, "{begun} authorities");
}
