//! Keys and random tokens. Every purpose has its own key, derived from the operator's `SECRET_KEYS` by HKDF-SHA256
//! (RFC 5869), so that what leaks for one purpose is of no use for another. Nothing here is ever printed.

use std::str::FromStr;

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use chacha20poly1305::{
    XChaCha20Poly1305, XNonce,
    aead::{Aead as _, Payload},
};
use hkdf::Hkdf;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Access tokens.
    Jwt,
    /// Cursors of lists.
    Cursor,
    /// Addresses of clients, which are stored only as a keyed hash.
    IpHash,
    /// Links in mails that complete or snooze a task.
    MailAction,
    /// Links in mails that stop a kind of mail.
    Unsubscribe,
    /// Links that are mailed once: verification, password reset.
    OneTime,
    /// Secrets that have to be read again, sealed before they are stored.
    AtRest,
}

impl Purpose {
    fn info(self) -> &'static [u8] {
        match self {
            Self::Jwt => b"jwt",
            Self::Cursor => b"cursor",
            Self::IpHash => b"ip-hash",
            Self::MailAction => b"mail-action",
            Self::Unsubscribe => b"unsubscribe",
            Self::OneTime => b"one-time",
            Self::AtRest => b"at-rest",
        }
    }
}

/// The operator's keys: the first one signs, all verify, so that a key can be replaced without a break.
#[derive(Clone)]
pub struct SecretKeys(Vec<SecretKey>);

#[derive(Clone)]
struct SecretKey {
    id: String,
    secret: Vec<u8>,
}

/// A key for one purpose.
#[derive(Clone)]
pub struct Key {
    /// The id of the secret it was derived from.
    pub id: String,
    bytes: [u8; 32],
}

impl std::fmt::Debug for SecretKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|key| &key.id)).finish()
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("id", &self.id).finish_non_exhaustive()
    }
}

impl FromStr for SecretKeys {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORM: &str = "the form is `id:base64,…` with at least 32 bytes each; make one with \
                            `echo \"k1:$(openssl rand -base64 32)\"`";
        let mut keys: Vec<SecretKey> = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (id, secret) = part.split_once(':').ok_or_else(|| format!("a key has no id; {FORM}"))?;
            let secret =
                STANDARD.decode(secret).map_err(|_| format!("the key `{id}` is not base64; {FORM}"))?;
            if secret.len() < 32 {
                return Err(format!("the key `{id}` has {} bytes; {FORM}", secret.len()));
            }
            if id.is_empty() || keys.iter().any(|key| key.id == id) {
                return Err(format!("the key id `{id}` is empty or there twice; {FORM}"));
            }
            keys.push(SecretKey { id: id.to_owned(), secret });
        }
        if keys.is_empty() { Err(format!("there is no key; {FORM}")) } else { Ok(Self(keys)) }
    }
}

impl SecretKeys {
    /// The keys for a purpose, the one that signs first.
    pub fn derive(&self, purpose: Purpose) -> Vec<Key> {
        self.0
            .iter()
            .map(|key| {
                let mut bytes = [0; 32];
                #[expect(
                    clippy::expect_used,
                    reason = "32 bytes are less than the 8160 that HKDF-SHA256 gives"
                )]
                Hkdf::<Sha256>::new(None, &key.secret).expand(purpose.info(), &mut bytes).expect("32 bytes");
                Key { id: key.id.clone(), bytes }
            })
            .collect()
    }

    /// Seals what has to be read again before it is stored: XChaCha20-Poly1305 under the first key, whose id stands in
    /// front, so that what an older key sealed can still be opened. `bound_to` says what it belongs to: copied to
    /// another row it does not open.
    #[expect(
        clippy::expect_used,
        reason = "a key always has 32 bytes, there is a first one, and memory fits"
    )]
    pub fn seal(&self, plain: &[u8], bound_to: &[u8]) -> Vec<u8> {
        let key = self.derive(Purpose::AtRest).into_iter().next().expect("there is a key");
        let nonce: [u8; NONCE] = rand::random();
        let payload = Payload { msg: plain, aad: bound_to };
        let sealed = key.cipher().encrypt(&XNonce::from(nonce), payload).expect("it fits into memory");
        [key.id.as_bytes(), b":", &nonce, &sealed].concat()
    }

    /// Seals with the first key what another one sealed, so that the other can be thrown away.
    pub fn reseal(&self, sealed: &[u8], bound_to: &[u8]) -> Resealed {
        let Some(plain) = self.open(sealed, bound_to) else { return Resealed::Lost };
        let is_current = self.0.first().is_some_and(|first| {
            sealed.strip_prefix(first.id.as_bytes()).is_some_and(|rest| rest.starts_with(b":"))
        });
        if is_current { Resealed::Current } else { Resealed::Anew(self.seal(&plain, bound_to)) }
    }

    /// What [`SecretKeys::seal`] sealed; `None` if its key is gone, or it belongs to something else.
    pub fn open(&self, sealed: &[u8], bound_to: &[u8]) -> Option<Vec<u8>> {
        let colon = sealed.iter().position(|byte| *byte == b':')?;
        let (id, rest) = (&sealed[..colon], &sealed[colon + 1..]);
        let (nonce, sealed) = rest.split_first_chunk::<NONCE>()?;
        let key = self.derive(Purpose::AtRest).into_iter().find(|key| key.id.as_bytes() == id)?;
        key.cipher().decrypt(&XNonce::from(*nonce), Payload { msg: sealed, aad: bound_to }).ok()
    }
}

/// What [`SecretKeys::reseal`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resealed {
    /// The first key sealed it already.
    Current,
    /// What to store instead.
    Anew(Vec<u8>),
    /// No key of these opens it.
    Lost,
}

/// Bytes of a nonce: long enough to be drawn at random.
const NONCE: usize = 24;

impl Key {
    /// The bytes, for a library that wants them.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// HMAC-SHA256 (RFC 2104) of `message`.
    pub fn sign(&self, message: &[u8]) -> [u8; 32] {
        self.mac(message).finalize().into_bytes().into()
    }

    /// Whether `signature` is that of `message`, in constant time.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        self.mac(message).verify_slice(signature).is_ok()
    }

    /// Whether `signature` is the beginning of that of `message`, in constant time. For where 128 bits are enough.
    pub fn verify_truncated(&self, message: &[u8], signature: &[u8]) -> bool {
        self.mac(message).verify_truncated_left(signature).is_ok()
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(&self.bytes.into())
    }

    fn mac(&self, message: &[u8]) -> Hmac<Sha256> {
        #[expect(clippy::expect_used, reason = "HMAC takes a key of any length")]
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.bytes).expect("a key of any length");
        mac.update(message);
        mac
    }
}

/// A token that cannot be guessed (256 bits), with a prefix that says what it is.
pub fn random_token(prefix: &str) -> String {
    let bytes: [u8; 32] = rand::random();
    format!("{prefix}{}", URL_SAFE_NO_PAD.encode(bytes))
}

/// How a random token is stored. It has 256 bits, so a plain hash is enough.
pub fn token_hash(token: &str) -> Vec<u8> {
    Sha256::digest(token.as_bytes()).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "a:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

    #[test]
    fn each_purpose_has_its_own_key() {
        let keys: SecretKeys = KEY.parse().unwrap();
        let signature = keys.derive(Purpose::Jwt)[0].sign(b"message");
        assert!(keys.derive(Purpose::Jwt)[0].verify(b"message", &signature));
        assert!(!keys.derive(Purpose::Cursor)[0].verify(b"message", &signature));
    }

    #[test]
    fn what_is_sealed_opens_for_its_owner_alone() {
        let old: SecretKeys = KEY.parse().unwrap();
        let sealed = old.seal(b"whsec_x", b"endpoint 1");
        assert!(!sealed.windows(5).any(|bytes| bytes == b"whsec"));
        assert_ne!(sealed, old.seal(b"whsec_x", b"endpoint 1"), "each time under another nonce");
        let rotated: SecretKeys = format!("b:{},{KEY}", "E".repeat(43) + "=").parse().unwrap();
        assert_eq!(
            rotated.open(&sealed, b"endpoint 1").as_deref(),
            Some(&b"whsec_x"[..]),
            "an older key opens"
        );
        assert_eq!(rotated.open(&sealed, b"endpoint 2"), None, "it belongs to another row");
        assert_eq!(old.open(&rotated.seal(b"x", b""), b""), None, "the key is gone");
        for position in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[position] ^= 1;
            assert_eq!(old.open(&damaged, b"endpoint 1"), None);
            assert_eq!(old.open(&sealed[..position], b"endpoint 1"), None);
        }
    }

    #[test]
    fn resealing_moves_to_the_first_key_and_tells_what_is_lost() {
        let old: SecretKeys = KEY.parse().unwrap();
        let both: SecretKeys = format!("b:{},{KEY}", "E".repeat(43) + "=").parse().unwrap();
        let new: SecretKeys = format!("b:{}", "E".repeat(43) + "=").parse().unwrap();
        let sealed = old.seal(b"x", b"1");
        assert_eq!(old.reseal(&sealed, b"1"), Resealed::Current);
        let Resealed::Anew(moved) = both.reseal(&sealed, b"1") else { panic!("not sealed anew") };
        assert_eq!(
            (both.reseal(&moved, b"1"), new.open(&moved, b"1")),
            (Resealed::Current, Some(b"x".to_vec()))
        );
        assert_eq!((new.reseal(&sealed, b"1"), both.reseal(&sealed, b"2")), (Resealed::Lost, Resealed::Lost));
    }

    #[test]
    fn a_bad_key_is_refused_with_the_form_and_without_the_secret() {
        for bad in ["", "AAAA", "a:!!", "a:c2hvcnQ=", &format!("{KEY},{KEY}")] {
            let error = bad.parse::<SecretKeys>().unwrap_err();
            assert!(error.contains("id:base64"), "{error}");
            assert!(!error.contains("c2hvcnQ"), "{error}");
        }
        assert_eq!(format!("{:?}", KEY.parse::<SecretKeys>().unwrap()), r#"["a"]"#);
    }
}
