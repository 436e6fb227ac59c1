"""Records in, frames, statistics, frontiers and comparisons out: pure, and the same for CLI, report and notebook."""
