"""The algorithms, one per line: its name and its mode.

python3 -m scripts.modes
"""

from training.algorithms import ALGORITHMS


def main() -> None:
    for name, rule in ALGORITHMS.items():
        print(name, rule.mode)


if __name__ == "__main__":
    main()
