"""Hangs in a child process that holds on to this one's output."""

import subprocess

subprocess.run(["sleep", "86399"], check=True)
