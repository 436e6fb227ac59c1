"""The child process: imports torch and the workloads, runs cells, and tells the parent by a file of events."""
