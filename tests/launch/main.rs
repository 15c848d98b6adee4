//! What the variables of torchrun, Open MPI and Slurm say about where a process stands.

use l2p_engine::Result;
use l2p_engine::comm::{Launch, first_host};
use proptest::prelude::*;

fn contains(text: &str, wanted: &[&str]) {
    for wanted in wanted {
        assert!(text.contains(wanted), "`{wanted}` is not in: {text}");
    }
}

fn from(variables: &[(&str, &str)]) -> Result<Launch> {
    Launch::from_env(|name| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| v.to_string()))
}

const TORCHRUN: [(&str, &str); 7] = [
    ("RANK", "5"),
    ("WORLD_SIZE", "8"),
    ("LOCAL_RANK", "1"),
    ("MASTER_ADDR", "node-a"),
    ("MASTER_PORT", "29500"),
    ("TORCHELASTIC_RUN_ID", "77"),
    ("L2P_TOKEN", "secret"),
];

const SLURM: [(&str, &str); 9] = [
    ("SLURM_JOB_ID", "1234"),
    ("SLURM_STEP_ID", "0"),
    ("SLURM_PROCID", "3"),
    ("SLURM_STEP_NUM_TASKS", "4"),
    ("SLURM_NTASKS", "8"),
    ("SLURM_LOCALID", "1"),
    ("SLURM_JOB_NODELIST", "gpu[001-004]"),
    ("SLURM_STEP_NODELIST", "gpu[003-004]"),
    ("L2P_TOKEN", "secret"),
];

const MPI: [(&str, &str); 4] = [
    ("OMPI_COMM_WORLD_RANK", "1"),
    ("OMPI_COMM_WORLD_SIZE", "2"),
    ("OMPI_COMM_WORLD_LOCAL_RANK", "1"),
    ("OMPI_COMM_WORLD_LOCAL_SIZE", "2"),
];

fn place(launch: &Launch) -> (usize, usize, usize, &str) {
    (launch.process, launch.processes, launch.local_process, &launch.address)
}

#[test]
fn variables_of_launchers() {
    let alone = from(&[]).expect("nothing set");
    assert!(alone.is_single());
    assert_eq!((alone.join_timeout.as_secs(), alone.rank_timeout.as_secs()), (300, 600));

    let torch = from(&TORCHRUN).expect("torchrun");
    assert_eq!((place(&torch), torch.port), ((5, 8, 1, "node-a"), 29500));
    let agent = |port| {
        let more = [("TORCHELASTIC_USE_AGENT_STORE", "True"), ("MASTER_PORT", port)];
        from(&[&more[..], &TORCHRUN].concat()).expect("torchrun").port
    };
    // A port that the system chose has its connections beside it.
    assert_eq!((agent("29500"), agent("32766")), (29501, 32767));
    assert!(["32767", "41447", "65535"].iter().all(|p| (16_384..32_768).contains(&agent(p))));
    assert_ne!(agent("41447"), agent("41448"));

    let slurm = from(&SLURM).expect("Slurm");
    assert_eq!(place(&slurm), (3, 4, 1, "gpu003"));
    assert!((16_384..32_768).contains(&slurm.port));
    let other_step = from(&[&[("SLURM_STEP_ID", "1")], &SLURM[..]].concat()).expect("Slurm");
    assert_ne!(other_step.port, slurm.port);
    let own_port = [("MASTER_PORT", "4000"), ("MASTER_ADDR", "10.0.0.9")];
    let own_port = from(&[&own_port, &SLURM[..]].concat()).expect("Slurm");
    assert_eq!((own_port.port, own_port.address.as_str()), (4000, "10.0.0.9"));
    let one_node = from(&[&[("SLURM_STEP_NUM_NODES", "1")], &SLURM[..]].concat()).expect("Slurm");
    assert_eq!(one_node.address, "127.0.0.1");

    let mpi = from(&MPI).expect("Open MPI");
    assert_eq!(place(&mpi), (1, 2, 1, "127.0.0.1"));

    // The nearest launcher counts: torchrun within mpirun within a job of Slurm.
    assert_eq!(place(&from(&[&MPI[..], &SLURM].concat()).expect("both")).1, 2);
    assert_eq!(place(&from(&[&SLURM[..], &MPI, &TORCHRUN].concat()).expect("all")).1, 8);
    assert!(from(&[&[("RANK", "0"), ("WORLD_SIZE", "1")], &SLURM[..]].concat()).expect("alone").is_single());
    assert!(from(&[("WORLD_SIZE", "1")]).expect("alone").is_single());
    assert!(
        from(&[("MASTER_ADDR", "x"), ("MASTER_PORT", "1"), ("LOCAL_RANK", "0")]).expect("alone").is_single()
    );

    let shell = |step: &[(&'static str, &'static str)]| {
        let rest = SLURM.iter().filter(|(n, _)| !n.starts_with("SLURM_STEP"));
        from(&step.iter().chain(rest).copied().collect::<Vec<_>>()).expect("a shell of Slurm").is_single()
    };
    // A script (which has SLURM_PROCID and SLURM_NTASKS), and a shell of `salloc`.
    assert!(
        shell(&[]) && shell(&[("SLURM_STEP_ID", "4294967290")]) && shell(&[("SLURM_STEP_ID", "4294967291")])
    );
    assert!(!shell(&[("SLURM_STEP_ID", "2")]) && !shell(&[("SLURM_STEPID", "2")]));

    let timed = from(&[("L2P_JOIN_TIMEOUT_S", "1.5"), ("L2P_RANK_TIMEOUT_S", "20")]).expect("limits");
    assert_eq!((timed.join_timeout.as_millis(), timed.rank_timeout.as_secs()), (1500, 20));
}

#[test]
fn tokens_tell_launches_apart() {
    let token = |more: &[(&'static str, &'static str)]| {
        let local = [("MASTER_ADDR", "127.0.0.1")];
        let without = TORCHRUN.iter().filter(|(name, _)| *name != "L2P_TOKEN").copied();
        from(&more.iter().chain(&local).copied().chain(without).collect::<Vec<_>>()).expect("torchrun").token
    };
    let usual = token(&[]);
    assert_eq!(usual, token(&[("RANK", "2"), ("LOCAL_RANK", "0")]));
    let own = token(&[("L2P_TOKEN", "mine")]);
    let others = [token(&[("TORCHELASTIC_RUN_ID", "78")]), token(&[("WORLD_SIZE", "9")]), own.clone()];
    assert!(others.iter().all(|t| *t != usual && t.len() == 64));
    assert!(!own.contains("mine"));
    let step = |number| {
        let local = [("SLURM_STEP_NUM_NODES", "1"), ("SLURM_STEP_ID", number), ("L2P_TOKEN", "")];
        from(&[&local, &SLURM[..]].concat()).expect("Slurm on one node").token
    };
    assert_ne!(step("0"), step("1"));
}

#[test]
fn a_token_is_required_where_other_hosts_can_connect() {
    for (launcher, address) in [
        (&TORCHRUN[..], "node-a"),
        (&SLURM[..], "gpu003"),
        (&TORCHRUN[..], "0.0.0.0"),
        (&MPI[..], "10.0.0.9"),
    ] {
        let variables = [&[("MASTER_ADDR", address), ("L2P_TOKEN", "")], launcher].concat();
        let error = from(&variables).expect_err("no token");
        assert_eq!(error.exit_code(), 2);
        contains(&error.to_string(), &["L2P_TOKEN", address, "openssl rand", "MASTER_ADDR=127.0.0.1"]);
        from(&[&[("L2P_TOKEN", "secret")], &variables[..]].concat()).expect("a token");
    }
    for address in ["127.0.0.1", "127.1.2.3", "::1", "localhost"] {
        from(&[&[("MASTER_ADDR", address), ("L2P_TOKEN", "")], &TORCHRUN[..]].concat()).expect(address);
    }
    // A launch of one process listens nowhere.
    let alone = [("RANK", "0"), ("WORLD_SIZE", "1"), ("L2P_TOKEN", "")];
    assert!(from(&[&alone, &TORCHRUN[..]].concat()).expect("alone").is_single());
}

#[test]
fn contradictory_variables_are_named() {
    let without = |all: &[(&'static str, &'static str)], name: &str| {
        all.iter().filter(|(n, _)| *n != name).copied().collect::<Vec<_>>()
    };
    let with = |name, value, all: &[(&'static str, &'static str)]| [&[(name, value)], all].concat();
    type Case<'a> = (Vec<(&'a str, &'a str)>, &'a [&'a str]);
    let cases: &[Case] = &[
        (without(&TORCHRUN, "WORLD_SIZE"), &["RANK is set (5)", "WORLD_SIZE is not"]),
        (without(&TORCHRUN, "RANK"), &["WORLD_SIZE is set (8)", "RANK is not"]),
        (without(&TORCHRUN, "MASTER_ADDR"), &["RANK (5)", "WORLD_SIZE (8)", "MASTER_ADDR is not"]),
        (vec![("RANK", "1"), ("WORLD_SIZE", "2")], &["MASTER_ADDR and MASTER_PORT are not"]),
        (with("RANK", "8", &TORCHRUN), &["RANK and WORLD_SIZE", "8 is not below 8"]),
        (with("RANK", "-1", &TORCHRUN), &["RANK must be a whole number", "`-1`"]),
        (with("WORLD_SIZE", "0", &TORCHRUN), &["5 is not below 0"]),
        (with("MASTER_PORT", "70000", &TORCHRUN), &["MASTER_PORT", "1 to 65535", "70000"]),
        (with("WORLD_SIZE", "16", &SLURM), &["WORLD_SIZE is 16", "SLURM_STEP_NUM_TASKS", "4"]),
        (with("RANK", "0", &SLURM), &["RANK is 0", "SLURM_PROCID", "3"]),
        (without(&SLURM, "SLURM_PROCID"), &["SLURM_STEP_NUM_TASKS is set", "SLURM_PROCID is not"]),
        (with("SLURM_PROCID", "4", &SLURM), &["4 is not below 4"]),
        (with("SLURM_STEP_NODELIST", "gpu[", &SLURM), &["`gpu[`", "MASTER_ADDR"]),
        (without(&MPI, "OMPI_COMM_WORLD_SIZE"), &["OMPI_COMM_WORLD_RANK is set"]),
        (without(&MPI, "OMPI_COMM_WORLD_LOCAL_SIZE"), &["several hosts", "MASTER_ADDR"]),
        (vec![("L2P_JOIN_TIMEOUT_S", "soon")], &["L2P_JOIN_TIMEOUT_S", "`soon`"]),
        (vec![("L2P_RANK_TIMEOUT_S", "0")], &["L2P_RANK_TIMEOUT_S", "above 0"]),
        (vec![("L2P_RANK_TIMEOUT_S", "inf")], &["L2P_RANK_TIMEOUT_S"]),
    ];
    for (variables, wanted) in cases {
        let error = from(variables).expect_err(&format!("{variables:?}"));
        assert_eq!(error.exit_code(), 2);
        contains(&error.to_string(), wanted);
    }
    // What a script for Slurm often sets agrees with it.
    assert_eq!(from(&with("WORLD_SIZE", "4", &SLURM)).expect("the same").processes, 4);
}

#[test]
fn lists_of_hosts() {
    for (list, host) in [
        ("node1", "node1"),
        ("node[1-3,7]", "node1"),
        ("node[08-11,15],login", "node08"),
        ("gpu-a[01-04]b.cluster.org,x", "gpu-a01b.cluster.org"),
        ("rack[2-3]node[5,7]", "rack2node5"),
        ("b,a[1-2]", "b"),
        ("10.0.0.1,10.0.0.2", "10.0.0.1"),
        ("x[007]", "x007"),
    ] {
        assert_eq!(first_host(list).expect(list), host);
    }
    for list in
        ["", "  ", "node[", "node]", "node[]", "[a-b]", ",a", "a b", "node[1-2", "node[[1]]", "$(reboot)"]
    {
        assert!(first_host(list).is_err(), "{list}");
    }
}

proptest! {
    #[test]
    fn any_list_of_hosts(text in "[a-z0-9\\[\\],. -]{0,30}") {
        if let Ok(host) = first_host(&text) {
            prop_assert!(!host.is_empty() && !host.contains(['[', ']', ',', ' ']));
        }
    }

    #[test]
    fn written_as_slurm_does(
        prefix in "[a-z][a-z0-9-]{0,6}[a-z]", first in 0u32..2000, more in 0u32..20, width in 1usize..6,
        suffix in "(\\.[a-z]{1,5})?", rest in "(,[a-z]{1,4}(\\[[0-9]{1,2}-[0-9]{1,2}\\])?){0,3}",
    ) {
        let number = |n| format!("{n:0width$}");
        let list = format!("{prefix}[{}-{},{}]{suffix}{rest}", number(first), number(first + more), number(first + 30));
        prop_assert_eq!(first_host(&list).expect("a list"), format!("{prefix}{}{suffix}", number(first)));
    }
}
