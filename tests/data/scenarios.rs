//! Scenarios: domains, data sets one after the other, Gaussian schedules, streams; labels without images.

use super::common::golden_dir;
use super::*;
use approx::assert_abs_diff_eq;
use l2p_engine::config::schema::Scenario;
use l2p_engine::data::{Split, published, scenario};

fn with(scenario: Scenario, num_tasks: usize) -> Continual {
    Continual { scenario, num_tasks, num_classes_per_task: 1.into(), ..Continual::default() }
}

fn split(data: &DataSet, continual: &Continual, seed: u64, batch: usize) -> Split {
    scenario::split(data, continual, seed, batch).unwrap()
}

fn published_labels(dataset: DatasetName) -> DataSet {
    published::labels(&Data { dataset, ..Data::default() }).unwrap()
}

#[test]
fn gaussian_label_sets_have_the_official_statistics() {
    let text = std::fs::read_to_string(golden_dir().join("gaussian.json")).unwrap();
    let golden: serde_json::Value = serde_json::from_str(&text).unwrap();
    let numbers = |key: &str| -> Vec<f64> {
        let list = golden["statistics"][key].as_array().unwrap();
        list.iter().map(|v| v.as_f64().unwrap()).collect()
    };
    let (expected, official) =
        (numbers("expected_label_set_size_per_task"), numbers("mean_label_set_size_over_12_seeds"));
    let size = |key: &str| golden["real"][0][key].as_u64().unwrap() as usize;
    let (tasks, classes) = (size("num_tasks"), size("num_classes"));
    assert_eq!((expected.len(), official.len()), (tasks, tasks));
    let seeds = 12;
    let mut means = vec![0.0; tasks];
    let mut spread = vec![0.0; tasks];
    for seed in 100..100 + seeds {
        let sets = scenario::label_sets(classes, tasks, 50.0, seed).unwrap();
        for (t, set) in sets.iter().enumerate() {
            assert!(set.is_sorted_by(|a, b| a < b) && set.iter().all(|&c| (c as usize) < classes));
            means[t] += set.len() as f64 / seeds as f64;
        }
    }
    // Variance of a size: the sum of p (1 - p), p = exp(-(e s - peak)^2 / 5000) with s = -1 step per task and the
    // peaks of the fixtures' README.
    let peak_every = (-(tasks as i64)).div_euclid(classes as i64);
    for (t, spread) in spread.iter_mut().enumerate() {
        let peak = |j: usize| (peak_every.div_euclid(2) + j as i64 * peak_every) as f64;
        let p = |j: usize| (-(-(t as f64) - peak(j)).powi(2) / 5000.0).exp();
        assert_abs_diff_eq!((0..classes).map(p).sum::<f64>(), expected[t], epsilon = 1e-5);
        *spread = ((0..classes).map(|j| p(j) * (1.0 - p(j))).sum::<f64>() / seeds as f64).sqrt();
    }
    for (whose, means) in [("ours", &means), ("official", &official)] {
        let z: Vec<f64> = (0..tasks).map(|t| (means[t] - expected[t]) / spread[t]).collect();
        let n = tasks as f64;
        let mean = z.iter().sum::<f64>() / n;
        let deviation = (z.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt();
        // Three standard errors of as many independent scores.
        assert!(mean.abs() < 3.0 / n.sqrt(), "{whose}: mean {mean}");
        assert_abs_diff_eq!(deviation, 1.0, epsilon = 3.0 / (2.0 * n).sqrt());
    }
    assert!(scenario::label_sets(2, 200, 1e-9, 0).unwrap_err().to_string().contains("gaussian_sigma"));
}

#[test]
fn gaussian_tasks_hold_all_images_of_their_classes() {
    let data = synthetic();
    let continual = Continual { gaussian_sigma: 3.0, ..with(Scenario::Gaussian, 20) };
    let split = split(&data, &continual, 5, 16);
    assert!(split.shared_test && split.tests_after(7) == 1);
    for task in &split.tasks {
        assert_eq!((task.train.len(), task.test.len()), (60 * task.classes.len(), data.test.len()));
        let class = |&i: &u32| split.label_to_class[data.train.labels[i as usize] as usize];
        assert!(task.train.iter().map(class).all(|c| task.classes.contains(&c)));
    }
    assert_eq!(split, scenario::split(&data, &continual, 5, 16).unwrap());
    assert_ne!(split, scenario::split(&data, &continual, 6, 16).unwrap());
}

#[test]
fn each_image_comes_once_and_its_class_rises_and_falls() {
    let data = published_labels(DatasetName::Cifar100);
    let continual = Continual { gaussian_sigma: 10.0, ..with(Scenario::GaussianOnce, 200) };
    let split = split(&data, &continual, 1, 1);
    let order: Vec<u32> = split.tasks.iter().flat_map(|task| task.train.iter().copied()).collect();
    let mut sorted = order.clone();
    sorted.sort_unstable();
    assert!(sorted.into_iter().eq(0..50_000), "an image is missing or comes twice");
    // Peak of class 50: task 101 of 200; a tenth of the images within 0.126 deviations of 10 tasks.
    let at: Vec<f64> = (0..50_000)
        .filter(|&p| data.train.labels[order[p] as usize] == 50)
        .map(|p| p as f64 / 250.0)
        .collect();
    let mean = at.iter().sum::<f64>() / 500.0;
    let deviation = (at.iter().map(|t| (t - mean).powi(2)).sum::<f64>() / 500.0).sqrt();
    assert!((mean - 101.0).abs() < 1.5 && (deviation - 10.0).abs() < 1.0, "{mean} {deviation}");
    let Split { tasks, .. } = split;
    assert!(tasks.iter().all(|task| task.ordered && task.classes.len() == 100));
}

#[test]
fn streams_keep_their_order_and_lose_no_batch_at_a_cut() {
    let data = synthetic();
    let split = split(&data, &with(Scenario::Stream, 7), 0, 16);
    let order: Vec<u32> = split.tasks.iter().flat_map(|task| task.train.iter().copied()).collect();
    assert!(order.iter().copied().eq(0..592), "37 batches of 16 of the 600 images");
    let preprocess = preprocess(8, 8, Augment::None, Normalize::UNIT);
    let mut seen = Vec::new();
    for task in &split.tasks {
        assert_eq!(task.train.len() % 16, 0);
        let loader = Loader::new(data.clone(), &split, task, preprocess.clone(), 9, 16, 1).unwrap();
        assert_eq!(loader.steps(), task.train.len() / 16);
        (0..loader.steps()).for_each(|step| seen.extend(loader.batch_indices(step)));
    }
    assert_eq!(seen, order);
    let error = scenario::split(&data, &with(Scenario::Stream, 38), 0, 16).unwrap_err().to_string();
    assert!(error.contains("38 parts") && error.contains("at most 37"), "{error}");
}

#[test]
fn a_task_per_domain() {
    // CORe50: the training sessions of the official code, one test set of the three others.
    let data = published_labels(DatasetName::Core50);
    let core50 = split(&data, &with(Scenario::Domain, 8), 0, 128);
    let names: Vec<&str> = core50.tasks.iter().map(|task| task.name.as_str()).collect();
    assert_eq!(names, ["s1", "s2", "s4", "s5", "s6", "s8", "s9", "s11"]);
    assert!(core50.shared_test);
    for task in &core50.tasks {
        assert_eq!((task.classes.len(), task.test.len()), (50, 44_972));
        assert!(task.train.len().abs_diff(14_987) <= 1);
    }
    let error = scenario::split(&data, &with(Scenario::Domain, 9), 0, 128).unwrap_err().to_string();
    assert!(error.contains("9 is more than the 8 domains"), "{error}");

    // DomainNet: a test set per style.
    let data = published_labels(DatasetName::DomainNet);
    let styles = split(&data, &with(Scenario::Domain, 6), 0, 128);
    assert!(!styles.shared_test && styles.tests_after(3) == 4);
    assert_eq!((styles.tasks[3].name.as_str(), styles.tasks[3].train.len()), ("quickdraw", 120_750));
    let tests: Vec<usize> = styles.tasks.iter().map(|task| task.test.len()).collect();
    assert_eq!(tests, [14_604, 15_582, 21_850, 51_750, 52_041, 20_916]);
    for (t, task) in styles.tasks.iter().enumerate() {
        assert!(task.test.iter().all(|&i| data.test.domains[i as usize] == t as u32));
    }
}

#[test]
fn joined_sets_have_classes_of_their_own_and_images_as_they_are() {
    let joined = ["mnist_subset", "synthetic", "cifar10"].map(String::from).to_vec();
    let dir = tests_dir().join("data").to_string_lossy().into_owned();
    let config = Data { dataset: DatasetName::Joined, joined, dir, cache_gb: 0, ..Data::default() };
    let data = match data::load(&config, 3) {
        Ok(data) => Arc::new(data),
        Err(e) => panic!("{e}"),
    };
    let parts: Vec<DataSet> = [DatasetName::MnistSubset, DatasetName::Synthetic, DatasetName::Cifar10]
        .into_iter()
        .map(|dataset| data::load(&Data { dataset, ..config.clone() }, 3).unwrap())
        .collect();
    assert_eq!(data.class_names.len(), 30);
    let mut first = 0;
    for (d, part) in parts.iter().enumerate() {
        for i in 0..part.train.len() {
            assert_eq!(data.train.labels[first + i], part.train.labels[i] + 10 * d as u32);
            assert_eq!(data.train.domains[first + i], d as u32);
            assert_eq!(data.train.image(first + i).unwrap(), part.train.image(i).unwrap());
        }
        first += part.train.len();
        assert!(data.class_names[10 * d].starts_with(&format!("{}/", part.name)));
    }
    assert_eq!(first, data.train.len());

    // Grey 28x28 and coloured 32x32 images leave the loader in one size.
    let split =
        split(&data, &Continual { num_classes_per_task: 10.into(), ..with(Scenario::Class, 2) }, 0, 4);
    let preprocess = preprocess(24, 28, Augment::Crop, Normalize::UNIT);
    for task in &split.tasks {
        let loader = Loader::new(data.clone(), &split, task, preprocess.clone(), 1, 4, 1).unwrap();
        let (mut out, mut labels) = (vec![f32::NAN; 4 * 24 * 24 * 3], vec![0; 4]);
        loader.fill_train(0, &mut out, &mut labels).unwrap();
        assert!(out.iter().all(|v| (0.0..=1.0).contains(v)));
        assert!(labels.iter().all(|label| task.classes.contains(label)));
    }
}

#[test]
fn published_counts_are_those_of_the_papers() {
    use DatasetName::*;
    for (dataset, classes, train, test) in [
        (Mnist, 10, 60_000, 10_000),
        (FashionMnist, 10, 60_000, 10_000),
        (Svhn, 10, 73_257, 26_032),
        (Cifar10, 10, 50_000, 10_000),
        (Cifar100, 100, 50_000, 10_000),
        (NotMnist, 10, 14_979, 3_745),
        (Core50, 50, 119_894, 44_972),
        (ImageNetR, 200, 24_000, 6_000),
        (Cub200, 200, 5_994, 5_794),
        (DomainNet, 345, 409_832, 176_743),
        (Joined, 50, 258_236, 59_777),
    ] {
        let data = published_labels(dataset);
        assert_eq!(
            (data.class_names.len(), data.train.len(), data.test.len()),
            (classes, train, test),
            "{dataset}"
        );
        for set in [&data.train, &data.test] {
            assert!(set.labels.iter().all(|&label| (label as usize) < classes));
            assert!(set.domains.iter().all(|&d| (d as usize) < data.domain_names.len()));
        }
        let few = Data { dataset, train_per_class: 3, ..Data::default() };
        assert_eq!(published::labels(&few).unwrap().train.len(), 3 * classes);
    }
    assert!(published::labels(&Data { dataset: Images, ..Data::default() }).is_none());
}

#[test]
fn replayed_images_are_those_of_the_seed_and_the_class() {
    let data = synthetic();
    let continual =
        Continual { replay_per_class: 7, num_review_epochs: 1, ..super::continual(5, 2, "seed:4") };
    let split = split(&data, &continual, 0, 16);
    let replay = |task, seed| scenario::replay_set(&data, &split, &continual, seed, task).unwrap();
    for t in 0..5 {
        let now = replay(t, 1);
        assert_eq!((now.train.len(), now.classes.len(), now.index), (14 * (t + 1), 2 * (t + 1), 5 + t));
        for class in &now.classes {
            let of_class =
                |&&i: &&u32| split.label_to_class[data.train.labels[i as usize] as usize] == *class;
            assert_eq!(now.train.iter().filter(of_class).count(), 7);
        }
        // What was in the replay set stays in it.
        assert!(t == 0 || replay(t - 1, 1).train.iter().all(|i| now.train.contains(i)));
    }
    assert_eq!(replay(4, 1), replay(4, 1));
    assert_ne!(replay(4, 1).train, replay(4, 2).train);
    let none = Continual { replay_per_class: 0, ..continual };
    assert!(scenario::replay_set(&data, &split, &none, 1, 4).is_none());
}

/// Where tasks share images, each is in the replay set once.
#[test]
fn an_image_of_overlapping_tasks_is_in_the_replay_set_once() {
    let data = synthetic();
    let continual = Continual { gaussian_sigma: 3.0, replay_per_class: 6, ..with(Scenario::Gaussian, 20) };
    let split = split(&data, &continual, 5, 16);
    for t in 0..20 {
        let replay = scenario::replay_set(&data, &split, &continual, 5, t).unwrap();
        assert!(replay.train.is_sorted_by(|a, b| a < b) && replay.classes.is_sorted_by(|a, b| a < b));
        assert_eq!(replay.train.len(), 6 * replay.classes.len(), "after task {t}");
    }
}

/// Over tasks with the same classes the room of a class is shared by all images of it so far, each as likely as the
/// other, and only images of the new task take the place of others.
#[test]
fn the_replay_set_of_domains_is_drawn_from_all_of_them() {
    let mut data = Arc::unwrap_or_clone(synthetic());
    data.domain_names = ["a", "b", "c", "d"].map(String::from).to_vec();
    data.train.domains = (0..data.train.len() as u32).map(|i| i / 10 % 4).collect();
    let continual = Continual { replay_per_class: 6, ..with(Scenario::Domain, 4) };
    data.test.domains = (0..data.test.len() as u32).map(|i| i % 4).collect();
    let split = split(&data, &continual, 0, 16);
    let mut of_domain = [0usize; 4];
    for seed in 0..40 {
        let replay: Vec<_> =
            (0..4).map(|t| scenario::replay_set(&data, &split, &continual, seed, t).unwrap()).collect();
        for (t, now) in replay.iter().enumerate() {
            assert_eq!((now.train.len(), now.classes.len()), (60, 10));
            let before = |i: &u32| t > 0 && replay[t - 1].train.contains(i);
            assert!(now.train.iter().all(|i| before(i) || split.tasks[t].train.contains(i)));
        }
        replay[3].train.iter().for_each(|&i| of_domain[data.train.domains[i as usize] as usize] += 1);
    }
    // 2,400 images: 600 of each domain, with a deviation of 21.
    assert!(of_domain.iter().all(|n| n.abs_diff(600) < 85), "{of_domain:?}");
}
