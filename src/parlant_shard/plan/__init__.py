"""Changes → an ordered plan: every step with its SQL, server, lock, hazards and timeouts.

Order is by phase. Within a phase servers do not depend on each other and run in parallel; on one
server steps run one after the other, in the order of the plan. The phases are listed in `Phase`.
"""

from parlant_shard.plan.build import build
from parlant_shard.plan.draft import Target
from parlant_shard.plan.model import (
    FORMAT_VERSION,
    NEEDS_ALLOW,
    SOME,
    TIMEOUTS,
    BrokenCopy,
    Hazard,
    Kind,
    Lock,
    Orphans,
    Phase,
    Plan,
    Probe,
    Step,
    secret_mark,
)
from parlant_shard.plan.moving import CHANGED, MARK
from parlant_shard.plan.repairs import unapproved

__all__ = [
    "CHANGED",
    "FORMAT_VERSION",
    "MARK",
    "NEEDS_ALLOW",
    "SOME",
    "TIMEOUTS",
    "BrokenCopy",
    "Hazard",
    "Kind",
    "Lock",
    "Orphans",
    "Phase",
    "Plan",
    "Probe",
    "Step",
    "Target",
    "build",
    "secret_mark",
    "unapproved",
]
