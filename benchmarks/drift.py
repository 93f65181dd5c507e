"""How often the test for drift raises a false alarm, and how soon it finds a change: by simulation.

    python benchmarks/drift.py [--runs 50]

Scores and statistics of images are drawn from a normal distribution; a change shifts them by so many of its standard
deviations, after a thousand images. Printed is the share of runs with an alarm before the change (or at all, where
nothing changes), and the images from the change to the alarm: median and nine tenths.
"""

from __future__ import annotations

import argparse
import statistics as stats
from dataclasses import dataclass
from random import Random

from blemish.decisions import calibrate
from blemish.station.drift.pictures import STATISTICS
from blemish.station.drift.watch import Watch, Watched
from blemish.station.settings import Drift

CHANGE, AFTER = 1000, 1000
CALIBRATION = 99


@dataclass(frozen=True)
class Case:
    """What happens. score, look : shifts, in standard deviations. bad : share of bad parts before, and after."""

    name: str
    score: float = 0
    look: float = 0
    bad: tuple[float, float] = (0, 0)


CASES = (
    Case("nothing changes"),
    Case("nothing changes, 4 % bad parts", bad=(0.04, 0.04)),
    Case("another product: every part is NG", bad=(0.02, 1)),
    Case("a third of the parts is bad", bad=(0.02, 1 / 3)),
    Case("scores higher by 0.5", score=0.5),
    Case("scores higher by 1", score=1),
    Case("scores lower by 1", score=-1),
    Case("brighter by 0.5", look=0.5),
    Case("brighter by 1", look=1),
    Case("brighter by 3", look=3),
)


def run(case: Case, random: Random) -> int | None:
    """The image at which an alarm is raised."""
    scores = [random.gauss(0, 1) for _ in range(CALIBRATION)]
    watch = Watch(calibrate(scores, scores, "split"), Drift(), {}, Watched(), random)
    for t in range(CHANGE + AFTER):
        changed = t >= CHANGE
        bad = random.random() < case.bad[changed]
        measured = {name: random.gauss(0, 1) for name in STATISTICS}
        measured["brightness"] += case.look * changed
        watch.see(random.gauss(8, 2) if bad else random.gauss(case.score * changed, 1), measured)
        if watch.alarming:
            return t
    return None


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=50)
    runs = parser.parse_args().runs
    rules = Drift()
    print(
        f"{runs} runs, {CALIBRATION} calibration and {rules.reference} reference images, {rules.false_alarm_rate:.0%}"
    )
    print(f"{'':42}{'false alarms':>14}{'found':>8}{'median':>8}{'9 of 10':>8}")
    for case in CASES:
        random = Random(case.name)
        ends = [run(case, random) for _ in range(runs)]
        nothing = case.score == case.look == 0 and case.bad[0] == case.bad[1]
        early = sum(end is not None and (nothing or end < CHANGE) for end in ends)
        line = f"{case.name:42}{early / runs:>14.0%}"
        delays = sorted(end - CHANGE + 1 for end in ends if end is not None and end >= CHANGE and not nothing)
        if not nothing:
            line += f"{len(delays) / (runs - early):>8.0%}"
        if delays:
            line += f"{stats.median(delays):>8.0f}{delays[int(0.9 * (len(delays) - 1))]:>8}"
        print(line, flush=True)


if __name__ == "__main__":
    main()
