use common::{jobs::FanOutEvent, webhooks};

use crate::{
    context::Context,
    job::{JobError, Run},
};

impl Run for FanOutEvent {
    /// Makes the deliveries of an event, a batch in each transaction: what was done stays done.
    async fn run(self, context: &Context) -> Result<(), JobError> {
        loop {
            let mut tx = context.db.begin().await?;
            let done = webhooks::fan_out(&mut tx, self.event_id).await?;
            tx.commit().await?;
            if done < webhooks::BATCH {
                return Ok(());
            }
        }
    }
}
