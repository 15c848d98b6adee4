//! `l2p-engine completions` and `l2p-engine man`: both are made from the command line's own definition.

use super::common::{print, print_bytes};
use crate::error::{Error, Result};
use crate::output::atomic;
use clap::{Args, Command};
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct Completions {
    /// The shell to write completions for.
    shell: clap_complete::Shell,
}

impl Completions {
    /// `command`: the program's command line.
    pub fn run(self, mut command: Command) -> Result<()> {
        let mut script = Vec::new();
        let name = command.get_name().to_string();
        clap_complete::generate(self.shell, &mut command, name, &mut script);
        print_bytes(&script);
        Ok(())
    }
}

#[derive(Debug, Args)]
pub struct Man {
    /// The folder for a page per command; without it, the page of the program is printed.
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl Man {
    /// `command`: the program's command line.
    pub fn run(self, command: Command) -> Result<()> {
        let mut command = command.disable_help_subcommand(true);
        // Gives each command the full name that its page is called by.
        command.build();
        let Some(dir) = self.dir else {
            print_bytes(&page(command)?);
            return Ok(());
        };
        std::fs::create_dir_all(&dir).map_err(|e| Error::file(&dir, atomic::explain(&e, "made")))?;
        let pages: Vec<Command> =
            std::iter::once(command.clone()).chain(command.get_subcommands().cloned()).collect();
        let count = pages.len();
        for command in pages {
            let name = command.get_display_name().unwrap_or(command.get_name()).to_string();
            atomic::write(&dir.join(format!("{name}.1")), &page(command)?)?;
        }
        print(&format!("{count} pages written to {}", dir.display()));
        Ok(())
    }
}

/// The manual page of one command, as troff.
fn page(command: Command) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    let made = clap_mangen::Man::new(command).render(&mut text);
    made.map_err(|e| Error::failed(format!("the manual page cannot be made: {e}")))?;
    Ok(text)
}
