//! The three ways to the server, and what must run for them.
//!
//! All three end at the same server with the same data and account. Direct and pooled clients need no password, so
//! that no way pays for a login that another does not; the daemon logs in upstream with SCRAM like in real life.
//! INVARIANT: the daemon runs with capture, shipped-style policy, one masked class and the record on.

use std::fmt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use chaperone_tests::agent::Agent;
use chaperone_tests::daemon::{Daemon, Plan};
use chaperone_tests::postgres::{Options, Server, program_path};
use chaperone_tests::process::{self, Process};
use chaperone_tests::{ports, sample, temp};
use nix::sys::signal::Signal;

/// One way to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Direct,
    Pgbouncer,
    Chaperone,
}

impl Way {
    pub(crate) const ALL: [Self; 3] = [Self::Direct, Self::Pgbouncer, Self::Chaperone];
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Direct => "direct",
            Self::Pgbouncer => "pgbouncer",
            Self::Chaperone => "Chaperone",
        })
    }
}

/// Everything that runs.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) daemon: Daemon,
    pub(crate) pooler: Process,
    pooler_port: u16,
    server: Server,
    program: PathBuf,
    // Holds the files of the pooler and goes after it.
    _dir: temp::Dir,
}

/// The account that benchmarks connect as: no password on loopback.
pub(crate) const USER: &str = sample::USER;
const AGENT: &str = "bench";
const RESOURCE: &str = "bench-db";
const START_LIMIT: Duration = Duration::from_secs(60);

/// The benchmark measures statements, not logins: its agent has no token, which policy permits by name.
const POLICY: &str = r#"
@id("bench-reads")
permit (principal == Unidentified::"bench", action, resource in Resource::"bench-db");

@id("emails-are-masked")
@mask("keep-last:4")
forbid (principal, action == Action::"readClear", resource)
when { resource.class == "pii.email" };
"#;

impl Bench {
    /// Starts the server, fills it, starts pgbouncer and the daemon.
    pub(crate) fn set() -> Result<Self> {
        let dir = temp::Dir::new("bench")?;
        let settings = ["max_connections=1200", "shared_buffers=256MB", "log_connections=off"];
        let settings = settings.iter().map(|&text| text.to_owned()).collect();
        eprintln!("starting PostgreSQL and filling it (pgbench scale 10, 1,000,000 rows)");
        let access = chaperone_tests::postgres::Access::Trust;
        let server = Server::start(&Options { access, sample: true, settings, ..Options::default() })?;
        fill(&server)?;
        let program = stage_self(&dir)?;
        let pooler_port = ports::free()?;
        let pooler = start_pooler(&dir, &server, pooler_port)?;
        let password_file = dir.write("password", sample::PASSWORD, 0o600)?;
        let columns = "[[column]]\nresource = \"bench-db\"\ncolumn = \"public.million.email\"\nclass = \"pii.email\"\n\n\
                       [class.\"pii.email\"]\nmask = \"keep-last:4\"\n";
        let plan = Plan::default()
            .with(&format!("[[agent]]\nname = \"{AGENT}\"\n"))
            .with(&server.resource(RESOURCE, &password_file))
            .policy("bench.cedar", POLICY)
            .policy("columns.toml", columns);
        let daemon = Daemon::start(&plan)?;
        Ok(Self { daemon, pooler, pooler_port, server, program, _dir: dir })
    }

    /// The port that clients of this way connect to, on 127.0.0.1.
    pub(crate) fn port(&self, way: Way) -> u16 {
        match way {
            Way::Direct | Way::Chaperone => self.server.port(),
            Way::Pgbouncer => self.pooler_port,
        }
    }

    /// A program that runs inside the cgroup for Chaperone and outside for the others.
    pub(crate) fn client(&self, way: Way, program: PathBuf) -> Command {
        match way {
            Way::Direct | Way::Pgbouncer => Command::new(program),
            Way::Chaperone => Agent::new(&self.daemon, AGENT).command(program),
        }
    }

    /// This program's own client.
    pub(crate) fn own_client(&self, way: Way, word: &str, last: &str) -> Command {
        let mut command = self.client(way, self.program.clone());
        command.args([word, &format!("127.0.0.1:{}", self.port(way)), USER, sample::DATABASE, last]);
        command
    }

    /// `pgbench` against one way.
    pub(crate) fn pgbench(&self, way: Way) -> Command {
        let mut command = self.client(way, program_path("pgbench"));
        command.args(["-h", "127.0.0.1", "-p", &self.port(way).to_string(), "-U", USER]);
        // The same on every way: libpq would take TLS where it is offered, and only Chaperone offers it here.
        command.env("PGSSLMODE", "disable").current_dir("/");
        command
    }

    /// Where the daemon keeps its record, for the table's note.
    pub(crate) fn record_bytes(&self) -> Result<u64> {
        let mut total = 0;
        for entry in std::fs::read_dir(self.daemon.state().join("audit")).context("cannot list the record")? {
            total += entry.and_then(|entry| entry.metadata()).map_or(0, |facts| facts.len());
        }
        Ok(total)
    }
}

fn fill(server: &Server) -> Result<()> {
    let mut init = server.client("pgbench", sample::DATABASE);
    // pgbench wants the database last and without `-d`, which means debug there.
    let mut command = Command::new(init.get_program());
    let words: Vec<_> = init.get_args().map(std::ffi::OsStr::to_os_string).collect();
    command
        .args(words.iter().filter(|word| word.as_os_str() != "-d" && word.as_os_str() != sample::DATABASE));
    command.args(["-i", "-q", "-s", "10", sample::DATABASE]);
    init = command;
    process::run(&mut init, Duration::from_secs(300))?
        .success()
        .context("pgbench cannot fill the database")?;
    server.query(
        "CREATE TABLE million AS SELECT n AS id, 'customer' || n || '@mail.example' AS email, n * 7 AS amount \
         FROM generate_series(1, 1000000) AS n; \
         GRANT SELECT ON ALL TABLES IN SCHEMA public TO svc_reporter; VACUUM ANALYZE",
    )?;
    Ok(())
}

/// The agent's account must be able to start this program.
fn stage_self(dir: &temp::Dir) -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find this very program")?;
    let staged = dir.path().join("bench");
    std::fs::copy(&own, &staged).context("cannot copy this program")?;
    Ok(staged)
}

fn start_pooler(dir: &temp::Dir, server: &Server, port: u16) -> Result<Process> {
    let (user, database, upstream) = (USER, sample::DATABASE, server.port());
    let users = dir.write("users.txt", format!("\"{user}\" \"\"\n"), 0o644)?;
    let text = format!(
        "[databases]\n{database} = host=127.0.0.1 port={upstream} dbname={database} user={user}\n\n\
         [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n\
         auth_file = {}\npool_mode = session\nmax_client_conn = 1200\ndefault_pool_size = 1100\n\
         ignore_startup_parameters = extra_float_digits\nlog_connections = 0\nlog_disconnections = 0\n",
        users.display()
    );
    let config = dir.write("pgbouncer.ini", text.replace(" user={user}", ""), 0o644)?;
    let mut command = Command::new("setpriv");
    command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups", "/usr/sbin/pgbouncer"]).arg(&config);
    command.current_dir("/");
    let mut process =
        Process::start("pgbouncer", &mut command, &dir.path().join("pgbouncer.log"), Signal::SIGTERM)?;
    process.wait_ready(START_LIMIT, || {
        Ok(std::net::TcpStream::connect(("127.0.0.1", port)).is_ok().then_some(()))
    })?;
    Ok(process)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use chaperone_tests::postgres::{Access, Options, Server, program_path};
    use chaperone_tests::{ports, process, sample, temp};

    use super::{USER, start_pooler};

    #[test]
    fn the_pooler_reaches_the_server() {
        let server = Server::start(&Options { access: Access::Trust, ..Options::default() }).unwrap();
        let dir = temp::Dir::new("bench-test").unwrap();
        let port = ports::free().unwrap();
        let _pooler = start_pooler(&dir, &server, port).unwrap();
        let mut psql = std::process::Command::new(program_path("psql"));
        psql.args(["-XAtw", "-h", "127.0.0.1", "-p", &port.to_string(), "-U", USER, "-d", sample::DATABASE]);
        let seen =
            process::run(psql.args(["-c", "SELECT count(*) FROM orders"]), Duration::from_secs(30)).unwrap();
        assert_eq!(seen.success().unwrap().trim(), "1000");
    }
}
