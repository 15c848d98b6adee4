//! Tasks and class orders.

use super::*;

#[test]
fn tasks_partition_the_images_by_class() {
    let data = synthetic();
    for (order, num_tasks, per_task) in [("natural", 5, 2), ("seed:7", 3, 3), ("seed:8", 1, 10)] {
        let split = tasks::split(&data, &continual(num_tasks, per_task, order), 0).unwrap();
        assert_eq!((split.tasks.len(), split.class_order.len()), (num_tasks, 10));
        for (class, &label) in split.class_order.iter().enumerate() {
            assert_eq!(split.label_to_class[label as usize], class as u32);
            assert_eq!(split.class_names[class], data.class_names[label as usize]);
        }
        for (t, task) in split.tasks.iter().enumerate() {
            assert_eq!((task.index, task.train.len(), task.test.len()), (t, 60 * per_task, 20 * per_task));
            assert!(task.classes.iter().copied().eq((t * per_task) as u32..((t + 1) * per_task) as u32));
            let class = |&i: &u32| split.label_to_class[data.train.labels[i as usize] as usize];
            assert!(task.train.iter().map(class).all(|c| task.classes.contains(&c)));
        }
        let joint = tasks::joint(&split);
        let used = num_tasks * per_task;
        assert_eq!((joint.classes.len(), joint.train.len(), joint.test.len()), (used, 60 * used, 20 * used));
    }
    let order = |word: &str| tasks::split(&data, &continual(5, 2, word), 0).unwrap().class_order;
    assert_eq!(order("natural"), (0..10).collect::<Vec<_>>());
    assert_eq!(order("seed:7"), order("seed:7"));
    assert_ne!(order("seed:7"), order("seed:8"));
}

/// However the images of a class lie in the test set, each class keeps its share of a limited one.
#[test]
fn limited_tests_have_images_of_every_class() {
    let data = synthetic();
    for (images, per_class) in [(15, 3), (16, 3), (5, 1), (37, 7)] {
        let mut split = tasks::split(&data, &continual(2, 5, "seed:3"), 0).unwrap();
        let all = split.clone();
        split.limit_tests(&data, images);
        for (task, whole) in split.tasks.iter().zip(&all.tasks) {
            assert_eq!(task.test.len(), images);
            assert!(task.test.is_sorted_by(|a, b| a < b) && task.test.iter().all(|i| whole.test.contains(i)));
            for &class in &task.classes {
                let of = |&&i: &&u32| split.label_to_class[data.test.labels[i as usize] as usize] == class;
                let n = task.test.iter().filter(of).count();
                assert!((per_class..=per_class + 1).contains(&n), "{images} images: {n} of class {class}");
            }
        }
        // 0 and more than there are: all.
        for images in [0, 1_000] {
            let mut split = all.clone();
            split.limit_tests(&data, images);
            assert_eq!(split, all);
        }
    }
}

#[test]
fn bad_tasks_and_class_orders_are_explained() {
    let data = synthetic();
    let error = |c: Continual| tasks::split(&data, &c, 0).unwrap_err();
    let text = error(continual(4, 3, "natural")).to_string();
    assert!(text.contains("4 * 3") && text.contains("10 classes"), "{text}");
    for bad in [continual(0, 1, "natural"), continual(usize::MAX, 2, "natural"), continual(5, 2, "seed:x")] {
        assert!(matches!(error(bad), Error::Config(_)));
    }
    let text = error(continual(5, 2, "no_such_file.txt")).to_string();
    assert!(text.contains("no_such_file.txt") && text.contains("seed:N"), "{text}");

    let names: Vec<String> = ["cat", "dog", "ship"].map(String::from).to_vec();
    let parse = |text: &str| parse_class_order(text, Path::new("order.txt"), &names);
    assert_eq!(parse("# reversed\nship\n\n 1 \ncat\n").unwrap(), [2, 1, 0]);
    for (text, wanted) in [
        (
            "cat\nshop\n",
            "order.txt: line 2: a class name or a number from 0 to 2 was wanted, got `shop`; did you mean `ship`?",
        ),
        ("cat\n\n0\n", "order.txt: line 3: class `0` is already on line 1"),
        (
            "dog\n",
            "order.txt: all 3 classes were wanted, found 1; missing: `cat`, `ship`; add them at the end (tasks take \
             classes from the start), or name the same file in data.classes to leave them out",
        ),
        ("3\n", "order.txt: line 1: a class name or a number from 0 to 2 was wanted, got `3`"),
    ] {
        assert_eq!(parse(text).unwrap_err().to_string(), wanted);
    }
    // Of the digits 0, 1, 3 and 7 the class 3 is the one of that name, and there is no class 2.
    let digits: Vec<String> = ["0", "1", "3", "7"].map(String::from).to_vec();
    let parse = |text: &str| parse_class_order(text, Path::new("order.txt"), &digits);
    assert_eq!(parse("7\n3\n1\n0\n").unwrap(), [3, 2, 1, 0]);
    assert_eq!(
        parse("3\n2\n1\n0\n").unwrap_err().to_string(),
        "order.txt: line 2: one of the class names `0`, `1`, `3`, `7` was wanted, got `2`"
    );

    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "9\n8\n7\n6\n5\n4\n3\n2\n1\npattern 0\n").unwrap();
    let split = tasks::split(&data, &continual(5, 2, &file.path().to_string_lossy()), 0).unwrap();
    assert_eq!(split.class_order, [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]);
}
