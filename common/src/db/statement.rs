use std::marker::PhantomData;

use diesel::{
    pg::Pg,
    query_builder::{AstPass, Query, QueryFragment, QueryId},
    sql_types::Untyped,
};

/// A statement written by hand, for what the query builder cannot say; made by [`sql!`](crate::db::sql!). It is
/// prepared once per connection (diesel's own `sql_query` is prepared at every call), and its arguments are always
/// bound, never pasted.
pub struct Statement<'a, Id> {
    text: &'static str,
    arguments: Vec<(&'static str, Box<dyn QueryFragment<Pg> + Send + 'a>)>,
    id: PhantomData<fn() -> Id>,
}

impl<'a, Id> Statement<'a, Id> {
    #[doc(hidden)]
    pub fn new(
        text: &'static str,
        arguments: Vec<(&'static str, Box<dyn QueryFragment<Pg> + Send + 'a>)>,
    ) -> Self {
        Self {
            text,
            arguments,
            id: PhantomData,
        }
    }
}

impl<Id> QueryFragment<Pg> for Statement<'_, Id> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> diesel::QueryResult<()> {
        let mut rest = self.text;
        while let Some((before, after)) = rest.split_once('{') {
            out.push_sql(before);
            let (name, after) = after.split_once('}').ok_or_else(|| unknown(self.text))?;
            let (_, argument) = self
                .arguments
                .iter()
                .find(|(known, _)| *known == name)
                .ok_or_else(|| unknown(name))?;
            argument.walk_ast(out.reborrow())?;
            rest = after;
        }
        out.push_sql(rest);
        Ok(())
    }
}

fn unknown(what: &str) -> diesel::result::Error {
    diesel::result::Error::QueryBuilderError(format!("sql!: no argument for `{what}`").into())
}

impl<Id: 'static> QueryId for Statement<'_, Id> {
    type QueryId = Id;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl<Id> Query for Statement<'_, Id> {
    type SqlType = Untyped;
}

impl<Id, Conn> diesel::query_dsl::RunQueryDsl<Conn> for Statement<'_, Id> {}

/// A statement by hand: `sql!("… WHERE id = ANY({ids}) AND run_at <= {now}", ids: Array<Uuid> = ids, now = clock.now())`.
/// `name: SqlType = value` binds a value, `name = expression` puts a SQL expression such as
/// [`Now`](crate::clock::Now). Run it with `execute`, or `load` into a `QueryableByName`.
#[doc(hidden)]
#[macro_export]
macro_rules! __sql {
    ($text:expr $(, $name:ident $(: $sql_type:ty)? = $value:expr)* $(,)?) => {{
        struct Id;
        $crate::db::Statement::<'_, Id>::new(
            $text,
            vec![$((stringify!($name), $crate::__sql_argument!($value $(, $sql_type)?))),*],
        )
    }};
}

#[doc(hidden)]
#[macro_export]
macro_rules! __sql_argument {
    ($value:expr) => {
        Box::new($value)
    };
    ($value:expr, $sql_type:ty) => {
        Box::new(diesel::IntoSql::into_sql::<$sql_type>($value))
    };
}
