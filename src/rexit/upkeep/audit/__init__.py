"""What a policy loses in use: requests that it answered are traced, for a test that may be read at any time.

    log       requests and their traces -> a file, and back
    losses    a slate's two rankings -> what the policy loses against full depth, without labels
    betting   losses, one by one -> whether "the mean loss is within the limit" still holds
    watch     the loss to watch and its limit, from report.json; traces in order -> the test of the policy

`rexit serve --audit` does all of this; `docs/how-to/embed.md` shows it for a program of your own.
"""

from rexit.upkeep.audit.betting import Capital
from rexit.upkeep.audit.log import Audit, AuditLog, read_log
from rexit.upkeep.audit.losses import Loss
from rexit.upkeep.audit.watch import REPORT_FILE, AuditLimits, Watch, read_limits

__all__ = ["REPORT_FILE", "Audit", "AuditLimits", "AuditLog", "Capital", "Loss", "Watch", "read_limits", "read_log"]
