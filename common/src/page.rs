//! Lists in pages. A cursor is opaque to the client: it holds the sort keys of the last row and a hash of the
//! filters, signed, so that it can be neither forged nor used with other filters.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use garde::Validate;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};
use utoipa::{IntoParams, ToSchema};

use crate::{
    error::{Code, Error, FieldError, Result},
    secrets::Key,
};

/// Which page of a list that has no filters.
#[derive(Debug, Clone, Default, Deserialize, Validate, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
#[garde(allow_unvalidated)]
pub struct Paging {
    /// Where the page begins: `next_cursor` of the page before.
    pub cursor: Option<String>,
    /// Rows per page, 1 to 200.
    #[garde(inner(range(min = 1, max = 200)))]
    #[param(minimum = 1, maximum = 200, default = 50)]
    pub limit: Option<u16>,
}

impl Paging {
    /// Rows per page.
    pub fn limit(&self) -> u16 {
        self.limit.unwrap_or(50)
    }
}

/// For the fields of a filter that say which page of a list: its cursors hold for all pages, so they leave these out
/// (`skip_serializing` would leave them out of the document as well).
pub fn is_no_filter<T>(_: &T) -> bool {
    true
}

/// One page of a list.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Page<T> {
    /// The rows.
    pub data: Vec<T>,
    /// Where the next ones are.
    pub page: PageInfo,
}

/// Where a page stands in its list.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct PageInfo {
    /// Send it as `cursor` to get the next page; null on the last one.
    pub next_cursor: Option<String>,
    /// Whether there is a next page.
    pub has_more: bool,
    /// Rows per page at most.
    pub limit: u16,
}

/// Where a page stands in a list whose pages have numbers.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct PageNumber {
    /// Which page, from 1.
    pub number: u32,
    /// Rows per page at most.
    pub per_page: u16,
    /// Rows of all pages.
    pub total: i64,
    /// The number of the last page; 0 if there is none.
    pub total_pages: i64,
}

impl PageNumber {
    /// A page of a list that has `total` rows.
    pub fn new(number: u32, per_page: u16, total: i64) -> Self {
        let total_pages = (total + i64::from(per_page) - 1) / i64::from(per_page).max(1);
        Self { number, per_page, total, total_pages }
    }

    /// How many rows come before it.
    pub fn skip(&self) -> i64 {
        i64::from(self.number.saturating_sub(1)) * i64::from(self.per_page)
    }
}

impl<T> Page<T> {
    /// A page of at most `limit` of `rows`, which were asked for with one more to see whether there are more.
    ///
    /// # Errors
    /// If the sort keys cannot be written.
    pub fn of<K: Serialize>(
        mut rows: Vec<T>,
        limit: u16,
        cursors: &Cursors<'_>,
        keys: impl FnOnce(&T) -> K,
    ) -> Result<Self> {
        let has_more = rows.len() > usize::from(limit);
        rows.truncate(limit.into());
        let next_cursor = match rows.last() {
            Some(last) if has_more => Some(cursors.write(&keys(last))?),
            _ => None,
        };
        Ok(Self { data: rows, page: PageInfo { next_cursor, has_more, limit } })
    }

    /// The rows of a search that looks through a part of a list at a time: there may be few of them, and yet a
    /// next page, which begins after `next`.
    ///
    /// # Errors
    /// If the sort keys cannot be written.
    pub fn until<K: Serialize>(
        rows: Vec<T>,
        limit: u16,
        cursors: &Cursors<'_>,
        next: Option<&K>,
    ) -> Result<Self> {
        let next_cursor = next.map(|keys| cursors.write(keys)).transpose()?;
        let has_more = next_cursor.is_some();
        Ok(Self { data: rows, page: PageInfo { next_cursor, has_more, limit } })
    }
}

/// Writes and reads the cursors of one list under one set of filters.
#[derive(Debug)]
pub struct Cursors<'a> {
    keys: &'a [Key],
    filters: String,
}

#[derive(Serialize, Deserialize)]
struct Content<K> {
    keys: K,
    filters: String,
}

impl<'a> Cursors<'a> {
    /// For the list `name` under `filters`; the first of `keys` signs.
    ///
    /// # Errors
    /// If the filters cannot be written.
    pub fn new(keys: &'a [Key], name: &str, filters: &impl Serialize) -> Result<Self> {
        let filters = serde_json::to_vec(&(name, filters)).map_err(|error| Error::Internal(error.into()))?;
        Ok(Self { keys, filters: URL_SAFE_NO_PAD.encode(&Sha256::digest(filters)[..12]) })
    }

    fn write<K: Serialize>(&self, keys: &K) -> Result<String> {
        let content = serde_json::to_vec(&Content { keys, filters: self.filters.clone() })
            .map_err(|error| Error::Internal(error.into()))?;
        let Some(key) = self.keys.first() else {
            return Err(Error::Internal(anyhow::anyhow!("no key for cursors")));
        };
        let signed = [&key.sign(&content)[..16], &content].concat();
        Ok(URL_SAFE_NO_PAD.encode(signed))
    }

    /// The sort keys of the row after which the page begins.
    ///
    /// # Errors
    /// [`Error::Malformed`] if the cursor is damaged, forged, or of another list or other filters.
    pub fn read<K: DeserializeOwned>(&self, cursor: &str) -> Result<K> {
        let refused =
            |detail: &str| Error::Malformed(FieldError::parameter("cursor", Code::InvalidCursor, detail));
        let signed = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| refused("The cursor is damaged."))?;
        let (signature, content) =
            signed.split_at_checked(16).ok_or_else(|| refused("The cursor is too short."))?;
        if !self.keys.iter().any(|key| key.verify_truncated(content, signature)) {
            return Err(refused("The cursor was not made here."));
        }
        let content: Content<K> =
            serde_json::from_slice(content).map_err(|_| refused("The cursor is of another list."))?;
        if content.filters != self.filters {
            return Err(refused("The cursor came with other filters. Start again without one."));
        }
        Ok(content.keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secrets::{Purpose, SecretKeys};

    fn keys() -> Vec<Key> {
        "a:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
            .parse::<SecretKeys>()
            .unwrap()
            .derive(Purpose::Cursor)
    }

    #[test]
    fn a_cursor_is_good_for_its_own_list_and_filters_only() {
        let keys = keys();
        let open = Cursors::new(&keys, "tasks", &"open").unwrap();
        let page = Page::of(vec![1, 2, 3], 2, &open, |n| *n).unwrap();
        assert_eq!((page.data.len(), page.page.has_more), (2, true));
        let cursor = page.page.next_cursor.unwrap();
        assert_eq!(open.read::<i32>(&cursor).unwrap(), 2);
        assert!(Cursors::new(&keys, "tasks", &"done").unwrap().read::<i32>(&cursor).is_err());
        assert!(Cursors::new(&keys, "users", &"open").unwrap().read::<i32>(&cursor).is_err());
    }

    #[test]
    fn a_damaged_cursor_is_refused() {
        let keys = keys();
        let list = Cursors::new(&keys, "tasks", &()).unwrap();
        let cursor = list.write(&7).unwrap();
        for position in 0..cursor.len() {
            let mut damaged = cursor.clone().into_bytes();
            damaged[position] = if damaged[position] == b'A' { b'B' } else { b'A' };
            let damaged = String::from_utf8(damaged).unwrap();
            assert!(list.read::<i32>(&damaged).is_err() || damaged == cursor, "{damaged}");
        }
        for bad in ["", "x", "%%%", "AAAA"] {
            assert!(list.read::<i32>(bad).is_err());
        }
    }
}
