use std::sync::LazyLock;

use argon2::{
    Algorithm, Argon2, Params, PasswordHasher as _, PasswordVerifier as _, Version,
    password_hash::phc::PasswordHash,
};
use common::{credentials::Login, error::Error};

use crate::{error::Result, state::AppState};

/// Argon2id with 19 MiB, two passes and one lane: the first choice of OWASP's password storage cheat sheet.
static ARGON2: LazyLock<Argon2<'static>> = LazyLock::new(|| {
    #[expect(clippy::expect_used, reason = "the parameters are constants, within argon2's limits")]
    let params = Params::new(19 * 1024, 2, 1, None).expect("constant parameters");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
});

/// What is verified for an address without an account, so that it takes as long as for one with: the same parameters,
/// and no password that fits.
const DUMMY: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$dGFza3RyYWNrZXItZHVtbXk$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

fn hash(password: &str) -> Result<String, Error> {
    let hash = ARGON2
        .hash_password(password.as_bytes())
        .map_err(|error| Error::Internal(anyhow::anyhow!("{error}")))?;
    Ok(hash.to_string())
}

fn verify(password: &str, hash: &str) -> bool {
    PasswordHash::new(hash).is_ok_and(|hash| ARGON2.verify_password(password.as_bytes(), &hash).is_ok())
}

/// Runs a password's hash on a thread of its own, at most two at once: each takes 19 MiB and tens of milliseconds.
async fn hashing<T: Send + 'static>(app: &AppState, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let internal = |error: anyhow::Error| Error::Internal(error);
    let permit = app.hashing.clone().acquire_owned().await.map_err(|error| internal(error.into()))?;
    let result = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        work()
    });
    Ok(result.await.map_err(|error| internal(error.into()))?)
}

/// The hash of a password, as it is stored.
pub(crate) async fn hashed(app: &AppState, password: String) -> Result<String> {
    Ok(hashing(app, move || hash(&password)).await??)
}

/// Whether `password` is that of `login`. It takes as long, whether there is such an account and it has a password or not.
pub(crate) async fn fits(app: &AppState, login: Option<&Login>, password: String) -> Result<bool> {
    let stored = login.and_then(|login| login.password_hash.clone());
    let known = stored.is_some();
    hashing(app, move || verify(&password, stored.as_deref().unwrap_or(DUMMY)) && known).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dummy_is_a_hash_of_ours_that_no_password_fits() {
        let (dummy, ours) = (PasswordHash::new(DUMMY).unwrap(), hash("correct horse battery").unwrap());
        let ours = PasswordHash::new(&ours).unwrap();
        assert_eq!(
            (dummy.algorithm, dummy.version, &dummy.params),
            (ours.algorithm, ours.version, &ours.params)
        );
        assert_eq!(dummy.hash.unwrap().len(), ours.hash.unwrap().len());
        assert!(!verify("correct horse battery", DUMMY));
    }
}
