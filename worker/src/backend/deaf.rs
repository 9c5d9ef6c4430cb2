//! In test builds alone: fetch loops that hang, as a defect of ours would make them hang (goals R43). Nothing that is
//! shipped belongs here.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

static DEAF: AtomicBool = AtomicBool::new(false);

/// From now on no fetch loop of this process turns.
pub(crate) fn deafen() {
    DEAF.store(true, Relaxed);
}

/// Where a fetch loop hangs.
pub(super) async fn hang_if_deaf() {
    if DEAF.load(Relaxed) {
        std::future::pending::<()>().await;
    }
}
