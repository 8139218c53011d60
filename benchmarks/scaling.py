"""How a sweep scales: wall time by hosts and by number of very short trials, and what Ray takes.

    python benchmarks/scaling.py [--hosts 1 2 3] [--trials 4 16 64 256] [--json FILE]

Sweeps that are in FILE already are not done again, so that it can be done in parts.

Needs root and `ip netns`: the hosts are those of tests/cluster, one CPU each, all on this machine,
so more hosts than it has CPUs gain nothing. Every sweep is the real command on a cluster that `ray
up` made, its storage a shared directory. Training is what the trials' own clocks say of their
epochs; the rest of `hosts x wall time` is Ray's, the start of processes, and waiting.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from cluster.hosts import Hosts, missing
from cluster.real_cluster import RealCluster
from cluster.sweeping import Tune

_SHORT = "--dataset digits --hidden 32 --cpus-per-trial 1 --quiet"
_EPOCHS = (1, 5)  # the difference is what an epoch's report and checkpoint take


@dataclass(frozen=True)
class Measured:
    """One sweep; times in seconds."""

    hosts: int
    trials: int
    epochs: int
    wall: float  # of the whole command
    tuning: float  # of it, as the run recorded: without start and report
    training: float  # all trials' epochs together
    driver: float  # MiB that the driver's process held at its largest, shared pages included

    @property
    def overhead_per_trial(self) -> float:
        """What a trial costs a CPU beside its training."""
        return (self.tuning * self.hosts - self.training) / self.trials


def measure(cluster: RealCluster, trials: int, epochs: int) -> Measured:
    """One sweep of so many learning rates."""
    name = f"trials-{trials}-epochs-{epochs}"
    rates = " ".join(f"--lr {0.001 + 0.00001 * number:.5f}" for number in range(trials))
    command = Tune(
        cluster.head,
        f"--address auto --storage {cluster.hosts.shared}/{len(cluster.nodes)} {_SHORT} "
        f"--epochs {epochs} --name {name} {rates}",
    )
    driver = _Largest(command)
    wall = command.end(3600)
    run = cluster.head.home / "results" / name
    training = 0.0
    for path in run.glob("trials/*/trial.json"):
        training += sum(row["seconds"] for row in json.loads(path.read_text())["epochs"])
    tuning = float(json.loads((run / "run.json").read_text())["seconds"])
    return Measured(len(cluster.nodes), trials, epochs, wall, tuning, training, driver.mebibytes)


class _Largest:
    """The largest resident set of a sweep's driver, looked at every second."""

    def __init__(self, command: Tune) -> None:
        self.mebibytes = 0.0
        threading.Thread(target=self._watch, args=(command,), daemon=True).start()

    def _watch(self, command: Tune) -> None:
        pid = None
        while True:
            time.sleep(1)
            try:
                pid = pid or command.driver()
                (line,) = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
            except (OSError, ValueError):
                if pid is not None:
                    return  # it has ended
                continue
            self.mebibytes = int(line) / 1024


def table(rows: list[Measured]) -> str:
    """As Markdown."""
    lines = [
        "| hosts | trials | epochs | wall s | training s, all CPUs | not training | beside it, "
        "s a trial | driver MiB |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        share = 1 - row.training / (row.tuning * row.hosts)
        lines.append(
            f"| {row.hosts} | {row.trials} | {row.epochs} | {row.wall:.0f} | {row.training:.1f} | "
            f"{100 * share:.0f} % | {row.overhead_per_trial:.2f} | {row.driver:.0f} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--hosts", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--trials", nargs="+", type=int, default=[4, 16, 64, 256])
    parser.add_argument("--epochs", nargs="+", type=int, default=list(_EPOCHS))
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    why = missing()
    if why is not None:
        print(f"error: {why}", file=sys.stderr)
        return 2
    rows: list[Measured] = []
    if options.json and options.json.exists():
        rows = [Measured(**row) for row in json.loads(options.json.read_text())]
    done = {(row.hosts, row.trials, row.epochs) for row in rows}
    for count in options.hosts:
        wanted = itertools.product(options.trials, options.epochs)
        missing_rows = [each for each in wanted if (count, *each) not in done]
        if not missing_rows:
            continue
        workers = [f"w{number}" for number in range(1, count)]
        with Hosts("laptop", "head", *workers) as hosts:
            cluster = RealCluster(hosts, "head", workers)
            cluster.up()
            cluster.wait_for_nodes()
            for trials, epochs in missing_rows:
                rows.append(measure(cluster, trials, epochs))
                print(table(rows[-1:]).splitlines()[-1], flush=True)
                if options.json:
                    text = json.dumps([asdict(row) for row in rows], indent=2)
                    options.json.write_text(text + "\n")
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
