"""Look at what needs torch before Ray starts: are the classes there, do they take their arguments?

It runs as a process of its own, `python -m tuner.preflight < config.yaml`, beside the driver's own start, so that the
driver does not import torch. Exit code 2 and one line where something is wrong.
"""

from __future__ import annotations

import subprocess
import sys

from tuner.config import from_yaml
from tuner.errors import UserError
from tuner.schema import Config


class Preflight:
    """The check under way."""

    def __init__(self, config: Config) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tuner.preflight"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdin is not None
        self.process.stdin.write(config.to_yaml())
        self.process.stdin.close()

    def wait(self) -> None:
        """
        Raises:
            UserError: what is wrong.
        """
        assert self.process.stderr is not None
        with self.process.stderr as stderr:
            said = stderr.read().strip()
        if self.process.wait() != 0:
            raise UserError(said.splitlines()[-1] if said else f"the check ended with code {self.process.returncode}")


def main() -> int:
    from tuner import objects

    config = from_yaml(sys.stdin.read())
    try:
        objects.make_task(config)
        for name, spec in config.optimizers.items():
            objects.optimizer_maker(name, spec)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
