"""What a variant costs here: latencies, throughput, memory. `rexit bench` and `rexit calibrate` stand on it.

In: a bundle's variant and slates. Out: measurements, and a cost profile to calibrate with. NumPy alone: a device has it all.

    scorer     what is asked of a session
    machine    what a time holds for: device, threads, versions
    profile    slates -> what each segment costs on this machine, by tokens
    costs      a profile -> what a slate costs, by where its candidates stop; what policies really take
    load       many requests at once
    bench      all of it
"""

from rexit.measure.costs import Costs
from rexit.measure.machine import Conditions
from rexit.measure.profile import CostProfile
from rexit.measure.scorer import Scorer

__all__ = ["Conditions", "CostProfile", "Costs", "Scorer"]
