//! Data sets, tasks, preprocessing and batches.
