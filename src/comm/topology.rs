//! Which ranks are in which process, and their names in messages.

/// The processes of a run, the ranks in each, and which process this is.
#[derive(Debug, Clone)]
pub struct Topology {
    process: usize,
    /// The first rank of every process, and the number of ranks.
    firsts: Vec<usize>,
    /// Where every process runs; empty when there is only this one.
    hosts: Vec<String>,
}

impl Topology {
    /// `ranks` and `hosts` by process; this one is `process`.
    pub fn new(process: usize, ranks: &[usize], hosts: Vec<String>) -> Topology {
        let mut firsts = vec![0];
        for number in ranks {
            firsts.push(firsts[firsts.len() - 1] + number);
        }
        Topology { process, firsts, hosts }
    }

    /// One process, this one.
    pub fn alone(ranks: usize) -> Topology {
        Topology::new(0, &[ranks], Vec::new())
    }

    pub fn size(&self) -> usize {
        self.firsts[self.firsts.len() - 1]
    }

    pub fn process(&self) -> usize {
        self.process
    }

    pub fn processes(&self) -> usize {
        self.firsts.len() - 1
    }

    pub fn ranks_of(&self, process: usize) -> std::ops::Range<usize> {
        self.firsts[process]..self.firsts[process + 1]
    }

    /// The first rank of this process.
    pub fn first_here(&self) -> usize {
        self.firsts[self.process]
    }

    /// The number of ranks in this process.
    pub fn here(&self) -> usize {
        self.ranks_of(self.process).len()
    }

    fn host_of(&self, rank: usize) -> Option<&str> {
        let process = self.firsts.partition_point(|first| *first <= rank) - 1;
        self.hosts.get(process).map(String::as_str)
    }

    /// "rank 2", or "rank 2 on node-b" where there are several processes.
    pub fn name(&self, rank: usize) -> String {
        self.names(&[rank])
    }

    /// "ranks 0 and 1 on node-a, rank 2 on node-b"; `ranks` ascend.
    pub fn names(&self, ranks: &[usize]) -> String {
        let groups = ranks.chunk_by(|a, b| self.host_of(*a) == self.host_of(*b));
        let named = groups.map(|group| {
            let word = if group.len() == 1 { "rank" } else { "ranks" };
            let host = self.host_of(group[0]).map_or(String::new(), |host| format!(" on {host}"));
            format!("{word} {}{host}", numbers(group))
        });
        named.collect::<Vec<_>>().join(", ")
    }

    /// The ranks of a process, in words.
    pub fn names_of(&self, process: usize) -> String {
        self.names(&self.ranks_of(process).collect::<Vec<_>>())
    }
}

/// "1, 2 and 5"
pub fn numbers(all: &[usize]) -> String {
    let words: Vec<String> = all.iter().map(usize::to_string).collect();
    match words.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, before)) => format!("{} and {last}", before.join(", ")),
        None => "none".into(),
    }
}
