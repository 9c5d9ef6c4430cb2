//! Access tokens: JWTs (RFC 7519) signed with HS256, good for 15 minutes. They are not stored; a session that ended
//! meanwhile is known to every process within a second, so logging out is immediate.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, PoisonError, RwLock},
};

use chrono::{DateTime, Utc};
use common::{
    access::Viewer,
    credentials::{ACCESS_TOKEN_LIFE, Session},
    db::Db,
    error::{Code, Error, Result},
    ids::{SessionId, UserId},
    secrets::Key,
};
use jsonwebtoken::{
    Algorithm, DecodingKey, EncodingKey, Header, Validation,
    crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils},
    errors::ErrorKind,
    signature::{self, Signer, Verifier},
};
use serde::{Deserialize, Serialize};

/// Issues and reads access tokens. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Tokens {
    keys: Arc<[Key]>,
    ended: Arc<RwLock<Ended>>,
    /// Tokens that a key of ours has signed, with what they say: a signature is checked once, and not at each request.
    verified: Arc<RwLock<HashMap<Box<str>, Claims>>>,
}

/// How many tokens are remembered, of some 300 bytes each.
const VERIFIED: usize = 4096;

/// The sessions that ended while an access token of theirs may still be good.
#[derive(Default)]
struct Ended {
    /// As the database last said.
    known: HashSet<SessionId>,
    /// Ended here since the last question to the database began, whose answer may not hold them yet.
    news: HashSet<SessionId>,
}

impl Ended {
    fn contains(&self, session: SessionId) -> bool {
        self.known.contains(&session) || self.news.contains(&session)
    }
}

#[derive(Clone, Copy, Serialize, Deserialize)]
struct Claims {
    sub: UserId,
    sid: SessionId,
    iat: i64,
    exp: i64,
}

/// Who calls, as a token says it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caller {
    /// On whose behalf.
    pub(crate) viewer: Viewer,
    /// In which session.
    pub(crate) session: SessionId,
}

impl Tokens {
    /// The first of `keys` signs, all verify.
    pub(crate) fn new(keys: Vec<Key>) -> Self {
        // Whoever came first installed the same one.
        let _ = HS256.install_default();
        Self { keys: keys.into(), ended: Arc::default(), verified: Arc::default() }
    }

    /// A token for a session, good from `now`.
    pub(crate) fn issue(&self, session: &Session, now: DateTime<Utc>) -> Result<String> {
        let Some(key) = self.keys.first() else {
            return Err(Error::Internal(anyhow::anyhow!("no key for tokens")));
        };
        let header = Header { kid: Some(key.id.clone()), ..Header::new(Algorithm::HS256) };
        let claims = Claims {
            sub: session.user_id,
            sid: session.id,
            iat: now.timestamp(),
            exp: (now + ACCESS_TOKEN_LIFE).timestamp(),
        };
        jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(key.bytes()))
            .map_err(|error| Error::Internal(error.into()))
    }

    /// Who calls with this token.
    ///
    /// # Errors
    /// [`Error::Unauthenticated`] if it is damaged, forged or expired, or its session has ended.
    pub(crate) fn read(&self, token: &str, now: DateTime<Utc>) -> Result<Caller> {
        let refused = || Error::Unauthenticated(Code::InvalidToken);
        let claims = self.verify(token).ok_or_else(refused)?;
        let ended = self.ended.read().unwrap_or_else(PoisonError::into_inner).contains(claims.sid);
        if claims.exp <= now.timestamp() || ended {
            return Err(refused());
        }
        Ok(Caller { viewer: Viewer { user_id: claims.sub, project: None }, session: claims.sid })
    }

    /// What a token says, if a key of ours has signed it.
    fn verify(&self, token: &str) -> Option<Claims> {
        let known = self.verified.read().unwrap_or_else(PoisonError::into_inner).get(token).copied();
        if known.is_some() {
            return known;
        }
        let header = jsonwebtoken::decode_header(token).ok()?;
        // The clock is ours, so the time is checked below.
        let mut validation = Validation::new(Algorithm::HS256);
        validation.validate_exp = false;
        let claims: Claims = self
            .keys
            .iter()
            .filter(|key| header.kid.as_ref().is_none_or(|kid| *kid == key.id))
            .find_map(|key| {
                jsonwebtoken::decode(token, &DecodingKey::from_secret(key.bytes()), &validation).ok()
            })?
            .claims;
        let mut verified = self.verified.write().unwrap_or_else(PoisonError::into_inner);
        if verified.len() >= VERIFIED {
            // Most have expired since it was last full; those that have not are verified once more.
            verified.clear();
        }
        verified.insert(token.into(), claims);
        Some(claims)
    }

    /// These sessions have ended: this process knows at once.
    pub(crate) fn end(&self, sessions: &[SessionId]) {
        self.ended.write().unwrap_or_else(PoisonError::into_inner).news.extend(sessions);
    }

    /// Learns which sessions were ended, also by other processes.
    ///
    /// # Errors
    /// If the database is away; what is known stays known.
    pub(crate) async fn refresh(&self, db: &Db) -> Result<()> {
        let mut conn = db.conn().await?;
        self.ask();
        let ended = Session::ended_lately(&mut conn, db.clock().now()).await?;
        self.learn(ended);
        Ok(())
    }

    /// A question begins: what ended here before it is in its answer, or known already if that does not come.
    fn ask(&self) {
        let mut ended = self.ended.write().unwrap_or_else(PoisonError::into_inner);
        let news = std::mem::take(&mut ended.news);
        ended.known.extend(news);
    }

    /// The answer replaces what was known; what ended here meanwhile stays.
    fn learn(&self, ended: Vec<SessionId>) {
        self.ended.write().unwrap_or_else(PoisonError::into_inner).known = ended.into_iter().collect();
    }
}

/// HMAC with SHA-256 from the crates that the rest of the project signs with: the backends that jsonwebtoken offers
/// bring an RSA implementation with a known weakness, or a C library.
static HS256: CryptoProvider = CryptoProvider {
    signer_factory: |algorithm, key| Ok(Box::new(Hs256::new(*algorithm, key.as_bytes())?)),
    verifier_factory: |algorithm, key| Ok(Box::new(Hs256::new(*algorithm, key.try_get_as_bytes()?)?)),
    key_utils: KeyUtils::new_unimplemented(),
};

struct Hs256(hmac::Hmac<sha2::Sha256>);

impl Hs256 {
    fn new(algorithm: Algorithm, secret: &[u8]) -> jsonwebtoken::errors::Result<Self> {
        use hmac::KeyInit as _;

        if algorithm != Algorithm::HS256 {
            return Err(ErrorKind::InvalidAlgorithm.into());
        }
        hmac::Hmac::new_from_slice(secret).map(Self).map_err(|_| ErrorKind::InvalidKeyFormat.into())
    }
}

impl Signer<Vec<u8>> for Hs256 {
    fn try_sign(&self, message: &[u8]) -> Result<Vec<u8>, signature::Error> {
        use hmac::Mac as _;

        Ok(self.0.clone().chain_update(message).finalize().into_bytes().to_vec())
    }
}

impl Verifier<Vec<u8>> for Hs256 {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), signature::Error> {
        use hmac::Mac as _;

        self.0.clone().chain_update(message).verify_slice(signature).map_err(|_| signature::Error::new())
    }
}

impl JwtSigner for Hs256 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::HS256
    }
}

impl JwtVerifier for Hs256 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::HS256
    }
}

#[cfg(test)]
mod tests {
    use common::secrets::{Purpose, SecretKeys};

    use super::*;

    fn tokens(keys: &str) -> Tokens {
        Tokens::new(keys.parse::<SecretKeys>().unwrap().derive(Purpose::Jwt))
    }

    const OLD: &str = "a:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    const BOTH: &str =
        "b:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=,a:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

    fn session() -> Session {
        Session { id: SessionId::new(), user_id: UserId::new(), refresh_token: String::new() }
    }

    #[test]
    fn a_token_is_good_for_fifteen_minutes_and_until_its_session_ends() {
        let (tokens, session) = (tokens(OLD), session());
        let start: DateTime<Utc> = "2026-01-01T00:00:00Z".parse().unwrap();
        let token = tokens.issue(&session, start).unwrap();
        let later = start + ACCESS_TOKEN_LIFE;
        assert_eq!(tokens.read(&token, start).unwrap().viewer.user_id, session.user_id);
        assert!(tokens.read(&token, later - chrono::Duration::seconds(1)).is_ok());
        assert!(tokens.read(&token, later).is_err());
        tokens.end(&[session.id]);
        assert!(tokens.read(&token, start).is_err());
    }

    #[test]
    fn a_logout_is_not_forgotten_by_an_answer_that_was_asked_for_before_it() {
        let (tokens, session) = (tokens(OLD), session());
        let start: DateTime<Utc> = "2026-01-01T00:00:00Z".parse().unwrap();
        let token = tokens.issue(&session, start).unwrap();
        tokens.ask();
        tokens.end(&[session.id]);
        tokens.learn(Vec::new());
        assert!(tokens.read(&token, start).is_err(), "the answer is older than the logout");
        tokens.ask();
        assert!(tokens.read(&token, start).is_err(), "while the next answer is on its way, or does not come");
        tokens.learn(vec![session.id]);
        assert!(tokens.read(&token, start).is_err());
    }

    #[test]
    fn a_token_that_was_verified_expires_and_few_are_remembered() {
        let (tokens, session) = (tokens(OLD), session());
        let start: DateTime<Utc> = "2026-01-01T00:00:00Z".parse().unwrap();
        let first = tokens.issue(&session, start).unwrap();
        for second in 0..=VERIFIED {
            let at = start + chrono::Duration::seconds(i64::try_from(second).unwrap());
            assert!(tokens.read(&tokens.issue(&session, at).unwrap(), at).is_ok());
            assert!(tokens.verified.read().unwrap().len() <= VERIFIED);
        }
        assert!(tokens.read(&first, start).is_ok());
        assert!(tokens.read(&first, start + ACCESS_TOKEN_LIFE).is_err());
        assert!(tokens.read(&format!("{first}A"), start).is_err());
    }

    #[test]
    fn keys_rotate_and_forgeries_are_refused() {
        let start: DateTime<Utc> = "2026-01-01T00:00:00Z".parse().unwrap();
        let token = tokens(OLD).issue(&session(), start).unwrap();
        assert!(tokens(BOTH).read(&token, start).is_ok(), "the old key still verifies");
        let new = tokens(BOTH).issue(&session(), start).unwrap();
        assert!(tokens(OLD).read(&new, start).is_err(), "an unknown key does not");
        let (head, tail) = token.split_at(token.len() - 4);
        assert!(tokens(OLD).read(&format!("{head}AAAA"), start).is_err() || tail == "AAAA");
        let none = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.e30.";
        for bad in ["", "a.b.c", none, &token[1..]] {
            assert!(tokens(OLD).read(bad, start).is_err());
        }
    }
}
