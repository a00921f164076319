//! Settings: where a value comes from, what is refused and in which words, and that the example file is complete.

use std::{collections::BTreeMap, io::Write, path::Path};

use payonce::config::{Config, Domain, SETTINGS, Unit, load, stray_variables};

const EXAMPLE: &str = include_str!("../../payonce.example.toml");

fn flags(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn from_flags(pairs: &[(&str, &str)]) -> Result<Config, String> {
    load(None, &flags(pairs), |_| None).map_err(|error| error.to_string())
}

fn from_file(text: &str) -> Result<Config, String> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    load(Some(file.path()), &BTreeMap::new(), |_| None).map_err(|error| error.to_string())
}

#[track_caller]
fn refused(result: Result<Config, String>, words: &[&str]) {
    let error = result.expect_err("it must be refused");
    for word in words {
        assert!(error.contains(word), "{word:?} is not in: {error}");
    }
}

#[test]
fn a_flag_overrides_a_variable_and_a_variable_the_file_and_the_file_the_default() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"lanes = 2\nbatch_size_max = 20\nbatch_linger_ms = 20\n").unwrap();
    let variable = |name: &str| match name {
        "PAYONCE_LANES" => Some("3".to_owned()),
        "PAYONCE_BATCH_SIZE_MAX" => Some("30".to_owned()),
        // Set but empty is not set.
        "PAYONCE_BATCH_LINGER_MS" => Some(String::new()),
        _ => None,
    };
    let config = load(Some(file.path()), &flags(&[("lanes", "4")]), variable).unwrap();
    assert_eq!(config.worker.lanes, 4);
    assert_eq!(config.worker.batch_size_max, 30);
    assert_eq!(config.worker.batch_linger.as_millis(), 20);
    assert_eq!(config.worker.prefetch_count, 4_000);
}

#[test]
fn a_value_outside_its_limits_is_refused_with_its_name_its_origin_and_what_is_allowed() {
    for setting in SETTINGS {
        let bad = match setting.domain {
            Domain::Number { min, max, .. } => vec![
                min.checked_sub(1).map_or("-1".to_owned(), |below| below.to_string()),
                (max + 1).to_string(),
                "1.5".to_owned(),
                "many".to_owned(),
                "99999999999999999999".to_owned(),
            ],
            Domain::Words(_) => vec!["maybe".to_owned(), "adjust,adjust".to_owned(), "ADJUST".to_owned()],
            Domain::Members => vec!["a,a".to_owned(), "a b".to_owned(), "a,b,c,d,e,f,g,h,i".to_owned()],
            Domain::Word(_) => vec!["maybe".to_owned(), "REQUIRED".to_owned()],
            Domain::Text => vec!["x".repeat(201), "a\nb".to_owned()],
            Domain::List { .. } => vec!["x".repeat(4_097), "a\nb".to_owned(), "nothing of it".to_owned()],
            Domain::Secret => continue,
        };
        for value in bad {
            let from_flag = from_flags(&[(setting.name, &value)]);
            refused(from_flag, &[setting.name, &format!("--{}", setting.name.replace('_', "-")), "is not"]);
            let variable = |name: &str| (name == setting.variable()).then(|| value.clone());
            let from_variable = load(None, &BTreeMap::new(), variable).map_err(|error| error.to_string());
            refused(from_variable, &[setting.name, &setting.variable()]);
        }
    }
    refused(from_flags(&[("lanes", "65")]), &["\"65\"", "from 1 to 64"]);
    refused(from_flags(&[("signatures", "on")]), &["\"on\"", "required, off"]);
}

#[test]
fn every_setting_with_a_unit_understands_a_number_with_a_suffix_and_a_number_without() {
    for setting in SETTINGS {
        let Domain::Number { min, max, unit } = setting.domain else { continue };
        let expected = if setting.name.ends_with("_ms") {
            Unit::Milliseconds
        } else if setting.name.contains("_bytes") {
            Unit::Bytes
        } else {
            Unit::Count
        };
        assert_eq!(unit, expected, "{}", setting.name);
        let suffixes: &[(&str, u64)] = match unit {
            Unit::Count => continue,
            Unit::Milliseconds => {
                &[("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)]
            }
            Unit::Bytes => &[("KiB", 1_024), ("MiB", 1_048_576), ("GiB", 1_073_741_824)],
        };
        for (suffix, factor) in suffixes {
            let number = min.div_ceil(*factor);
            if number * factor > max {
                continue;
            }
            // Others follow from some, or have limits with them: of one that is refused, the refusal is that of the number.
            let plain = from_flags(&[(setting.name, &(number * factor).to_string())]);
            let with_suffix = from_flags(&[(setting.name, &format!("{number}{suffix}"))]);
            assert_eq!(format!("{plain:?}"), format!("{with_suffix:?}"), "{} {number}{suffix}", setting.name);
        }
        for bad in
            ["1 s", "s", "1.5h", "-1s", "1sec", "1MB", "1H", "99999999999999999d", "18446744073709551615GiB"]
        {
            refused(from_flags(&[(setting.name, bad)]), &[setting.name, bad, "or such as"]);
        }
    }
    let config = from_file("waiting_max_ms = \"72h\"\nprefetch_bytes_max = \"128MiB\"").unwrap();
    assert_eq!(config.worker.waiting_max.as_secs(), 72 * 60 * 60);
    assert_eq!(config.worker.prefetch_bytes_max, 128 << 20);
    // A count has no unit, and too much is too much in any.
    refused(from_flags(&[("lanes", "2s")]), &["\"2s\"", "from 1 to 64"]);
    refused(from_flags(&[("redis_timeout_ms", "1h")]), &["\"1h\"", "from 10 to 10000"]);
}

#[test]
fn the_prefetch_follows_from_lanes_and_batches_unless_it_is_set() {
    let prefetch = |pairs: &[(&str, &str)]| from_flags(pairs).map(|config| config.worker.prefetch_count);
    assert_eq!(prefetch(&[]), Ok(4_000));
    assert_eq!(prefetch(&[("lanes", "8")]), Ok(16_000));
    assert_eq!(prefetch(&[("batch_size_max", "10")]), Ok(4_000), "what is set aside counts too");
    assert_eq!(prefetch(&[("lanes", "8"), ("prefetch_count", "20000")]), Ok(20_000));
    let most = from_flags(&[("lanes", "64"), ("batch_size_max", "5000")]);
    refused(most, &["prefetch_count", "2 x 64 x 5000 = 640000", "lower lanes"]);
}

#[test]
fn limits_between_settings_are_checked_too() {
    let narrow = from_flags(&[("prefetch_count", "100"), ("lanes", "2"), ("batch_size_max", "50")]);
    refused(narrow, &["prefetch_count", "100", "2 x 2 x 50 = 200"]);
    refused(
        from_flags(&[("retry_delay_min_ms", "100"), ("retry_delay_max_ms", "99")]),
        &["retry_delay_max_ms", "99", "retry_delay_min_ms"],
    );
}

#[test]
fn a_file_that_cannot_be_used_is_refused_in_words() {
    refused(from_file("lanse = 4"), &["lanse", "no such setting", "payonce.example.toml"]);
    refused(from_file("lanes = 4.0"), &["lanes", "a whole number"]);
    refused(from_file("lanes = true"), &["lanes"]);
    refused(from_file("[lanes]\nx = 1"), &["lanes"]);
    refused(from_file("lanes = -1"), &["lanes", "from 1 to 64"]);
    refused(from_file("lanes == 4"), &["not TOML"]);
    let missing = load(Some(Path::new("/nowhere/payonce.toml")), &BTreeMap::new(), |_| None);
    refused(missing.map_err(|error| error.to_string()), &["/nowhere/payonce.toml"]);
}

#[test]
fn all_that_is_wrong_is_said_at_once_with_its_line_and_what_was_meant() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let text = "# a comment\nlanse = 4\nbatch_size_max = 0\n\nmarker_ttl = \"1h\"\nredis_url_fle = \"x\"\n[ingress]\nchannels = 99\nrequests_max = 0\n\
                [[feed.subscriber]]\nname = \"a b\"\nurl = \"https://h\"\nsecrets_file = \"s\"\n";
    file.write_all(text.as_bytes()).unwrap();
    let variable = |name: &str| (name == "PAYONCE_LOG_FORMAT").then(|| "xml".to_owned());
    let loaded = load(Some(file.path()), &flags(&[("prefetch_count", "1")]), variable);
    let said = loaded.expect_err("it must be refused").to_string();
    let lines: Vec<&str> = said.lines().collect();
    for (line, words) in [
        ("lanse (configuration file, line 2): ", "did you mean lanes?"),
        ("batch_size_max (configuration file, line 3): ", "\"0\" is not a whole number from 1 to 5000"),
        ("marker_ttl (configuration file, line 5): ", "did you mean marker_ttl_ms?"),
        ("redis_url_fle (configuration file, line 6): ", "did you mean redis_url?"),
        ("ingress.channels (configuration file, line 8): ", "99 is not a whole number from 1 to 64"),
        ("ingress.requests_max (configuration file, line 9): ", "0 is not"),
        ("feed.subscriber \"a b\", name (configuration file, line 11): ", "expected 1 to 50 letters"),
        ("prefetch_count (flag --prefetch-count): ", "\"1\" is not"),
        ("log_format (PAYONCE_LOG_FORMAT): ", "\"xml\" is not one of"),
    ] {
        let found = lines.iter().filter(|found| found.starts_with(line) && found.contains(words)).count();
        assert_eq!(found, 1, "{line}{words} is not once in: {said}");
    }
    assert_eq!(lines.len(), 9, "{said}");
    // A table that is none, and limits between settings, of which two do not hold.
    refused(
        from_file("lanes = 4\n\n[ingress]\nchannles = 2\n"),
        &["ingress (configuration file, line 4)", "channles"],
    );
    refused(from_file("lanes = 2\n\n amqp_url = x"), &["line 3", "not TOML"]);
    let narrow = from_flags(&[("prefetch_count", "100"), ("ops_local_name", " "), ("feed_name", "a b")]);
    refused(narrow, &["prefetch_count: 100", "ops_local_name: empty", "feed_name: \"a b\""]);
}

#[test]
fn a_variable_that_sets_nothing_is_refused_where_it_was_meant_for_a_setting_and_told_else() {
    let stray = |names: &[&str]| stray_variables(names.iter().map(|name| (*name).to_owned()));
    for setting in SETTINGS {
        let known = [setting.variable(), format!("{}_FILE", setting.variable())];
        let known = if matches!(setting.domain, Domain::Secret) { &known[..] } else { &known[..1] };
        assert_eq!(stray_variables(known.iter().cloned()), Default::default(), "{known:?}");
    }
    for (variable, meant) in [
        ("PAYONCE_LANSE", "PAYONCE_LANES"),
        ("PAYONCE_DATABASE_URI", "PAYONCE_DATABASE_URL"),
        ("PAYONCE_REDIS_URL_FIL", "PAYONCE_REDIS_URL"),
        ("PAYONCE_BATCHSIZE_MAX", "PAYONCE_BATCH_SIZE_MAX"),
        ("PAYONCE_lanes2", "PAYONCE_LANES"),
    ] {
        let found = stray(&["HOME", variable]).misspelled;
        let words = format!("{variable}: there is no such setting; did you mean {meant}?");
        assert_eq!(found.iter().map(ToString::to_string).collect::<Vec<_>>(), [words]);
    }
    let found = stray(&["PAYONCE_MARKER_TTL", "PAYONCE_BANANA"]);
    assert_eq!(found.misspelled, []);
    let expected =
        [("PAYONCE_MARKER_TTL".to_owned(), Some("marker_ttl_ms")), ("PAYONCE_BANANA".to_owned(), None)];
    assert_eq!(found.unknown, expected);
    // What Kubernetes tells of services named payonce and payonce-ops, and what others of payonce read.
    let others = [
        "PAYONCE_SERVICE_HOST",
        "PAYONCE_SERVICE_PORT_HTTP",
        "PAYONCE_PORT",
        "PAYONCE_OPS_PORT_9300_TCP_ADDR",
        "PAYONCE_CONFIG",
        "PAYONCE_RABBITMQ_MANAGEMENT_URL",
        "PAYONCE_GRANT_WORKER",
        "XPAYONCE_LANSE",
    ];
    assert_eq!(stray(&others), Default::default());
}

#[test]
fn a_password_is_in_no_message_and_no_debug_output() {
    let url = "amqp://user:hunter2@127.0.0.1:5672/%2f";
    let config = load(None, &BTreeMap::new(), |name| (name == "PAYONCE_AMQP_URL").then(|| url.to_owned()));
    let shown = format!("{:?}", config.unwrap());
    assert!(shown.contains("amqp_url: Some([secret])") && !shown.contains("hunter2"), "{shown}");
    // Neither where the line around it is not TOML.
    let error = from_file(&format!("amqp_url = {url}")).unwrap_err();
    assert!(!error.contains("hunter2"), "{error}");
}

#[test]
fn an_address_may_come_from_a_file_that_a_variable_or_the_toml_file_names() {
    let mut secret = tempfile::NamedTempFile::new().unwrap();
    secret.write_all(b"redis://u:hunter2@host:1\r\n").unwrap();
    let path = secret.path().to_str().unwrap().to_owned();
    let exposed = |config: Config| config.redis_url.unwrap().expose().to_owned();
    let from_variables = |variables: &[(&str, &str)]| {
        let variables: BTreeMap<String, String> = flags(variables);
        load(None, &BTreeMap::new(), |name| variables.get(name).cloned()).map_err(|error| error.to_string())
    };
    let config = from_variables(&[("PAYONCE_REDIS_URL_FILE", &path)]).unwrap();
    assert_eq!(exposed(config), "redis://u:hunter2@host:1", "without the line's end");
    let config = from_file(&format!("redis_url_file = {path:?}")).unwrap();
    assert_eq!(exposed(config), "redis://u:hunter2@host:1");
    // A variable overrides the file, whichever of the two each is.
    let mut toml = tempfile::NamedTempFile::new().unwrap();
    write!(toml, "redis_url_file = {path:?}").unwrap();
    let variable = |name: &str| (name == "PAYONCE_REDIS_URL").then(|| "redis://other".to_owned());
    assert_eq!(exposed(load(Some(toml.path()), &BTreeMap::new(), variable).unwrap()), "redis://other");

    let both = from_variables(&[("PAYONCE_REDIS_URL_FILE", &path), ("PAYONCE_REDIS_URL", "redis://h")]);
    refused(both, &["PAYONCE_REDIS_URL_FILE", "PAYONCE_REDIS_URL is set too"]);
    let missing = from_variables(&[("PAYONCE_REDIS_URL_FILE", "/nowhere/redis_url")]);
    refused(missing, &["PAYONCE_REDIS_URL_FILE", "/nowhere/redis_url", "No such file"]);
    refused(from_file("lanes_file = \"x\""), &["lanes_file", "no such setting"]);
    std::fs::write(secret.path(), "").unwrap();
    let empty = from_variables(&[("PAYONCE_REDIS_URL_FILE", &path)]);
    refused(empty, &["redis_url", "PAYONCE_REDIS_URL_FILE", "the value is not"]);
    std::fs::write(secret.path(), "x".repeat(70_000)).unwrap();
    let large = from_variables(&[("PAYONCE_REDIS_URL_FILE", &path)]);
    refused(large, &["PAYONCE_REDIS_URL_FILE", "larger than 65536 bytes"]);
}

/// The name, the value and the comment of each entry of the example file.
fn example() -> Vec<(String, String, String)> {
    let mut entries = Vec::new();
    let mut comment = String::new();
    for line in EXAMPLE.lines() {
        let entry = line.trim_start_matches('#').split_once(" = ").filter(|_| !line.starts_with("# "));
        match entry {
            Some((name, value)) => {
                let value = value.trim_matches('"').to_owned();
                entries.push((name.to_owned(), value, std::mem::take(&mut comment)));
            }
            None if line.is_empty() => comment.clear(),
            None => comment += line.trim_start_matches('#'),
        }
    }
    entries
}

#[test]
fn the_example_file_names_every_setting_with_its_default_and_its_limits() {
    let entries = example();
    assert_eq!(entries.len(), SETTINGS.len());
    for (setting, (name, value, comment)) in SETTINGS.iter().zip(entries) {
        assert_eq!(setting.name, name, "in the order of SETTINGS");
        assert!(comment.contains(setting.help), "{name} says {comment:?}, not {:?}", setting.help);
        let limits = match setting.domain {
            Domain::Number { min, max, .. } => format!("From {min} to {max}."),
            Domain::Words(words) => format!("Any of {}.", words.join(", ")),
            Domain::Word(words) => format!("One of {}.", words.join(", ")),
            Domain::Members => "At most 8 names of members".to_owned(),
            Domain::Text => "at most 200 bytes".to_owned(),
            Domain::List { expected, .. } => format!("A list of {expected}."),
            Domain::Secret => "no default.".to_owned(),
        };
        assert!(comment.contains(&limits), "{name} says {comment:?}, not {limits:?}");
        let default = match setting.name {
            // It follows from others.
            "prefetch_count" => from_flags(&[]).unwrap().worker.prefetch_count.to_string(),
            _ => setting.default.to_owned(),
        };
        if !matches!(setting.domain, Domain::Secret) {
            assert_eq!(value, default, "{name}");
        }
    }
}

#[test]
fn the_example_file_is_one_that_payonce_reads_also_with_every_default_written_out() {
    let as_it_is = from_file(EXAMPLE).unwrap();
    assert!(as_it_is.database_url.is_some() && as_it_is.signatures_required);
    let written_out: String = EXAMPLE
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if !rest.starts_with(' ') && !rest.is_empty() => format!("{rest}\n"),
            Some(_) | None => format!("{line}\n"),
        })
        .collect();
    assert_eq!(format!("{as_it_is:?}"), format!("{:?}", from_file(&written_out).unwrap()));
}

#[test]
fn who_is_believed_of_people_is_set_as_a_whole_or_refused() {
    let addresses = ("ops_proxy_addresses", "10.0.0.0/8");
    let user = ("ops_proxy_user_header", "X-Forwarded-User");
    let roles = ("ops_roles", "everyone=viewer");
    // What is signed for people is signed with a key that no lesser secret can be turned into.
    let people = "ops_proxy_addresses = \"10.0.0.0/8\"\nops_proxy_user_header = \"X-User\"\nops_roles = \"everyone=viewer\"\n";
    let with =
        |secret: &str| from_file(&format!("{people}{secret} = \"0123456789abcdef0123456789abcdef\"\n"));
    assert!(with("ops_session_key").is_ok() && with("ops_token").is_ok());
    refused(with("ops_readonly_token"), &["ops_session_key", "not set"]);
    refused(from_flags(&[addresses, user, roles]), &["ops_session_key", "not set"]);
    assert!(from_flags(&[addresses]).is_ok(), "a proxy may log nobody in");
    refused(from_flags(&[user, roles]), &["ops_proxy_user_header", "set without ops_proxy_addresses"]);
    refused(from_flags(&[addresses, user]), &["ops_roles", "not set", "everyone=viewer"]);
    refused(
        from_flags(&[addresses, ("ops_proxy_groups_header", "X-Groups")]),
        &["ops_proxy_groups_header", "set without ops_proxy_user_header"],
    );
    refused(
        from_flags(&[addresses, roles, ("ops_proxy_user_header", "X_User")]),
        &["ops_proxy_user_header", "\"X_User\"", "No '_'"],
    );
    refused(from_flags(&[("ops_proxy_addresses", "10.0.0.0/33")]), &["10.0.0.0/33", "addresses or networks"]);
    refused(from_flags(&[("ops_roles", "group:x=root")]), &["group:x=root", "viewer, operator"]);
    let short = from_file("ops_session_key = \"0123456789\"\n");
    refused(short, &["ops_session_key", "shorter than 32 bytes"]);
    let listed = from_file(
        "ops_session_key = \"0123456789abcdef0123456789abcdef\"\nops_proxy_addresses = [\"10.1.2.3\", \"fd00::/8\"]\nops_proxy_user_header = \"X-User\"\n\
         ops_roles = [\"everyone=viewer\", \"user:a=admin\"]\n",
    );
    let config = listed.expect("arrays are lists").access;
    assert_eq!(config.roles.roles("a", &[]).to_string(), "viewer, admin");
    assert!(config.proxy.addresses.contain("10.1.2.3".parse().unwrap()));
}
