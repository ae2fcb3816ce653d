"""The registry of `make bench`: one file a family of ops, each with its list CASES of `OpCase` (see tests/benchmarks/case.py).

To add an op, append an OpCase to the list of its family's file: name, op, inputs (inputs.py has those that families share), a lambda that
calls regkit.ops, peers, the bytes and FLOPs that it cannot do without, targets. To add a peer, write it as a function of tensors in
tests/benchmarks/peers/ and name it in `peers`; `compile=True` on the best plain torch formula has it timed through torch.compile too.
tests/benchmarks/test_cases.py then checks that all of them agree; nothing else has to know of them.
A new family is a new file and its name here.
"""

from tests.benchmarks.cases import affine, correlate, labels, mind, regularisers, similarity, warp

CASES = [case for family in (warp, affine, similarity, correlate, mind, regularisers, labels) for case in family.CASES]
