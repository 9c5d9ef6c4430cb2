//! `tasktracker-api`: serves the API, or runs one of its commands.

use std::{ffi::OsString, io::Write as _, process::ExitCode};

use api::config::{AdminCommand, AuditCommand, Config, Migrate, Reseal};
use common::config::{healthcheck, parse, parse_from};

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    // Fails only if it was called before, and there is no other provider in the tree.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut arguments: Vec<OsString> = std::env::args_os().collect();
    match arguments.get(1).and_then(|argument| argument.to_str()) {
        Some("migrate") => {
            arguments.remove(1);
            api::migrate(parse_from::<Migrate>(arguments)).await?;
        }
        Some("admin") => {
            arguments.remove(1);
            print(&api::admin(parse_from::<AdminCommand>(arguments)).await?)?;
        }
        Some("audit") => {
            arguments.remove(1);
            let (text, is_intact) = api::audit(parse_from::<AuditCommand>(arguments)).await?;
            print(&text)?;
            return Ok(if is_intact { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Some("check-config") => {
            arguments.remove(1);
            let report = api::check_config(&parse_from::<Config>(arguments)).await?;
            print(&report.to_string())?;
            return Ok(if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Some("reseal") => {
            arguments.remove(1);
            print(&api::reseal(parse_from::<Reseal>(arguments)).await?)?;
        }
        Some("openapi") => print(&api::openapi::json()?)?,
        Some("healthcheck") => return Ok(healthcheck("tasktracker-api", "127.0.0.1:9464")),
        _ => api::serve(parse::<Config>()).await?,
    }
    Ok(ExitCode::SUCCESS)
}

fn print(text: &str) -> anyhow::Result<()> {
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}
