"""Process of one phone's visit: it has the runtime and the phone's own pictures, no server files.

`fedsup phones` and `fedsup fleet` write the phone's settings to its standard input as JSON, and
read the visit from its standard output as one line of JSON.
"""

import json
import os
import sys
import traceback
from typing import Any

import numpy as np

from fedsup_tf.files.reading import reading
from tff_programs.programs.cli import end_with_parent
from tff_programs.programs.phone_faults import FaultyParticipant
from tflite.device.trainer import DeviceTrainer
from tflite.format.update_file import DeviceUpdate
from tflite.together.address import ServerAddress
from tflite.together.device_folder import DeviceFolder
from tflite.together.errors import FederationError, RefusedError, UnavailableError
from tflite.together.federation import Federation
from tflite.together.participant import Participant, fit_options

EXAMPLES = "examples.npz"
# Wait after an error of the phone or the server.
_TROUBLE_SECONDS = 30


class PlannedParticipant(Participant):
    """A device whose training is determined bit for bit by a plan of rounds.

    Attributes:
      client: Name of the client in its update.
      seed: Seed of the training, used instead of the task's seed.
    """

    client: str
    seed: int

    def train(self, task, path, examples) -> DeviceUpdate:
        """Trains a task's model and returns the change of its weights.

        The reported losses are those of the first and the last epoch. They are not measured by an
        evaluation, because a plan's models combine the newest weights with an older calibration.
        """
        trainer = DeviceTrainer(path, runtime=self._runtime)
        epochs = trainer.fit(*examples, **fit_options({**task, "seed": self.seed}))
        return trainer.update(
            examples=len(examples[1]),
            loss_before=epochs[0].loss,
            loss_after=epochs[-1].loss,
            client=self.client,
        )


def main() -> None:
    """Makes the visit described on standard input and prints its result."""
    end_with_parent()
    print(json.dumps(visit(json.load(sys.stdin))), file=sys.stdout)


def visit(settings: dict[str, Any]) -> dict[str, Any]:
    """Makes a visit.

    Args:
      settings: `address` (fields of a `ServerAddress`); `folder`, `fields` and `runtime` of a
        participant; and either `faults`, the remaining arguments of a `FaultyParticipant`, or
        `plan`, the attributes of a `PlannedParticipant`.

    Returns:
      Fields of a `Visit`, with `model`, the path of the model, if there is a task, and `status` if
      the server was asked for it. The event may also be `ended`, if the phone cannot take part any
      more, or `trouble`.
    """
    federation = None
    try:
        federation = Federation(ServerAddress(**settings["address"]))
        folder = DeviceFolder(settings["folder"])
        arguments = (federation, folder, settings["fields"], settings["runtime"])
        if "plan" in settings:
            device = PlannedParticipant(*arguments)
            device.client, device.seed = settings["plan"]
        else:
            device = FaultyParticipant(*arguments, *settings["faults"])
        made = device.visit(lambda metadata: _examples(settings["folder"]))
        result = made._asdict()
        if made.task is not None:
            result["model"] = folder.model_path(made.task["model"])
        if made.event != "needs_examples":
            result["status"] = federation.status()
        return result
    except FederationError as error:
        return _trouble("ended", str(error), 0)
    except UnavailableError as error:
        return _trouble("trouble", str(error), error.seconds or _TROUBLE_SECONDS)
    except (RefusedError, ValueError, OSError) as error:
        return _trouble("trouble", str(error), _TROUBLE_SECONDS)
    except Exception:
        return _trouble("ended", traceback.format_exc(), 0)
    finally:
        if federation is not None:
            federation.close()


def _trouble(event: str, message: str, wait_seconds: int) -> dict[str, Any]:
    return {"event": event, "wait_seconds": wait_seconds, "message": message}


def _examples(folder: str) -> tuple[np.ndarray, np.ndarray] | None:
    path = os.path.join(folder, EXAMPLES)
    if not os.path.exists(path):
        return None
    with reading(path, "a phone's own pictures"), np.load(path, allow_pickle=False) as arrays:
        return arrays["images"], arrays["labels"]
