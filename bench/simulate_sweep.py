#!/usr/bin/python3
"""Simulates a sweep of traces over many GPUs event by event, and tells what the efficiency is lost to.

    simulate_sweep.py --measured bench/results/scaling-cpu.json --output bench/results/scaling-simulated.json

The scheme is that of the unit store: each rank goes over the units, from one of its own on, and takes what nobody has claimed; a
refusal makes it list the claims; rank 0 merges, in the units' order, what is done whenever it has finished one itself, and the rest
in the end. How much units differ and what merging computes are measured; what a GPU, a parallel file system and a network take are
assumptions, all in ASSUMED.
"""
import argparse
import heapq
import json
import random
import statistics

ASSUMED = {
    "facts": 10000,
    "facts_per_unit": 4,
    "ranks": 64,
    "ranks_per_node": 8,
    # A trace (state, mlp, attn) of one fact on GPT-2 XL's shape on one GPU.
    "seconds_per_fact": 0.5,
    # GPT-2 XL in fp32.
    "weights_bytes": 6.2e9,
    "shard_bytes": 200e3,
    # Lustre, one metadata server: a round trip, how many operations it does a second for all ranks, and what a client
    # waits for a file to be safe.
    "metadata_round_trip_seconds": 0.4e-3,
    "metadata_operations_per_second": 20e3,
    "sync_seconds": 5e-3,
    # Reading the weights: of one node, and of the file system as a whole; SHA-256 on one core, and how many hash them; to a GPU.
    "read_bytes_per_second_node": 3e9,
    "read_bytes_per_second_total": 40e9,
    "sha256_bytes_per_second": 1.5e9,
    "hashing_cores": 8,
    "to_device_bytes_per_second": 20e9,
    # A broadcast between nodes, in a pipeline.
    "broadcast_bytes_per_second": 10e9,
    # Starting processes, MPI and CUDA.
    "start_seconds": 10.0,
}
# Of runtime/jobs/unit_store.cpp: metadata operations and waits for the disk of one commit (shard and mark: create, two renames
# each; syncs of two files and four times of a folder), and metadata operations of rank 0 a unit: merging (four looks, three opens), and
# in the end (three removals).
COMMIT_OPERATIONS, COMMIT_SYNCS = 6, 6
MERGE_OPERATIONS, END_OPERATIONS = 7, 3


LOOK, MERGE = -1, -2  # for a unit; rank 0: for units to merge


class Metadata:
    """One server that does operations in the order in which ranks come; a rank waits for each of its own."""

    def __init__(self, a):
        self.service, self.trip, self.free = 1 / a["metadata_operations_per_second"], a["metadata_round_trip_seconds"], 0.0

    def do(self, now, operations):
        """When a rank that begins `operations` at `now`, one after the other, is through."""
        self.free = max(self.free, now) + operations * self.service
        return max(self.free, now + operations * self.trip)


def load_seconds(a, way):
    """From the start to the first unit, without starting processes."""
    size = a["weights_bytes"]
    read = size / a["read_bytes_per_second_node"]
    if way == "each rank reads":  # the first of a node from the file system, the others from its page cache
        nodes = max(1, a["ranks"] / a["ranks_per_node"])
        read = size / min(a["read_bytes_per_second_node"], a["read_bytes_per_second_total"] / nodes)
    seconds = read + size / a["sha256_bytes_per_second"] / a["hashing_cores"] + size / a["to_device_bytes_per_second"]
    return seconds + (size / a["broadcast_bytes_per_second"] if way == "rank 0 broadcasts" and a["ranks"] > 1 else 0)


def search_operations(search, refused, found, units):
    """Metadata operations of a rank that finds `refused` units claimed, and then one that is not."""
    if search == "each unit":  # an attempt to create the claim for every unit, then a look for the wish to stop
        return refused + 2 * found
    # The claim and the wish; where the first is refused, the list of all claims (1000 in a reply) and another attempt.
    return 2 * found + (2 + units // 1000 if refused else 0)


def simulate(a, measured, way="rank 0 broadcasts", search="listed", merging="meanwhile", seed=1):
    """Seconds of all ranks together, by what they were spent on; and those of the job."""
    relative_costs = measured["relative_costs"]
    draw = random.Random(seed)
    units = -(-a["facts"] // a["facts_per_unit"])
    unit_seconds = a["seconds_per_fact"] * a["facts_per_unit"]
    costs = [unit_seconds * draw.choice(relative_costs) for _ in range(units)]
    load = a["start_seconds"] + load_seconds(a, way)
    server, claimed = Metadata(a), [False] * units
    spent = dict.fromkeys(("compute", "claims", "commits", "merging"), 0.0)
    shard_seconds = a["shard_bytes"] * (1 / a["sha256_bytes_per_second"] + 1 / a["read_bytes_per_second_node"])
    merge_seconds = (a["facts_per_unit"] * measured["merge_seconds_per_fact"] + MERGE_OPERATIONS * a["metadata_round_trip_seconds"] +
                     shard_seconds)
    done_at, merged = [None] * units, 0
    looked, ended = [0] * a["ranks"], [0.0] * a["ranks"]
    first = [rank * (search == "listed") % units for rank in range(a["ranks"])]  # the unit that a rank begins with
    # (when, rank, the unit that it comes with, or what it is going to do)
    events = [(load, rank, LOOK) for rank in range(a["ranks"])]
    while events:
        now, rank, finished = heapq.heappop(events)
        if finished >= 0:
            committed = server.do(now, COMMIT_OPERATIONS) + COMMIT_SYNCS * a["sync_seconds"]
            spent["commits"] += committed - now
            done_at[finished] = committed
            heapq.heappush(events, (committed, rank, MERGE if rank == 0 and merging == "meanwhile" else LOOK))
            continue
        if finished == MERGE:  # the next unit, if it is there by now; then again
            if merged < units and done_at[merged] is not None and done_at[merged] <= now:
                merged += 1
                spent["merging"] += merge_seconds
                heapq.heappush(events, (now + merge_seconds, rank, MERGE))
            else:
                heapq.heappush(events, (now, rank, LOOK))
            continue
        refused = 0
        while looked[rank] < units and claimed[(first[rank] + looked[rank]) % units]:
            looked[rank] += 1
            refused += 1
        found = looked[rank] < units
        unit = (first[rank] + looked[rank]) % units
        if found:
            claimed[unit] = True
            looked[rank] += 1
        begun = server.do(now, search_operations(search, refused, found, units))
        spent["claims"] += begun - now
        if not found:
            ended[rank] = begun
            continue
        spent["compute"] += costs[unit]
        heapq.heappush(events, (begun + costs[unit], rank, unit))
    last = max(ended)
    end = ((units - merged) * merge_seconds + a["facts"] * measured["end_seconds_per_fact"] +
           units * END_OPERATIONS * a["metadata_round_trip_seconds"])
    spent["start and weights"] = load * a["ranks"]
    spent["waiting for the last rank"] = sum(last - at for at in ended)
    spent["end on rank 0"] = end * a["ranks"]
    total = last + end
    return {"seconds": total, "efficiency": spent["compute"] / (total * a["ranks"]),
            "shares": {name: seconds / (total * a["ranks"]) for name, seconds in spent.items()}}


def relative(unit_seconds):
    mean = statistics.mean(unit_seconds)
    return [seconds / mean for seconds in unit_seconds]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--measured", required=True)
    parser.add_argument("--output", required=True)
    arguments = parser.parse_args()
    measured = json.load(open(arguments.measured))
    trace = measured["units"]["trace"]
    costs = relative(trace["unit_seconds"])
    # On the local disk, where the looks and removals are next to nothing.
    end = trace["end_seconds"] / trace["items"]
    # What merging was measured by holds the end of these units too.
    used = {"merge_seconds_per_fact": trace["merge"]["seconds"] / (trace["merge"]["units"] * measured["per_unit"]["trace"]) - end,
            "end_seconds_per_fact": end}
    cases = {"as assumed": ({}, {})}
    for ranks in (1, 8, 16, 32, 128, 256):
        cases[f"{ranks} GPUs"] = ({"ranks": ranks}, {})
    cases["1000 facts"] = ({"facts": 1000}, {})
    cases["100000 facts"] = ({"facts": 100000}, {})
    cases["0.05 s a fact"] = ({"seconds_per_fact": 0.05}, {})
    cases["5 s a fact"] = ({"seconds_per_fact": 5.0}, {})
    cases["metadata 10 times slower"] = ({"metadata_round_trip_seconds": 4e-3, "metadata_operations_per_second": 2e3, "sync_seconds": 50e-3}, {})
    cases["each rank reads the weights"] = ({}, {"way": "each rank reads"})
    cases["each unit is asked for"] = ({}, {"search": "each unit"})
    cases["256 GPUs, each unit is asked for"] = ({"ranks": 256}, {"search": "each unit"})
    cases["merging in the end"] = ({}, {"merging": "in the end"})
    cases["16 facts a unit"] = ({"facts_per_unit": 16, "shard_bytes": 4 * ASSUMED["shard_bytes"]}, {})
    rows = []
    for name, (changed, options) in cases.items():
        result = simulate({**ASSUMED, **changed}, {**used, "relative_costs": costs}, **options)
        rows.append({"case": name, "changed": {**changed, **options}, **result})
    with open(arguments.output, "w") as file:
        json.dump({"assumed": ASSUMED, "measured": {**used, "unit_variation": statistics.stdev(costs), "unit_maximum": max(costs)}, "from": arguments.measured, "cases": rows}, file, indent=1)
        file.write("\n")
    names = list(rows[0]["shares"])
    print("| case | job [s] | " + " | ".join(name + " [%]" for name in names) + " |")
    print("|---|" + "---|" * (1 + len(names)))
    for row in rows:
        print(f"| {row['case']} | {row['seconds']:.0f} | " + " | ".join(f"{100 * row['shares'][name]:.2f}" for name in names) + " |")


if __name__ == "__main__":
    main()
