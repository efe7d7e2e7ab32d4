//! From one nftables table to another, under packets that are on their way. No socket here.

use super::netlink::{Message, NESTED, attributes, put};
use super::ruleset::{
    CHAIN_NAME, DELCHAIN, DELOBJ, DELRULE, DELSET, DELSETELEM, ELEMENTS, NEWCHAIN, NEWOBJ, NEWSET,
    NEWSETELEM, NEWTABLE, OBJECT_OWNER, OBJECT_TABLE, Objects, Ruleset, attributes_of, covers, element,
    elements, essence, find, is_map, name, naming,
};
use crate::plan::nft::TABLE;
use std::collections::BTreeSet;

/// Three batches that make `to` of `from` while all that is in both stays where it is; chains change their rules.
///
/// A batch is atomic for rules, but not for a packet that is under way while it is committed. Were the base chains
/// deleted and made anew, it could run through both: the new ones before the switch, when they are still empty, and
/// the old ones after it, when they are empty already. Were a map deleted and made anew, it could ask the old one
/// after the switch, when its elements count no more. Either way it would leave unmarked. A constant set is never another
/// one under the same name, so it is made before the batch and deleted after it.
///
/// `None`: something would have to be another thing under the same name.
pub fn in_place(from: &Ruleset, to: &Ruleset) -> Option<[Vec<Message>; 3]> {
    let alike = |a: &Message, b: &Message| {
        covers(&essence(a), attributes_of(b)) || covers(&essence(b), attributes_of(a))
    };
    let (old_objects, new_objects) = (from.objects(), to.objects());
    let content = |objects: &Objects, set: &str| -> BTreeSet<(Vec<u8>, Vec<u8>, u32)> {
        let found = elements(objects.of((NEWSETELEM, set)));
        found.into_iter().map(|(key, chain, flags)| (key.into(), chain.into(), flags)).collect()
    };

    // What stays: tables, chains, maps and counters that are in both; sets only with the same content, since intervals
    // can not be told from one another by their elements.
    let mut kept: BTreeSet<(u16, &str)> = BTreeSet::new();
    for old in from.0.iter().filter(|m| matches!(m.kind, NEWTABLE | NEWCHAIN | NEWSET | NEWOBJ)) {
        let place = (old.kind, name(old));
        match new_objects.of(place).first() {
            Some(new) if alike(new, old) => {
                let same = || content(&old_objects, place.1) == content(&new_objects, place.1);
                if old.kind != NEWSET || is_map(old) || same() {
                    kept.insert(place);
                }
            }
            Some(_) if old.kind != NEWSET => return None,
            _ => {}
        }
    }
    let is_kept = |message: &Message| kept.contains(&(message.kind, name(message)));
    let keeps_set = |set: &str| kept.contains(&(NEWSET, set));
    if !kept.contains(&(NEWTABLE, TABLE)) {
        return None;
    }

    let delete = |kind, payload| Message { kind, flags: 0, payload };
    // Of a set or its elements: it is no map, and the other table has none of that name.
    let is_exchanged = |message: &Message, own: &Objects, other: &Objects| {
        let set = (NEWSET, name(message));
        let is_constant = || own.of(set).first().is_some_and(|set| !is_map(set));
        matches!(message.kind, NEWSET | NEWSETELEM) && is_constant() && other.of(set).is_empty()
    };
    let (mut before, mut after) = (Vec::new(), Vec::new());
    let mut messages = vec![delete(DELRULE, naming(&[(OBJECT_TABLE, TABLE)]))]; // all rules of the table
    for elements in from.0.iter().filter(|m| m.kind == NEWSETELEM && keeps_set(name(m))) {
        let stay = content(&new_objects, name(elements));
        messages.extend(without(elements, &stay).map(|m| delete(DELSETELEM, m.payload)));
    }
    for set in from.0.iter().filter(|m| m.kind == NEWSET && !is_kept(m)) {
        let list = if is_exchanged(set, &old_objects, &new_objects) { &mut after } else { &mut messages };
        list.push(delete(DELSET, naming(&[(OBJECT_TABLE, TABLE), (OBJECT_OWNER, name(set))])));
    }
    for chain in from.0.iter().filter(|m| m.kind == NEWCHAIN && !is_kept(m)) {
        messages.push(delete(DELCHAIN, naming(&[(OBJECT_TABLE, TABLE), (CHAIN_NAME, name(chain))])));
    }
    for counter in from.0.iter().filter(|m| m.kind == NEWOBJ && !is_kept(m)) {
        messages.push(delete(DELOBJ, counter.payload.clone()));
    }
    for message in to.0.iter().filter(|m| !is_kept(m)) {
        match message.kind {
            NEWSETELEM if keeps_set(name(message)) => {
                messages.extend(without(message, &content(&old_objects, name(message))));
            }
            _ if is_exchanged(message, &new_objects, &old_objects) => before.push(message.clone()),
            _ => messages.push(message.clone()),
        }
    }
    Some([before, messages, after])
}

/// The message with the elements that are not in `others`; `None` where none is left.
fn without(message: &Message, others: &BTreeSet<(Vec<u8>, Vec<u8>, u32)>) -> Option<Message> {
    let mut list = Vec::new();
    for (kind, bytes) in attributes(find(message, ELEMENTS)?) {
        let (key, chain, flags) = element(bytes);
        if !others.contains(&(key.into(), chain.into(), flags)) {
            put(&mut list, kind | NESTED, bytes);
        }
    }
    let mut payload = naming(&[(OBJECT_TABLE, TABLE), (OBJECT_OWNER, name(message))]);
    put(&mut payload, ELEMENTS | NESTED, &list);
    (!list.is_empty()).then_some(Message { kind: message.kind, flags: message.flags, payload })
}

#[cfg(test)]
mod tests {
    use super::super::ruleset::tests::planned;
    use super::super::ruleset::{NEWRULE, describe};
    use super::*;
    use crate::plan::nft::SYSCTLS;

    /// Packets are under way while a table changes: what is in both policies is neither deleted nor made.
    #[test]
    fn an_update_touches_only_what_changes() {
        let old = planned();
        let mut new = old.clone();
        new.0.retain(|m| !(matches!(m.kind, NEWRULE | NEWCHAIN) && name(m) == "announced"));
        let messages = in_place(&old, &new).unwrap().concat();
        let is_object = |m: &&Message| !matches!(m.kind, NEWRULE | DELRULE);
        let touched: Vec<String> =
            messages.iter().filter(is_object).map(|m| describe((m.kind, name(m)))).collect();
        assert_eq!(touched, ["chain announced"]);

        let removal = in_place(&old, &old.only_record()).unwrap().concat();
        let deleted = |chain| removal.iter().any(|m| m.kind == DELCHAIN && name(m) == chain);
        assert!(deleted("prerouting") && !deleted(SYSCTLS));
    }

    /// Packets ask the old set until the rules have changed, and the new one from then on: both are there.
    #[test]
    fn a_set_with_other_content_is_another_one() {
        let old = planned();
        let mut new = old.clone();
        let is_set = |m: &Message| m.kind == NEWSET && name(m).starts_with("tcp_");
        let set = name(old.0.iter().find(|m| is_set(m)).unwrap()).to_owned();
        let other = format!("{}0000", &set[..set.len() - 4]);
        for message in &mut new.0 {
            if matches!(message.kind, NEWSET | NEWSETELEM) && name(message) == set {
                let at =
                    message.payload.windows(set.len()).position(|bytes| bytes == set.as_bytes()).unwrap();
                message.payload[at..at + set.len()].copy_from_slice(other.as_bytes());
            }
        }
        let [before, then, after] = in_place(&old, &new).unwrap();
        let of_sets = |batch: &[Message]| -> Vec<(u16, String)> {
            let sets = batch.iter().filter(|m| matches!(m.kind, NEWSET | NEWSETELEM | DELSET | DELSETELEM));
            sets.map(|m| (m.kind, name(m).to_owned())).collect()
        };
        assert_eq!(of_sets(&before), [(NEWSET, other.clone()), (NEWSETELEM, other)]);
        assert_eq!(of_sets(&then), []);
        assert_eq!(of_sets(&after), [(DELSET, set)]);
    }
}
