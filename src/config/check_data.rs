//! What is refused of `[data]` and `[continual]`: data sets, scenarios, replay, augmentation.

use super::complaints::{Complaints, MAX_SIZE};
use super::schema::{Config, DatasetName, Interpolation, Method, Scenario, TaskSizes, Transforms};

impl Config {
    pub(super) fn check_data(&self, c: &mut Complaints) {
        let (data, cl) = (&self.data, &self.continual);
        c.unless(data.input_size <= data.resize_size, || {
            format!(
                "data.input_size = {} must not be above data.resize_size = {}: the input is cut out of the resized image",
                data.input_size, data.resize_size
            )
        });
        self.check_scenario(c);
        c.unless(cl.num_classes_per_task.smallest() > 0 || cl.takes_all_classes(), || {
            format!("continual.num_classes_per_task must be at least 1, found {}", cl.num_classes_per_task)
        });
        let by_class = matches!(cl.scenario, Scenario::Class | Scenario::Joint);
        let tasks = if by_class { cl.num_tasks } else { 0 };
        let classes = cl.num_classes_per_task.upto(tasks);
        if let TaskSizes::Each(sizes) = &cl.num_classes_per_task {
            c.unless(!by_class || sizes.len() == cl.num_tasks, || {
                format!(
                    "continual.num_classes_per_task = {sizes:?} has the sizes of {} tasks, continual.num_tasks is {}: \
                     set continual.num_tasks = {}",
                    sizes.len(),
                    cl.num_tasks,
                    sizes.len()
                )
            });
            c.unless(!cl.weights_transfer || cl.num_classes_per_task.same().is_some(), || {
                "continual.weights_transfer wants tasks of one size in continual.num_classes_per_task".into()
            });
        }
        let known = match data.dataset {
            _ if !data.classes.0.is_empty() => None,
            DatasetName::Joined => {
                data.joined_names().ok().and_then(|names| names.into_iter().map(DatasetName::classes).sum())
            }
            name => name.classes(),
        };
        if let Some(there_are) = known {
            c.unless(classes <= there_are, || {
                format!(
                    "continual.num_tasks = {} times continual.num_classes_per_task = {} wants {classes} classes, \
                     data.dataset = \"{}\" has {there_are}",
                    cl.num_tasks, cl.num_classes_per_task, data.dataset
                )
            });
        } else {
            c.unless(classes <= MAX_SIZE, || {
                format!("continual.num_tasks times continual.num_classes_per_task must be at most {MAX_SIZE}, found {classes}")
            });
        }
        self.check_added(c);
        self.check_augment(c);
        let order = cl.class_order.as_str();
        c.unless(!order.is_empty(), || {
            "continual.class_order must be \"natural\", \"names\", \"seed:N\", \"numpy:N\" or the path of a file, found \"\"".into()
        });
        if let Some(number) = order.strip_prefix("numpy:") {
            c.unless(number.parse::<u32>().is_ok(), || {
                format!("continual.class_order = \"numpy:N\" wants a whole number below 2^32 for N, found `{number}`")
            });
        }
        if let Some(number) = order.strip_prefix("seed:") {
            c.unless(number.parse::<u64>().is_ok(), || {
                format!("continual.class_order = \"seed:N\" wants a whole number for N, found `{number}`")
            });
        }
        c.unless(!self.model.init_checkpoint.is_empty(), || {
            "model.init_checkpoint must be `bundled:micro` or the path of a .npz, .safetensors or PyTorch file or of a folder with one, found \"\"".into()
        });
        c.unless(self.model.freeze_part.iter().all(|part| !part.is_empty()), || {
            "model.freeze_part must not hold an empty text: it would match every parameter; \
             method = \"linear\" trains the head only"
                .into()
        });
    }

    /// What `add-classes` writes fits together, and methods and scenarios in which a task can follow.
    fn check_added(&self, c: &mut Complaints) {
        let (data, cl) = (&self.data, &self.continual);
        let tasks = data.added_sizes.len();
        let names = data.added_sizes.iter().fold(0usize, |sum, n| sum.saturating_add(*n));
        let fits = data.added.len() == tasks
            && data.added_new.len() == tasks
            && data.added_classes.len() == names
            && data.added_sizes.iter().zip(&data.added_new).all(|(all, new)| *all > 0 && new <= all);
        c.unless(fits, || {
            format!(
                "data.added, data.added_sizes, data.added_new and data.added_classes are written by `add-classes` and \
                 describe the same tasks; found {} folders, sizes {:?}, of them new {:?}, and {} names",
                data.added.len(),
                data.added_sizes,
                data.added_new,
                data.added_classes.len()
            )
        });
        let lost = data.base_classes.is_empty() && !data.lost_tasks.is_empty();
        c.unless(!lost && (tasks > 0 || data.base_classes.is_empty()), || {
            "data.base_classes and data.lost_tasks are written by `add-classes` together with data.added"
                .into()
        });
        if tasks == 0 {
            return;
        }
        c.unless(matches!(cl.scenario, Scenario::Class | Scenario::Domain), || {
            format!(
                "classes can be added where tasks are learned one after the other, each with a test set of its own \
                 (continual.scenario = \"class\" or \"domain\"), found \"{}\"",
                cl.scenario
            )
        });
        c.unless(!cl.eval_task_inc, || {
            "continual.eval_task_inc = true tells a test image its task by the number of its class, which classes that \
             were added do not follow: wanted false"
                .into()
        });
        c.unless(!self.model.weight_norm, || {
            "model.weight_norm = true makes all columns of the head unit vectors before each step, also those of old \
             classes, which stay as they are when classes are added: wanted false"
                .into()
        });
    }

    fn check_scenario(&self, c: &mut Complaints) {
        let (cl, scenario) = (&self.continual, self.continual.scenario);
        if self.data.dataset == DatasetName::Joined
            && let Err(what) = self.data.joined_names()
        {
            c.add(what);
        }
        c.float("continual.gaussian_sigma", cl.gaussian_sigma, "a finite number above 0", |v| v > 0.0);
        let by_class = matches!(scenario, Scenario::Class | Scenario::Joint);
        c.unless(cl.eval_every_tasks == 1 || !by_class, || {
            format!(
                "continual.eval_every_tasks = {} leaves rows of the accuracy matrix empty; it needs a scenario in which \
                 tasks share a test set, found scenario = \"{scenario}\"",
                cl.eval_every_tasks
            )
        });
        c.unless(!cl.forward_transfer || scenario == Scenario::Domain, || {
            format!("continual.forward_transfer = true needs scenario = \"domain\": elsewhere no answer to a task that is not learned yet has a meaning, found \"{scenario}\"")
        });
        self.check_few_shot(c);
        self.check_replay(c);
        let never_again = self.method == Method::Joint || self.method.takes_each_image_once();
        c.unless(!cl.weights_transfer || scenario == Scenario::Class && !never_again, || {
            format!("continual.weights_transfer = true needs scenario = \"class\" and a method that learns task after task, found \"{scenario}\" and method = \"{}\"", self.method)
        });
        c.unless(!cl.transfer_kernel_only || cl.weights_transfer, || {
            "continual.transfer_kernel_only = true needs continual.weights_transfer = true, found false"
                .into()
        });
        c.unless(!cl.eval_task_inc || by_class, || {
            format!("continual.eval_task_inc = true needs scenario = \"class\", in which tasks have classes of their own, found \"{scenario}\"")
        });
        if !matches!(scenario, Scenario::GaussianOnce | Scenario::Stream) {
            return;
        }
        let because = format!("continual.scenario = \"{scenario}\" is one pass without boundaries and needs");
        c.unless(self.train.num_epochs == 1, || {
            format!("{because} train.num_epochs = 1, found {}", self.train.num_epochs)
        });
        for (key, value) in [
            ("optim.reinit_optimizer", self.optim.reinit_optimizer),
            ("prompt_pool.use_prompt_mask", self.prompt_pool.use_prompt_mask),
            ("prompt_pool.diversified_selection", self.prompt_pool.diversified_selection),
            ("prompt_pool.shared_prompt_pool", self.prompt_pool.shared_prompt_pool),
            ("prompt_pool.shared_prompt_key", self.prompt_pool.shared_prompt_key),
        ] {
            c.unless(!value, || format!("{because} {key} = false, found true"));
        }
    }

    fn check_few_shot(&self, c: &mut Complaints) {
        let (cl, data) = (&self.continual, &self.data);
        let drawn = cl.shots > 0 || cl.base_shots > 0;
        let listed = !cl.session_lists.is_empty();
        if !drawn && !listed {
            return;
        }
        let key = if listed { "continual.session_lists" } else { "continual.shots" };
        c.unless(matches!(cl.scenario, Scenario::Class | Scenario::Joint), || {
            format!(
                "{key} needs scenario = \"class\", in which tasks have classes of their own, found \"{}\"",
                cl.scenario
            )
        });
        c.unless(!drawn || !listed, || {
            "continual.session_lists names the images of each task, continual.shots and continual.base_shots draw them: wanted one of both".into()
        });
        c.unless(!listed || data.train_per_class == 0 && data.classes.0.is_empty(), || {
            "continual.session_lists counts in the whole training set and needs data.train_per_class = 0 and no data.classes".into()
        });
    }

    fn check_replay(&self, c: &mut Complaints) {
        let (cl, scenario) = (&self.continual, self.continual.scenario);
        let (per_class, review, replayed) = (cl.replay_per_class, cl.num_review_epochs, cl.replay_batch_size);
        c.unless((per_class > 0) == (review > 0 || replayed > 0), || {
            format!("continual.replay_per_class = {per_class} keeps images for continual.replay_batch_size = {replayed} or continual.num_review_epochs = {review}: wanted it above 0 where one of them is, and 0 otherwise")
        });
        let never_again = self.method == Method::Joint || self.method.takes_each_image_once();
        let by_task = !matches!(scenario, Scenario::Joint | Scenario::GaussianOnce | Scenario::Stream);
        c.unless(per_class == 0 || by_task && !never_again, || {
            format!("continual.replay_per_class above 0 needs scenario = \"class\", \"domain\" or \"gaussian\" and a method that learns task after task, found \"{scenario}\" and method = \"{}\"", self.method)
        });
        c.unless(!cl.replay_reverse_mask || cl.replay_no_mask && !cl.replay_include_new_task, || {
            format!("continual.replay_reverse_mask = true masks the task's own classes and needs replay_no_mask = true and replay_include_new_task = false, found {} and {}", cl.replay_no_mask, cl.replay_include_new_task)
        });
        if replayed == 0 || !cl.train_mask || scenario == Scenario::Domain {
            c.unless(!cl.replay_reverse_mask, || {
                "continual.replay_reverse_mask = true needs replay_batch_size above 0, train_mask = true and tasks of some classes".into()
            });
            return;
        }
        c.unless(cl.replay_no_mask, || {
            "continual.replay_no_mask = false with train_mask = true masks the classes of replayed images, and their loss would be infinite; set one of them the other way".into()
        });
        c.unless(!self.data.is_mixed(), || {
            format!("data.mixup_alpha and data.cutmix_alpha mix images that continual.replay_batch_size = {replayed} brings with images under another class mask; set them to 0, or continual.train_mask = false")
        });
    }

    fn check_augment(&self, c: &mut Complaints) {
        let data = &self.data;
        for (key, filter) in [
            ("train_interpolation", data.train_interpolation),
            ("eval_interpolation", data.eval_interpolation),
        ] {
            c.unless(data.transforms == Transforms::Torchvision || filter == Interpolation::Bilinear, || {
                format!(
                    "data.{key} = \"{filter}\" needs data.transforms = \"torchvision\", found \"{}\"",
                    data.transforms
                )
            });
        }
        c.unless(!data.jpeg_reencode || data.transforms == Transforms::TensorFlow, || {
            format!(
                "data.jpeg_reencode = true needs data.transforms = \"tensorflow\", found \"{}\"",
                data.transforms
            )
        });
        c.unless(!data.jpeg_reencode || data.resize_size.is_multiple_of(16), || {
            format!(
                "data.jpeg_reencode = true needs a data.resize_size that is a multiple of 16, found {}",
                data.resize_size
            )
        });
        let probability = "a probability, 0 to 1";
        for (key, value) in [
            ("data.rand_augment_probability", data.rand_augment_probability),
            ("data.erase_probability", data.erase_probability),
            ("data.mix_probability", data.mix_probability),
        ] {
            c.float(key, value, probability, |v| (0.0..=1.0).contains(&v));
        }
        c.float("data.color_jitter", data.color_jitter, "0 to 1.25", |v| (0.0..=1.25).contains(&v));
        let (magnitude, levels) = (data.rand_augment_magnitude, data.rand_augment_levels);
        if data.rand_augment_deviation > 0.0 {
            c.unless(levels > 0, || {
                "data.rand_augment_deviation above 0 needs data.rand_augment_levels of at least 1, found 0"
                    .into()
            });
            c.float(
                "data.rand_augment_magnitude",
                magnitude,
                "0 to data.rand_augment_levels with a deviation",
                |v| (0.0..=levels as f64).contains(&v),
            );
        } else {
            c.float("data.rand_augment_magnitude", magnitude, "at most 1", |v| v <= 1.0);
        }
        let method = self.method;
        c.unless(!data.is_mixed() || !(method.takes_each_image_once() || method.looks_at_tasks()), || {
            format!("data.mixup_alpha and data.cutmix_alpha must be 0 with method = \"{method}\", which takes images as they are")
        });
    }
}
