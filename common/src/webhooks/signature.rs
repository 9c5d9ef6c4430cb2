//! The signature of [Standard Webhooks](https://www.standardwebhooks.com): `v1,` and the base64 of HMAC-SHA256 over
//! `id.timestamp.body`. While a secret is being replaced a delivery carries two, so that a receiver who knows either
//! accepts it.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

/// What a secret begins with when it is shown.
const PREFIX: &str = "whsec_";

/// The secret that an endpoint's deliveries are signed with. Never printed by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// 256 random bits: the specification wants 192 to 512.
    pub fn random() -> Self {
        Self(rand::random::<[u8; 32]>().to_vec())
    }

    /// The secret as its owner sees it, once: `whsec_` and base64.
    pub fn reveal(&self) -> String {
        format!("{PREFIX}{}", STANDARD.encode(&self.0))
    }

    /// The secret that [`Secret::reveal`] shows; `None` if the text is not one.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = STANDARD.decode(text.strip_prefix(PREFIX)?).ok()?;
        (!bytes.is_empty()).then_some(Self(bytes))
    }

    /// The signature of a body under `id`, sent at `timestamp` (seconds since 1970).
    pub fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        #[expect(clippy::expect_used, reason = "HMAC takes a key of any length")]
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("a key of any length");
        mac.update(format!("{id}.{timestamp}.").as_bytes());
        mac.update(body);
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// The value of `webhook-signature`: one signature for each secret that is valid now, the newest first.
pub fn header(secrets: &[Secret], id: &str, timestamp: i64, body: &[u8]) -> String {
    let signatures: Vec<String> = secrets.iter().map(|secret| secret.sign(id, timestamp, body)).collect();
    signatures.join(" ")
}

#[cfg(test)]
mod tests {
    use standardwebhooks::Webhook;

    use super::*;
    use crate::clock::Clock;

    fn verify(secret: &Secret, id: &str, timestamp: i64, signature: &str, body: &[u8]) -> bool {
        let mut headers = http::HeaderMap::new();
        headers.insert("webhook-id", id.parse().unwrap());
        headers.insert("webhook-timestamp", timestamp.to_string().parse().unwrap());
        headers.insert("webhook-signature", signature.parse().unwrap());
        Webhook::new(&secret.reveal()).unwrap().verify(body, &headers).is_ok()
    }

    /// The example of the specification.
    #[test]
    fn the_example_of_the_specification() {
        let secret = Secret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signature =
            secret.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    /// R24: ten thousand bodies, each under the present secret, and under both while the old one is valid still.
    #[test]
    fn receivers_verify_what_we_sign() {
        let now = Clock::default().instant().timestamp();
        let (mut old, mut new) = (Secret::random(), Secret::random());
        for round in 0..10_000 {
            if round % 100 == 0 {
                (old, new) = (new, Secret::random());
            }
            let length = rand::random_range(0..300);
            let body: String = (0..length).map(|_| rand::random::<char>()).collect();
            let (body, id) = (body.as_bytes(), uuid::Uuid::now_v7().to_string());
            let both = header(&[new.clone(), old.clone()], &id, now, body);
            assert!(verify(&new, &id, now, &both, body) && verify(&old, &id, now, &both, body));
            let alone = header(std::slice::from_ref(&new), &id, now, body);
            assert!(verify(&new, &id, now, &alone, body) && !verify(&old, &id, now, &alone, body));
            let other = [body, b"x"].concat();
            assert!(!verify(&new, &id, now, &alone, &other) && !verify(&new, "id", now, &alone, body));
            assert!(!verify(&new, &id, now - 1, &alone, body));
        }
    }

    #[test]
    fn a_secret_is_shown_on_request_alone() {
        let secret = Secret::random();
        assert_eq!(Secret::parse(&secret.reveal()), Some(secret.clone()));
        assert_eq!(format!("{secret:?}"), "Secret");
        for bad in ["", "whsec_", "whsec_!", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"] {
            assert_eq!(Secret::parse(bad), None, "{bad}");
        }
    }
}
