"""What a policy loses in use: slates that it answered, scored again at full depth, and a test that may be read at any time.

    betting   losses one by one -> whether "the mean loss is within the limit" still holds
    losses    a slate's two rankings -> what the policy loses against full depth, without labels
    limits    report.json -> the loss to watch and its limit, of the policy and of more careful ones
    log       audited slates -> a file, and back
    state     audited slates in order -> the test's state, and the rule in force

`rexit serve --audit` does all of it; `docs/how-to/embed.md` has the same for a program of your own.
"""

from rexit.audit.betting import Capital
from rexit.audit.limits import Limits, read_limits
from rexit.audit.log import AuditedSlate, AuditLog, read_log
from rexit.audit.losses import Loss
from rexit.audit.state import Watch

__all__ = ["AuditLog", "AuditedSlate", "Capital", "Limits", "Loss", "Watch", "read_limits", "read_log"]
