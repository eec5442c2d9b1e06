"""What the configured runs take from the Hugging Face hub: fetched to its cache by `snakemake stage`, before jobs go offline."""

from hybrid_lora.config.settings import RESULTS, settings_of

STAGED = f"{RESULTS}/.state/staged"


class Staging:
    """Part of `Plan`, which gives `values`, `runs`, `benchmarks`, `placement`, `method`, `objective_corpus` and `code_corpus`."""

    def used_corpora(self):
        """Names of the corpora that the runs, their models or their probes use."""
        runs, models, probes = self.runs.values(), self.values["models"], self.values["probes"]
        names = [models[run.model]["corpus"] for run in runs if models[run.model]["source"] == "scratch"]
        names += [probes[self.method(run)["probe"]]["corpus"] for run in runs if self.placement(run) == "criterion"]
        names += [name for run in runs if run.objective for name in (self.objective_corpus(run), *self.code_corpus(run))]
        return list(dict.fromkeys(names))

    def hub_models(self):
        """Names of the runs' models that come from the hub."""
        names = dict.fromkeys(run.model for run in self.runs.values())
        return [name for name in names if self.values["models"][name]["source"] == "hub"]

    def hub_data(self):
        """{name of a source: its entry `hub`} of corpora, benchmarks and few-shot examples from the hub."""
        corpora, benchmarks = self.values["corpora"], self.values["benchmarks"]
        sources = {f"corpus-{name}": corpora[name] for name in self.used_corpora()}
        sources |= {f"benchmark-{name}": benchmarks[name] for name in self.benchmarks}
        sources |= {f"few-shot-{name}": shots for name in self.benchmarks if (shots := self._few_shot(name))}
        return {name: entry["hub"] for name, entry in sources.items() if entry["data"] == "hub"}

    @settings_of("model.fetch")
    def staged_model(self, name):
        """Settings of `model stage`."""
        return {key: self.values["models"][name][key] for key in ("path", "revision")}

    @settings_of("data.sources")
    def staged_data(self, source):
        """Settings of `data stage`."""
        return self.hub_data()[source]

    def staged_files(self):
        """What `snakemake stage` makes: a note for each thing that is in the cache."""
        models = [f"{STAGED}/models/{name}.json" for name in self.hub_models()]
        return models + [f"{STAGED}/data/{name}.json" for name in self.hub_data()]
