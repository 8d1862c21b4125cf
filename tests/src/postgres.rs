//! A real PostgreSQL server on a free loopback port, with sample data, gone when its value is dropped.
//!
//! Runs under an unprivileged account (it refuses root) with its data in a temporary folder. Its unix socket is in
//! a folder that only that account and root can enter, so that an agent cannot take it instead of the network.
//! Durability is switched off: nothing here outlives a test.
//! Limits: PostgreSQL 15 as Debian packages it; `CHAPERONE_POSTGRES` names another folder of server programs.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use nix::unistd::User;

use crate::process::{self, Process};
use crate::{ports, sample, temp};

/// How clients over TCP must prove who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Access {
    /// Not at all.
    Trust,
    /// Password in clear text.
    Password,
    /// MD5 challenge.
    Md5,
    /// SCRAM-SHA-256, with channel binding when the client uses TLS.
    #[default]
    Scram,
    /// A client certificate whose common name is the user; TLS only.
    Certificate,
}

/// The server's side of TLS.
#[derive(Debug, Clone)]
pub struct Tls {
    /// Certificate chain, PEM.
    pub certificate: String,
    /// Its private key, PEM.
    pub key: String,
    /// Authority of client certificates, PEM.
    pub client_ca: Option<String>,
    /// Refuse clients without TLS.
    pub required: bool,
}

/// What kind of server is wanted.
#[derive(Debug, Clone)]
pub struct Options {
    /// How clients prove who they are.
    pub access: Access,
    /// TLS, or none.
    pub tls: Option<Tls>,
    /// Fill the database with the sample.
    pub sample: bool,
    /// Further settings, `name=value`.
    pub settings: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self { access: Access::Scram, tls: None, sample: true, settings: Vec::new() }
    }
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    // Dropped in this order: the server stops before its folder goes.
    process: Process,
    port: u16,
    dir: temp::Dir,
}

const START_LIMIT: Duration = Duration::from_secs(60);
const STATEMENT_LIMIT: Duration = Duration::from_secs(120);

impl Server {
    /// Makes a cluster, starts it, creates the database and its account.
    pub fn start(options: &Options) -> Result<Self> {
        let dir = temp::Dir::new("postgres")?;
        let account = Account::find()?;
        let data = dir.folder("data")?;
        let sockets = dir.folder("sockets")?;
        for folder in [&data, &sockets] {
            account.give(folder, 0o700)?;
        }
        let mut init = account.command("initdb")?;
        init.arg("-D").arg(&data).args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8"]);
        process::run(init.arg("--no-sync").arg("--no-instructions"), START_LIMIT)?
            .success()
            .context("initdb failed")?;
        let log = dir.path().join("postgres.log");
        configure(&data, &account, options)?;
        let (process, port) = launch(&account, &data, &sockets, &log, options)?;
        let server = Self { process, port, dir };
        server.fill(options)?;
        Ok(server)
    }

    /// Its port, the same on IPv4 and IPv6.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its address on 127.0.0.1.
    #[must_use]
    pub fn v4(&self) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), self.port)
    }

    /// Its address on ::1.
    #[must_use]
    pub fn v6(&self) -> SocketAddr {
        SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), self.port)
    }

    /// Runs statements as the superuser, past Chaperone, and returns what `psql -At` prints.
    pub fn query(&self, sql: &str) -> Result<String> {
        self.query_in(sample::DATABASE, sql)
    }

    /// The same in another database.
    pub fn query_in(&self, database: &str, sql: &str) -> Result<String> {
        let file = self.dir.write(&format!("{}.sql", temp::unique()), sql, 0o600)?;
        let mut psql = self.client("psql", database);
        psql.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-f"]).arg(&file);
        let text = process::run(&mut psql, STATEMENT_LIMIT)?.success()?;
        std::fs::remove_file(&file).context("cannot remove a statement file")?;
        Ok(text.trim_end().to_owned())
    }

    /// A client program that is connected as the superuser over the unix socket.
    #[must_use]
    pub fn client(&self, program: &str, database: &str) -> Command {
        let mut command = Command::new(program_path(program));
        command.arg("-h").arg(self.dir.path().join("sockets")).args(["-p", &self.port.to_string()]);
        command.args(["-U", "postgres", "-d", database]);
        command
    }

    /// Its unix socket, where every account is trusted; only root and the server's own account can reach it.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("sockets").join(format!(".s.PGSQL.{}", self.port))
    }

    /// Everything the server has logged.
    pub fn log(&self) -> Result<String> {
        self.process.log()
    }

    /// Stops the server at once; clients see a dropped connection.
    pub fn kill(&mut self) -> Result<()> {
        self.process.stop(Signal::SIGQUIT, START_LIMIT).map(|_| ())
    }

    /// The server's process id and its folder.
    #[must_use]
    pub fn remains(&self) -> (i32, PathBuf) {
        (self.process.pid().as_raw(), self.dir.path().to_path_buf())
    }

    /// The resource that stands for this server in a daemon's configuration.
    #[must_use]
    pub fn resource(&self, name: &str, password_file: &Path) -> String {
        let mut text = String::new();
        let port = self.port;
        // Writing into a string cannot fail.
        let written = write!(
            text,
            "[[resource]]\nname = \"{name}\"\nprotocol = \"postgres\"\n\
             addresses = [\"127.0.0.1:{port}\", \"[::1]:{port}\"]\nlabels = {{ env = \"prod\" }}\n\
             credential = {{ user = \"{}\", password_file = \"{}\" }}\ntls = {{ mode = \"disable\" }}\n",
            sample::USER,
            password_file.display()
        );
        debug_assert!(written.is_ok(), "a string takes every write");
        text
    }

    fn fill(&self, options: &Options) -> Result<()> {
        let user = sample::USER;
        let account = format!("CREATE ROLE {user} LOGIN PASSWORD '{}'", sample::PASSWORD);
        self.query_in("postgres", &account)?;
        self.query_in("postgres", &format!("CREATE DATABASE {}", sample::DATABASE))?;
        if options.sample {
            self.query(sample::SQL)?;
        }
        Ok(())
    }
}

/// The path of a client program: Debian's wrapper would choose a version by itself.
#[must_use]
pub fn program_path(program: &str) -> PathBuf {
    let folder =
        std::env::var_os("CHAPERONE_POSTGRES").unwrap_or_else(|| "/usr/lib/postgresql/15/bin".into());
    Path::new(&folder).join(program)
}

/// The account that the server runs under.
struct Account {
    ids: Option<(u32, u32)>,
}

impl Account {
    /// `postgres`, else `nobody`; ourselves when we are not root.
    fn find() -> Result<Self> {
        if !nix::unistd::geteuid().is_root() {
            return Ok(Self { ids: None });
        }
        for name in ["postgres", "nobody"] {
            if let Some(user) = User::from_name(name).context("cannot read the accounts")? {
                return Ok(Self { ids: Some((user.uid.as_raw(), user.gid.as_raw())) });
            }
        }
        anyhow::bail!("there is neither an account `postgres` nor an account `nobody`")
    }

    fn command(&self, program: &str) -> Result<Command> {
        let path = program_path(program);
        anyhow::ensure!(path.is_file(), "`{}` is missing; run `cargo xtask setup`", path.display());
        let Some((uid, gid)) = self.ids else { return Ok(Command::new(path)) };
        let mut command = Command::new("setpriv");
        command.args([format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".to_owned()]);
        // The caller's folder may be closed to this account.
        command.arg(path).current_dir("/");
        Ok(command)
    }

    fn give(&self, path: &Path, mode: u32) -> Result<()> {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
            .with_context(|| format!("cannot set the mode of `{}`", path.display()))?;
        let Some((uid, gid)) = self.ids else { return Ok(()) };
        std::os::unix::fs::chown(path, Some(uid), Some(gid))
            .with_context(|| format!("cannot give `{}` away", path.display()))
    }
}

/// Writes the access rules and the TLS files.
fn configure(data: &Path, account: &Account, options: &Options) -> Result<()> {
    let method = match options.access {
        Access::Trust => "trust",
        Access::Password => "password",
        Access::Md5 => "md5",
        Access::Scram => "scram-sha-256",
        Access::Certificate => "cert",
    };
    let tls_only =
        options.access == Access::Certificate || options.tls.as_ref().is_some_and(|tls| tls.required);
    let kind = if tls_only { "hostssl" } else { "host" };
    let rules = format!(
        "local all all trust\n{kind} all all 127.0.0.1/32 {method}\n{kind} all all ::1/128 {method}\n\
         {kind} replication all 127.0.0.1/32 {method}\n"
    );
    std::fs::write(data.join("pg_hba.conf"), rules).context("cannot write the server's access rules")?;
    let Some(tls) = &options.tls else { return Ok(()) };
    let files = [
        ("server.crt", Some(&tls.certificate)),
        ("server.key", Some(&tls.key)),
        ("root.crt", tls.client_ca.as_ref()),
    ];
    for (name, text) in files.into_iter().filter_map(|(name, text)| Some((name, text?))) {
        let path = data.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write `{}`", path.display()))?;
        account.give(&path, 0o600)?;
    }
    Ok(())
}

/// Starts the server; another port is tried when somebody was faster.
fn launch(
    account: &Account,
    data: &Path,
    sockets: &Path,
    log: &Path,
    options: &Options,
) -> Result<(Process, u16)> {
    let mut last = None;
    for _ in 0..5 {
        let port = ports::free()?;
        let mut command = account.command("postgres")?;
        command.arg("-D").arg(data).args(["-p", &port.to_string()]);
        for setting in settings(sockets, options) {
            command.args(["-c", &setting]);
        }
        let mut process = Process::start("PostgreSQL", &mut command, log, Signal::SIGQUIT)?;
        let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        match process.wait_ready(START_LIMIT, || accepts(&address, account, sockets, port)) {
            Ok(()) => return Ok((process, port)),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| anyhow::anyhow!("no attempt was made")).context("PostgreSQL did not start"))
}

fn settings(sockets: &Path, options: &Options) -> Vec<String> {
    let encryption = if options.access == Access::Md5 { "md5" } else { "scram-sha-256" };
    let mut all = vec![
        "listen_addresses=127.0.0.1,::1".to_owned(),
        format!("unix_socket_directories={}", sockets.display()),
        format!("password_encryption={encryption}"),
        "fsync=off".to_owned(),
        "synchronous_commit=off".to_owned(),
        "full_page_writes=off".to_owned(),
        "max_connections=200".to_owned(),
        "logging_collector=off".to_owned(),
        "log_connections=on".to_owned(),
    ];
    if let Some(tls) = &options.tls {
        all.extend([
            "ssl=on".to_owned(),
            "ssl_cert_file=server.crt".to_owned(),
            "ssl_key_file=server.key".to_owned(),
        ]);
        all.extend(tls.client_ca.as_ref().map(|_| "ssl_ca_file=root.crt".to_owned()));
    }
    all.extend(options.settings.iter().cloned());
    all
}

/// True when the server answers that it takes connections.
fn accepts(address: &SocketAddr, account: &Account, sockets: &Path, port: u16) -> Result<Option<()>> {
    if TcpStream::connect_timeout(address, Duration::from_secs(1)).is_err() {
        return Ok(None);
    }
    let mut ask = account.command("pg_isready")?;
    ask.arg("-q").arg("-h").arg(sockets).args(["-p", &port.to_string()]);
    let answer = process::run(&mut ask, Duration::from_secs(10))?;
    Ok(answer.status.success().then_some(()))
}

#[cfg(test)]
mod tests {
    use super::{Access, Options, Server};
    use crate::sample;

    #[test]
    fn a_server_holds_the_sample_and_is_gone_when_dropped() {
        let server = Server::start(&Options { access: Access::Scram, ..Options::default() }).unwrap();
        assert_eq!(server.query("SELECT count(*) FROM customers").unwrap(), sample::CUSTOMERS.to_string());
        assert_eq!(server.query("SELECT count(*) FROM orders").unwrap(), sample::ORDERS.to_string());
        assert_eq!(
            server.query("SELECT email FROM customers WHERE id = 7").unwrap(),
            "customer7@mail.example"
        );
        let (pid, folder) = server.remains();
        drop(server);
        assert!(!folder.exists());
        assert!(nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None).is_err());
    }
}
