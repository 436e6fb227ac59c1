"""What a run says it was made on and with."""

from __future__ import annotations

from importlib.metadata import version

from gpubench import machine


def test_installed_peers_are_recorded_and_figures_made_with_others_dont_belong_together(monkeypatch):
    monkeypatch.setattr(machine, "PEERS", ("pytest", "a-peer-that-nobody-has"))
    environment = machine.describe_environment(machine.Machine((), "", "", "no GPU here"))
    assert environment["peers"] == {"pytest": version("pytest")}
    assert machine.fingerprint(environment, "", ())["pytest"] == version("pytest")
