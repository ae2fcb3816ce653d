"""The verbs of the command line, one file each: a dataclass whose fields are the options, and `run()`, which returns the exit code.

Nothing heavy is imported at the top of these files: `regkit --help` reads them all.
"""

from regkit.commands.apply import Apply
from regkit.commands.data import Data
from regkit.commands.demo import Demo
from regkit.commands.doctor import Doctor
from regkit.commands.eval import Eval
from regkit.commands.models import Models
from regkit.commands.register import Register
from regkit.commands.train import Train

VERBS = {
    "register": Register,
    "apply": Apply,
    "eval": Eval,
    "models": Models,
    "train": Train,
    "data": Data,
    "doctor": Doctor,
    "demo": Demo,
}
