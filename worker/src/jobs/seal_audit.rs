use common::{audit, jobs::SealAudit};

use crate::{
    context::Context,
    job::{JobError, Run},
};

impl Run for SealAudit {
    /// Seals the trail, a batch in each transaction.
    async fn run(self, context: &Context) -> Result<(), JobError> {
        loop {
            let mut tx = context.db.begin().await?;
            let sealed = audit::seal(&mut tx).await;
            if !tx.finish(sealed).await?.is_full {
                return Ok(());
            }
        }
    }
}
