r"""Our training against single-task runs as others train them: `mtl bench of=trainer`, with two short options.

    python scripts/bench_trainer.py encoder=minilm                               # on the embedded corpus
    python scripts/bench_trainer.py --data my_conf task=[sst2,snli,wnut] encoder=minilm
    python scripts/bench_trainer.py --data my_conf task=[sst2,snli,wnut] encoder=minilm --scores \
        sampler=proportional sampler.batch_size=32

--data DIR names a folder with task YAMLs (Hydra's --config-dir); --scores trains to the end and compares scores. All
other words are those of `mtl bench`; docs/performance.md says what is timed.
"""

from __future__ import annotations

import sys

from mtl_cli.cli import main


def words_of(arguments: list[str]) -> list[str]:
    """The words of `mtl bench` for this script's."""
    words = []
    for word in arguments:
        if word == "--scores":
            words.append("bench.scores=true")
        elif word == "--data" or word.startswith("--data="):
            words.append(word.replace("--data", "--config-dir", 1))
        else:
            words.append(word)
    return ["bench", "of=trainer", *words]


if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv[1:]):
        sys.exit(__doc__)
    sys.argv = [sys.argv[0], *words_of(sys.argv[1:])]
    main()
