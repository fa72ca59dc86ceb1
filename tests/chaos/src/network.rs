//! The network that the processes of a cluster live in, and the cuts between them.
//!
//! With namespaces, each process has a network namespace of its own, joined to a bridge by a veth
//! pair. Each namespace has its own packet filter, which drops packets at the receiver, so that any
//! pair can be cut in either direction. Without namespaces, all processes are on loopback and no
//! cut is possible.
//!
//! The module promises to touch no other network. The whole network exists in a namespace that
//! `scripts/chaos` makes and that ends with this process. The module does not interpret any packet.

use crate::error::{Because, Error};
use local_cluster::{Member, free_addresses};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};

/// The hosts with their addresses, and the cuts between them.
///
/// * Once [`apply`](Self::apply) has returned, the packet filters act as `deaf` and `lossy` say.
#[derive(Debug)]
pub struct Network {
    namespaces: bool,
    addresses: BTreeMap<Member, String>,
    /// For each host, the hosts that it does not hear.
    deaf: BTreeMap<Member, BTreeSet<Member>>,
    /// For each host, the share of arriving packets that is lost, in percent.
    lossy: BTreeMap<Member, u32>,
    /// The ports outside that connections to these nodes go to instead.
    detours: BTreeMap<Member, u16>,
}

const PORT: u16 = 7400;
/// The addresses exist only inside this process's own network namespace, so they collide with no
/// other.
const PREFIX: &str = "10.77.0";
const OUTSIDE: &str = "10.77.0.254";

impl Network {
    /// Builds a network of these hosts.
    ///
    /// # Errors
    /// The message of the system's tools, for people.
    pub fn new(hosts: &[Member], namespaces: bool) -> Result<Network, Error> {
        let mut network = Network {
            namespaces,
            addresses: BTreeMap::new(),
            deaf: BTreeMap::new(),
            lossy: BTreeMap::new(),
            detours: BTreeMap::new(),
        };
        if namespaces {
            run("mount", "-t tmpfs -o size=1m chaos /run")?; // `ip netns` keeps its names below it
            run("ip", "link set lo up")?;
            run("ip", "link add chaos type bridge")?;
            run("ip", "link set chaos up")?;
            run("ip", &format!("addr add {OUTSIDE}/24 dev chaos"))?;
        }
        let addresses = match namespaces {
            true => hosts
                .iter()
                .map(|host| Ok(format!("{}:{PORT}", network.join(*host)?)))
                .collect::<Result<_, Error>>()?,
            false => free_addresses(hosts.len()).map_err(Error::other)?,
        };
        network.addresses = hosts.iter().copied().zip(addresses).collect();
        Ok(network)
    }

    /// Gives a host its namespace, and returns its IP address.
    fn join(&self, host: Member) -> Result<String, Error> {
        let number = match host {
            Member::Node(id) => id,
            Member::Gateway(number) => 100 + number,
        };
        let address = format!("{PREFIX}.{number}");
        run("ip", &format!("netns add {host}"))?;
        run("ip", &format!("link add to-{host} type veth peer name eth0 netns {host}"))?;
        run("ip", &format!("link set to-{host} master chaos up"))?;
        run("ip", &format!("-n {host} addr add {address}/24 dev eth0"))?;
        run("ip", &format!("-n {host} link set eth0 up"))?;
        run("ip", &format!("-n {host} link set lo up"))?;
        Ok(address)
    }

    /// Adds a host.
    ///
    /// # Errors
    /// The message of the system's tools, for people.
    pub fn add(&mut self, host: Member) -> Result<(), Error> {
        let address = match self.namespaces {
            true => format!("{}:{PORT}", self.join(host)?),
            false => free_address()?,
        };
        self.addresses.insert(host, address);
        Ok(())
    }

    /// Moves a host to another port. The processes there must be told.
    ///
    /// # Errors
    /// If no port is free.
    pub fn move_elsewhere(&mut self, host: Member) -> Result<(), Error> {
        let address = match self.namespaces {
            true => {
                let (ip, port) = self.addresses[&host].rsplit_once(':').expect("a port");
                let port: u16 = port.parse().expect("a number");
                format!("{ip}:{}", port + 1)
            }
            false => free_address()?,
        };
        self.addresses.insert(host, address);
        Ok(())
    }

    /// Whether hosts can be cut from each other.
    pub fn can_cut(&self) -> bool {
        self.namespaces
    }

    /// The `host:port` of a host.
    pub fn address(&self, host: Member) -> &str {
        &self.addresses[&host]
    }

    /// A command that runs `program` at that host.
    pub fn command(&self, host: Member, program: &std::path::Path) -> Command {
        if !self.namespaces {
            return Command::new(program);
        }
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &host.to_string()]).arg(program);
        command
    }

    /// From now on, `ear` hears nothing from `mouth`.
    pub fn deafen(&mut self, ear: Member, mouth: Member) {
        if ear != mouth {
            self.deaf.entry(ear).or_default().insert(mouth);
        }
    }

    /// Cuts both directions between two hosts.
    pub fn cut(&mut self, one: Member, other: Member) {
        self.deafen(one, other);
        self.deafen(other, one);
    }

    /// Cuts both directions between each host of one side and each host of the other.
    pub fn split(&mut self, one: &[Member], other: &[Member]) {
        for &a in one {
            for &b in other {
                self.cut(a, b);
            }
        }
    }

    /// From now on, `ear` loses this share of the packets from other hosts.
    pub fn lose(&mut self, ear: Member, percent: u32) {
        self.lossy.insert(ear, percent);
    }

    /// From now on, new connections of other hosts to `to` go to this port outside.
    pub fn detour(&mut self, to: Member, port: u16) {
        self.detours.insert(to, port);
    }

    /// Removes all cuts, losses and detours.
    pub fn heal(&mut self) {
        self.deaf.clear();
        self.lossy.clear();
        self.detours.clear();
    }

    /// Breaks all connections between hosts that carry data now.
    ///
    /// # Errors
    /// The message of the packet filter's tool.
    pub async fn break_connections(&self) -> Result<(), Error> {
        if !self.namespaces || !crate::tools::has_packet_filter() {
            return Ok(());
        }
        for host in self.addresses.keys() {
            let others = self.addresses.keys().filter(|other| *other != host);
            let refuse = |other| {
                format!("-A INPUT -p tcp -s {} -j REJECT --reject-with tcp-reset\n", self.ip(other))
            };
            let rules: String = others.map(refuse).collect();
            restore(*host, &format!("*filter\n:INPUT ACCEPT [0:0]\n{rules}COMMIT\n"))?;
        }
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        self.apply()
    }

    fn ip(&self, host: &Member) -> &str {
        self.addresses[host].split(':').next().unwrap_or_default()
    }

    /// Puts the cuts, losses and detours into effect, host after host.
    ///
    /// # Errors
    /// The message of the packet filter's tool.
    pub fn apply(&self) -> Result<(), Error> {
        if !self.namespaces || !crate::tools::has_packet_filter() {
            return Ok(()); // faults that need the filter are skipped
        }
        self.addresses.keys().try_for_each(|host| {
            let mut rules = String::from("*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -i lo -j ACCEPT\n");
            for mouth in self.deaf.get(host).into_iter().flatten() {
                rules.push_str(&format!("-A INPUT -s {} -j DROP\n", self.ip(mouth)));
            }
            if let Some(percent) = self.lossy.get(host) {
                let probability = f64::from(*percent) / 100.0;
                rules.push_str(&format!("-A INPUT -m statistic --mode random --probability {probability} -j DROP\n"));
            }
            rules.push_str("COMMIT\n*nat\n:OUTPUT ACCEPT [0:0]\n");
            for (to, port) in self.detours.iter().filter(|(to, _)| *to != host) {
                let to = self.ip(to);
                rules.push_str(&format!(
                    "-A OUTPUT -p tcp -d {to} --dport {PORT} -j DNAT --to-destination {OUTSIDE}:{port}\n"
                ));
            }
            rules.push_str("COMMIT\n");
            restore(*host, &rules)
        })
    }
}

fn free_address() -> Result<String, Error> {
    let mut free = free_addresses(1).map_err(Error::other)?;
    free.pop().ok_or_else(|| "no port is free".into())
}

/// Replaces a host's packet filter in one step.
fn restore(host: Member, rules: &str) -> Result<(), Error> {
    let tool = format!("iptables-restore at {host}");
    let mut child = Command::new("ip")
        .args(["netns", "exec", &host.to_string(), "iptables-restore"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .because(&tool)?;
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(rules.as_bytes()).because(&tool)?;
    drop(stdin);
    let output = child.wait_with_output().because(&tool)?;
    if output.status.success() {
        Ok(())
    } else {
        let said = String::from_utf8_lossy(&output.stderr);
        Err(Error::Reason(format!("{tool}: {said}")))
    }
}

/// Runs one of the system's tools to its end.
///
/// # Errors
/// The tool's message.
pub fn run(program: &str, args: &str) -> Result<(), Error> {
    let output = Command::new(program).args(args.split_whitespace()).output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(Error::Reason(format!(
            "{program} {args}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        ))),
        Err(error) => {
            let tool = format!("{program} (Debian: iproute2, iptables, mount)");
            Err(Error::caused(tool, error))
        }
    }
}
