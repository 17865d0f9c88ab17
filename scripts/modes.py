"""The algorithms, one per line: its name, its mode and its flags.

python3 -m scripts.modes
"""

import dataclasses

from training.algorithms import ALGORITHMS


def main() -> None:
    for name, rule in ALGORITHMS.items():
        print(name, rule.mode, *(field.name for group in rule.flags for field in dataclasses.fields(group)))


if __name__ == "__main__":
    main()
