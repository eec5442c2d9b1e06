"""The checked configuration as Snakemake needs it: for every job the settings it uses, nothing else.

What concerns probes and scores is in `probing`, `report diagnose` in `diagnosis`, `evaluation compare` in `comparing`,
`snakemake stage` in `staging`.
"""

from pathlib import Path

from hybrid_lora.common import packages
from hybrid_lora.config import compute, paths
from hybrid_lora.config.allocations import Allocation
from hybrid_lora.config.comparing import Comparing
from hybrid_lora.config.diagnosis import Diagnosis
from hybrid_lora.config.fingerprints import Fingerprints
from hybrid_lora.config.probing import Probing
from hybrid_lora.config.settings import RESULTS, settings_of
from hybrid_lora.config.staging import Staging
from hybrid_lora.contracts.benchmark_names import GRADING, KINDS


class Plan(Probing, Diagnosis, Comparing, Staging):
    """What the rules ask: names for wildcards, settings of jobs, inputs that depend on the configuration."""

    def __init__(self, config, base, version=packages.installed):
        """version: name of a package -> its version where jobs run, or None (see `common.packages`)."""
        self.values, self.base, self.version = config.values, Path(base), version
        self.made = {}  # settings that have been asked for
        self.fingerprints = Fingerprints(base)
        self.runs = {run.run: run for run in config.runs}
        self.benchmarks = self.values["evaluation"]["benchmarks"]
        self.gpus = self.values["compute"]["gpus"]
        self.launch = compute.launch(self.values)
        placed = [self.run_placement(run) for run in config.runs if self.placement(run) == "criterion"]
        self.allocations = {allocation.name: allocation for allocation in placed}  # of the runs
        self.every_allocation = {**self.diagnosed_allocations(), **self.allocations}

    def local_source(self, section, name):
        """[path] of the local file behind a corpus or benchmark, [] where it is generated or from the hub."""
        data = self.values[section][name]["data"]
        if data in ("hub", "generated"):
            return []
        return [self._relative(self._file(data))]

    def _file(self, data):
        return paths.data_file(data, self.values["data_dir"], self.base)

    def _relative(self, path):
        # Paths inside the checkout are relative, so that moving it reruns nothing.
        return str(path.relative_to(self.base) if path.is_relative_to(self.base) else path)

    def _source_settings(self, entry, keys):
        picked = {key: entry[key] for key in ("format", "data", *keys)}
        if entry["data"] in ("hub", "generated"):
            picked[entry["data"]] = entry[entry["data"]]
        else:
            picked |= {"data": "local", "sha256": self.fingerprints.sha256(self._file(entry["data"]))}
        return picked

    @settings_of("data.corpus")
    def corpus(self, name):
        """Settings of `data corpus`."""
        entry = self.values["corpora"][name]
        keys = ("prompt", "validation_rows", "max_rows", "max_tokens", "seed")
        chosen = {"rows": entry["rows"]} if entry["rows"] is not None else {}
        if entry["split_by"] != "problem":
            chosen["split_by"] = entry["split_by"]
        if entry["decontaminate"]:
            chosen["decontaminate"] = {"n": entry["overlap_words"], "share": entry["overlap_share"]}
        return {**self._source_settings(entry, keys), **chosen}

    def benchmark_files(self):
        """The files of all benchmarks that runs are evaluated on."""
        return [f"{RESULTS}/data/benchmarks/{name}.parquet" for name in self.benchmarks]

    def corpus_benchmarks(self, name):
        """The benchmark files that a corpus depends on: all where it is decontaminated, else none."""
        return self.benchmark_files() if self.values["corpora"][name]["decontaminate"] else []

    def overlap_files(self):
        """The overlap reports of all corpora that the runs, their models or their probes use."""
        return [f"{RESULTS}/data/{name}/overlap.json" for name in self.used_corpora()]

    @settings_of("data.overlap")
    def overlap(self, name):
        """Settings of `data overlap`."""
        return {"n": self.values["corpora"][name]["overlap_words"]}

    @settings_of("data.benchmark")
    def benchmark(self, name):
        """Settings of `data benchmark`."""
        entry = self.values["benchmarks"][name]
        keys = ("problems", "option_order") if entry["format"] == "gpqa" else ("problems",)
        chosen = {key: entry[key] for key in ("version", "subset") if entry[key] is not None}
        if shots := self._few_shot(name):
            keep = {"count": shots["count"], "group": shots.get("group")}
            chosen["few_shot"] = {**keep, **self._source_settings({"format": None, **shots}, ())}
        return {"name": name, **self._source_settings(entry, keys), **chosen}

    def _few_shot(self, name):
        """The benchmark's `few_shot` entry where it asks for examples, else None."""
        entry = self.values["benchmarks"][name].get("few_shot")
        return entry if entry and entry["count"] else None

    def local_examples(self, name):
        """[path] of the local file with a benchmark's few-shot examples, [] where there is none."""
        shots = self._few_shot(name)
        if not shots or shots["data"] in paths.NOT_FILES:
            return []
        return [self._relative(self._file(shots["data"]))]

    def _model_command(self, name):
        return "model.pretrain" if self.values["models"][name]["source"] == "scratch" else "model.fetch"

    @settings_of(_model_command)
    def model(self, name):
        """Settings of `model fetch` or `model pretrain`."""
        entry = self.values["models"][name]
        if entry["source"] != "scratch":
            files = self.model_files(name)
            hashes = {Path(path).name: self.fingerprints.sha256(self.base / path) for path in files}
            return {**entry, **({"files": hashes} if files else {})}
        return {"name": name, **{key: entry[key] for key in ("tokenizer", "architecture", "pretraining")}}

    def model_corpus(self, name):
        """The corpus a model is trained on from scratch."""
        return self.values["models"][name]["corpus"]

    def model_files(self, name):
        """Files of a local model folder."""
        entry = self.values["models"][name]
        if entry["source"] != "local":
            return []
        folder = paths.model_folder(entry["path"], self.base)
        kinds = (".json", ".safetensors", ".bin", ".model", ".jinja")
        return sorted(self._relative(p) for p in folder.iterdir() if p.suffix in kinds)

    def models_from(self, *sources):
        """Names of the models with one of these sources."""
        return [name for name, entry in self.values["models"].items() if entry["source"] in sources]

    def method(self, run):
        """The method entry of a run (name or Run)."""
        return self.values["methods"][self._run(run).method]

    def placement(self, run):
        """none | full | lora | criterion."""
        return self.method(run)["placement"]

    def run_placement(self, run):
        """The Allocation of a run placed by a criterion."""
        run, method = self._run(run), self.method(run)
        return Allocation(run.model, method["probe"], method["criterion"], self.values["allocation"]["unit"], run.budget)

    @settings_of("allocation.select")
    def allocation(self, name):
        """Settings of `allocation select`."""
        entry = self.values["allocation"]
        amount = self.every_allocation[name].amount
        return {"amount": amount, **{key: entry[key] for key in ("unit", "overflow", "lora")}}

    def run_allocation(self, run):
        """[allocation file] of a run placed by a criterion, else []."""
        return [self.run_placement(run).path] if self.placement(run) == "criterion" else []

    def run_policy(self, run):
        """[policy manifest] of a trained run, [] for io and cot."""
        return [] if self.placement(run) == "none" else [f"{RESULTS}/training/{self._run(run).run}/policy/manifest.json"]

    def objective_corpus(self, run):
        """The corpus a run is trained on."""
        return self.values["objectives"][self._run(run).objective]["corpus"]

    def code_corpus(self, run):
        """[corpus] whose code rows are added to a run's, [] for none."""
        name = self.values["objectives"][self._run(run).objective].get("code_corpus")
        return [name] if name else []

    @settings_of("training.train")
    def training(self, name):
        """Settings of `training train`."""
        run = self._run(name)
        objective = self.used(self.values["objectives"][run.objective])
        settings = {"run": run.run, "seed": run.seed, "placement": self.placement(run), "objective": objective}
        if settings["placement"] in ("lora", "lora-ffn"):  # a criterion's allocation file brings its own
            settings["lora"] = self.values["allocation"]["lora"]
        if objective["algorithm"] != "sft":
            settings["grading"] = self.judging(objective)
        return settings

    @settings_of("evaluation.complete")
    def completions(self, name, benchmark):
        """Settings of `evaluation complete`."""
        run, entry = self._run(name), self.values["benchmarks"][benchmark]
        evaluation = self.values["evaluation"]
        engine = {key: evaluation[key] for key in ("backend", "batch_size", "dtype")}
        if engine["backend"] == "vllm":  # a setting of vLLM reruns nothing that transformers made
            engine["vllm"] = evaluation["vllm"]
        sampling = {key: entry[key] for key in ("samples", "temperature", "top_p", "max_new_tokens")}
        name = self.method(run)["prompt"]
        shown = {"run": run.run, "seed": run.seed, "benchmark": benchmark, "prompt": entry["prompts"][name]}
        if shots := self._few_shot(benchmark):
            shown["few_shot"] = {"count": shots["count"], "group": shots.get("group"), "answer": shots["answers"][name]}
        return {**shown, **engine, **sampling}

    @settings_of("evaluation.grade")
    def grading(self, benchmark):
        """Settings of `evaluation grade`: those that graders of the benchmark's kind use."""
        kind = KINDS[self.values["benchmarks"][benchmark]["format"]]
        return {"kind": kind, **{key: self.values["grading"][key] for key in GRADING[kind]}}

    def grading_threads(self, benchmark):
        """Programs that run at a time; answers take too little time to start more than one process for."""
        return 4 if KINDS[self.values["benchmarks"][benchmark]["format"]] == "code" else 1

    @settings_of("evaluation.metrics")
    def metrics(self, benchmark):
        """Settings of `evaluation metrics`."""
        return {key: self.values["benchmarks"][benchmark][key] for key in ("k", "samples")} | {"seed": 0}

    def figure2_runs(self):
        """The runs whose allocations Figure 2 shows: those named, else the first of each model."""
        named = self.values["report"]["figure2"]["runs"]
        if named:
            return [self.runs[name] for name in named]
        first = {}
        for run in self.runs.values():
            if self.placement(run) == "criterion":
                first.setdefault(run.model, run)
        return list(first.values())

    @settings_of("report.figure2")
    def figure2(self):
        """Settings of `report figure2`."""
        entry = self.values["report"]["figure2"]
        labels = [f"{run.model}, {run.method}" for run in self.figure2_runs()]
        return {"labels": labels, **{key: entry[key] for key in ("full_colour", "lora_colour")}}

    def metrics_files(self):
        """All metrics files, run by run."""
        return [metrics_file(run, benchmark) for run in self.runs for benchmark in self.benchmarks]

    def trainable_files(self):
        """The trainable-parameter counts of all trained runs."""
        return [f"{RESULTS}/training/{name}/trainable.json" for name in self.runs if self.placement(name) != "none"]

    @settings_of("report.table1")
    def table1(self):
        """Settings of `report table1`."""
        rows = [
            {
                **{key: getattr(run, key) for key in ("run", "model", "method", "objective", "budget", "seed")},
                "metrics": {benchmark: metrics_file(run.run, benchmark) for benchmark in self.benchmarks},
                "tunable": f"{RESULTS}/training/{run.run}/trainable.json" if self.placement(run) != "none" else None,
            }
            for run in self.runs.values()
        ]
        columns = [{"name": name} for name in self.benchmarks]
        unit = self.values["allocation"]["unit"]
        return {"rows": rows, "benchmarks": columns, "unit": unit, **self.values["report"]["table1"]}

    @settings_of("report.index")
    def index(self):
        """Settings of `report index`."""
        return {"title": f"Results: {', '.join(dict.fromkeys(run.model for run in self.runs.values()))}"}

    @settings_of("allocation.budgets")
    def budgets(self):
        """Settings of `allocation budgets`: the paper's 10 %, whatever the runs' budgets are."""
        entry = self.values["allocation"]
        rank = {"rank": entry["lora"]["rank"]}
        return {"ratio": 0.1, "absolute": None, "overflow": entry["overflow"], "lora": rank}

    def _run(self, run):
        return self.runs[run] if isinstance(run, str) else run


def metrics_file(run, benchmark):
    """Path of one metrics file."""
    return f"{RESULTS}/evaluation/{run}/{benchmark}/metrics.json"
