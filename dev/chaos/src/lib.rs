//! The real binaries together, what may go wrong around them, and the books that show what came of it. Used by the
//! reliability tests, one fault each, and by `cargo dev chaos`, all of them at random.

pub mod books;
pub mod cluster;
pub mod faults;
pub mod figures;
pub mod journal;
pub mod load;
pub mod proxy;
pub mod run;
