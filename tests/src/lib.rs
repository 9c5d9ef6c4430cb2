//! What the end-to-end tests share. Only harnesses belong here; what is tested stands in `tests/`.

pub mod app;
