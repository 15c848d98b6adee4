//! The number of this process among those that were launched together, and how they find each other, from the
//! environment variables of torchrun, Open MPI and Slurm.

use crate::error::{Error, Result};
use sha2::{Digest, Sha256};
use std::net::{IpAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

/// The processes of a launch and how they find each other.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The number of this process, from 0, and of all.
    pub process: usize,
    pub processes: usize,
    /// The number of this process among those on its host.
    pub local_process: usize,
    /// Where process 0 listens: a name or an address of its host.
    pub address: String,
    pub port: u16,
    /// What only the processes of this launch know, as hexadecimal digits of a SHA-256. The key of the proofs
    /// that they exchange when they connect.
    pub token: String,
    /// What must be equal in all processes, such as the checksum of the configuration.
    pub fingerprint: String,
    /// How long the processes wait for each other at the start.
    pub join_timeout: Duration,
    /// The longest time that a rank may make no call, and that nothing may arrive from a process.
    pub rank_timeout: Duration,
    /// How long ranks have to return after a failure before the process exits without them.
    pub grace: Duration,
    /// A socket that listens on `port` already; without it, process 0 opens one.
    pub listener: Option<Arc<TcpListener>>,
    /// The environment variables that give the number of processes, for messages.
    pub variables: &'static str,
}

/// Whether torchrun itself listens on `MASTER_PORT`.
const AGENT: &str = "TORCHELASTIC_USE_AGENT_STORE";
/// Steps of Slurm from this number on have no tasks: the batch script, the shell of `salloc`.
const LAST_STEP: u64 = 0xffff_ff00;
/// Linux assigns ports from this one on to sockets that ask for any port (`ip_local_port_range`).
const FIRST_EPHEMERAL: u16 = 32_768;
/// The default of torchrun.
const PORT: u16 = 29500;

impl Launch {
    /// This process and no other.
    pub fn single() -> Launch {
        Launch {
            process: 0,
            processes: 1,
            local_process: 0,
            address: "127.0.0.1".into(),
            port: PORT,
            token: String::new(),
            fingerprint: String::new(),
            join_timeout: Duration::from_secs(300),
            rank_timeout: Duration::from_secs(600),
            grace: Duration::from_secs(60),
            listener: None,
            variables: "",
        }
    }

    /// Whether this process has rank 0, which writes files and prints messages.
    pub fn is_first(&self) -> bool {
        self.process == 0
    }

    /// Whether this process is the only one.
    pub fn is_single(&self) -> bool {
        self.processes == 1
    }

    /// Reads the environment; `variable` gives the value of one variable, such as `std::env::var(name).ok()`.
    ///
    /// `RANK` and `WORLD_SIZE` (torchrun) have priority over the variables of Open MPI, those over Slurm's.
    /// Without any of them the process is the only one. Slurm's are used within `srun` only: a batch script or
    /// shell has them too, but is one process. `MASTER_ADDR` and `MASTER_PORT` are used with every launcher.
    /// `L2P_TOKEN`, `L2P_JOIN_TIMEOUT_S` and `L2P_RANK_TIMEOUT_S` belong to this program.
    ///
    /// # Errors
    /// [`Error::Config`] naming what is set and what is missing, or which variables contradict each other; also
    /// without `L2P_TOKEN` where process 0 listens on more than the loopback interface.
    pub fn from_env(variable: impl Fn(&str) -> Option<String>) -> Result<Launch> {
        let vars = Variables(&variable);
        let mut launch = Launch::single();
        if let Some(place) = vars.place()? {
            launch.process = place.process;
            launch.processes = place.processes;
            launch.local_process = place.local;
            launch.variables = place.variables;
            if place.processes > 1 {
                (launch.address, launch.port) = (place.address?, place.port);
                let own = vars.get("L2P_TOKEN");
                if own.is_none() && !is_loopback(&launch.address) {
                    return Err(token_missing(&launch, place.variables));
                }
                launch.token = token(own, &place.job, place.processes);
            }
        }
        vars.seconds("L2P_JOIN_TIMEOUT_S", &mut launch.join_timeout)?;
        vars.seconds("L2P_RANK_TIMEOUT_S", &mut launch.rank_timeout)?;
        Ok(launch)
    }

    /// The address and port of process 0.
    pub fn place(&self) -> String {
        let Launch { address, port, .. } = self;
        if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
    }
}

/// What the variables of one launcher say.
struct Placement {
    process: usize,
    processes: usize,
    local: usize,
    address: Result<String>,
    port: u16,
    job: String,
    variables: &'static str,
}

struct Variables<'a>(&'a dyn Fn(&str) -> Option<String>);

impl Variables<'_> {
    fn get(&self, name: &str) -> Option<String> {
        (self.0)(name).map(|v| v.trim().to_string()).filter(|v| !v.is_empty())
    }

    fn number(&self, name: &str) -> Result<Option<usize>> {
        let read = |v: String| {
            v.parse::<u32>().map(|n| n as usize).map_err(|_| {
                Error::config(format!("{name} must be a whole number, found `{v}`; correct or unset it"))
            })
        };
        self.get(name).map(read).transpose()
    }

    fn seconds(&self, name: &str, into: &mut Duration) -> Result<()> {
        let Some(value) = self.get(name) else { return Ok(()) };
        let seconds = value.parse().ok().filter(|s: &f64| *s > 0.0 && *s < 1e9);
        *into = seconds.map(Duration::from_secs_f64).ok_or_else(|| {
            Error::config(format!("{name} must be a number of seconds above 0, found `{value}`"))
        })?;
        Ok(())
    }

    /// `MASTER_PORT`, or `otherwise`.
    fn port(&self, otherwise: u16) -> Result<u16> {
        let Some(port) = self.number("MASTER_PORT")? else { return Ok(otherwise) };
        u16::try_from(port).ok().filter(|p| *p > 0).ok_or_else(|| {
            Error::config(format!("MASTER_PORT must be a port from 1 to 65535, found `{port}`"))
        })
    }

    fn place(&self) -> Result<Option<Placement>> {
        let (rank, world) = (self.number("RANK")?, self.number("WORLD_SIZE")?);
        if let (Some(rank), Some(world)) = (rank, world) {
            return self.torchrun(rank, world).map(Some);
        }
        let other = match self.open_mpi()? {
            Some(place) => Some(place),
            None => self.slurm()?,
        };
        // Scripts for Slurm often set only one of the two.
        for (name, value, other_name) in [("RANK", rank, "WORLD_SIZE"), ("WORLD_SIZE", world, "RANK")] {
            let Some(value) = value else { continue };
            let Some(place) = &other else {
                if name == "WORLD_SIZE" && value == 1 {
                    continue;
                }
                return Err(Error::config(format!(
                    "{name} is set ({value}) but {other_name} is not: set both, as torchrun does, or unset {name}"
                )));
            };
            let said = if name == "RANK" { place.process } else { place.processes };
            if said != value {
                return Err(Error::config(format!(
                    "{name} is {value} and {other_name} is not set, but by {} it is {said}; set both or unset {name}",
                    place.variables
                )));
            }
        }
        if let Some(place) = &other {
            consistent(place)?;
        }
        Ok(other)
    }

    fn torchrun(&self, process: usize, processes: usize) -> Result<Placement> {
        let id = self.get("TORCHELASTIC_RUN_ID").unwrap_or_default();
        let mut port = self.port(PORT)?;
        if self.get(AGENT).is_some_and(|v| v.eq_ignore_ascii_case("true")) {
            // The launcher itself listens on MASTER_PORT. If the system chose that port, the next ones are
            // likely to be in use by its connections.
            let chosen = port >= FIRST_EPHEMERAL - 1;
            port = if chosen { port_of(&format!("{id} {port}")) } else { port + 1 };
        }
        let address = self.get("MASTER_ADDR").zip(self.get("MASTER_PORT")).map(|(address, _)| address);
        let missing: Vec<&str> =
            ["MASTER_ADDR", "MASTER_PORT"].into_iter().filter(|v| self.get(v).is_none()).collect();
        let place = Placement {
            process,
            processes,
            local: self.number("LOCAL_RANK")?.unwrap_or(0),
            address: address.ok_or_else(|| {
                Error::config(format!(
                    "RANK ({process}) and WORLD_SIZE ({processes}) are set but {} not: set both to the host of \
                     rank 0 and a free port there, or RANK=0 and WORLD_SIZE=1 for a run of one process",
                    is_or_are(&missing)
                ))
            }),
            port,
            job: format!("torchrun {id}"),
            variables: "RANK and WORLD_SIZE",
        };
        consistent(&place)?;
        Ok(place)
    }

    fn open_mpi(&self) -> Result<Option<Placement>> {
        let (rank, size) = ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE");
        let (Some(process), Some(processes)) = self.pair(rank, size)? else { return Ok(None) };
        let job = self.get("PMIX_NAMESPACE").or(self.get("OMPI_MCA_ess_base_jobid")).unwrap_or_default();
        let one_host = self.number("OMPI_COMM_WORLD_LOCAL_SIZE")? == Some(processes);
        let address = self.get("MASTER_ADDR").or(one_host.then(|| "127.0.0.1".into()));
        Ok(Some(Placement {
            process,
            processes,
            local: self.number("OMPI_COMM_WORLD_LOCAL_RANK")?.unwrap_or(0),
            address: address.ok_or_else(|| {
                Error::config(format!(
                    "mpirun has started {processes} processes on several hosts but MASTER_ADDR is not set: \
                     say where rank 0 is, mpirun -x MASTER_ADDR=HOST"
                ))
            }),
            port: self.port(port_of(&job))?,
            job: format!("mpirun {job}"),
            variables: "OMPI_COMM_WORLD_RANK and OMPI_COMM_WORLD_SIZE",
        }))
    }

    fn slurm(&self) -> Result<Option<Placement>> {
        // Only what `srun` starts has the number of a step below LAST_STEP.
        let step = self.get("SLURM_STEP_ID").or(self.get("SLURM_STEPID"));
        let Some(step) = step.filter(|s| s.parse().is_ok_and(|s: u64| s < LAST_STEP)) else {
            return Ok(None);
        };
        let tasks = ["SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"].into_iter().find(|v| self.get(v).is_some());
        let (Some(process), Some(processes)) = self.pair("SLURM_PROCID", tasks.unwrap_or("SLURM_NTASKS"))?
        else {
            return Ok(None);
        };
        let job =
            format!("{}.{step}", self.get("SLURM_JOB_ID").or(self.get("SLURM_JOBID")).unwrap_or_default());
        let nodes = self.get("SLURM_STEP_NODELIST").or(self.get("SLURM_JOB_NODELIST"));
        let address = match (self.get("MASTER_ADDR"), nodes) {
            (Some(address), _) => Ok(address),
            (None, _) if self.number("SLURM_STEP_NUM_NODES")? == Some(1) => Ok("127.0.0.1".into()),
            (None, Some(nodes)) => first_host(&nodes),
            (None, None) => Err(Error::config(format!(
                "srun has started {processes} tasks but none of SLURM_STEP_NODELIST, SLURM_JOB_NODELIST and \
                 MASTER_ADDR is set: set MASTER_ADDR to the host of task 0"
            ))),
        };
        Ok(Some(Placement {
            process,
            processes,
            local: self.number("SLURM_LOCALID")?.unwrap_or(0),
            address,
            port: self.port(port_of(&job))?,
            job: format!("slurm {job}"),
            variables: "SLURM_PROCID and SLURM_STEP_NUM_TASKS",
        }))
    }

    /// The values of two variables, both set or neither.
    fn pair(&self, one: &str, other: &str) -> Result<(Option<usize>, Option<usize>)> {
        let values = (self.number(one)?, self.number(other)?);
        let (set, missing) = match values {
            (Some(_), None) => (one, other),
            (None, Some(_)) => (other, one),
            _ => return Ok(values),
        };
        Err(Error::config(format!(
            "{set} is set but {missing} is not: the launcher sets both; set or unset both"
        )))
    }
}

fn consistent(place: &Placement) -> Result<()> {
    let Placement { process, processes, variables, .. } = place;
    if process < processes {
        return Ok(());
    }
    Err(Error::config(format!(
        "{variables} contradict each other: {process} is not below {processes}, as the numbers start from 0"
    )))
}

fn is_or_are(names: &[&str]) -> String {
    format!("{} {}", names.join(" and "), if names.len() == 1 { "is" } else { "are" })
}

/// Whether `address` is reached from this host only.
fn is_loopback(address: &str) -> bool {
    address == "localhost" || address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn token_missing(launch: &Launch, variables: &str) -> Error {
    Error::config(format!(
        "L2P_TOKEN is not set, but {variables} give {} processes and process 0 listens at {}, where other hosts can \
         connect: set L2P_TOKEN to the same secret in all processes (`openssl rand -hex 16` makes one), or \
         MASTER_ADDR=127.0.0.1 if all run on this host",
        launch.processes,
        launch.place()
    ))
}

fn token(own: Option<String>, job: &str, processes: usize) -> String {
    let secret = own.unwrap_or_else(|| format!("{job} of {processes}"));
    format!("{:x}", Sha256::digest(format!("l2p-engine {secret}")))
}

/// A port that depends on the job, below the ephemeral ones.
fn port_of(job: &str) -> u16 {
    let digest = Sha256::digest(job);
    let below = FIRST_EPHEMERAL / 2;
    below + u16::from_le_bytes([digest[0], digest[1]]) % below
}

/// The first host of a list in Slurm's notation: `node08` for `node[08-11,15],login`.
///
/// # Errors
/// [`Error::Config`] if `list` is not in that notation.
pub fn first_host(list: &str) -> Result<String> {
    let wrong =
        || Error::config(format!("`{list}` is not a list of hosts as Slurm writes them; set MASTER_ADDR"));
    let (mut host, mut rest) = (String::new(), list.trim());
    while let Some(at) = rest.find(['[', ']', ',']) {
        host.push_str(&rest[..at]);
        match rest.as_bytes()[at] {
            b'[' => {
                let (range, after) = rest[at + 1..].split_once(']').ok_or_else(wrong)?;
                let first = range.split(['-', ',']).next().unwrap_or_default();
                if first.is_empty() || !first.bytes().all(|b| b.is_ascii_digit()) {
                    return Err(wrong());
                }
                host.push_str(first);
                rest = after;
            }
            b',' => {
                rest = "";
            }
            _ => return Err(wrong()),
        }
    }
    host.push_str(rest);
    let plain = |c: char| c.is_alphanumeric() || ['-', '.', '_'].contains(&c);
    if host.is_empty() || !host.chars().all(plain) { Err(wrong()) } else { Ok(host) }
}
