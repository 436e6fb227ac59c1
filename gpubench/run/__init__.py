"""Cells to records: plans what is to run, keeps workers alive and bounded, and writes down what became of each cell."""
