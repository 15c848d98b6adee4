//! What a run leaves behind: work directory, checkpoints, events, tables.
