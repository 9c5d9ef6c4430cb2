use chrono::{DateTime, Utc};
use diesel::{ExpressionMethods as _, HasQuery, OptionalExtension as _, QueryDsl as _};
use diesel_async::AsyncPgConnection;
use garde::Validate;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{MailKind, SuppressionReason, address_hash};
use crate::{
    db::{RunQueryDsl as _, Tx},
    error::{Error, Result},
    ids::{SuppressionId, UserId},
    page::{Cursors, Page},
    schema::{mail_bounces, mail_suppressions},
    secrets::Key,
};

/// Why an address gets no mail, as an administrator sees it. The address itself is not kept.
#[derive(Debug, Clone, HasQuery, Serialize, ToSchema)]
#[diesel(table_name = mail_suppressions, check_for_backend(diesel::pg::Pg))]
pub struct SuppressionEntry {
    /// Its id.
    pub id: SuppressionId,
    /// Whose address it was, if that is known.
    pub user_id: Option<UserId>,
    /// Which mail; null for all but security mail.
    pub kind: Option<MailKind>,
    /// Why.
    pub reason: SuppressionReason,
    /// What the mail server said.
    #[schema(example = "550 5.1.1 no such user")]
    pub detail: Option<String>,
    /// Since when.
    pub created_at: DateTime<Utc>,
}

/// Which suppressions to list.
#[derive(Debug, Default, Deserialize, Serialize, Validate, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
#[garde(allow_unvalidated)]
pub struct SuppressionFilter {
    /// Only those of this address.
    #[param(example = "ann@example.com")]
    pub address: Option<String>,
    /// Where the page begins: `next_cursor` of the page before.
    #[serde(skip_serializing_if = "crate::page::is_no_filter")]
    pub cursor: Option<String>,
    /// Rows per page, 1 to 200.
    #[serde(skip_serializing_if = "crate::page::is_no_filter")]
    #[garde(inner(range(min = 1, max = 200)))]
    #[param(minimum = 1, maximum = 200, default = 50)]
    pub limit: Option<u16>,
}

impl SuppressionEntry {
    /// The newest first.
    ///
    /// # Errors
    /// [`Error::Malformed`] if the cursor is not one of this list.
    pub async fn list(
        conn: &mut AsyncPgConnection,
        filter: &SuppressionFilter,
        cursor_keys: &[Key],
    ) -> Result<Page<Self>> {
        let limit = filter.limit.unwrap_or(50);
        let cursors = Cursors::new(cursor_keys, "suppressions", filter)?;
        let mut query = Self::query().into_boxed();
        if let Some(address) = &filter.address {
            query = query.filter(mail_suppressions::address_hash.eq(address_hash(address)));
        }
        if let Some(cursor) = &filter.cursor {
            query = query.filter(mail_suppressions::id.lt(cursors.read::<SuppressionId>(cursor)?));
        }
        let rows = query.order(mail_suppressions::id.desc()).limit(i64::from(limit) + 1).load(conn).await?;
        Page::of(rows, limit, &cursors, |row: &Self| row.id)
    }

    /// Takes one back: mail is sent again, and bounces are counted from the beginning.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none.
    pub async fn remove(tx: &mut Tx, id: SuppressionId) -> Result<()> {
        let address: Vec<u8> = diesel::delete(mail_suppressions::table.find(id))
            .returning(mail_suppressions::address_hash)
            .get_result(tx.conn())
            .await
            .optional()?
            .ok_or(Error::NotFound("suppression"))?;
        diesel::delete(mail_bounces::table.find(address)).execute(tx.conn()).await?;
        Ok(())
    }
}
