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
        Self { text, arguments, id: PhantomData }
    }
}

impl<Id> QueryFragment<Pg> for Statement<'_, Id> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> diesel::QueryResult<()> {
        let mut rest = self.text;
        while let Some((before, after)) = rest.split_once('{') {
            out.push_sql(before);
            let (name, after) = after.split_once('}').ok_or_else(|| unknown(self.text))?;
            let (_, argument) =
                self.arguments.iter().find(|(known, _)| *known == name).ok_or_else(|| unknown(name))?;
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

/// A statement of the query builder that is prepared once per connection, each form of it. Diesel prepares an `UPDATE`, and an
/// `INSERT` with an optional value, anew at each call, because which columns they name hangs on what they are given; that costs
/// a round trip and a plan. For what is called often and has few forms.
pub struct Prepared<Q>(pub Q);

impl<Q: QueryFragment<Pg>> QueryFragment<Pg> for Prepared<Q> {
    fn walk_ast<'b>(&'b self, out: AstPass<'_, 'b, Pg>) -> diesel::QueryResult<()> {
        self.0.walk_ast(out)
    }

    /// The text is the key: another form is another statement.
    fn is_safe_to_cache_prepared(&self, _: &Pg) -> diesel::QueryResult<bool> {
        Ok(true)
    }
}

impl<Q> QueryId for Prepared<Q> {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl<Q: Query> Query for Prepared<Q> {
    type SqlType = Q::SqlType;
}

impl<Q, Conn> diesel::query_dsl::RunQueryDsl<Conn> for Prepared<Q> {}

/// A query of the builder to which its table is no more than these rows of it: `WITH table AS (rows) query`.
pub struct Among<R, Q> {
    /// The name of the table.
    pub table: &'static str,
    /// Rows of the table, with all columns that `query` names.
    pub rows: R,
    /// What is read of them.
    pub query: Q,
}

impl<R: QueryFragment<Pg>, Q: QueryFragment<Pg>> QueryFragment<Pg> for Among<R, Q> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> diesel::QueryResult<()> {
        out.push_sql("WITH ");
        out.push_identifier(self.table)?;
        out.push_sql(" AS (");
        self.rows.walk_ast(out.reborrow())?;
        out.push_sql(") ");
        self.query.walk_ast(out)
    }
}

impl<R, Q> QueryId for Among<R, Q> {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl<R, Q: Query> Query for Among<R, Q> {
    type SqlType = Q::SqlType;
}

impl<R, Q, Conn> diesel::query_dsl::RunQueryDsl<Conn> for Among<R, Q> {}

/// A condition written by hand, for a `filter` of the query builder; made by `sql_condition!`.
pub struct Condition<'a, Id>(pub Statement<'a, Id>);

impl<Id> diesel::expression::Expression for Condition<'_, Id> {
    type SqlType = diesel::sql_types::Bool;
}

impl<Id, QS: ?Sized> diesel::expression::AppearsOnTable<QS> for Condition<'_, Id> {}
impl<Id, QS: ?Sized> diesel::expression::SelectableExpression<QS> for Condition<'_, Id> {}

impl<Id> diesel::expression::ValidGrouping<()> for Condition<'_, Id> {
    type IsAggregate = diesel::expression::is_aggregate::Never;
}

impl<Id: 'static> QueryId for Condition<'_, Id> {
    type QueryId = Id;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl<Id> QueryFragment<Pg> for Condition<'_, Id> {
    fn walk_ast<'b>(&'b self, out: AstPass<'_, 'b, Pg>) -> diesel::QueryResult<()> {
        self.0.walk_ast(out)
    }
}

/// A condition by hand, with arguments as in [`sql!`](crate::db::sql!).
macro_rules! sql_condition {
    ($($statement:tt)*) => {
        $crate::db::Condition($crate::db::sql!($($statement)*))
    };
}
pub(crate) use sql_condition;

/// Declares a SQL expression over a table, for what a projection reads beside its columns. The text is ours, never
/// a user's.
macro_rules! sql_expression {
    ($(#[$meta:meta])* $vis:vis $name:ident on $table:ident: $sql_type:ty = $text:expr) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy)]
        $vis struct $name;

        impl diesel::expression::Expression for $name {
            type SqlType = $sql_type;
        }

        impl diesel::expression::AppearsOnTable<$crate::schema::$table::table> for $name {}
        impl diesel::expression::SelectableExpression<$crate::schema::$table::table> for $name {}

        impl diesel::expression::ValidGrouping<()> for $name {
            type IsAggregate = diesel::expression::is_aggregate::Never;
        }

        impl diesel::query_builder::QueryId for $name {
            type QueryId = Self;
            const HAS_STATIC_QUERY_ID: bool = true;
        }

        impl diesel::query_builder::QueryFragment<diesel::pg::Pg> for $name {
            fn walk_ast<'b>(
                &'b self,
                mut out: diesel::query_builder::AstPass<'_, 'b, diesel::pg::Pg>,
            ) -> diesel::QueryResult<()> {
                out.push_sql($text);
                Ok(())
            }
        }
    };
}
pub(crate) use sql_expression;
