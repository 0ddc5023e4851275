//! Starts the runner, and ends it: SIGTERM drains, SIGINT stops at once.

use gastown_runner::{config::Config, drain, journal, runner::Runner, server::Server};
use std::{io::Write, process::ExitCode, sync::Arc, time::Duration};
use tokio::signal::unix::{SignalKind, signal};

/// How often inherited zombies are collected when no signal says that there is one.
const REAP: Duration = Duration::from_secs(5);

/// What a program ended by SIGINT exits with.
const INTERRUPTED: u8 = 130;

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("gastown-runner: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let config = Config::from_vars(std::env::vars_os().filter_map(|(name, value)| {
        // What is not UTF-8 is nothing the runner needs or passes on.
        Some((name.into_string().ok()?, value.into_string().ok()?))
    }))?;
    // Before the line is printed: who reads it may send a signal.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    // Agents run as the same user: they must not read the runner's secrets from its /proc entry.
    #[cfg(target_os = "linux")]
    nix::sys::prctl::set_dumpable(false)?;
    let server = Server::bind(config).await?;
    let runner = Arc::clone(&server.runner);
    adopt_orphans(&runner)?;
    let mut out = std::io::stdout();
    writeln!(out, "listening on http://{}", server.addr)?;
    out.flush()?;
    let ended = async {
        terminate.recv().await;
        drain::drain(&runner).await;
    };
    tokio::select! {
        result = server.serve() => result?,
        () = ended => {}
        _ = interrupt.recv() => {
            journal::note("interrupted: stopping everything at once");
            runner.processes.kill_all();
            return Ok(ExitCode::from(INTERRUPTED));
        }
    }
    runner.processes.kill_all();
    Ok(ExitCode::SUCCESS)
}

/// Makes orphaned descendants children of the runner (in a container it is the first process anyway) and collects them
/// when they end: nothing stays a zombie.
fn adopt_orphans(runner: &Arc<Runner>) -> std::io::Result<()> {
    #[cfg(target_os = "linux")]
    nix::sys::prctl::set_child_subreaper(true)?;
    let mut child = signal(SignalKind::child())?;
    let processes = Arc::clone(&runner.processes);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = child.recv() => {}
                () = tokio::time::sleep(REAP) => {}
            }
            processes.reap_adopted();
        }
    });
    Ok(())
}
