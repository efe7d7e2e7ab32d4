//! What `returnpath check` says: all that is in the way of a policy, for people and for machines.

use crate::kernel::commit;
use crate::kernel::preflight::{Finding, Severity};
use crate::lines::{one_line, print};
use crate::policy::Policy;
use crate::{exit, json};

/// Looks, prints what is found, and returns the exit code.
pub fn run(name: &str, policy: &Policy, is_strict: bool, is_json: bool) -> u8 {
    let findings = commit::check(policy);
    print(&if is_json { json(&findings) } else { text(&findings, name, policy) });
    if refuses(&findings, is_strict) { exit::REFUSED } else { 0 }
}

/// A line each; one that says so where there is none.
fn text(findings: &[Finding], name: &str, policy: &Policy) -> String {
    let line = |finding: &Finding| one_line(&format!("{}: {}", finding.severity, finding.line));
    match findings {
        [] => format!("nothing is in the way of {name}: {}", policy.count()),
        _ => findings.iter().map(line).collect::<Vec<_>>().join("\n"),
    }
}

/// One object: its `version`, which is 1, and `findings`, each with `severity`, `code` and `line`.
fn json(findings: &[Finding]) -> String {
    json::object(|object| {
        object.number("version", 1_u32);
        object.objects("findings", findings, |object, finding| {
            object.string("severity", finding.severity);
            object.string("code", finding.code);
            object.string("line", &finding.line);
        });
    })
}

/// Whether `apply` would be refused.
fn refuses(findings: &[Finding], is_strict: bool) -> bool {
    findings.iter().any(|finding| is_strict || finding.severity == Severity::Refusal)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(severity: Severity) -> Finding {
        Finding { severity, code: "mark-bits", line: "chain ip nat a\nb: it is".into() }
    }

    #[test]
    fn people_and_machines_are_told_the_same() {
        let findings = [finding(Severity::Warning), finding(Severity::Refusal)];
        let expected = "warning: chain ip nat a b: it is\nrefusal: chain ip nat a b: it is";
        assert_eq!(text(&findings, "x", &Policy::new()), expected);
        assert_eq!(text(&[], "x", &Policy::new()), "nothing is in the way of x: 0 paths");
        let expected = r#"{"version":1,"findings":[{"severity":"warning","code":"mark-bits","line":"chain ip nat a\u000ab: it is"}]}"#;
        assert_eq!(json(&findings[..1]), expected);
    }

    #[test]
    fn only_a_strict_one_minds_a_warning() {
        assert!(!refuses(&[finding(Severity::Warning)], false));
        assert!(refuses(&[finding(Severity::Warning)], true));
        assert!(refuses(&[finding(Severity::Refusal)], false));
        assert!(!refuses(&[], true));
    }
}
