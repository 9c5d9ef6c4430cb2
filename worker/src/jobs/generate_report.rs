use common::{access::Viewer, jobs::GenerateReport, reports::Report};

use crate::{
    context::Context,
    job::{JobError, Run},
};

impl Run for GenerateReport {
    /// Computes a report piece by piece: what is done stays done, and its owner sees how far it is.
    async fn run(self, context: &Context) -> Result<(), JobError> {
        let viewer = Viewer { user_id: self.user_id, project: None };
        while !Report::go_on(&context.db, viewer, self.report_id).await? {}
        Ok(())
    }
}
