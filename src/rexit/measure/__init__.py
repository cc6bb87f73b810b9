"""What a variant costs on this machine: latency, memory. `rexit bench` and `rexit calibrate` use it.

In: a bundle's variant and slates. Out: measurements, and the costs to calibrate with. Needs NumPy alone, so it runs on a
device.

    machine    what a time is valid for: device, threads, versions
    profile    slates -> what each segment costs on this machine, by tokens
    costs      a profile -> what a slate costs, by where its candidates stop; what deployed policies take
    bench      all of it
"""

from rexit.measure.bench import BenchOptions, bench_variant
from rexit.measure.costs import Costs
from rexit.measure.machine import Conditions
from rexit.measure.profile import CostProfile, SegmentCost, measure_costs

__all__ = [
    "BenchOptions",
    "Conditions",
    "CostProfile",
    "Costs",
    "SegmentCost",
    "bench_variant",
    "measure_costs",
]
