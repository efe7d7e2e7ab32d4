//! The firmware's command line as clap would have it, made of the firmware's own usage.

use clap::{Arg, ArgAction, Command, ValueHint};
use returnpath::usage::{ABOUT, COMMANDS, Choice, OPTIONS, REQUIRED};

/// The firmware.
pub fn command() -> Command {
    let firmware = Command::new("returnpath")
        .version(env!("CARGO_PKG_VERSION"))
        .about(ABOUT)
        .disable_help_subcommand(true)
        .disable_version_flag(true)
        .arg(Arg::new("version").long("version").action(ArgAction::Version).help("Print version"));
    COMMANDS.iter().fold(firmware, |firmware, command| {
        let options = OPTIONS.iter().filter(|option| option.commands.contains(&command.name));
        let mut clap = Command::new(command.name)
            .about(command.about)
            .disable_help_flag(true)
            .args(options.map(argument));
        if let Some(rest) = &command.rest {
            clap = clap.arg(Arg::new(rest.name).num_args(0..).help(rest.about));
        }
        firmware.subcommand(clap)
    })
}

fn argument(option: &Choice) -> Arg {
    let argument = Arg::new(option.name).long(option.name).help(option.about);
    let argument = argument.required(REQUIRED.contains(&option.name));
    let argument = match option.details {
        "" => argument,
        details => argument.long_help(format!("{}. {details}", option.about)),
    };
    let argument = match option.one_of {
        Some(group) => argument.group(group),
        None => argument,
    };
    match option.value {
        Some(value @ ("FILE" | "DEVICE")) => argument.value_name(value).value_hint(ValueHint::FilePath),
        Some(value) => argument.value_name(value).value_hint(ValueHint::Other),
        None => argument.action(ArgAction::SetTrue),
    }
}
