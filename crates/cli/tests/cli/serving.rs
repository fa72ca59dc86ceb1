//! A node and a gateway as an operator starts them: other listen addresses than the ones to dial,
//! and news for systemd.

use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A process that ends with this value.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Server {
    fn start(notify: &Path, args: &[&str], log: Stdio) -> Server {
        let mut command = Command::new(env!("CARGO_BIN_EXE_palisade"));
        command.args(args).env("NOTIFY_SOCKET", notify).env("PALISADE_LOG", "warn");
        Server(command.stdin(Stdio::null()).stderr(log).spawn().expect("start palisade"))
    }

    /// Ends the process as systemd does, and waits for it.
    fn stop(&mut self) -> Option<i32> {
        let pid = nix::unistd::Pid::from_raw(self.0.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("signal it");
        self.0.wait().expect("it ends").code()
    }
}

/// A port that was free a moment ago on every address of this machine.
fn free_port() -> u16 {
    TcpListener::bind("[::]:0").and_then(|socket| socket.local_addr()).expect("a socket").port()
}

fn socket(path: &Path) -> UnixDatagram {
    let socket = UnixDatagram::bind(path).expect("a socket");
    socket.set_read_timeout(Some(Duration::from_secs(60))).expect("a socket");
    socket
}

fn heard(socket: &UnixDatagram) -> String {
    let mut bytes = [0; 64];
    let length = socket.recv(&mut bytes).expect("news within a minute");
    String::from_utf8_lossy(&bytes[..length]).into_owned()
}

/// Takes a lock through this endpoint, as soon as the cluster serves it.
fn acquires(endpoint: &str) {
    let give_up = Instant::now() + Duration::from_secs(60);
    loop {
        let args = ["acquire", "listen", "--owner", endpoint, "--ttl", "100ms"];
        let output = Command::new(env!("CARGO_BIN_EXE_palisade"))
            .args(args)
            .args(["--wait", "5s", "--endpoint", endpoint])
            .output()
            .expect("start palisade");
        if output.status.success() {
            return;
        }
        assert!(Instant::now() < give_up, "{endpoint}: {output:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Peers and gateways dial the name of the cluster file, while the servers listen on all addresses,
/// as in a container. Clients come by IPv4, by IPv6 and by name.
#[test]
fn servers_listen_elsewhere_than_they_are_dialled_and_tell_systemd() {
    let dir = tempfile::tempdir().expect("a directory");
    let (node_port, gateway_port, metrics_port) = (free_port(), free_port(), free_port());
    let config = dir.path().join("cluster.yaml");
    let yaml = format!(
        "cluster: listen\nshards: 1\nreplicas: 1\nnodes:\n  - {{ id: 1, address: 'localhost:{node_port}' }}\n"
    );
    std::fs::write(&config, yaml).expect("write the cluster file");
    let (config, data) = (config.display().to_string(), dir.path().join("data"));
    let (node_notify, gateway_notify) = (dir.path().join("node"), dir.path().join("gateway"));
    let (node_news, gateway_news) = (socket(&node_notify), socket(&gateway_notify));

    let (all, page) = (format!("[::]:{node_port}"), format!("[::1]:{metrics_port}"));
    let listen = ["--listen", &all, "--listen-metrics", &page, "--insecure"];
    let node = ["node", "--config", &config, "--id", "1", "--data-dir", data.to_str().unwrap()];
    let mut node = Server::start(&node_notify, &[&node[..], &listen].concat(), Stdio::inherit());
    assert_eq!(heard(&node_news), "READY=1");
    assert!(std::net::TcpStream::connect(&page).is_ok(), "it serves metrics there");

    let all = format!("[::]:{gateway_port}");
    let gateway = ["gateway", "--config", &config, "--listen", &all, "--insecure"];
    let mut gateway = Server::start(&gateway_notify, &gateway, Stdio::inherit());
    assert_eq!(heard(&gateway_news), "READY=1");
    for host in ["127.0.0.1", "[::1]", "localhost"] {
        acquires(&format!("{host}:{gateway_port}"));
    }

    assert_eq!(gateway.stop(), Some(0));
    assert_eq!(heard(&gateway_news), "STOPPING=1");
    assert_eq!(node.stop(), Some(0));
    assert_eq!(heard(&node_news), "STOPPING=1");
}

/// The cluster file names a metrics page for the address to dial, and the gateway listens elsewhere.
#[test]
fn a_gateway_that_serves_no_metrics_says_so() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = dir.path().join("cluster.yaml");
    let yaml = "cluster: quiet\nshards: 1\nreplicas: 1\nnodes:\n  - { id: 1, address: '127.0.0.1:1' }\n\
                gateways:\n  - { address: '127.0.0.1:2', metrics: '127.0.0.1:3' }\n";
    std::fs::write(&config, yaml).expect("write the cluster file");
    let page = format!("127.0.0.1:{}", free_port());
    for (more, warns) in [(&[][..], true), (&["--listen-metrics", &page], false)] {
        let notify = dir.path().join(format!("notify-{warns}"));
        let news = socket(&notify);
        let listen = format!("127.0.0.1:{}", free_port());
        let args = ["gateway", "--config", config.to_str().unwrap(), "--listen", &listen];
        let log = dir.path().join("log");
        let file = std::fs::File::create(&log).expect("a log");
        let mut gateway = Server::start(&notify, &[&args[..], more].concat(), file.into());
        assert_eq!(heard(&news), "READY=1");
        assert_eq!(gateway.stop(), Some(0));
        let log = std::fs::read_to_string(log).expect("a log");
        assert_eq!(log.contains("--listen-metrics"), warns, "{log}");
    }
}
