use std::{
    cell::RefCell,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, LazyLock, Mutex, PoisonError, mpsc},
    thread,
};

use argon2::{
    Algorithm, Argon2, Block, Params, PasswordHasher, PasswordVerifier as _, Version,
    password_hash::{
        self,
        phc::{Output, PasswordHash, Salt},
    },
};
use common::{credentials::Login, error::Error, metrics};
use tokio::sync::oneshot;

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

thread_local! {
    /// The 19 MiB, taken once by each thread that hashes: given back and taken anew each time, they would lie about in pieces.
    static MEMORY: RefCell<Vec<Block>> = const { RefCell::new(Vec::new()) };
}

/// [`ARGON2`] in the memory of this thread.
struct InMemory;

impl PasswordHasher<PasswordHash> for InMemory {
    fn hash_password_with_salt(&self, password: &[u8], salt: &[u8]) -> password_hash::Result<PasswordHash> {
        let mut hash = [0; Params::DEFAULT_OUTPUT_LEN];
        MEMORY.with_borrow_mut(|memory| {
            memory.resize(ARGON2.params().block_count(), Block::new());
            ARGON2.hash_password_into_with_memory(password, salt, &mut hash, memory)
        })?;
        Ok(PasswordHash {
            algorithm: Algorithm::Argon2id.ident(),
            version: Some(Version::V0x13.into()),
            params: ARGON2.params().try_into()?,
            salt: Some(Salt::new(salt)?),
            hash: Some(Output::new(&hash)?),
        })
    }
}

fn hash(password: &str) -> Result<String, Error> {
    let hash = InMemory
        .hash_password(password.as_bytes())
        .map_err(|error| Error::Internal(anyhow::anyhow!("{error}")))?;
    Ok(hash.to_string())
}

fn verify(password: &str, hash: &str) -> bool {
    let Ok(stored) = PasswordHash::new(hash) else { return false };
    let Some(salt) = &stored.salt else { return false };
    let Ok(ours) = InMemory.hash_password_with_salt(password.as_bytes(), salt) else { return false };
    if (ours.algorithm, ours.version, &ours.params) == (stored.algorithm, stored.version, &stored.params) {
        // Of a type that compares in constant time.
        ours.hash == stored.hash
    } else {
        ARGON2.verify_password(password.as_bytes(), &stored).is_ok()
    }
}

/// Passwords that are hashed at the same time: each takes 19 MiB and tens of milliseconds.
const AT_ONCE: usize = 2;
/// Requests that may wait for that: about a second.
const WAITING: usize = 64;

type Work = Box<dyn FnOnce() + Send>;

/// Threads that hash passwords, and nothing else. On threads of the runtime, of which there may be many, the allocator would keep
/// those 19 MiB for each of them.
pub(crate) struct Hashing(mpsc::SyncSender<Work>);

impl Hashing {
    /// Starts them; they end when nobody can ask any more.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub(crate) fn start() -> io::Result<Self> {
        let (sender, work) = mpsc::sync_channel::<Work>(WAITING);
        let work = Arc::new(Mutex::new(work));
        for _ in 0..AT_ONCE {
            let work = work.clone();
            thread::Builder::new().name("password".to_owned()).spawn(move || {
                let next = || work.lock().unwrap_or_else(PoisonError::into_inner).recv();
                while let Ok(work) = next() {
                    // Whoever waits for it sees that there is no answer.
                    let _ = catch_unwind(AssertUnwindSafe(work));
                }
            })?;
        }
        Ok(Self(sender))
    }

    /// Does it on one of the threads.
    ///
    /// # Errors
    /// [`Error::Overloaded`] if as many wait as may.
    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
        let (done, result) = oneshot::channel();
        // An error says that nobody waits any more.
        let work = move || drop(done.send(work()));
        self.0.try_send(Box::new(work)).map_err(|_| {
            metrics::request_shed("passwords");
            Error::Overloaded
        })?;
        result.await.map_err(|error| Error::Internal(error.into()))
    }
}

/// The hash of a password, as it is stored.
pub(crate) async fn hashed(app: &AppState, password: String) -> Result<String> {
    Ok(app.hashing.run(move || hash(&password)).await??)
}

/// Whether `password` is that of `login`. It takes as long, whether there is such an account and it has a password or not.
pub(crate) async fn fits(app: &AppState, login: Option<&Login>, password: String) -> Result<bool> {
    let stored = login.and_then(|login| login.password_hash.clone());
    let known = stored.is_some();
    Ok(app.hashing.run(move || verify(&password, stored.as_deref().unwrap_or(DUMMY)) && known).await?)
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
