//! Batches as a function of (seed, task, step).

use super::*;
use approx::abs_diff_eq;

const SIZE: usize = 16;

fn small_loader(task: usize, seed: u64, batch: usize, epochs: usize) -> (Loader, Split, Arc<DataSet>) {
    let data = synthetic();
    let split = tasks::split(&data, &continual(5, 2, "seed:1"), 0).unwrap();
    let p = preprocess(SIZE, 20, Augment::CropFlip, Normalize::UNIT);
    let loader = Loader::new(data.clone(), &split, &split.tasks[task], p, seed, batch, epochs).unwrap();
    (loader, split, data)
}

fn filled(loader: &Loader, step: usize) -> (Vec<f32>, Vec<u32>) {
    let mut out = vec![f32::NAN; loader.rows().len() * loader.preprocess().output_len()];
    let mut labels = vec![u32::MAX; loader.rows().len()];
    loader.fill_train(step, &mut out, &mut labels).unwrap();
    (out, labels)
}

#[test]
fn steps_follow_the_official_formula() {
    // Split CIFAR-100 in the official configuration: 5,000 images, 5 epochs, batch 128.
    assert_eq!(loader::steps_per_task(5000, 5, 128).unwrap(), 195);
    assert_eq!(loader::steps_per_task(120, 3, 50).unwrap(), 6);
    let text = loader::steps_per_task(10, 3, 16).unwrap_err().to_string();
    assert!(text.contains("10 training images") && text.contains("batch of 16"), "{text}");
    assert!(loader::steps_per_task(10, 0, 1).is_err());
    assert!(loader::steps_per_task(usize::MAX, 3, 1).is_err());
}

#[test]
fn every_epoch_holds_every_image_once_and_batches_cross_epochs() {
    let (loader, split, _) = small_loader(2, 9, 50, 5);
    let n = split.tasks[2].train.len();
    assert_eq!((n, loader.steps(), loader.steps_per_epoch()), (120, 10, 2));
    let stream: Vec<u32> = (0..12).flat_map(|step| loader.batch_indices(step)).collect();
    let mut epochs: Vec<Vec<u32>> = stream.chunks(n).map(<[u32]>::to_vec).collect();
    // Batch 2 has the last 20 images of epoch 0 and the first 30 of epoch 1.
    assert_eq!(loader.batch_indices(2), [&epochs[0][100..], &epochs[1][..30]].concat());
    assert_ne!(epochs[0], epochs[1]);
    for epoch in &mut epochs {
        epoch.sort_unstable();
        assert_eq!(*epoch, split.tasks[2].train);
    }
    // The order is that of the stream, whatever the batch; a whole epoch is the largest.
    for batch in [90, 120] {
        let (large, ..) = small_loader(2, 9, batch, 5);
        assert!((0..5).flat_map(|step| large.batch_indices(step)).eq(stream[..5 * batch].iter().copied()));
    }
    assert_ne!(small_loader(2, 10, 50, 5).0.batch_indices(0), loader.batch_indices(0));
}

#[test]
fn a_step_does_not_depend_on_what_came_before_or_on_threads() {
    let (loader, split, data) = small_loader(1, 4, 50, 5);
    let wanted: Vec<_> = (0..loader.steps()).map(|step| filled(&loader, step)).collect();
    for step in [7, 0, 9, 3, 3] {
        assert!(filled(&loader, step) == wanted[step], "step {step}");
    }
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let (fresh, ..) = small_loader(1, 4, 50, 5);
        assert!(pool.install(|| filled(&fresh, 6)) == wanted[6]);
    }
    for (step, (images, labels)) in wanted.iter().enumerate() {
        assert!(images.iter().all(|x| (0.0..=1.0).contains(x)));
        for (&label, i) in labels.iter().zip(loader.batch_indices(step)) {
            assert_eq!(label, split.label_to_class[data.train.labels[i as usize] as usize]);
            assert!(split.tasks[1].classes.contains(&label));
        }
    }
    // The documented index of the box and the flip: the position in the task's stream.
    let size = loader.preprocess().output_len();
    for (step, at) in [(0, 0), (0, 49), (3, 7), (9, 49)] {
        let image = data.train.image(loader.batch_indices(step)[at] as usize).unwrap();
        let mut rng = Rng::new(4, Stream::Augment, 1 << 40 | (step * 50 + at) as u64);
        let mut one = vec![f32::NAN; size];
        loader.preprocess().train(image.view(), &mut rng, &mut one);
        assert!(one == wanted[step].0[at * size..(at + 1) * size], "step {step}, image {at}");
    }
}

/// Kept images stand behind a task's own: these are those of a loader without them, and each of the others is a
/// function of seed, task and place.
#[test]
fn replayed_images_follow_those_of_the_task() {
    let keep = Continual { replay_per_class: 11, replay_batch_size: 14, ..continual(5, 2, "seed:1") };
    let (plain, split, data) = small_loader(2, 9, 50, 5);
    let new = |upto: usize, rows: usize| {
        let replay = data::scenario::replay_set(&data, &split, &keep, 9, upto).unwrap();
        (small_loader(2, 9, 50, 5).0.with_replay(&replay, rows), replay)
    };
    let (loader, replay) = new(1, 14);
    assert_eq!((loader.rows().len(), loader.own_rows(), loader.steps()), (64, 50, plain.steps()));
    assert_eq!((plain.rows().len(), plain.own_rows(), replay.train.len()), (50, 50, 44));
    let mut replayed = Vec::new();
    for step in 0..loader.steps() {
        let indices = loader.batch_indices(step);
        assert_eq!(indices[..50], plain.batch_indices(step), "step {step}");
        replayed.extend_from_slice(&indices[50..]);
    }
    // Passes over all 44 replayed images, none of this task, each in another order.
    let passes: Vec<&[u32]> = replayed.chunks_exact(44).collect();
    assert_eq!(passes.len(), 3);
    for pass in &passes {
        let mut sorted = pass.to_vec();
        sorted.sort_unstable();
        assert_eq!(sorted, replay.train);
    }
    assert_ne!(passes[0], passes[1]);
    assert!(replayed.iter().all(|i| !split.tasks[2].train.contains(i)));
    // By the place alone: however many come with a batch, whatever was asked for before, in images and labels.
    let (wide, _) = new(1, 28);
    assert!((0..5).flat_map(|step| wide.batch_indices(step)[50..].to_vec()).eq(replayed));
    let (fresh, wanted) = (new(1, 14).0, filled(&loader, 7));
    assert!(filled(&fresh, 7) == wanted);
    let size = loader.preprocess().output_len();
    for at in [0, 49, 50, 63] {
        let i = loader.batch_indices(7)[at];
        assert_eq!(wanted.1[at], split.label_to_class[data.train.labels[i as usize] as usize]);
        let mut rng = Rng::new(9, Stream::Augment, loader.first_number(7) + at as u64);
        let mut one = vec![f32::NAN; size];
        loader.preprocess().train(data.train.image(i as usize).unwrap().view(), &mut rng, &mut one);
        assert!(one == wanted.0[at * size..(at + 1) * size], "image {at}");
    }
    assert_eq!(loader.first_number(7), (2 << 40) | (7 * 64));
    // With the new task's own, and of more than there are.
    let (all, replay) = new(2, 100);
    assert_eq!(replay.train.len(), 66);
    let first: Vec<u32> = all.batch_indices(0)[50..].to_vec();
    assert!(replay.train.iter().all(|i| first[..66].contains(i)));
    for batch in Prefetch::start(Arc::new(all), 0..2).unwrap() {
        assert_eq!(batch.unwrap().labels.len(), 150);
    }
}

/// Everything that can happen to a training image, by both rules.
#[test]
fn augmentation_and_mixing_depend_on_the_place_alone() {
    for (transforms, eval_interpolation) in
        [(Transforms::TensorFlow, Interpolation::Bilinear), (Transforms::Torchvision, Interpolation::Bicubic)]
    {
        let config = Data {
            transforms,
            eval_interpolation,
            jpeg_reencode: transforms == Transforms::TensorFlow,
            input_size: 24,
            resize_size: 32,
            rand_augment_layers: 2,
            color_jitter: 0.5,
            erase_probability: 0.5,
            mixup_alpha: 0.8,
            cutmix_alpha: 1.0,
            mix_probability: 0.8,
            ..Data::default()
        };
        let data = synthetic();
        let split = tasks::split(&data, &continual(5, 2, "seed:1"), 0).unwrap();
        let p = Preprocess::new(&config, Normalize::CIFAR10).unwrap();
        assert!(!p.on_device());
        let new = || Loader::new(data.clone(), &split, &split.tasks[1], p.clone(), 4, 40, 4).unwrap();
        let loader = new();
        let wanted: Vec<_> = (0..loader.steps()).map(|step| filled(&loader, step)).collect();
        let (mut mixed, mut steps) = (0, 0);
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let fresh = Arc::new(new());
            for step in [loader.steps() - 1, 0, 5, 5] {
                assert!(pool.install(|| filled(&fresh, step)) == wanted[step], "step {step}");
            }
            for batch in Prefetch::start(fresh.clone(), 2..fresh.steps()).unwrap() {
                let batch = batch.unwrap();
                let made = (batch.images.clone(), batch.labels.clone());
                assert!(made == wanted[batch.step], "step {}", batch.step);
                steps += 1;
                let Some(mix) = loader.mix(batch.step) else {
                    let of = |(i, share): (usize, &f32)| {
                        *share == f32::from(u8::from(batch.labels[i / 10] as usize == i % 10))
                    };
                    assert!(batch.soft_labels.len() == 400 && batch.soft_labels.iter().enumerate().all(of));
                    continue;
                };
                mixed += 1;
                assert_eq!(batch.soft_labels, mix.soft_labels(&wanted[batch.step].1, 10));
                for (soft_labels, &label) in batch.soft_labels.chunks_exact(10).zip(&wanted[batch.step].1) {
                    assert!(
                        abs_diff_eq!(soft_labels.iter().sum::<f32>(), 1.0, epsilon = 1e-6)
                            && soft_labels[label as usize] >= 0.0
                    );
                    let other = |k: usize| !split.tasks[1].classes.contains(&(k as u32));
                    assert!((0..10).all(|k| soft_labels[k] == 0.0 || !other(k)));
                }
            }
        }
        assert!(mixed > 0 && mixed < steps, "{mixed} of {steps}");
        // The images of a mixed step are the mixture of those that a loader without it makes.
        let without = Data { mixup_alpha: 0.0, cutmix_alpha: 0.0, ..config };
        let without = Preprocess::new(&without, Normalize::CIFAR10).unwrap();
        let plain = Loader::new(data.clone(), &split, &split.tasks[1], without, 4, 40, 4).unwrap();
        for step in 0..loader.steps() {
            let (mut images, labels) = filled(&plain, step);
            if let Some(mix) = loader.mix(step) {
                mix.images(&mut images, 24);
            }
            assert!((images, labels) == wanted[step], "step {step}");
        }
    }
}

#[test]
fn prefetching_changes_nothing_and_stops_when_dropped() {
    let (loader, ..) = small_loader(0, 4, 40, 4);
    let loader = Arc::new(loader);
    for range in [0..loader.steps(), 5..8, 3..3] {
        let mut prefetch = Prefetch::start(loader.clone(), range.clone()).unwrap();
        for step in range {
            let batch = prefetch.next().unwrap().unwrap();
            assert_eq!(batch.step, step);
            assert!((batch.images.clone(), batch.labels.clone()) == filled(&loader, step), "step {step}");
            if step % 2 == 0 {
                prefetch.recycle(batch);
            }
        }
        assert!(prefetch.next().is_none());
    }
    // Never read, read once, and asked for more than fits the queue.
    drop(Prefetch::start(loader.clone(), 0..usize::MAX).unwrap());
    let mut prefetch = Prefetch::start(loader.clone(), 0..1000).unwrap();
    prefetch.next().unwrap().unwrap();
    drop(prefetch);
    assert_eq!(Arc::strong_count(&loader), 1, "a thread still holds the loader");
}

#[test]
fn evaluation_batches_and_wrong_buffers() {
    let (loader, split, data) = small_loader(0, 4, 40, 4);
    let size = loader.preprocess().output_len();
    let indices = &split.tasks[3].test[..7];
    let (mut out, mut labels) = (vec![f32::NAN; 7 * size], vec![0; 7]);
    loader.reader().fill_eval(Subset::Test, indices, &mut out, &mut labels).unwrap();
    for (at, &i) in indices.iter().enumerate() {
        let mut one = vec![0.0; size];
        loader.preprocess().eval(data.test.image(i as usize).unwrap().view(), &mut one);
        assert_eq!(one, out[at * size..(at + 1) * size]);
        assert!(split.tasks[3].classes.contains(&labels[at]));
    }
    loader.reader().fill_eval(Subset::Train, &[599], &mut out[..size], &mut labels[..1]).unwrap();
    for result in [
        loader.reader().fill_eval(Subset::Test, &[200], &mut out[..size], &mut labels[..1]),
        loader.reader().fill_eval(Subset::Test, indices, &mut out[1..], &mut labels),
        loader.fill_train(0, &mut out, &mut labels),
    ] {
        assert!(matches!(result, Err(Error::Shape { .. })));
    }
}
