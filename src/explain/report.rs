//! The answer, for people and for machines.

use crate::json;
use crate::kernel::answer::{Answer, Query};
use crate::plan::Plan;
use crate::plan::simulate::{Flow, Outcome, Step, Way};
use crate::plan::text::RuleText;
use crate::plan::ways::{Next, Rule};
use crate::plan::why::Service;
use crate::policy::Name;
use core::fmt::{self, Display, Formatter};
use core::net::IpAddr;

/// What happens to a connection. Displayed for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// What the rules are.
    pub plan: Plan,
    /// The connection.
    pub flow: Flow,
    /// What the kernel says of its first packet; `None`: it does not come so far.
    pub arriving: Option<(Query, Answer)>,
    /// What the kernel says of the answer; `None`: there is none.
    pub answering: Option<(Query, Answer)>,
    /// How many differences there are between the kernel and the policy.
    pub differences: usize,
}

/// Where the width of labels ends.
const LABELS: usize = 12;
/// How wide what it says is at most: a serial console. Commands are whole, so that they can be copied.
const WIDTH: usize = 80;

impl Report {
    /// The path that takes the connection.
    fn way(&self, outcome: &Outcome) -> Option<Way<'_>> {
        self.plan.way(self.flow.family(), outcome.connection)
    }

    /// Whether the kernel does what the plan says. (Where no path takes the connection, that is: no way of a path.)
    pub fn agrees(&self) -> bool {
        self.objections().is_empty()
    }

    /// What the kernel does otherwise, a line each.
    fn objections(&self) -> Vec<String> {
        let way = self.way(&self.plan.simulate(&self.flow));
        let shall = |way| format!("the answer shall leave {}", Out(way));
        let its_own = match (&way, &self.arriving, &self.answering) {
            (Some(_), Some((_, Answer::Nowhere(why))), _) => {
                Some(format!("the first packet gets no further: {why}"))
            }
            (Some(way), _, Some((_, Answer::Nowhere(why)))) => Some(format!("{}: {why}", shall(way))),
            (Some(way), _, Some((_, answer))) if !is_way(way, answer) => {
                let see = if self.differences == 0 { "; `ip rule` shows what comes before" } else { "" };
                Some(shall(way) + see)
            }
            (None, _, Some((_, Answer::On { table, .. }))) => {
                let path = self.plan.table_names.iter().find(|(ours, _)| ours == table);
                path.map(|(_, path)| {
                    format!("the answer takes the table of path {path} without its mark; see `ip rule`")
                })
            }
            _ => None,
        };
        let differs = (self.differences > 0).then(|| {
            let things = if self.differences == 1 { "thing" } else { "things" };
            format!("{} {things} not as the policy has it; see `returnpath status`", self.differences)
        });
        its_own.into_iter().chain(differs).collect()
    }

    /// For machines: one object. The manual page of `explain` has its names.
    pub fn json(&self) -> String {
        let outcome = self.plan.simulate(&self.flow);
        let way = self.way(&outcome);
        let answer = |json: &mut json::Object, asked: &Option<(Query, Answer)>| {
            let (query, answer) = asked.as_ref().map(|(query, answer)| (query, answer)).unzip();
            json.string_or_null("command", query);
            let (word, reason) = match answer {
                None => (None, None),
                Some(Answer::Here) => (Some("here"), None),
                Some(Answer::On { .. }) => (Some("on"), None),
                Some(Answer::Nowhere(why)) => (Some("nowhere"), Some(why)),
            };
            json.string_or_null("answer", word);
            json.string_or_null("reason", reason);
            let (gateway, port, table) = match answer {
                Some(Answer::On { gateway, port, table }) => (*gateway, port.as_ref(), Some(*table)),
                _ => (None, None, None),
            };
            json.string_or_null("next_hop", gateway);
            json.string_or_null("device", port);
            json.number_or_null("table", table);
        };
        json::object(|json| {
            json.number("version", 1_u32);
            json.string_or_null("path", way.as_ref().map(|way| way.path));
            json.strings("why", self.plan.why(&self.flow, &outcome));
            json.flag("local", self.flow.is_local);
            json.flag("dropped", outcome.is_dropped);
            json.number("connection_mark", outcome.connection);
            json.number("mark_in", outcome.mark);
            json.number("mark_back", outcome.answer);
            let (priority, table) = way.as_ref().map(|way| (way.rule.priority, way.rule.table)).unzip();
            json.number_or_null("priority", priority);
            json.number_or_null("table", table);
            let (gateway, port) = way.as_ref().map_or((None, None), |way| out(way.next));
            json.string_or_null("next_hop", gateway);
            json.string_or_null("device", port);
            let steps = outcome.arriving.iter().map(|step| ("in", step));
            let steps = steps.chain(outcome.answering.iter().map(|step| ("back", step)));
            json.objects("rules", steps, |json, (packet, Step { chain, rule })| {
                json.string("packet", packet);
                json.string("chain", chain);
                json.string_or_null("rule", rule.map(RuleText));
            });
            json.object("kernel", |json| {
                json.object("in", |json| answer(json, &self.arriving));
                json.object("back", |json| answer(json, &self.answering));
                json.number("differences", self.differences as u64);
                json.flag("agrees", self.agrees());
                json.strings("objections", self.objections());
            });
        })
    }
}

/// The next hop and the port of a way, so far as it has them.
fn out(next: &Next) -> (Option<IpAddr>, Option<&Name>) {
    match next {
        Next::Gateway { address, device, .. } => (Some(*address), device.as_ref()),
        Next::Device(device) => (None, Some(device)),
        Next::Unreachable => (None, None),
    }
}

/// Whether the kernel's answer is the way. The plan knows no port where the kernel finds none for the gateway.
fn is_way(way: &Way, answer: &Answer) -> bool {
    let (next_hop, device) = out(way.next);
    match answer {
        Answer::On { gateway, port, table } => {
            (*gateway, *table) == (next_hop, way.rule.table) && (device.is_none() || device == port.as_ref())
        }
        Answer::Here | Answer::Nowhere(_) => false,
    }
}

/// Where a way leads, as the kernel's answer is displayed.
struct Out<'a>(&'a Way<'a>);

impl Display for Out<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (gateway, port) = out(self.0.next);
        Answer::On { gateway, port: port.cloned(), table: self.0.rule.table }.fmt(f)
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Flow { port, mac, source, destination, server, is_local, .. } = &self.flow;
        let outcome = self.plan.simulate(&self.flow);
        let way = self.way(&outcome);
        let Plan { mark_mask, .. } = self.plan;

        // The labels are as wide as `LABELS`.
        write!(f, "connection  {} from {source} to {destination}, in by {port}", Service(&self.flow))?;
        mac.map_or(Ok(()), |mac| write!(f, " from {mac}"))?;
        write!(f, "\npath        {}", way.as_ref().map_or("none", |way| way.path))?;
        lines(f, "why", &self.plan.why(&self.flow, &outcome), Some(0))?;
        f.write_str("\nanswered by ")?;
        match &self.arriving {
            _ if outcome.is_dropped => f.write_str("nobody")?,
            Some((_, Answer::Nowhere(why))) => write!(f, "nobody: {why}")?,
            _ => f.write_str(if *is_local { "this host" } else { "a host behind this one" })?,
        }
        if server != destination {
            write!(f, ", {server} by DNAT")?;
        }
        match &way {
            None => f.write_str("\nmark        none: it goes as if there were no policy")?,
            Some(way) => {
                let Rule { mark, mask, table, priority, .. } = way.rule;
                let packets = if outcome.mark == 0 { "" } else { "the packets in, " };
                write!(
                    f,
                    "\nmark        {mark:#x} of {mark_mask:#x}, on the connection, {packets}the answers\n\
                     rule        {priority}: fwmark {mark:#x}/{mask:#x} lookup {table}\n\
                     route       default {}",
                    Out(way)
                )?;
            }
        }
        rules(f, "rules in", &outcome.arriving)?;
        rules(f, "rules back", &outcome.answering)?;
        for (label, asked) in [("kernel in", &self.arriving), ("kernel back", &self.answering)] {
            if let Some((query, answer)) = asked {
                lines(f, label, &[query.to_string(), format!("→ {answer}")], None)?;
            }
        }
        let objections = self.objections();
        match objections.is_empty() {
            true => lines(f, "verdict", &["the kernel agrees".into()], None),
            false => lines(f, "DIFFERS", &objections, Some(0)),
        }
    }
}

fn rules(f: &mut Formatter<'_>, label: &str, steps: &[Step]) -> fmt::Result {
    let width = steps.iter().map(|step| step.chain.len()).max().unwrap_or(0) + 2;
    let line = |Step { chain, rule }: &Step| match rule {
        Some(rule) => format!("{chain:width$}{}", RuleText(rule)),
        None => format!("{chain:width$}(no rule matches)"),
    };
    lines(f, label, &steps.iter().map(line).collect::<Vec<_>>(), Some(width))
}

/// Several lines of one label. What is too wide is broken, and goes on `indent` further to the right; `None`: it is not.
fn lines(f: &mut Formatter<'_>, label: &str, lines: &[String], indent: Option<usize>) -> fmt::Result {
    for (at, line) in lines.iter().enumerate() {
        write!(f, "\n{:LABELS$}", if at == 0 { label } else { "" })?;
        let start = indent.map_or(usize::MAX, |indent| LABELS + indent);
        let mut column = LABELS;
        for (nth, word) in line.split(' ').enumerate() {
            let width = word.chars().count();
            if column > start && column + 1 + width > WIDTH {
                column = start;
                write!(f, "\n{:column$}", "")?;
            } else if nth > 0 {
                column += 1;
                f.write_str(" ")?;
            }
            column += width;
            f.write_str(word)?;
        }
    }
    Ok(())
}
