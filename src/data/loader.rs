/// placeholder until merge
pub fn steps_per_task(n_train: usize, epochs: usize, batch: usize) -> usize {
    n_train * epochs / batch / epochs * epochs
}
