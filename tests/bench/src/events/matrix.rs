//! The ways in which a log is run. They are many, so that each two values of two dimensions meet in a run with each store,
//! and not all with all.

use std::collections::BTreeSet;

use rhizon_api::agent::Ordering;

use crate::stores::Store;

/// What the runs differ in.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Ways to run --events")]
pub(crate) struct Ways {
    /// How many events one step may hold.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 7, 500])]
    batch: Vec<u32>,
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16])]
    concurrency: Vec<u32>,
    #[arg(long, value_delimiter = ',', default_values_t = [1, 4, 16])]
    shards: Vec<u32>,
    /// With more than one, shards move in the middle of the run: a pod is killed, and one fewer take over from the rest.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 3])]
    replicas: Vec<u32>,
    #[arg(long, value_delimiter = ',', value_parser = ordering, default_value = "stream,entity")]
    ordering: Vec<Ordering>,
    /// All combinations, instead of as many as it takes that each pair of values is there.
    #[arg(long)]
    all: bool,
}

fn ordering(name: &str) -> Result<Ordering, &'static str> {
    match name {
        "stream" => Ok(Ordering::Stream),
        "entity" => Ok(Ordering::Entity),
        _ => Err("stream or entity"),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub store: Store,
    pub batch: u32,
    pub concurrency: u32,
    pub shards: u32,
    pub replicas: u32,
    pub ordering: Ordering,
}

impl Run {
    /// A replica without a shard would have nothing to do, and a file has one owner.
    fn is_possible(&self) -> bool {
        self.replicas <= self.shards && (self.store != Store::Sqlite || self.shards == 1)
    }

    /// Whether agents send in the order of the log.
    pub(super) fn keeps_order(&self) -> bool {
        self.shards == 1 && self.ordering == Ordering::Stream
    }

    /// Each two dimensions with their values; whether order is kept is one more, so that it meets the others too.
    fn pairs(&self) -> impl Iterator<Item = [(usize, u32); 2]> {
        let Self { store: _, batch, concurrency, shards, replicas, ordering } = *self;
        let orders = [ordering == Ordering::Entity, self.keeps_order()].map(u32::from);
        let values = [batch, concurrency, shards, replicas, orders[0], orders[1]];
        let pairs = (0..values.len()).flat_map(|a| (a + 1..6).map(move |b| (a, b)));
        pairs.map(move |(a, b)| [(a, values[a]), (b, values[b])])
    }
}

impl Ways {
    pub(crate) fn runs(&self, stores: &[Store]) -> Vec<Run> {
        let of_store = |store: &Store| {
            let all = self.combinations(*store);
            if self.all { all } else { cover(&all) }
        };
        stores.iter().flat_map(of_store).collect()
    }

    fn combinations(&self, store: Store) -> Vec<Run> {
        let mut runs = Vec::new();
        for (&shards, &replicas) in self.shards.iter().flat_map(|s| self.replicas.iter().map(move |r| (s, r))) {
            for (&batch, &concurrency) in self.batch.iter().flat_map(|b| self.concurrency.iter().map(move |c| (b, c))) {
                let run = |&ordering| Run { store, batch, concurrency, shards, replicas, ordering };
                runs.extend(self.ordering.iter().map(run).filter(Run::is_possible));
            }
        }
        runs
    }
}

/// Takes the run with the most new pairs, until there are none.
fn cover(all: &[Run]) -> Vec<Run> {
    let (mut seen, mut runs) = (BTreeSet::new(), Vec::new());
    let new = |seen: &BTreeSet<_>, run: &Run| run.pairs().filter(|pair| !seen.contains(pair)).count();
    while let Some(best) = all.iter().rev().max_by_key(|run| new(&seen, run)).filter(|run| new(&seen, run) > 0) {
        seen.extend(best.pairs());
        runs.push(*best);
    }
    runs
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        ways: Ways,
    }

    #[test]
    fn each_pair_of_values_meets_with_each_store() {
        let ways = Cli::parse_from(["bench"]).ways;
        for store in [Store::Sqlite, Store::Postgres, Store::JetStream] {
            let (all, runs) = (ways.combinations(store), ways.runs(&[store]));
            let pairs = |runs: &[Run]| runs.iter().flat_map(Run::pairs).collect::<BTreeSet<_>>();
            assert_eq!(pairs(&runs), pairs(&all), "{store:?}");
            assert!(runs.len() <= 13, "{} runs with {store:?}", runs.len());
            let ordered = runs.iter().filter(|run| run.keeps_order()).map(|run| run.batch);
            assert_eq!(ordered.collect::<BTreeSet<_>>(), [1, 7, 500].into(), "{store:?}");
        }
        assert_eq!(ways.combinations(Store::Sqlite).len(), 12);
        assert_eq!(ways.combinations(Store::Postgres).len(), 84);
    }

    #[test]
    fn values_can_be_chosen() {
        let chosen = ["bench", "--batch", "7", "--concurrency", "16", "--shards", "1,4", "--replicas", "1,2", "--all"];
        let ways = Cli::parse_from(chosen.into_iter().chain(["--ordering", "stream"])).ways;
        let shapes = |store| ways.runs(&[store]).iter().map(|run| (run.shards, run.replicas)).collect::<Vec<_>>();
        assert_eq!(shapes(Store::Sqlite), [(1, 1)]);
        assert_eq!(shapes(Store::JetStream), [(1, 1), (4, 1), (4, 2)]);
        assert!(Cli::try_parse_from(["bench", "--ordering", "any"]).is_err());
    }
}
