//! `returnpath explain`: what happens to a connection, by the plan and by the kernel's own word.

mod question;
mod report;

use question::{ICMP, ICMPV6, TCP};

pub use question::Question;
pub use report::Report;

use crate::exit::{self, Failure};
use crate::kernel::answer::{Answer, Query};
use crate::kernel::differences::{Comparison, compare};
use crate::kernel::ways::Routing;
use crate::plan::simulate::Flow;
use crate::policy::Policy;

/// Explains a connection under a policy that has passed [`Policy::check`].
///
/// # Errors
/// [`exit::USAGE`] where this host has no such port, or its frames have a MAC and none was given, or the other way
/// round; [`exit::REFUSED`] where the kernel can not be asked.
pub fn explain(policy: &Policy, question: &Question) -> Result<Report, Failure> {
    let Question { port, mac, source, destination, .. } = question;
    let usage = |line: String| Failure::new(exit::USAGE, line);
    let mut routing = Routing::open()?;
    let link = routing
        .link(port)?
        .ok_or_else(|| usage(format!("explain: --iif {port}: no such port; `ip link` lists them")))?;
    let Comparison { plan, differences, .. } = compare(policy)?;
    match (link.mac, mac) {
        (Some(_), None) if plan.asks_for_macs() => {
            Err("its frames have one, and paths go by it; `tcpdump -e` shows it")
        }
        (None, Some(_)) => Err("its packets have none; leave it out"),
        _ => Ok(()),
    }
    .map_err(|reason| usage(format!("explain: --mac: port {port}: {reason}")))?;
    let server = question.dnat.unwrap_or(*destination);
    let to = |destination| Query {
        destination,
        source: None,
        port: None,
        mark: 0,
        protocol: question.protocol,
        ports: (None, None),
    };
    let is_local = routing.way_of(&to(server))? == Answer::Here;
    let unmarked = (to(*source), routing.way_of(&to(*source))?);
    let is_elsewhere = !matches!(&unmarked.1, Answer::On { port: Some(way_back), .. } if way_back == port);
    let flow = Flow {
        port: port.clone(),
        mac: *mac,
        source: *source,
        destination: *destination,
        server,
        protocol: question.protocol,
        service: question.service,
        is_local,
        is_elsewhere,
    };

    let outcome = plan.simulate(&flow);
    let (mark, answer_mark, is_dropped) = (outcome.mark, outcome.answer, outcome.is_dropped);
    let mut ask = |query: Query| routing.way_of(&query).map(|answer| (query, answer));
    let (mut arriving, mut answering) = (None, None);
    if !is_dropped {
        let by = Some(port.clone());
        let ports = (None, flow.service);
        arriving = Some(ask(Query { source: Some(*source), port: by, mark, ports, ..to(server) })?);
    }
    // The answer of a host behind comes in by the port that leads there.
    let inner = match &arriving {
        Some((_, Answer::Here)) => Some(None),
        Some((_, Answer::On { port, .. })) => Some(port.clone()),
        Some((_, Answer::Nowhere(_))) | None => None,
    };
    if let Some(port) = inner {
        let ports = (flow.service, None);
        let query = Query { source: Some(server), port, mark: answer_mark, ports, ..to(*source) };
        answering = Some(match unmarked {
            (first, Answer::Nowhere(why)) if is_local && asks_first(flow.protocol) => {
                (first, Answer::Nowhere(format!("{why}, and the socket asks without a mark first")))
            }
            _ => ask(query)?,
        });
    }
    Ok(Report { plan, flow, arriving, answering, differences: differences.len() })
}

/// Whether a socket of this protocol looks for a route before any rule can mark its packet. (TCP and echo answer with
/// the mark that they inherited.)
fn asks_first(protocol: u8) -> bool {
    !matches!(protocol, TCP | ICMP | ICMPV6)
}
