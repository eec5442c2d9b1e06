rule model_fetch:
    input:
        files=lambda w: ancient(plan.model_files(w.model)),
        code=code("model.fetch"),
    output:
        modules="results/models/{model}/modules.json",
        manifest="results/models/{model}/manifest.json",
    log:
        "results/logs/model/{model}.log",
    benchmark:
        "results/benchmarks/model/{model}.tsv"
    wildcard_constraints:
        model=exactly(plan.models_from("hub", "local")),
    conda:
        environment
    threads: 1
    resources:
        mem_mb=lambda w, attempt: 4000 * attempt,
        runtime=lambda w, attempt: 120 * attempt,
        gpu=0,
    params:
        settings=lambda w: plan.model(w.model),
    message:
        "model {wildcards.model}"
    shell:
        "python -m hybrid_lora.model fetch --out results/models/{wildcards.model} --settings {params.settings:q} > {log} 2>&1"


rule stage_model:
    input:
        code=code("model.fetch"),
    output:
        "results/.state/staged/models/{model}.json",
    log:
        "results/logs/model/{model}.stage.log",
    benchmark:
        "results/benchmarks/model/{model}.stage.tsv"
    wildcard_constraints:
        model=exactly(plan.models_from("hub")),
    conda:
        environment
    threads: 1
    resources:
        mem_mb=lambda w, attempt: 2000 * attempt,
        runtime=lambda w, attempt: 240 * attempt,
        gpu=0,
    params:
        settings=lambda w: plan.staged_model(w.model),
    message:
        "model {wildcards.model} to the hub's cache"
    shell:
        "python -m hybrid_lora.model stage --out {output} --settings {params.settings:q} > {log} 2>&1"


rule model_pretrain:
    input:
        train=lambda w: ancient(rows("train", plan.model_corpus(w.model))),
        manifests=lambda w: manifests(rows("train", plan.model_corpus(w.model))),
        code=code("model.pretrain"),
    output:
        modules="results/models/{model}/modules.json",
        manifest="results/models/{model}/manifest.json",
    log:
        "results/logs/model/{model}.log",
    benchmark:
        "results/benchmarks/model/{model}.tsv"
    wildcard_constraints:
        model=exactly(plan.models_from("scratch")),
    conda:
        environment
    threads: 2
    resources:
        mem_mb=lambda w, attempt: 4000 * attempt,
        runtime=lambda w, attempt: 120 * attempt,
        gpu=plan.gpus,
    params:
        settings=lambda w: plan.model(w.model),
    message:
        "model {wildcards.model} from scratch (progress in {log})"
    shell:
        "python -m hybrid_lora.model pretrain --train {input.train} --out results/models/{wildcards.model} --state results/.state/model/{wildcards.model} --settings {params.settings:q} > {log} 2>&1"
