"""What `evaluation compare` asks of the configuration: which runs are paired, which form a group of seeds."""

import itertools

from hybrid_lora.config.settings import RESULTS, settings_of
from hybrid_lora.contracts.benchmark_names import KINDS


class Comparing:
    """Part of `Plan`, which gives `values`, `runs`, `benchmarks` and `placement`."""

    def grades_files(self):
        """All grades files, run by run."""
        return [grades_file(run, benchmark) for run in self.runs for benchmark in self.benchmarks]

    def seed_groups(self):
        """{name: [run, ...]} of the runs that differ in the seed alone, two or more; named by the first one and their number."""
        alike = {}
        for run in self.runs.values():
            alike.setdefault((run.model, run.method, run.objective, run.budget), []).append(run)
        groups = {}
        for members in alike.values():
            if len({run.seed for run in members}) > 1:
                first = {run.seed: run.run for run in reversed(members)}  # one run a seed
                names = [run.run for run in members if first[run.seed] == run.run]
                groups[f"{names[0]} ({len(names)} seeds)"] = names
        return groups

    def compared_pairs(self):
        """[[first, second]] of the runs to be compared, then of their groups of seeds.

        Without a list of the user's own: all runs of one model and one seed that differ in the method, the one that comes
        later in the runs table against the earlier; two trained ones need the same objective.
        """
        pairs = self.values["report"]["comparisons"]["pairs"]
        if pairs is None:
            every = itertools.combinations(self.runs.values(), 2)
            pairs = [[b.run, a.run] for a, b in every if self._comparable(a, b)]
        group_of = {run: name for name, members in self.seed_groups().items() for run in members}
        grouped = [(group_of.get(a, a), group_of.get(b, b)) for a, b in pairs]
        whole = [pair for pair in dict.fromkeys(grouped) if pair[0] != pair[1] and not {*pair} <= self.runs.keys()]
        return [list(pair) for pair in pairs] + [list(pair) for pair in whole]

    def _comparable(self, a, b):
        one_objective = a.objective == b.objective or None in (a.objective, b.objective)
        return a.model == b.model and a.seed == b.seed and a.method != b.method and one_objective

    @settings_of("evaluation.compare")
    def comparisons(self):
        """Settings of `evaluation compare`."""
        entries = {name: self.values["benchmarks"][name] for name in self.benchmarks}
        benchmarks = [
            {"name": name, "kind": KINDS[entry["format"]], "k": entry["k"], "samples": entry["samples"]}
            for name, entry in entries.items()
        ]
        runs = {run: {name: grades_file(run, name) for name in self.benchmarks} for run in self.runs}
        chosen = {"pairs": self.compared_pairs(), "groups": self.seed_groups(), "seed": 0}
        report = self.values["report"]
        numbers = {"resamples": report["comparisons"]["resamples"], "digits": report["table1"]["digits"]}
        return {"benchmarks": benchmarks, "runs": runs, **chosen, **numbers}


def grades_file(run, benchmark):
    """Path of one grades file."""
    return f"{RESULTS}/evaluation/{run}/{benchmark}/grades.parquet"
