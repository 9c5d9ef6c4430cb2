//! People and their accounts.

use crate::db::pg_enum;

pg_enum! {
    /// What a person may do beside their own work.
    UserRole: UserRole {
        /// Their own work.
        User = "user",
        /// Also the operator's routes.
        Admin = "admin",
    }
}
