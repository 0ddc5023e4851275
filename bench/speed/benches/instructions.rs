//! What `bench/instructions.mjs` runs under callgrind: `write FILE SIZE` stores a town, `run FILE VERB` runs a verb on it
//! twice, of which the second is counted: the first prepares the statements.

use gastown_speed::{Stored, Verb};
use std::{env, path::Path, process::ExitCode};

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["write", file, size] if size.parse::<u32>().is_ok() => {
            Stored::write(Path::new(file), size.parse().unwrap_or_default());
            ExitCode::SUCCESS
        }
        ["run", file, name] => {
            let Some(verb) = Verb::ALL.into_iter().find(|verb| verb.name() == *name) else {
                eprintln!("no such verb: {name}");
                return ExitCode::from(2);
            };
            let stored = Stored::read(Path::new(file));
            stored.warm_up(verb);
            stored.run(verb);
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("usage: instructions write FILE SIZE | run FILE VERB (see bench/instructions.mjs)");
            ExitCode::from(2)
        }
    }
}
