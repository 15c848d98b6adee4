//! Few-shot tasks, and the class orders and folders of other toolboxes.

use super::*;
use l2p_engine::config::schema::TaskSizes;
use l2p_engine::data::scenario;

fn write(path: &Path, bytes: impl AsRef<[u8]>) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

fn png(shade: u32) -> Vec<u8> {
    let picture = image::GrayImage::from_fn(5, 4, |x, y| image::Luma([(shade * 37 + x * 9 + y * 3) as u8]));
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

fn sizes(sizes: &[usize]) -> Continual {
    let num_classes_per_task = TaskSizes::Each(sizes.to_vec());
    Continual { num_tasks: sizes.len(), num_classes_per_task, ..Continual::default() }
}

fn split(data: &DataSet, continual: &Continual, seed: u64) -> Split {
    scenario::split(data, continual, seed, 16).unwrap_or_else(|e| panic!("{e}"))
}

fn failure(data: &DataSet, continual: &Continual) -> String {
    scenario::split(data, continual, 0, 16).map(|split| split.tasks.len()).unwrap_err().to_string()
}

/// How many training images of each engine class a task has.
fn per_class(data: &DataSet, split: &Split, task: usize) -> Vec<usize> {
    let mut counts = vec![0; split.class_names.len()];
    for &i in &split.tasks[task].train {
        counts[split.label_to_class[data.train.labels[i as usize] as usize] as usize] += 1;
    }
    counts
}

#[test]
fn a_few_images_of_each_class_are_drawn_by_the_seed_alone() {
    let data = synthetic();
    let all = split(&data, &sizes(&[4, 3, 2]), 1);
    let with = |shots: usize, base_shots: usize, seed: u64| {
        split(&data, &Continual { shots, base_shots, ..sizes(&[4, 3, 2]) }, seed)
    };
    let five = with(5, 0, 1);
    assert_eq!(five.tasks[0], all.tasks[0], "the first task keeps its images");
    assert_eq!(per_class(&data, &five, 1), [0, 0, 0, 0, 5, 5, 5, 0, 0, 0]);
    assert_eq!(per_class(&data, &five, 2), [0, 0, 0, 0, 0, 0, 0, 5, 5, 0]);
    for task in 1..3 {
        assert_eq!(five.tasks[task].test, all.tasks[task].test, "tests are whole");
        assert!(five.tasks[task].train.iter().all(|i| all.tasks[task].train.contains(i)));
        // Each is among those of more shots, and another seed draws others.
        assert!(five.tasks[task].train.iter().all(|i| with(7, 0, 1).tasks[task].train.contains(i)));
        assert_ne!(five.tasks[task].train, with(5, 0, 2).tasks[task].train);
    }
    assert_eq!(five, with(5, 0, 1));
    assert_eq!(per_class(&data, &with(0, 3, 1), 0), [3, 3, 3, 3, 0, 0, 0, 0, 0, 0]);
    assert_eq!(with(0, 3, 1).tasks[1..], all.tasks[1..]);
    // A class has the same images in whichever task and order it comes.
    let turned = Continual { shots: 5, class_order: "seed:9".into(), ..sizes(&[1, 9]) };
    let turned = split(&data, &turned, 1);
    let shared = five.tasks[1].train.iter().filter(|i| turned.tasks[1].train.contains(i)).count();
    let first = turned.class_order[0];
    let gone = five.tasks[1].train.iter().filter(|&&i| data.train.labels[i as usize] == first).count();
    assert_eq!(shared + gone, 15);
    let said = failure(&data, &Continual { shots: 100_000, ..sizes(&[4, 3, 2]) });
    assert!(said.contains("100000 training images of each class were wanted, class `"), "{said}");
}

#[test]
fn published_lists_name_positions() {
    let data = synthetic();
    let dir = tempfile::tempdir().unwrap();
    let lists = Continual { session_lists: dir.path().display().to_string(), ..sizes(&[4, 2]) };
    let of = |label: u32, skip: usize| -> Vec<usize> {
        let of_label = (0..data.train.len()).filter(|&i| data.train.labels[i] == label);
        of_label.skip(skip).take(3).collect()
    };
    let list = |positions: &[usize]| positions.iter().map(|i| format!("{i}\r\n")).collect::<String>();
    let (four, five) = (of(4, 0), of(5, 2));
    let mut wanted = [five.clone(), four.clone()].concat();
    let file = dir.path().join("session_2.txt");
    assert!(failure(&data, &lists).contains("session_2.txt"));
    write(&file, list(&wanted));
    let found = split(&data, &lists, 3);
    assert_eq!(found.tasks[0], split(&data, &sizes(&[4, 2]), 3).tasks[0], "without a list it has all");
    wanted.sort_unstable();
    assert_eq!(found.tasks[1].train, wanted.iter().map(|&i| i as u32).collect::<Vec<u32>>());
    // The first task has a list, too.
    let first: Vec<usize> = (0..4).map(|label| of(label, 0)[0]).collect();
    write(&dir.path().join("session_1.txt"), list(&first));
    assert_eq!(per_class(&data, &split(&data, &lists, 3), 0)[..5], [1, 1, 1, 1, 0]);
    for (text, wanted) in [
        (list(&four), "names no image of class `"),
        (list(&[&wanted[..], &[first[1]]].concat()), "line 7: image `"),
        (list(&[&wanted[..], &[wanted[0]]].concat()), "is already on line 1"),
        (format!("{}\n-3\n", four[0]), "line 2: a position in the training set, 0 to "),
        ("100000000\n".into(), "line 1: a position in the training set, 0 to "),
        ("\n\n".into(), "names no image"),
    ] {
        write(&file, text);
        let said = failure(&data, &lists);
        assert!(said.contains(wanted) && said.contains("session_2.txt"), "{said}");
    }
    let nowhere = Continual { session_lists: dir.path().join("x").display().to_string(), ..sizes(&[4, 2]) };
    assert!(failure(&data, &nowhere).contains("a folder with session_1.txt"));
}

#[test]
fn published_lists_name_paths() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("data");
    for (c, class) in ["a", "b", "c", "d"].iter().enumerate() {
        for i in 0..4 {
            let part = if i == 3 { "test" } else { "train" };
            write(&root.join(part).join(class).join(format!("{class}{i}.png")), png((4 * c + i) as u32));
        }
    }
    let data = data::load(&config(DatasetName::Images, &root), 0).unwrap();
    let lists = dir.path().join("lists");
    let continual = Continual { session_lists: lists.display().to_string(), ..sizes(&[2, 2]) };
    let file = lists.join("session_2.txt");
    // As the lists of CUB-200 are: from another root.
    write(&file, "CUB/images/c/c1.png\nCUB/images/d/d0.png\nCUB/images/d/d2.png\n");
    let split = split(&data, &continual, 0);
    let names: Vec<String> = split.tasks[1]
        .train
        .iter()
        .map(|&i| data.train.path(i as usize).unwrap().file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    assert_eq!(names, ["c1.png", "d0.png", "d2.png"]);
    assert_eq!(split.tasks[0].train.len(), 6);
    for (text, wanted) in [
        (
            "c/c1.png\nimages/d/d9.png",
            "line 2: the path of a training image was wanted, found `images/d/d9.png`",
        ),
        ("c/c1.png\nd/d3.png", "line 2: the path of a training image was wanted"),
        ("c/c1.png\na/a1.png", "line 2: image `a/a1.png` is of class `a`, which task 2 does not learn"),
    ] {
        write(&file, text);
        let said = failure(&data, &continual);
        assert!(said.contains(wanted), "{said}");
    }
}

/// Folders as PILOT has them: `train/` and `test/` with a folder per class, numbered by torchvision's ImageFolder in the
/// order of their names as text, and permuted by NumPy.
#[test]
fn folders_of_other_toolboxes_have_their_classes_order_and_tasks() {
    let dir = tempfile::tempdir().unwrap();
    let folders = ["0", "1", "2", "3", "10", "11"];
    for (c, class) in folders.iter().enumerate() {
        for i in 0..3 {
            write(&dir.path().join(format!("train/{class}/{i}.png")), png((7 * c + i) as u32));
        }
        write(&dir.path().join(format!("test/{class}/x.png")), png((7 * c + 5) as u32));
    }
    let data = data::load(&config(DatasetName::Images, dir.path()), 0).unwrap();
    assert_eq!((data.train.len(), data.test.len()), (18, 6));
    let names = |order: &str| {
        let continual = Continual { class_order: order.into(), ..sizes(&[3, 2, 1]) };
        let split = split(&data, &continual, 0);
        for (task, classes) in [3, 2, 1].into_iter().enumerate() {
            assert_eq!(split.tasks[task].train.len(), 3 * classes, "{order}");
            assert_eq!(split.tasks[task].test.len(), classes, "{order}");
            // Every image is of a class of its task.
            for &i in &split.tasks[task].train {
                let class = split.label_to_class[data.train.labels[i as usize] as usize];
                assert!(split.tasks[task].classes.contains(&class));
            }
        }
        split.class_names
    };
    assert_eq!(names("natural"), folders);
    assert_eq!(names("names"), ["0", "1", "10", "11", "2", "3"]);
    // numpy.random.seed(1993); numpy.random.permutation(6) is [0, 2, 3, 4, 5, 1].
    assert_eq!(names("numpy:1993"), ["0", "10", "11", "2", "3", "1"]);
    let bad = Continual { class_order: "numpy:x".into(), ..sizes(&[3, 2, 1]) };
    assert!(failure(&data, &bad).contains("a whole number below 2^32 was wanted after `numpy:`, got `x`"));
}
