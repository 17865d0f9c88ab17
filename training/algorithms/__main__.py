"""The algorithms, one per line: its name and its mode.

python3 -m training.algorithms
"""

from training.algorithms import ALGORITHMS

for name, rule in ALGORITHMS.items():
    print(name, rule.mode)
