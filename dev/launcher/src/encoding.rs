//! Text forms that std does not have: base64, JSON strings, percent-encoding, and a hash for short names.

/// RFC 4648 §4, with padding.
pub(crate) fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |i: usize| u32::from(chunk.get(i).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for i in 0..4 {
            let index = (bits >> (18 - 6 * i) & 63) as usize;
            text.push(if i <= chunk.len() { char::from(ALPHABET[index]) } else { '=' });
        }
    }
    text
}

/// A JSON string with its quotes (RFC 8259 §7).
pub(crate) fn json_string(text: &str) -> String {
    let mut json = String::with_capacity(text.len() + 2);
    json.push('"');
    for c in text.chars() {
        match c {
            '"' => json.push_str("\\\""),
            '\\' => json.push_str("\\\\"),
            '\n' => json.push_str("\\n"),
            '\r' => json.push_str("\\r"),
            '\t' => json.push_str("\\t"),
            c if c < ' ' => json.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => json.push(c),
        }
    }
    json.push('"');
    json
}

/// Encodes everything but the unreserved characters of RFC 3986 §2.3; `also` names characters to leave alone.
pub(crate) fn percent(text: &str, also: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        let c = char::from(byte);
        if c.is_ascii_alphanumeric() || "-._~".contains(c) || also.contains(c) {
            encoded.push(c);
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// Hides the password of a URL.
pub(crate) fn without_password(url: &str) -> String {
    let hidden = || {
        let (scheme, rest) = url.split_once("://")?;
        let (credentials, place) = rest.split_once('@')?;
        let (user, _password) = credentials.split_once(':')?;
        Some(format!("{scheme}://{user}:***@{place}"))
    };
    hidden().unwrap_or_else(|| url.to_owned())
}

/// FNV-1a, 32 bits: short, and the same in every build.
pub(crate) fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_follows_the_vectors_of_rfc_4648() {
        for (plain, encoded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
        assert_eq!(base64(&[0xff, 0xff, 0xfe]), "///+");
    }

    #[test]
    fn json_strings_are_escaped() {
        assert_eq!(json_string("a \"quoted\" \\path\n\t\u{1}é"), r#""a \"quoted\" \\path\n\t\u0001é""#);
    }

    #[test]
    fn percent_encoding_keeps_what_may_stay() {
        assert_eq!(percent("/tmp/a b-1", ""), "%2Ftmp%2Fa%20b-1");
        assert_eq!(percent("/tmp/a b-1", "/"), "/tmp/a%20b-1");
    }

    #[test]
    fn passwords_are_hidden() {
        assert_eq!(without_password("postgres://ann:secret@db/x"), "postgres://ann:***@db/x");
        assert_eq!(without_password("redis://:secret@cache:6379"), "redis://:***@cache:6379");
        assert_eq!(without_password("postgres://ann@db/x"), "postgres://ann@db/x");
    }

    #[test]
    fn fnv1a_follows_its_vectors() {
        assert_eq!(fnv1a(b""), 0x811c_9dc5);
        assert_eq!(fnv1a(b"foobar"), 0xbf9c_f968);
    }
}
