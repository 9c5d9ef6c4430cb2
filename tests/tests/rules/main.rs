//! The rules of this workspace that no compiler knows, as tests: what source files may say ([`source`]), what the
//! schema looks like ([`schema`]), and that the files beside the code name what the code has ([`settings`],
//! [`monitoring`], [`documentation`]). An exception stands here with its reason, or it is a defect.
#![expect(clippy::panic, clippy::unwrap_used, reason = "a rule that cannot read the workspace has failed")]

mod documentation;
mod lexer;
mod monitoring;
mod schema;
mod settings;
mod source;
mod workspace;
