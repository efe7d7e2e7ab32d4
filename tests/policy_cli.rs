//! `returnpath-board` as scripts see it: files, standard output, one line of error, exit codes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// An empty folder of this test's own.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("policy_cli").join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// Runs the tool in `folder`: exit code, standard output, standard error.
fn run(folder: &Path, arguments: &[&str]) -> (i32, String, String) {
    let output =
        Command::new(env!("CARGO_BIN_EXE_returnpath-board")).args(arguments).current_dir(folder).output();
    let Output { status, stdout, stderr } = output.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

/// Runs the tool and sees it fail with this code and this one line, less its prefix.
fn fails(folder: &Path, arguments: &[&str], code: i32) -> String {
    let (found, stdout, stderr) = run(folder, arguments);
    assert_eq!((found, stdout.as_str()), (code, ""), "{arguments:?}: {stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    stderr.trim_end().strip_prefix("returnpath-board: ").expect("the prefix").to_owned()
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/policy").join(name)
}

fn names(folder: &Path) -> Vec<String> {
    let mut names = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect::<Vec<_>>();
    names.sort();
    names
}

#[test]
fn show_after_compile_after_show_is_a_fixed_point() {
    for name in ["seed", "full", "tunnel", "empty"] {
        let folder = folder(&format!("fixed-{name}"));
        fs::copy(golden(&format!("{name}.toml")), folder.join("p.toml")).unwrap();
        let (code, said, _) = run(&folder, &["compile", "p.toml", "-o", "p.bin"]);
        let image = fs::read(folder.join("p.bin")).unwrap();
        assert!(said.starts_with(&format!("p.bin: {} bytes, ", image.len())), "{said}");
        assert_eq!((code, said.lines().count()), (0, 1));
        assert_eq!(image, fs::read(golden(&format!("{name}.bin"))).unwrap());

        let (code, shown, _) = run(&folder, &["show", "p.bin"]);
        assert_eq!(code, 0);
        fs::write(folder.join("shown.toml"), &shown).unwrap();
        assert_eq!(run(&folder, &["compile", "shown.toml", "--output", "again.bin"]).0, 0);
        assert_eq!(fs::read(folder.join("again.bin")).unwrap(), image);
        assert_eq!(run(&folder, &["show", "again.bin"]).1, shown);
    }
}

#[test]
fn compile_says_how_much_it_wrote() {
    let folder = folder("said");
    let say = |name| run(&folder, &["compile", golden(name).to_str().unwrap(), "-o", "p.bin"]).1;
    assert_eq!(say("seed.toml"), "p.bin: 56 bytes, 1 path\n");
    assert_eq!(say("full.toml"), "p.bin: 270 bytes, 2 paths\n");
    // An image is a policy too.
    assert_eq!(say("full.bin"), "p.bin: 270 bytes, 2 paths\n");
}

#[test]
fn plan_is_the_same_for_source_and_image() {
    let folder = folder("plan");
    let plan = |name| run(&folder, &["plan", golden(name).to_str().unwrap()]);
    let (code, said, _) = plan("seed.toml");
    assert_eq!(code, 0);
    assert!(said.contains(" rule add ") && said.contains("nft -f"), "{said}");
    // Known by its first bytes, not by its name.
    fs::copy(golden("seed.bin"), folder.join("image.toml")).unwrap();
    assert_eq!(run(&folder, &["plan", "image.toml"]).1, said);
    fs::write(folder.join("bad.bin"), "mark_mask = 0").unwrap();
    assert_eq!(
        fails(&folder, &["plan", "bad.bin"], 3),
        "bad.bin:1: mark_mask: 0 leaves no bit for marks; give the bits that nobody else uses, such as 0xff"
    );
}

#[test]
fn graph_draws_what_the_extension_or_the_format_says() {
    let folder = folder("graph");
    let seed = golden("seed.toml");
    let seed = seed.to_str().unwrap();
    for (name, begin) in [("p.svg", "<?xml "), ("p.mmd", "---\ntitle: "), ("p.dot", "digraph returnpath {\n")]
    {
        let (code, said, _) = run(&folder, &["graph", seed, "-o", name]);
        let picture = fs::read_to_string(folder.join(name)).unwrap();
        assert_eq!((code, said), (0, format!("{name}: {} bytes, 1 path\n", picture.len())));
        assert!(picture.starts_with(begin), "{picture}");
        // The same from the image, to standard output.
        let format = ["svg", "mermaid", "dot"].into_iter().find(|format| format[..1] == name[2..3]).unwrap();
        let image = golden("seed.bin");
        let drawn = run(&folder, &["graph", image.to_str().unwrap(), "-o", "-", "--format", format]);
        assert_eq!(drawn, (0, picture, String::new()));
    }
    assert!(run(&folder, &["graph", seed, "-o", "-"]).1.starts_with("<?xml "));
    assert_eq!(run(&folder, &["graph", seed, "--output", "p.txt", "--format", "dot"]).0, 0);
    assert_eq!(fs::read(folder.join("p.txt")).unwrap(), fs::read(folder.join("p.dot")).unwrap());
    assert_eq!(names(&folder), ["p.dot", "p.mmd", "p.svg", "p.txt"]);
}

#[test]
fn graph_says_what_is_wrong_and_loses_nothing() {
    let folder = folder("graph-wrong");
    fs::copy(golden("seed.toml"), folder.join("p.toml")).unwrap();
    fs::copy(golden("seed.toml"), folder.join("p.svg")).unwrap();
    let unknown = "its extension names no format; name it .svg, .mmd or .dot, or give --format";
    for name in ["p", "p.png", "p.SVG"] {
        assert_eq!(fails(&folder, &["graph", "p.toml", "-o", name], 2), format!("{name}: {unknown}"));
    }
    assert_eq!(
        fails(&folder, &["graph", "p.toml", "-o", "p.svg", "--format", "png"], 2),
        "invalid value 'png' for '--format <FORMAT>' [possible values: svg, mermaid, dot]; see returnpath-board --help"
    );
    assert_eq!(
        fails(&folder, &["graph", "p.svg", "-o", "p.svg"], 2),
        "p.svg: is the source itself; give the picture another name"
    );
    assert_eq!(
        fails(&folder, &["graph", "p.toml", "-o", "absent/p.svg"], 3),
        "absent/p.svg: not written: No such file or directory (os error 2); choose a folder that can be written to and has room"
    );
    fs::write(folder.join("bad.toml"), "mark_mask = 0").unwrap();
    assert!(
        fails(&folder, &["graph", "bad.toml", "-o", "p.svg"], 3).starts_with("bad.toml:1: mark_mask: 0 ")
    );
    assert_eq!(fs::read(folder.join("p.svg")).unwrap(), fs::read(golden("seed.toml")).unwrap());
    assert_eq!(names(&folder), ["bad.toml", "p.svg", "p.toml"]);
}

#[test]
fn wrong_usage_is_one_line_and_code_2() {
    let folder = folder("usage");
    assert_eq!(
        fails(&folder, &[], 2),
        "'returnpath-board' requires a subcommand but one was not provided [subcommands: compile, show, plan, graph, write, read, format, help]; see returnpath-board --help"
    );
    assert_eq!(
        fails(&folder, &["compile", "p.toml"], 2),
        "the following required arguments were not provided: --output <POLICY.bin>; see returnpath-board --help"
    );
    assert_eq!(fails(&folder, &["shw"], 2), "unrecognized subcommand 'shw'; see returnpath-board --help");
    assert_eq!(
        fails(&folder, &["show", "p.bin", "q.bin"], 2),
        "unexpected argument 'q.bin' found; see returnpath-board --help"
    );
    for help in ["--help", "--version"] {
        let (code, stdout, stderr) = run(&folder, &[help]);
        assert!(code == 0 && stdout.contains("returnpath-board") && stderr.is_empty());
    }
}

#[test]
fn a_bad_source_is_one_line_and_code_3_and_loses_nothing() {
    let folder = folder("source");
    fs::write(folder.join("p.bin"), "precious").unwrap();
    let cases: [(&[u8], &str); 5] = [
        (b"\n[paths.a]\nmark = 1\n", "p.toml:2: path a: table: missing; add it, as in table = 200"),
        (b"mark_mask = 1\nmark_mask = 2\n", "p.toml:2: mark_mask: given twice; remove one"),
        (b"\n\xff\n", "p.toml:2: not UTF-8 text; save the file as UTF-8"),
        (b"RPOL", "p.toml: 4 bytes are too few for a policy image; compile it again from its TOML source"),
        (b"\0\0\0\0", "p.toml:1: not TOML: key with no value, expected `=`; correct it there"),
    ];
    for (source, message) in cases {
        fs::write(folder.join("p.toml"), source).unwrap();
        assert_eq!(fails(&folder, &["compile", "p.toml", "-o", "p.bin"], 3), message);
        assert_eq!(fs::read(folder.join("p.bin")).unwrap(), b"precious");
        assert_eq!(names(&folder), ["p.bin", "p.toml"]);
    }
    assert_eq!(
        fails(&folder, &["compile", "absent.toml", "-o", "p.bin"], 3),
        "absent.toml: not read: No such file or directory (os error 2); give a policy file"
    );
    assert_eq!(
        fails(&folder, &["compile", ".", "-o", "p.bin"], 3),
        ".: not read: Is a directory (os error 21); give a policy file"
    );
    assert_eq!(
        fails(&folder, &["show", "/dev/zero"], 3),
        "/dev/zero: over 16777216 bytes; give a policy file"
    );
}

#[test]
fn a_bad_image_is_one_line_and_code_3() {
    let folder = folder("image");
    let seed = fs::read(golden("seed.bin")).unwrap();
    let mut flipped = seed.clone();
    flipped[20] ^= 1;
    let later = [b"RPOL\x03", &seed[5..]].concat();
    // The mask as a number of three bytes, where two are enough.
    let mut wasteful = [b"RPOL\x01\xff\x81\x00", &seed[7..seed.len() - 4]].concat();
    let crc = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC).checksum(&wasteful);
    wasteful.extend(crc.to_le_bytes());
    let cases: [(&[u8], &str); 7] = [
        (b"", "0 bytes are too few for a policy image; compile it again from its TOML source"),
        (b"# TOML", "not a policy image; make one with `returnpath-board compile`"),
        (
            &seed[..seed.len() - 1],
            "the policy image is damaged: its CRC does not match; compile it again from its TOML source",
        ),
        (
            &flipped,
            "the policy image is damaged: its CRC does not match; compile it again from its TOML source",
        ),
        (
            &later,
            "a policy image of version 3, and this program reads versions 1-2; compile it again with the returnpath-board of the same release",
        ),
        (
            &[0; 1 << 20],
            "over 299153 bytes, more than any policy image has; compile it again from its TOML source",
        ),
        (&wasteful, "not written by returnpath-board; compile it again from its TOML source"),
    ];
    for (image, message) in cases {
        fs::write(folder.join("p.bin"), image).unwrap();
        assert_eq!(fails(&folder, &["show", "p.bin"], 3), format!("p.bin: {message}"));
    }
}

#[test]
fn compile_replaces_a_file_and_nothing_else() {
    let folder = folder("target");
    fs::copy(golden("seed.toml"), folder.join("p.toml")).unwrap();
    assert_eq!(
        fails(&folder, &["compile", "p.toml", "-o", "./p.toml"], 2),
        "./p.toml: is the source itself; give the image another name"
    );
    assert_eq!(
        fails(&folder, &["compile", "p.toml", "-o", "/dev/null"], 2),
        "/dev/null: is not a file, and would be replaced by one; give a file's name"
    );
    assert_eq!(
        fails(&folder, &["compile", "p.toml", "-o", "absent/p.bin"], 3),
        "absent/p.bin: not written: No such file or directory (os error 2); choose a folder that can be written to and has room"
    );
    assert_eq!(names(&folder), ["p.toml"]);

    // Through a link, which stays one.
    fs::write(folder.join("old.bin"), "old").unwrap();
    std::os::unix::fs::symlink("old.bin", folder.join("link.bin")).unwrap();
    assert_eq!(run(&folder, &["compile", "p.toml", "-o", "link.bin"]).0, 0);
    assert!(folder.join("link.bin").is_symlink());
    assert_eq!(fs::read(folder.join("old.bin")).unwrap(), fs::read(golden("seed.bin")).unwrap());
    assert_eq!(names(&folder), ["link.bin", "old.bin", "p.toml"]);
}

#[test]
fn a_reader_that_leaves_early_is_no_error() {
    let script = format!(
        "'{}' show '{}' | true; echo ${{PIPESTATUS[0]}}",
        env!("CARGO_BIN_EXE_returnpath-board"),
        golden("full.bin").display()
    );
    let output = Command::new("bash").args(["-c", &script]).output().unwrap();
    assert_eq!((output.stdout.as_slice(), output.stderr.as_slice()), (b"0\n".as_slice(), b"".as_slice()));
}
