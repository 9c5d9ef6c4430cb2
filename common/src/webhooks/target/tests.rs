use super::*;

/// Forms of addresses that are not public, as an attacker writes them.
const PRIVATE: &[&str] = &[
    // Loopback in all the forms of inet_aton, which the URL standard keeps.
    "http://127.0.0.1/",
    "http://127.0.0.1./",
    "http://127.1/",
    "http://127.0.1/",
    "http://127.255.255.254/",
    "http://2130706433/",
    "http://0x7f000001/",
    "http://0x7f.0x0.0x0.0x1/",
    "http://0x7f.1/",
    "http://0177.0.0.1/",
    "http://0177.0.0.01/",
    "http://017700000001/",
    "http://00000177.1/",
    "http://0x7F.0.0.0x1/",
    "http://%31%32%37.0.0.1/",
    "http://１２７.０.０.１/",
    "http://①②⑦.⓪.⓪.①/",
    "http://127。0。0。1/",
    "http://localhost/",
    "http://LOCALHOST./",
    "http://db.localhost/",
    "https://localhost:443/",
    "http:127.0.0.1/",
    "http:\\\\127.0.0.1\\",
    // This network.
    "http://0/",
    "http://0.0.0.0/",
    "http://0.1.2.3/",
    // Private, shared, link-local.
    "http://10.0.0.1/",
    "http://10.255.255.255/",
    "http://167772161/",
    "http://012.1/",
    "http://172.16.0.1/",
    "http://172.31.255.255/",
    "http://192.168.0.1/",
    "http://192.168.257/",
    "http://0xc0a80001/",
    "http://100.64.0.1/",
    "http://100.127.255.255/",
    "http://169.254.169.254/latest/meta-data/",
    "http://2852039166/",
    "http://0xa9fea9fe/",
    "http://0251.0376.0251.0376/",
    // Protocol assignments, documentation, benchmarking, anycast.
    "http://192.0.0.1/",
    "http://192.0.0.9/",
    "http://192.0.0.170/",
    "http://192.0.2.1/",
    "http://192.31.196.1/",
    "http://192.52.193.1/",
    "http://192.88.99.1/",
    "http://192.175.48.1/",
    "http://198.18.0.1/",
    "http://198.19.255.255/",
    "http://198.51.100.7/",
    "http://203.0.113.9/",
    // Multicast, reserved, broadcast.
    "http://224.0.0.1/",
    "http://239.255.255.250/",
    "http://240.0.0.1/",
    "http://255.255.255.255/",
    "http://4294967295/",
    // IPv6.
    "http://[::]/",
    "http://[::1]/",
    "http://[0:0:0:0:0:0:0:1]/",
    "http://[fe80::1]/",
    "http://[febf::1]/",
    "http://[fec0::1]/",
    "http://[fc00::1]/",
    "http://[fd12:3456:789a::1]/",
    "http://[ff02::1]/",
    "http://[100::1]/",
    "http://[100:0:0:1::1]/",
    "http://[5f00::1]/",
    "http://[2001:db8::1]/",
    "http://[3fff:fff::1]/",
    "http://[2001:2::1]/",
    "http://[2001:10::1]/",
    "http://[2001:20::1]/",
    "http://[2001:30::1]/",
    "http://[2001:1::1]/",
    "http://[2001:4:112::1]/",
    "http://[2620:4f:8000::1]/",
    "http://[4000::1]/",
    // IPv4 within IPv6: mapped, compatible, NAT64, 6to4, Teredo.
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:7f00:1]/",
    "http://[0:0:0:0:0:ffff:10.0.0.1]/",
    "http://[::ffff:169.254.169.254]/",
    "http://[::127.0.0.1]/",
    "http://[::a00:1]/",
    "http://[::8.8.8.8]/",
    "http://[64:ff9b::127.0.0.1]/",
    "http://[64:ff9b::a9fe:a9fe]/",
    "http://[64:ff9b:1::7f00:1]/",
    "http://[64:ff9b:1:7f00:0:100::]/",
    "http://[64:ff9b:1::808:808]/",
    "http://[2002:7f00:1::]/",
    "http://[2002:c0a8:1::1]/",
    "http://[2002:a9fe:a9fe::]/",
    "http://[2001:0:7f00:1:0:0:80ff:fffe]/",
    "http://[2001:0:808:808:0:0:f5ff:fffe]/",
];

#[test]
fn what_is_not_public_is_refused_in_every_form() {
    assert!(PRIVATE.len() >= 60);
    for text in PRIVATE {
        let error = Reach::default().target(text, Owner::User);
        assert!(matches!(error, Err(TargetError::NotPublic(_))), "{text}: {error:?}");
    }
}

#[test]
fn what_is_public_is_not_refused() {
    for text in [
        "https://example.com/hook?x=1",
        "http://8.8.8.8/",
        "http://0x08080808/",
        "http://9.255.255.255/",
        "http://11.0.0.0/",
        "http://100.63.255.255/",
        "http://100.128.0.0/",
        "http://169.253.255.255/",
        "http://172.15.255.255/",
        "http://172.32.0.0/",
        "http://192.0.1.0/",
        "http://198.17.255.255/",
        "http://198.20.0.0/",
        "http://223.255.255.255/",
        "http://[2606:4700:4700::1111]/",
        "http://[2001:4860:4860::8888]/",
        "http://[2a00:1450::1]/",
        "http://[::ffff:8.8.8.8]/",
        "http://[64:ff9b::8.8.8.8]/",
        "http://[2002:808:808::1]/",
        "https://münchen.example/",
        "https://localhost.example.com/",
    ] {
        Reach::default().target(text, Owner::User).unwrap_or_else(|error| panic!("{text}: {error}"));
    }
}

#[test]
fn a_refusal_says_what_is_wrong_and_what_to_do() {
    let long = format!("https://example.com/{}", "x".repeat(MAX_URL));
    // Fits as it is written, and not in the form that is stored.
    let grows = format!("https://example.com/{}", "é".repeat(1000));
    for (text, says) in [
        ("", "not a URL"),
        ("example.com/hook", "not a URL"),
        ("https://", "not a URL"),
        ("https://exa mple.com/", "no spaces"),
        ("https://example.com/\n", "no spaces"),
        ("https://example.com/\u{0}", "no spaces"),
        ("https://1.2.3.4.5/", "not a URL"),
        ("http://256.1.1.1/", "not a URL"),
        ("http://[::1/", "not a URL"),
        ("ftp://example.com/", "begins with https://"),
        ("file:///etc/passwd", "begins with https://"),
        ("gopher://127.0.0.1:70/", "begins with https://"),
        ("javascript:alert(1)", "begins with https://"),
        ("unix:/var/run/docker.sock", "begins with https://"),
        ("https://ann:secret@example.com/", "user name or a password"),
        ("https://ann@example.com/", "user name or a password"),
        ("https://8.8.8.8@127.0.0.1/", "user name or a password"),
        ("https://example.com/#part", "from # on"),
        ("https://example.com:8443/", "Port 8443 is not allowed; the ports are 80, 443, 9000."),
        ("http://example.com:22/", "Port 22"),
        ("http://example.com:0/", "Port 0"),
        (&long, "2048 bytes"),
        (&grows, "2048 bytes"),
    ] {
        let reach = Reach { ports: vec![9000], ..Reach::default() };
        let error = reach.target(text, Owner::Admin).unwrap_err().to_string();
        assert!(error.contains(says), "{text}: {error}");
        assert!(!error.contains("secret"), "{error}");
    }
    let reach = Reach { ports: vec![9000], ..Reach::default() };
    let target = reach.target("HTTP://Example.COM:9000/a/../b", Owner::User).unwrap();
    assert_eq!(target.as_str(), "http://example.com:9000/b");
}

#[test]
fn the_allow_list_is_for_admins() {
    let allow = AllowList::new(["10.1.0.0/16", "::1", "127.0.0.1"].map(|text| network(text).unwrap()));
    let reach = Reach { allow, ports: Vec::new() };
    for text in ["http://10.1.2.3/", "http://[::ffff:10.1.2.3]/", "http://[::1]/", "http://localhost/"] {
        assert!(reach.target(text, Owner::Admin).is_ok(), "{text}");
        assert!(reach.target(text, Owner::User).is_err(), "{text}");
    }
    assert!(reach.target("http://10.2.0.1/", Owner::Admin).is_err());
    assert!(network("10.1").unwrap_err().contains("10.1.0.0/16"));
}
