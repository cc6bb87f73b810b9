"""What a policy loses in use: slates that it answered are scored again at full depth, for a test that may be read at any time.

    losses    a slate's two rankings -> what the policy loses against full depth, without labels
    limits    report.json -> the loss to watch and its limit
    log       audited slates -> a file, and back
    betting   losses, one by one -> whether "the mean loss is within the limit" still holds
    state     audited slates in order -> the test of the policy

`rexit serve --audit` does all of this; `docs/how-to/embed.md` shows it for a program of your own.
"""

from rexit.audit.betting import Capital
from rexit.audit.limits import AuditLimits, read_limits
from rexit.audit.log import AuditedSlate, AuditLog, read_log
from rexit.audit.losses import Loss
from rexit.audit.state import Watch

__all__ = ["AuditLimits", "AuditLog", "AuditedSlate", "Capital", "Loss", "Watch", "read_limits", "read_log"]
