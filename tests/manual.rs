//! The manual pages and completions against the programs themselves: what these say that they take is all there.

use returnpath::init::options::Options;
use returnpath::usage::{BOOT_OPTIONS, BootOption, OPTIONS};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const FIRMWARE: &str = env!("CARGO_BIN_EXE_returnpath");
const BOARD: &str = env!("CARGO_BIN_EXE_returnpath-board");

/// What the generator writes, in a folder of this test's own.
fn share(test: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("manual").join(test);
    let _ = fs::remove_dir_all(&folder);
    let (code, said) = run(env!("CARGO_BIN_EXE_returnpath-manual"), &[folder.to_str().unwrap()]);
    assert_eq!((code, said.as_str()), (0, ""));
    folder
}

/// Runs a program: its exit code, and all that it says.
fn run(program: &str, arguments: &[&str]) -> (i32, String) {
    let output = Command::new(program).args(arguments).output();
    let Output { status, stdout, stderr } =
        output.unwrap_or_else(|error| panic!("{program}: {error}; install it (groff: package groff-base)"));
    (status.code().unwrap(), String::from_utf8([stdout, stderr].concat()).unwrap())
}

/// What a program says of itself.
fn help(program: &str, arguments: &[&str]) -> String {
    let (code, said) = run(program, &[arguments, &["--help"]].concat());
    assert_eq!(code, 0, "{said}");
    said
}

/// The first words of the lines beneath a heading.
fn listed(help: &str, heading: &str) -> Vec<String> {
    let lines = help.lines().skip_while(|line| *line != heading).skip(1);
    let lines = lines.take_while(|line| line.starts_with("  "));
    let words =
        lines.filter(|line| !line.starts_with("   ")).filter_map(|line| line.split_whitespace().next());
    let words = words.filter(|word| *word != "help").map(str::to_owned).collect::<Vec<_>>();
    assert!(!words.is_empty(), "nothing beneath {heading} in {help}");
    words
}

/// The long options in a text.
fn options(text: &str) -> BTreeSet<&str> {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '-');
    words.filter(|word| word.starts_with("--") && word.len() > 2).collect()
}

/// Each command of both programs with the options that its help names; none for the program itself.
fn commands() -> Vec<(&'static str, String, BTreeSet<String>)> {
    let owned = |text: &str| options(text).into_iter().map(str::to_owned).collect();
    let (firmware, board) = (help(FIRMWARE, &[]), help(BOARD, &[]));
    let mut all = vec![
        ("returnpath", String::new(), ["--help", "--version"].map(str::to_owned).into()),
        ("returnpath-board", String::new(), owned(&board[board.find("Options:").unwrap()..])),
    ];
    for command in listed(&firmware, "commands:") {
        let called = format!("returnpath {command}");
        let usage = firmware.lines().skip_while(|line| !line.starts_with("usage:"));
        let lines = usage
            .take_while(|line| !line.is_empty())
            .filter(|line| line.trim_start_matches("usage:").trim_start().starts_with(&called));
        let usage = lines.collect::<Vec<_>>().join("\n");
        assert!(!usage.is_empty(), "no usage of {called}");
        all.push(("returnpath", command, owned(&usage)));
    }
    for command in listed(&board, "Commands:") {
        let help = help(BOARD, &[&command]);
        all.push(("returnpath-board", command, owned(&help)));
    }
    all
}

#[test]
fn each_command_and_option_is_in_a_page() {
    let share = share("pages");
    for (program, command, options) in commands() {
        let name = [program, &command].join("-");
        let name = name.trim_end_matches('-');
        let page = fs::read_to_string(share.join(format!("man/man8/{name}.8"))).expect(name);
        for section in ["NAME", "SYNOPSIS", "DESCRIPTION", "\"EXIT STATUS\"", "\"SEE ALSO\""] {
            assert_eq!(page.matches(&format!(".SH {section}\n")).count(), 1, "{section} in {name}");
        }
        for option in options {
            let entry = format!("\\fB{}\\fR", option.replace('-', "\\-"));
            assert!(page.contains(&entry), "{option} is not in {name}");
        }
        if !command.is_empty() {
            let program = fs::read_to_string(share.join(format!("man/man8/{program}.8"))).unwrap();
            assert!(program.contains(&format!("\\fB{}\\fR(8)", name.replace('-', "\\-"))), "{name}");
        }
    }
}

/// Each option of `explain` that describes the connection.
const QUESTION: &str = "--iif lo --mac 52:54:00:c2:a5:43 --src 192.0.2.1 --dst 192.0.2.2 --dnat 192.0.2.3 --proto tcp --dport 80";

#[test]
fn the_firmware_takes_what_its_usage_says() {
    for option in OPTIONS {
        for command in option.commands {
            let word = format!("--{}", option.name);
            let rest: &[&str] = match (option.one_of, option.value) {
                (Some("source"), _) => &[&word, "missing"],
                (_, Some(_)) if *command == "explain" => &["--policy", "missing"], // it is in QUESTION
                (_, Some(_)) => &[&word, "1", "--policy", "missing"],
                (_, None) => &[&word, "--policy", "missing"],
            };
            let question = QUESTION.split(' ').filter(|_| *command == "explain").collect::<Vec<_>>();
            assert!(rest.contains(&&*word) || question.contains(&&*word), "{word}");
            let (code, said) = run(FIRMWARE, &[&[*command], rest, &question].concat());
            assert!(matches!(code, 3 | 6), "{command} {word} {rest:?}: {code}: {said}");
        }
    }
}

#[test]
fn the_kernel_command_line_takes_what_the_usage_says() {
    let (_, aside) = Options::parse("returnpath.nonsense");
    for BootOption { name, default, .. } in BOOT_OPTIONS {
        let key = name.trim_start_matches("returnpath.").trim_end_matches('=');
        assert!(aside[0].contains(key), "{aside:?}");
        assert_eq!(Options::parse(&format!("{name}{default}")), (Options::default(), vec![]));
    }
    let known = aside[0].split_once("the options are ").unwrap().1.replace(" and ", ", ");
    assert_eq!(known.split(", ").count(), BOOT_OPTIONS.len(), "{known}");
}

#[test]
fn each_key_of_the_policy_is_in_its_page() {
    let share = share("policy");
    let page = fs::read_to_string(share.join("man/man5/returnpath-policy.5")).unwrap();
    for (source, table) in
        [("nonsense_nonsense = 1", ""), ("[paths.a]\nnonsense_nonsense = 1", "paths.NAME.")]
    {
        let file = share.join("policy.toml");
        fs::write(&file, source).unwrap();
        let (_, said) = run(BOARD, &["compile", file.to_str().unwrap(), "-o", "/dev/null"]);
        let (_, keys) = said.trim_end().split_once("use one of ").unwrap_or_else(|| panic!("{said}"));
        for key in keys.split(", ").filter(|key| *key != "paths") {
            assert_eq!(page.matches(&format!(".TP\n\\fB{table}{key}\\fR\n")).count(), 1, "{table}{key}");
        }
    }
}

/// A meaning begins with a capital, unless it begins with a word that is typed or printed as it stands.
#[test]
fn words_to_be_typed_have_no_capitals() {
    let share = share("capitals");
    for page in ["explain", "watch"] {
        let page = fs::read_to_string(share.join(format!("man/man8/returnpath-{page}.8"))).unwrap();
        for word in ["Tcp", "Taken,"] {
            assert!(!page.lines().any(|line| line.starts_with(word)), "{word}");
        }
    }
}

#[test]
fn groff_has_no_complaint() {
    let share = share("groff");
    let mut seen = 0;
    for section in ["man5", "man8"] {
        for page in fs::read_dir(share.join("man").join(section)).unwrap() {
            let page = page.unwrap().path();
            let (code, said) = run("groff", &["-k", "-Tutf8", "-man", "-ww", "-z", page.to_str().unwrap()]);
            assert_eq!((code, said.as_str()), (0, ""), "{}", page.display());
            seen += 1;
        }
    }
    assert_eq!(seen, commands().len() + 1);
}

/// What bash offers where the cursor is at the end of `words`.
fn offered(share: &Path, words: &[&str]) -> BTreeSet<String> {
    const ASK: &str = r#"
        source "$1"
        shift
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
        [[ $(complete -p "$1") =~ -F\ ([^ ]+) ]]
        "${BASH_REMATCH[1]}" "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let script = share.join("bash-completion/completions").join(words[0]);
    let mut bash = Command::new("bash");
    let output = bash.args(["-c", ASK, "bash"]).arg(script).args(words).current_dir(share).output();
    let Output { status, stdout, .. } = output.unwrap();
    assert!(status.success(), "{words:?}");
    String::from_utf8(stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes_both_programs() {
    let share = share("bash");
    for (program, command, options) in commands() {
        if command.is_empty() {
            continue;
        }
        let start = &command[..2];
        assert!(offered(&share, &[program, start]).contains(&command), "{program} {start}");
        let found = offered(&share, &[program, &command, "--"]);
        assert!(options.is_subset(&found), "{program} {command}: {options:?}, {found:?}");
    }
    fs::write(share.join("policy.bin"), "").unwrap();
    for words in [
        &["returnpath", "apply", "--policy", "pol"],
        &["returnpath", "status", "--board", "pol"],
        &["returnpath-board", "read", "--device", "pol"],
    ] {
        assert_eq!(offered(&share, words), ["policy.bin".to_owned()].into(), "{words:?}");
    }
}

#[test]
fn the_generator_says_what_it_wants() {
    let program = env!("CARGO_BIN_EXE_returnpath-manual");
    for arguments in [&[] as &[&str], &["a", "b"]] {
        let (code, said) = run(program, arguments);
        assert_eq!((code, said.lines().count()), (2, 1), "{said}");
    }
    let (code, said) = run(program, &["/dev/null"]);
    assert_eq!((code, said.lines().count()), (1, 1), "{said}");
    assert!(said.starts_with("returnpath-manual: /dev/null/"), "{said}");
}
