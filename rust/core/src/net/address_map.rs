//! Where announced addresses are reached from here (NAT).
//!
//! Invariant: an address is mapped once, where a redirect announces it; what the control plane hands over is
//! mapped already, by the same rules (`addressmap.py`).

use std::collections::HashMap;

use crate::net::Address;

/// Announced host and port, reachable host and port; without ports, every port of the host is meant.
pub type AddressRule = (String, Option<u16>, String, Option<u16>);

/// The rules, by what is announced; host names without case.
#[derive(Debug, Clone, Default)]
pub struct AddressMap {
    addresses: HashMap<(String, u16), Address>,
    hosts: HashMap<String, String>,
    /// Reachable host and port, or host alone, to the host that is announced.
    announced: Vec<(String, Option<u16>, String)>,
}

impl AddressMap {
    /// Take the rules over; a rule with a port goes before one for its host.
    pub fn new(rules: Vec<AddressRule>) -> Self {
        let mut map = Self::default();
        for (host, port, to_host, to_port) in rules {
            let host = host.to_ascii_lowercase();
            map.announced.push((to_host.clone(), to_port, host.clone()));
            match (port, to_port) {
                (Some(port), Some(to_port)) => {
                    map.addresses.insert((host, port), Address::tcp(to_host, to_port));
                }
                _ => {
                    map.hosts.insert(host, to_host);
                }
            }
        }
        map
    }

    /// Where the node is reached that `asked` (a reachable address) names; an empty host or "?" is its own.
    pub fn named(&self, host: &str, port: u16, asked: &Address) -> Address {
        let host = match asked {
            Address::Tcp { host: own, port } if host.is_empty() || host == "?" => {
                self.announced_host(own, *port)
            }
            _ => host,
        };
        if self.announced.is_empty() {
            return Address::tcp(host.to_owned(), port);
        }
        let name = host.to_ascii_lowercase();
        if let Some(reachable) = self.addresses.get(&(name.clone(), port)) {
            return reachable.clone();
        }
        let reachable = self.hosts.get(&name).map_or(host, String::as_str);
        Address::tcp(reachable.to_owned(), port)
    }

    fn announced_host<'a>(&'a self, host: &'a str, port: u16) -> &'a str {
        self.announced
            .iter()
            .find(|(to_host, to_port, _)| {
                to_host.eq_ignore_ascii_case(host) && to_port.is_none_or(|to_port| to_port == port)
            })
            .map_or(host, |(_, _, announced)| announced)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(host: &str, port: Option<u16>, to_host: &str, to_port: Option<u16>) -> AddressRule {
        (host.to_owned(), port, to_host.to_owned(), to_port)
    }

    fn at(host: &str, port: u16) -> Address {
        Address::tcp(host.to_owned(), port)
    }

    #[test]
    fn maps_what_it_names_and_leaves_the_rest() {
        let map = AddressMap::new(vec![
            rule("10.0.0.7", None, "nat7", None),
            rule("10.0.0.7", Some(7000), "nat", Some(17000)),
        ]);
        let asked = at("nat", 17000);
        assert_eq!(map.named("10.0.0.7", 7000, &asked), at("nat", 17000));
        assert_eq!(map.named("10.0.0.7", 7001, &asked), at("nat7", 7001));
        assert_eq!(map.named("10.0.0.8", 7000, &asked), at("10.0.0.8", 7000));
    }

    #[test]
    fn a_host_that_is_left_out_is_the_one_that_the_asked_node_announces() {
        let map = AddressMap::new(vec![
            rule("one", Some(7000), "nat", Some(1)),
            rule("two", Some(7000), "nat", Some(2)),
            rule("two", Some(7001), "nat", Some(3)),
        ]);
        assert_eq!(map.named("", 7001, &at("nat", 2)), at("nat", 3));
        assert_eq!(map.named("?", 7000, &at("nat", 1)), at("nat", 1));
        assert_eq!(map.named("", 7000, &at("elsewhere", 9)), at("elsewhere", 7000));
    }

    #[test]
    fn names_are_compared_without_case() {
        let map = AddressMap::new(vec![rule("Node-1.internal", None, "::1", None)]);
        assert_eq!(map.named("NODE-1.Internal", 5, &at("x", 1)), at("::1", 5));
    }
}
