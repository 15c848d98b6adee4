//! S-Prompts between domains: what learns, what chooses, and that images of several domains in a batch are answered as
//! alone. k-means by hand.

use super::support::{DEV, Kind, images, kinds, labels};
use l2p_engine::network::Model;
use l2p_engine::ops::match_prompts::Select;
use l2p_engine::prompts::{PromptChoice, k_means};
use l2p_engine::rng::{Rng, Stream};
use l2p_engine::tensor::{DType, Tensor};
use l2p_engine::testing::close::same_bits;

const BATCH: usize = 6;
const DOMAINS: usize = 3;
const LEARNED: [&str; 3] = ["s_prompts/prompt", "head/kernel", "head/bias"];

fn kind() -> Kind {
    kinds().into_iter().find(|kind| kind.name == "prompt and head of a domain").expect("a kind")
}

fn some(images: &Tensor, from: usize, n: usize) -> Tensor {
    let each = 8 * 8 * 3;
    Tensor::from_f64(&images.to_f64()[from * each..(from + n) * each], [n, 8, 8, 3], images.dtype())
}

/// A model that has ended all domains, on two images each: an image's nearest centre is that of its domain.
fn with_centres(kind: &Kind) -> Model {
    let mut model = kind.model(BATCH);
    let x = images(BATCH, DType::F64);
    for domain in 0..DOMAINS {
        assert!(model.prompts.wants_queries(domain).expect("an answer"));
        let queries = model.features(&DEV, some(&x, 2 * domain, 2).view()).expect("queries").to_f64();
        model.prompts.collect(&queries);
        model.prompts.end_task().expect("centres");
        assert!(!model.prompts.wants_queries(domain).expect("an answer"));
    }
    model
}

fn choose(model: &mut Model, x: &Tensor) -> PromptChoice {
    let query = model.query(&DEV, x.view()).expect("queries").clone();
    model.choose(&DEV, query.view(), Select::PerImage).expect("a choice")
}

fn state(model: &Model) -> Vec<Vec<f64>> {
    model.prompts.state().iter().map(|(_, tensor)| tensor.to_f64()).collect()
}

#[test]
fn images_of_several_domains_are_answered_as_alone() {
    let mut model = with_centres(&kind());
    let x = images(BATCH, DType::F64);
    let choice = choose(&mut model, &x);
    assert_eq!(choice, PromptChoice::ids(vec![0, 0, 1, 1, 2, 2], 1, DOMAINS));
    let whole = model.logits_with(&DEV, x.view(), &choice).expect("logits").to_f64();
    let each = whole.len() / BATCH;
    for i in 0..BATCH {
        let alone = some(&x, i, 1);
        let own = choose(&mut model, &alone);
        assert_eq!(own, choice.part(i..i + 1));
        let logits = model.logits_with(&DEV, alone.view(), &own).expect("logits").to_f64();
        assert!(same_bits(&logits, &whole[i * each..(i + 1) * each]), "image {i}");
        // Another domain's prompt and head give another answer.
        let other = PromptChoice::ids(vec![(i as u32 / 2 + 1) % 3], 1, DOMAINS);
        let logits = model.logits_with(&DEV, alone.view(), &other).expect("logits").to_f64();
        assert!(!same_bits(&logits, &whole[i * each..(i + 1) * each]), "image {i} with another domain");
    }
    // The same from the domains in any order.
    let mixed = choice.of(&[5, 0, 3]);
    let some_images: Vec<f64> = [5, 0, 3].iter().flat_map(|&i| some(&x, i, 1).to_f64()).collect();
    let y = Tensor::from_f64(&some_images, [3, 8, 8, 3], DType::F64);
    let logits = model.logits_with(&DEV, y.view(), &mixed).expect("logits").to_f64();
    for (at, i) in [5, 0, 3].into_iter().enumerate() {
        assert!(same_bits(&logits[at * each..(at + 1) * each], &whole[i * each..(i + 1) * each]), "{i}");
    }
}

#[test]
fn each_domain_leaves_the_others_alone() {
    let mut kind = kind();
    let mut model = kind.model(BATCH);
    for task in 0..DOMAINS {
        kind.task = task;
        model.begin_task(task).expect("a task");
        let of = |model: &Model| -> Vec<Vec<f64>> {
            let value = |name: &&str| model.params.get(model.params.find(name).expect(name)).to_f64();
            LEARNED.iter().map(value).collect()
        };
        let before = of(&model);
        kind.learn(&mut model, BATCH, 2);
        // An evaluation in between takes other prompts; the next step takes the domain's again.
        let x = images(BATCH, DType::F64);
        let choice = PromptChoice::ids(vec![1; BATCH], 1, DOMAINS);
        model.logits_with(&DEV, x.view(), &choice).expect("logits");
        kind.learn(&mut model, BATCH, 1);
        for ((name, before), now) in LEARNED.iter().zip(&before).zip(of(&model)) {
            let each = now.len() / DOMAINS;
            for domain in 0..DOMAINS {
                let [before, now] = [before, &now].map(|all| &all[domain * each..(domain + 1) * each]);
                assert_eq!(same_bits(before, now), domain != task, "{name} of domain {domain} in {task}");
            }
        }
    }
    let said = model.begin_task(3).and_then(|()| {
        kind.task = 3;
        let (x, y) = (images(BATCH, DType::F64), labels(BATCH));
        model.step(&DEV, x.view(), y.view(), &kind.task()).map(|_| ())
    });
    let said = said.expect_err("a fourth domain").to_string();
    assert!(said.contains("continual.num_tasks") && said.contains("task 4 begins"), "{said}");
}

#[test]
fn before_its_centres_a_domain_is_not_chosen() {
    let mut model = kind().model(BATCH);
    let x = images(BATCH, DType::F64);
    assert_eq!(choose(&mut model, &x), PromptChoice::ids(vec![0; BATCH], 1, DOMAINS));
    // A domain without images keeps waiting for them.
    model.prompts.end_task().expect("nothing to do");
    assert!(model.prompts.wants_queries(0).expect("an answer"));
    for wrong in [PromptChoice::nothing(), PromptChoice::ids(vec![3; BATCH], 1, DOMAINS)] {
        let said = model.logits_with(&DEV, x.view(), &wrong).expect_err("a wrong choice").to_string();
        assert!(said.contains("6 domains below 3"), "{said}");
    }
}

#[test]
fn centres_are_those_of_the_seed() {
    let of = |seed: u64| {
        let mut kind = kind();
        kind.config.seed = seed;
        state(&with_centres(&kind))
    };
    assert_eq!(of(1), of(1));
    // Two centres of two images: the images themselves, in the order of the draws.
    assert!((2..20).any(|seed| of(seed) != of(1)));
}

#[test]
fn all_starts_uniform_as_pytorchs_layers() {
    let mut model = kind().model(BATCH);
    model.init_prompts(5).expect("initial values");
    let bound = 1.0 / (model.setup.dims.embed_dim as f64).sqrt();
    for name in LEARNED {
        let values = model.params.get(model.params.find(name).expect(name)).to_f64();
        assert!(values.iter().all(|v| v.abs() <= bound), "{name}");
        assert!(values.iter().any(|v| v.abs() > 0.5 * bound), "{name}");
    }
}

/// By hand: from 0 and 1 on the line, 1, 2 and 10 go to the second centre first, and 10 keeps it alone in the end.
#[test]
fn k_means_by_hand() {
    let found = k_means::lloyd(&[0.0, 1.0, 2.0, 10.0], 1, vec![0.0, 1.0]);
    assert_eq!((found.centres, found.labels), (vec![1.0, 10.0], vec![0, 0, 0, 1]));
    assert_eq!(found.inertia, 2.0);
    // Equal distances go to the first centre; a centre without rows stays.
    let found = k_means::lloyd(&[0.0, 2.0], 1, vec![1.0, 1.0, 50.0]);
    assert_eq!((found.centres, found.labels), (vec![1.0, 1.0, 50.0], vec![0, 0]));
}

#[test]
fn starts_are_different_rows_as_long_as_there_are_some() {
    let rows = [0.0, 0.0, 0.0, 0.0, 3.0, 4.0, -5.0, 1.0];
    for seed in 0..50 {
        let mut rng = Rng::new(seed, Stream::Centres, 0);
        let mut start: Vec<Vec<f64>> =
            k_means::plus_plus(&rows, 2, 3, &mut rng).chunks_exact(2).map(<[f64]>::to_vec).collect();
        start.sort_by(|a, b| a[0].total_cmp(&b[0]));
        assert_eq!(start, [[-5.0, 1.0], [0.0, 0.0], [3.0, 4.0]], "seed {seed}");
        // More centres than different rows: some twice, none invented.
        let many = k_means::plus_plus(&rows, 2, 6, &mut Rng::new(seed, Stream::Centres, 1));
        assert!(many.chunks_exact(2).all(|c| rows.chunks_exact(2).any(|row| row == c)));
        assert_eq!(many.len(), 12);
    }
}
